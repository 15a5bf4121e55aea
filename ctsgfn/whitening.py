r"""The affine change of coordinates that gives a target location 0 and covariance 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from ctsgfn.errors import InvalidInput


class Whitening(Transform):
    r"""z -> x = location + L z, with :math:`\log |\det| = \sum_j \log L_{jj}`, in the dtype of the points.

    Args:
        location: [d].
        scale_tril: [d, d] lower triangular with a positive diagonal.

    Raises:
        InvalidInput: on shapes that do not fit, or a diagonal that is not positive.

    Example:
        >>> t = Whitening(torch.tensor([1.0, 2.0]), torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
        >>> t(torch.ones(1, 2)).tolist(), t.inv(t(torch.ones(1, 2))).tolist()
        ([[3.0, 4.0]], [[1.0, 1.0]])
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, location: Tensor, scale_tril: Tensor) -> None:
        super().__init__()
        if location.dim() != 1 or scale_tril.shape != (len(location), len(location)):
            raise InvalidInput(
                f"Whitening needs location [d] and scale_tril [d, d], got {list(location.shape)} and "
                f"{list(scale_tril.shape)}."
            )
        if not bool((scale_tril.diagonal() > 0).all()):
            raise InvalidInput("Whitening needs a scale_tril with a positive diagonal.")
        self.location, self.scale_tril = location, scale_tril
        self.log_det = scale_tril.diagonal().log().sum()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Whitening)
            and torch.equal(self.location, other.location)
            and torch.equal(self.scale_tril, other.scale_tril)
        )

    __hash__ = None  # type: ignore[assignment]

    def _call(self, x: Tensor) -> Tensor:
        return self.location.to(x.dtype) + x @ self.scale_tril.to(x.dtype).T

    def _inverse(self, y: Tensor) -> Tensor:
        centred = y - self.location.to(y.dtype)
        return torch.linalg.solve_triangular(self.scale_tril.to(y.dtype), centred.T, upper=False).T

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the constant log-determinant, [B]."""
        del y
        return self.log_det.to(x.dtype).expand(x.shape[:-1])
