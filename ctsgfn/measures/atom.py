"""Unit mass on one point."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Atom:
    """Unit mass on a single point; coordinates [B, 0].

    Example:
        >>> x, w = Atom().probe(3)
        >>> tuple(x.shape), w.tolist()
        ((3, 0), [0.0, 0.0, 0.0])
    """

    def __str__(self) -> str:
        return "unit mass on one point"

    def probe(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the point, n times."""
        return torch.zeros(n, 0, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)

    def log_probe(self, x: Tensor) -> Tensor:
        """Zero, [B]."""
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def contains(self, x: Tensor) -> Tensor:
        """Every row, [B]."""
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
