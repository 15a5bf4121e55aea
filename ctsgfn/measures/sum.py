"""Sums of measures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ctsgfn.measures.measure import Measure

T = TypeVar("T")


@dataclass(frozen=True)
class Sum(Generic[T]):
    """Disjoint sum of measures on one kind of point, such as an atom at s0 plus Lebesgue measure.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> halves = Sum((Lebesgue(1, 0.0, 1.0), Lebesgue(1, 2.0, 4.0)))
        >>> x, w = halves.probe(20_000)
        >>> abs(float(w.exp().mean()) - 3.0) < 0.1
        True
    """

    parts: tuple[Measure[T], ...]

    def __str__(self) -> str:
        return " + ".join(str(p) for p in self.parts)

    def probe(self, n: int) -> tuple[T, Tensor]:
        """Probe a part drawn evenly for each point, in random order."""
        counts = torch.bincount(torch.randint(len(self.parts), (n,)), minlength=len(self.parts))
        draws = [p.probe(int(c)) for p, c in zip(self.parts, counts, strict=True)]
        points: list[Any] = [x for x, _ in draws]
        x: Any = torch.cat(points) if isinstance(points[0], Tensor) else type(points[0]).cat(points)
        w = torch.cat([w for _, w in draws]) + math.log(len(self.parts))
        order = torch.randperm(n)
        return x[order], w[order]

    def log_probe(self, x: T) -> Tensor:
        """Log-density of the probe law at each point, [B]."""
        points: Any = x
        out = torch.full((len(points),), -math.inf, dtype=torch.float64)
        for part in self.parts:
            rows = part.contains(x).nonzero().squeeze(-1)
            out = out.to(rows.device).index_copy(0, rows, part.log_probe(points[rows]).double())
        return out - math.log(len(self.parts))

    def contains(self, x: T) -> Tensor:
        """Which points lie in some part, [B]."""
        return torch.stack([p.contains(x) for p in self.parts]).any(0)
