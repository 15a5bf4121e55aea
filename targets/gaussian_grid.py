r"""Mixtures of Gaussians whose means form a regular grid."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Lebesgue


@dataclass(frozen=True)
class GaussianGrid:
    r"""Equal mixture of side^dim Gaussians on a centred grid; normalised, so log Z = 0.

    .. math:: r(x) = \prod_{i=1}^{d} \frac1m \sum_{k=1}^{m} N(x_i; c_k, \sigma^2), \qquad
        c_k = s \, (k - \tfrac{m + 1}2)

    A mixture over a grid is a product of one-dimensional mixtures: m d terms instead of m^d.

    Args:
        side: modes along each axis, m.
        dim: number of axes, d.
        spacing: distance s of neighbouring modes.
        variance: of each component, along each axis.

    Raises:
        InvalidInput: when side or dim is below 1, or spacing or variance not positive.

    Example:
        >>> target = GaussianGrid(side=3)
        >>> target.modes[:2].tolist(), round(float(target.log_density(torch.zeros(1, 2))), 4)
        ([[-5.0, -5.0], [-5.0, 0.0]], -2.8311)
    """

    side: int
    dim: int = 2
    spacing: float = 5.0
    variance: float = 0.3
    log_z: float = field(default=0.0, init=False)
    _placed: dict[Any, tuple[Tensor, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.side < 1 or self.dim < 1 or not (self.spacing > 0 and self.variance > 0):
            raise InvalidInput(
                f"GaussianGrid needs side >= 1, dim >= 1, spacing > 0 and variance > 0, got {self}."
            )

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on R^dim."""
        return Lebesgue(self.dim)

    def _centres(self, x: Tensor) -> Tensor:
        k = torch.arange(self.side, dtype=x.dtype, device=x.device)
        return self.spacing * (k - 0.5 * (self.side - 1))

    def _columns(self, x: Tensor) -> tuple[Tensor, ...]:
        """Centres [side], and slope and offset [side, 1] of the logits in x; kept, as a walk often asks."""
        key = (x.dtype, x.device)
        if key not in self._placed:
            c = self._centres(x)
            slope, offset = c / self.variance, c.square() * (-0.5 / self.variance)
            self._placed[key] = c, slope[:, None], offset[:, None]
        return self._placed[key]

    def _logits(self, x: Tensor) -> Tensor:
        """Log of each component along each axis, up to a constant: [side, B, dim]."""
        return (x - self._centres(x)[:, None, None]).square() * (-0.5 / self.variance)

    def log_density(self, x: Tensor) -> Tensor:
        """Log r [B] at points [B, dim]."""
        constant = math.log(self.side) + 0.5 * math.log(2 * math.pi * self.variance)
        return self._logits(x).logsumexp(0).sum(-1) - self.dim * constant

    def score(self, x: Tensor) -> Tensor:
        """Gradient [B, dim] of log r: along each axis, towards the mean of the centres."""
        x = x.detach()
        centres, slope, offset = self._columns(x)
        near = torch.addmm(offset, slope, x.t().reshape(1, -1)).softmax(0)  # x^2 is the same for all
        return (centres @ near).view(self.dim, -1).t().sub(x).mul_(1 / self.variance)

    @property
    def modes(self) -> Tensor:
        """The means, [side^dim, dim]."""
        centres = self._centres(torch.zeros(()))
        return torch.cartesian_prod(*[centres] * self.dim).reshape(-1, self.dim)

    def sample(self, n: int) -> Tensor:
        """Draw n points [n, dim]."""
        centres = self._centres(torch.zeros(()))
        k = torch.randint(self.side, (n, self.dim))
        return centres[k] + math.sqrt(self.variance) * torch.randn(n, self.dim)


def nine_gaussians() -> GaussianGrid:
    r"""Nine Gaussians of variance 0.3 with means {-5, 0, 5}^2.

    References:
        A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, section 4.2.

    Example:
        >>> len(nine_gaussians().modes)
        9
    """
    return GaussianGrid(side=3)


def twenty_five_gaussians() -> GaussianGrid:
    r"""Twenty-five Gaussians of variance 0.3 with means {-10, -5, 0, 5, 10}^2.

    References:
        Improved off-policy training of diffusion samplers (Sendera et al., 2024), arXiv 2402.05098,
        appendix B.

    Example:
        >>> len(twenty_five_gaussians().modes)
        25
    """
    return GaussianGrid(side=5)
