r"""Many wells: independent pairs, each with a double well along its first coordinate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Lebesgue

LOG_WELL = math.log(11784.5092651278267)
r"""Log of :math:`\int \exp(-x^4 + 6 x^2 + x / 2)\,dx`, by quadrature."""


@dataclass(frozen=True)
class ManyWell:
    r"""Product of d/2 double wells and d/2 standard normals: 2^(d/2) modes of unequal mass.

    .. math:: \log r(x) = \sum_{j=1}^{d/2} -x_{2j-1}^4 + 6 x_{2j-1}^2 + \tfrac12 x_{2j-1} - \tfrac12 x_{2j}^2

    :math:`\log Z = \frac d2 (\log 11784.50927 + \frac12 \log 2\pi)`. The right-hand well of each pair
    has mass 0.844307.

    Args:
        dim: even number of coordinates d.

    Raises:
        InvalidInput: when dim is odd or below 2.

    References:
        Flow annealed importance sampling bootstrap (Midgley et al., 2023), arXiv 2208.01893, section 4.2,
        after Noe et al. (2019), Boltzmann generators.

    Example:
        >>> target = ManyWell(32)
        >>> round(target.log_z, 4), round(float(target.log_density(torch.ones(1, 32))), 4)
        (164.6957, 80.0)
    """

    dim: int = 32

    def __post_init__(self) -> None:
        if self.dim < 2 or self.dim % 2:
            raise InvalidInput(f"ManyWell needs an even dim of at least 2, got {self.dim}.")

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on R^dim."""
        return Lebesgue(self.dim)

    @property
    def log_z(self) -> float:
        """Log Z."""
        return self.dim / 2 * (LOG_WELL + 0.5 * math.log(2 * math.pi))

    def log_density(self, x: Tensor) -> Tensor:
        """Log r [B] at points [B, dim]."""
        well, normal = x[:, 0::2], x[:, 1::2]
        square = well.square()
        return (square * (6 - square) + 0.5 * well - 0.5 * normal.square()).sum(-1)

    def score(self, x: Tensor) -> Tensor:
        """Gradient [B, dim] of log r."""
        well, normal = x.detach()[:, 0::2], x.detach()[:, 1::2]
        return torch.stack([well * (12 - 4 * well.square()) + 0.5, -normal], -1).flatten(1)

    def sample(self, n: int) -> Tensor:
        """Draw n points [n, dim]: the wells by rejection from two Gaussians, the rest normal."""
        count = n * self.dim // 2
        wells = _double_well(count).reshape(n, self.dim // 2)
        return torch.stack([wells, torch.randn_like(wells)], -1).flatten(1)


def log_envelope(x: Tensor) -> Tensor:
    """Log of 3 Z (0.2 N(-1.7, 0.5^2) + 0.8 N(1.7, 0.5^2)), nowhere below the double well."""
    left, right = -2 * (x + 1.7).square() + math.log(0.2), -2 * (x - 1.7).square() + math.log(0.8)
    return torch.logaddexp(left, right) + math.log(3 / (0.5 * math.sqrt(2 * math.pi))) + LOG_WELL


def _double_well(n: int) -> Tensor:
    """Draw n points [n] with density proportional to exp(-x^4 + 6 x^2 + x / 2)."""
    kept: list[Tensor] = []
    while sum(map(len, kept)) < n:
        side = torch.where(torch.rand(4 * n + 16) < 0.8, 1.7, -1.7)
        x = side + 0.5 * torch.randn_like(side)
        log_ratio = -x.pow(4) + 6 * x.square() + 0.5 * x - log_envelope(x)
        kept.append(x[torch.rand_like(x).log() < log_ratio])
    return torch.cat(kept)[:n]
