r"""Funnels: the scale of all but one coordinate is set by that one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Lebesgue


@dataclass(frozen=True)
class Funnel:
    r"""Neal's funnel; normalised, so log Z = 0.

    .. math:: r(x) = N(x_1; 0, \sigma^2) \prod_{i=2}^{d} N(x_i; 0, e^{x_1})

    Args:
        dim: number of coordinates d, at least 2.
        variance: sigma^2 of the first coordinate: 9 is the hard funnel, 1 the easy one.

    Raises:
        InvalidInput: when dim < 2 or variance is not positive.

    References:
        Slice sampling (Neal, 2003), Annals of Statistics 31(3), section 8.

    Example:
        >>> target = Funnel(dim=2, variance=9.0)
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
        >>> [round(v, 4) for v in target.log_density(x).tolist()]
        [-2.9365, -3.4365]
    """

    dim: int = 10
    variance: float = 9.0
    log_z: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.dim < 2 or not self.variance > 0:
            raise InvalidInput(f"Funnel needs dim >= 2 and variance > 0, got {self.dim}, {self.variance}.")

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on R^dim."""
        return Lebesgue(self.dim)

    def log_density(self, x: Tensor) -> Tensor:
        """Log r [B] at points [B, dim]."""
        neck, rest = x[:, 0], x[:, 1:]
        exponent = neck.square() / self.variance + (self.dim - 1) * neck
        scaled = (-neck).exp() * rest.square().sum(-1)
        return -0.5 * (exponent + scaled + math.log(self.variance) + self.dim * math.log(2 * math.pi))

    def score(self, x: Tensor) -> Tensor:
        """Gradient [B, dim] of log r."""
        x = x.detach()
        neck, rest = x[:, :1], x[:, 1:]
        precision = (-neck).exp()
        along = -neck / self.variance + 0.5 * (
            precision * rest.square().sum(-1, keepdim=True) - (self.dim - 1)
        )
        return torch.cat([along, -precision * rest], -1)

    def sample(self, n: int) -> Tensor:
        """Draw n points [n, dim]: the neck first, the rest given it."""
        neck = math.sqrt(self.variance) * torch.randn(n, 1)
        return torch.cat([neck, (0.5 * neck).exp() * torch.randn(n, self.dim - 1)], -1)


def easy_funnel() -> Funnel:
    r"""Ten-dimensional funnel whose first coordinate has variance 1.

    References:
        Path integral sampler (Zhang and Chen, 2022), arXiv 2111.15141, section 4.

    Example:
        >>> easy_funnel().variance
        1.0
    """
    return Funnel(10, 1.0)


def hard_funnel() -> Funnel:
    r"""Ten-dimensional funnel whose first coordinate has variance 9.

    References:
        Slice sampling (Neal, 2003), Annals of Statistics 31(3), section 8.

    Example:
        >>> hard_funnel().variance
        9.0
    """
    return Funnel(10, 9.0)
