r"""Noise of causal networks: laws of what a mechanism does not explain, of known or unknown scale.

Where the scale is unknown it is a parameter of every node, :math:`e^{c + s z}` with z standard normal.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput


@dataclass(frozen=True)
class Noise(ABC):
    """A law with a scale.

    Args:
        scale: known, the same at each node; None for an unknown one at each.
        log_centre: c, prior mean of the log-scale where it is unknown.
        log_spread: s, its standard deviation.

    Raises:
        InvalidInput: when a scale is not positive.
    """

    scale: float | None = None
    log_centre: float = -1.0
    log_spread: float = 1.0

    def __post_init__(self) -> None:
        if (self.scale is not None and not self.scale > 0) or not self.log_spread > 0:
            raise InvalidInput(f"scales must be positive, got scale={self.scale} and {self.log_spread}.")

    @property
    def size(self) -> int:
        """Parameters of a node: 1 where the scale is unknown."""
        return int(self.scale is None)

    def log_prob(self, residual: Tensor, theta: Tensor) -> Tensor:
        """Log-density [R, N] of residuals [R, N], with parameters [R, size]."""
        if self.scale is not None:
            return self.standard(residual / self.scale) - math.log(self.scale)
        log_scale = self.log_centre + self.log_spread * theta
        return self.standard(residual * (-log_scale).exp()) - log_scale

    @abstractmethod
    def standard(self, z: Tensor) -> Tensor:
        """Log-density of the law of scale 1, elementwise."""

    @abstractmethod
    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Draws of the law of scale 1, float64."""


@dataclass(frozen=True)
class NormalNoise(Noise):
    """Normal; the scale is the standard deviation.

    Example:
        >>> round(NormalNoise(1.0).log_prob(torch.zeros(1, 1), torch.zeros(1, 0)).item(), 4)
        -0.9189
    """

    def standard(self, z: Tensor) -> Tensor:
        """Standard normal log-density."""
        return -0.5 * z.square() - 0.5 * math.log(2 * math.pi)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Standard normal draws."""
        return torch.randn(shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class StudentNoise(Noise):
    """Student-t with ``freedom`` degrees of freedom.

    Example:
        >>> round(StudentNoise(1.0, freedom=1.0).standard(torch.zeros(1)).exp().item(), 4)  # 1 / pi
        0.3183
    """

    freedom: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.freedom > 0:
            raise InvalidInput(f"freedom must be positive, got {self.freedom}.")

    def standard(self, z: Tensor) -> Tensor:
        """Log-density of Student's t."""
        v = self.freedom
        level = math.lgamma((v + 1) / 2) - math.lgamma(v / 2) - 0.5 * math.log(math.pi * v)
        return level - 0.5 * (v + 1) * (z.square() / v).log1p()

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Standard normal draws over the root of a chi-square (a sum of squares: whole ``freedom``)."""
        squares = torch.randn(*shape, round(self.freedom), generator=generator, dtype=torch.float64).square()
        return torch.randn(shape, generator=generator, dtype=torch.float64) / squares.mean(-1).sqrt()


@dataclass(frozen=True)
class LaplaceNoise(Noise):
    """Laplace; the scale is the mean absolute residual.

    Example:
        >>> LaplaceNoise(1.0).standard(torch.zeros(1)).exp().item()
        0.5
    """

    def standard(self, z: Tensor) -> Tensor:
        """Log-density of the Laplace law."""
        return -z.abs() - math.log(2.0)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Exponential draws of either sign."""
        u = torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5
        return -u.sign() * (-2 * u.abs()).log1p()
