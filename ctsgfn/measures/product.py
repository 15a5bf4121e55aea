"""Products of measures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures.atom import Atom
from ctsgfn.measures.counting import Counting
from ctsgfn.measures.haar import Haar
from ctsgfn.measures.lebesgue import Lebesgue
from ctsgfn.measures.measure import Measure


def coordinates(measure: Measure[Tensor]) -> int:
    """Width k of the coordinates [B, k] that a coordinate measure lives on.

    Example:
        >>> coordinates(Product((Counting(3), Lebesgue(2))))
        3
    """
    if isinstance(measure, Lebesgue | Haar):
        return measure.dim
    if isinstance(measure, Counting):
        return 1
    if isinstance(measure, Atom):
        return 0
    if isinstance(measure, Product):
        return sum(coordinates(part) for part in measure.parts)
    raise InvalidInput(
        f"{measure} has no fixed number of coordinates: use Lebesgue, Haar, Counting, Atom or Product."
    )


@dataclass(frozen=True)
class Product:
    """Product of coordinate measures; their coordinates stand side by side, [B, k_1 + k_2 + ..].

    Example:
        >>> slices = Product((Counting(3), Lebesgue(2)))
        >>> x, w = slices.probe(5)
        >>> tuple(x.shape), bool(slices.contains(x).all())
        ((5, 3), True)
    """

    parts: tuple[Measure[Tensor], ...]

    def __str__(self) -> str:
        return " x ".join(str(p) for p in self.parts)

    def split(self, x: Tensor) -> list[Tensor]:
        """Cut coordinates [B, k] into those of each factor."""
        columns = x.split([coordinates(p) for p in self.parts], dim=-1)
        return [
            c.round().long() if isinstance(p, Counting) else c
            for p, c in zip(self.parts, columns, strict=True)
        ]

    def probe(self, n: int) -> tuple[Tensor, Tensor]:
        """Probe the factors independently."""
        draws = [p.probe(n) for p in self.parts]
        x = torch.cat([d.double() for d, _ in draws], dim=-1)
        return x, torch.stack([w for _, w in draws]).sum(0)

    def log_probe(self, x: Tensor) -> Tensor:
        """Sum of the factors' log-densities, [B]."""
        pairs = zip(self.parts, self.split(x), strict=True)
        return torch.stack([p.log_probe(c) for p, c in pairs]).sum(0)

    def contains(self, x: Tensor) -> Tensor:
        """Which rows lie in every factor's support, [B]."""
        pairs = zip(self.parts, self.split(x), strict=True)
        return torch.stack([p.contains(c) for p, c in pairs]).all(0)


def sizes_of(measure: Measure[Tensor]) -> tuple[int, ...]:
    """Number of values of each coordinate of a counting measure or a product of some; () of any other.

    Example:
        >>> sizes_of(Product((Counting(2), Counting(3)))), sizes_of(Counting(4))
        ((2, 3), (4,))
    """
    parts = measure.parts if isinstance(measure, Product) else (measure,)
    sizes = tuple(part.size for part in parts if isinstance(part, Counting))
    return sizes if len(sizes) == len(parts) else ()
