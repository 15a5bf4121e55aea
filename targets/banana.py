r"""A banana: a Gaussian bent along a parabola."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Lebesgue


@dataclass(frozen=True)
class Banana:
    r"""Gaussian bent by a shear, which keeps volume; normalised, so log Z = 0.

    .. math:: r(x) = N(x_1; 0, s^2) \; N(x_2 - b\,(x_1^2 - s^2); 0, 1) \prod_{i=3}^{d} N(x_i; 0, 1)

    Args:
        dim: number of coordinates d, at least 2.
        scale: s, the standard deviation of the first coordinate.
        curvature: b.

    Raises:
        InvalidInput: when dim < 2 or scale is not positive.

    References:
        Adaptive proposal distribution for random walk Metropolis algorithm (Haario, Saksman and Tamminen,
        1999), Computational Statistics 14(3).

    Example:
        >>> target = Banana()
        >>> round(float(target.log_density(torch.tensor([[10.0, 0.0]]))), 4)
        -4.6405
    """

    dim: int = 2
    scale: float = 10.0
    curvature: float = 0.03
    log_z: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.dim < 2 or not self.scale > 0:
            raise InvalidInput(f"Banana needs dim >= 2 and scale > 0, got {self.dim}, {self.scale}.")

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on R^dim."""
        return Lebesgue(self.dim)

    def _bend(self, first: Tensor) -> Tensor:
        return self.curvature * (first.square() - self.scale**2)

    def log_density(self, x: Tensor) -> Tensor:
        """Log r [B] at points [B, dim]."""
        first, second = x[:, 0] / self.scale, x[:, 1] - self._bend(x[:, 0])
        constant = 0.5 * self.dim * math.log(2 * math.pi) + math.log(self.scale)
        return -0.5 * (first.square() + second.square() + x[:, 2:].square().sum(-1)) - constant

    def sample(self, n: int) -> Tensor:
        """Draw n points [n, dim]."""
        first = self.scale * torch.randn(n, 1)
        second = self._bend(first) + torch.randn(n, 1)
        return torch.cat([first, second, torch.randn(n, self.dim - 2)], -1)
