r"""Laws of the nodes of causal networks, given what their mechanisms say of them.

Most are noise: what a mechanism does not explain, of known or unknown scale. Where the scale is unknown it is
a parameter of every node, :math:`e^{c + s z}` with z standard normal.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ctsgfn.errors import InvalidInput


class NodeLaw(Protocol):
    """Law of a node given the value of its mechanism. Frozen and comparable, as a mechanism is."""

    @property
    def size(self) -> int:
        """Parameters of a node, standard normal a priori."""

    def log_prob(self, value: Tensor, mean: Tensor, theta: Tensor) -> Tensor:
        """Log-density [R, N] of values at the mechanism's [R, N], with parameters [R, size]."""

    def possible(self, data: Tensor) -> Tensor:
        """Which of the data [N, d] the law does not rule out, bool."""


@dataclass(frozen=True)
class Noise(ABC):
    """The value of the mechanism plus noise with a scale.

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

    def possible(self, data: Tensor) -> Tensor:
        """Any number is."""
        return torch.ones_like(data, dtype=torch.bool)

    def log_prob(self, value: Tensor, mean: Tensor, theta: Tensor) -> Tensor:
        """Log-density [R, N] of values around means [R, N], with parameters [R, size]."""
        log_scale = self.log_scale(theta)
        return self.standard((value - mean) * (-log_scale).exp()) - log_scale

    def log_scale(self, theta: Tensor) -> Tensor:
        """Logarithm of the scale, [R, 1], of parameters [R, size]."""
        if self.scale is not None:
            return theta.new_full((len(theta), 1), math.log(self.scale))
        return self.log_centre + self.log_spread * theta

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
        >>> round(NormalNoise(1.0).log_prob(torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1, 0)).item(), 4)
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


@dataclass(frozen=True)
class BinaryNodes:
    r"""Nodes that are 0 or 1: the mechanism is the log-odds of 1.

    .. math:: P(x_j = 1 \mid x_P) = 1 / (1 + e^{-f(x_P)})

    With ``Affine`` mechanisms a node without parents has an intercept too.

    Example:
        >>> BinaryNodes().log_prob(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 0)).exp().item()
        0.5
    """

    @property
    def size(self) -> int:
        """No parameter of its own."""
        return 0

    def possible(self, data: Tensor) -> Tensor:
        """0 and 1 are."""
        return (data == 0) | (data == 1)

    def log_prob(self, value: Tensor, mean: Tensor, theta: Tensor) -> Tensor:
        """Log-probability [R, N] of values at log-odds [R, N]."""
        del theta
        return logsigmoid((2 * value - 1) * mean)
