r"""The posterior over sets of variables alone, where the parameters are integrated out approximately."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ctsgfn.laplace import Laplace
from ctsgfn.subsets import Subsets
from ctsgfn.with_parameters import Parameterised


@runtime_checkable
class Nested(Protocol):
    """A target on subsets with parameters that knows about what each item would change, from the mode."""

    def gains(self, x: Parameterised) -> Tensor:
        """Change [B, items] of the log-evidence by each item that is not there; theta is at its mode."""

    def losses(self, x: Parameterised, variance: Tensor) -> Tensor:
        """Change [B, items] by taking each item away, from posterior means and variances of theta."""


class SubsetEvidence:
    r"""Log-evidence of subsets by normal approximations, as a target on them that can be climbed.

    .. math:: \log r(m) = \log \int r(m, \theta)\,d\theta

    The approximation is found once for each subset that is met; what an item would change is estimated from
    it, and no neighbour is approximated for that.

    Args:
        laplace: of a ``Nested`` target; see ``serves``.

    Example:
        >>> import torch
        >>> from ctsgfn.targets import RobustSelection
        >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        >>> evidence = SubsetEvidence(Laplace(RobustSelection(x, x[:, 0] + 0.1 * x[:, 1].square())))
        >>> none = torch.zeros(1, 3, dtype=torch.bool)
        >>> int(evidence.changes(none).argmax())
        0
    """

    def __init__(self, laplace: Laplace) -> None:
        self.laplace, self.target = laplace, laplace.target
        self.measure = laplace.measure.models

    @staticmethod
    def serves(target: Any) -> bool:
        """Whether a target is on subsets and knows what items change."""
        return isinstance(target, Nested) and isinstance(target.measure.models, Subsets)  # type: ignore[attr-defined]

    def log_density(self, x: Tensor) -> Tensor:
        """Log-evidence [B] float64 of subsets [B, items]."""
        return self.laplace.log_evidence(x)

    def changes(self, x: Tensor) -> Tensor:
        """Log r with an item added, less log r, [B, items] float64; 0 where it is there."""
        mean, _ = self.laplace.moments(x)
        return self.target.gains(Parameterised(x, mean))

    def losses(self, x: Tensor) -> Tensor:
        """Log r with an item taken away, less log r, [B, items] float64; 0 where it is not there."""
        mean, variance = self.laplace.moments(x)
        return self.target.losses(Parameterised(x, mean), variance)
