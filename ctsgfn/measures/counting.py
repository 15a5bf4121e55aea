"""Counting measure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import whole


@dataclass(frozen=True)
class Counting:
    """Counting measure on {0, .., size - 1}; coordinates [B, 1] long.

    Raises:
        InvalidInput: when size < 1.

    Example:
        >>> x, w = Counting(5).probe(10)
        >>> tuple(x.shape), x.dtype, round(float(w.exp().mean()), 6)
        ((10, 1), torch.int64, 5.0)
    """

    size: int

    def __post_init__(self) -> None:
        whole("Counting size", self.size)

    def __str__(self) -> str:
        return f"counting measure on {{0, .., {self.size - 1}}}"

    def probe(self, n: int) -> tuple[Tensor, Tensor]:
        """Uniform over the atoms."""
        x = torch.randint(self.size, (n, 1))
        return x, -self.log_probe(x)

    def log_probe(self, x: Tensor) -> Tensor:
        """Log-probability of the probe law, [B]."""
        return torch.full((len(x),), -math.log(self.size), dtype=torch.float64, device=x.device)

    def contains(self, x: Tensor) -> Tensor:
        """Which rows are one of the atoms, [B]."""
        return ((x >= 0) & (x < self.size)).all(-1)
