"""The kernel that walks at the ends of its charts: it finds the longest walks and the odd corners."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ctsgfn.diffuse import Diffuse
from ctsgfn.distributions import CoordinateLaw
from ctsgfn.kernel import Head, Kernel
from ctsgfn.measures import Counting, Haar, Lebesgue, Measure, Product, coordinates
from ctsgfn.networks import NoContext
from ctsgfn.reference import ReferenceKernel
from ctsgfn.states import S

ENDS = ("low", "high", "either")
"""Which end of the range: always one, or a fresh choice of low, high and diffuse per coordinate."""

FAR = 6.0
"""What counts as the end of the real line, in chart coordinates."""


class Extreme(Head):
    """Draws coordinates at the ends of their range, for walks that are never scored.

    Args:
        base: the measure of the coordinates.
        end: one of ``ENDS``.
    """

    def __init__(self, base: Measure[Tensor], end: str) -> None:
        super().__init__()
        self.base, self.end = base, end
        self.diffuse = Diffuse(base)

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> Distribution:
        """The law, good for draws only."""
        return ExtremeLaw(self.base, self.end, self.diffuse(context, s, live), context, live)


class ExtremeLaw(CoordinateLaw):
    """Coordinates at the ends of their range; it has no density, and its ``log_prob`` is 0.

    Example:
        >>> base = Lebesgue(2, 0.0, 1.0)
        >>> context = torch.zeros(1, 0)
        >>> ExtremeLaw(base, "low", Diffuse(base)(context, None, None), context, None).sample().round()
        tensor([[0., 0.]])
    """

    def __init__(
        self, base: Measure[Tensor], end: str, plain: Distribution, context: Tensor, live: Tensor | None
    ) -> None:
        super().__init__(len(context), coordinates(base))
        self.base, self.end, self.plain, self.context, self.live = base, end, plain, context, live

    def draw(self) -> Tensor:
        """One draw per row, dead axes at 0 and dead atoms never."""
        return _at_ends(self.base, self.end, self.plain.sample(), self.live)

    def log_prob(self, value: Tensor) -> Tensor:
        """Zero, [B]."""
        return self.context.new_zeros(len(value))


def _at_ends(base: Measure[Tensor], end: str, a: Tensor, live: Tensor | None) -> Tensor:
    """Move diffuse coordinates a [B, k] to the ends."""
    if isinstance(base, Product):
        columns = a.split([coordinates(part) for part in base.parts], dim=-1)
        moved = [_at_ends(p, end, c, None) for p, c in zip(base.parts, columns, strict=True)]
        return torch.cat([m.to(a.dtype) for m in moved], dim=-1)
    if isinstance(base, Counting):
        return _atom_at_end(base, end, a, live)
    if not isinstance(base, Lebesgue | Haar):
        return a
    walls = Lebesgue(1, -math.pi, math.pi) if isinstance(base, Haar) else base
    if walls.is_finite:  # the last numbers inside
        bottom, top = (walls.interior(torch.full_like(a, wall)) for wall in (walls.low, walls.high))
    else:
        bottom, top = torch.full_like(a, -FAR), torch.full_like(a, FAR)
    if end == "either":
        pick = torch.randint(3, a.shape, device=a.device)
        out = torch.where(pick == 0, bottom, torch.where(pick == 1, top, a))
    else:
        out = bottom if end == "low" else top
    return out if live is None else out * live


def _atom_at_end(base: Counting, end: str, a: Tensor, live: Tensor | None) -> Tensor:
    """First or last live atom."""
    if end == "either":
        return a
    alive = torch.ones(len(a), base.size, device=a.device) if live is None else live.float()
    first = alive.argmax(-1, keepdim=True)
    last = base.size - 1 - alive.flip(-1).argmax(-1, keepdim=True)
    return first if end == "low" else last


def extreme(reference: ReferenceKernel[S], end: str) -> Kernel[S]:
    """Return the kernel of a reference kernel that draws its coordinates at their ends, in float64."""
    return Kernel(reference, NoContext(), [Extreme(b.base, end) for b in reference.branches]).double()
