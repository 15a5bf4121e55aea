"""A small space with every kind of branch, for tests of laws: an atom, atoms, a square, a circle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.measures import Atom, Counting, Haar, Lebesgue, Measure
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.states import Batch

START, PARKED, ON_LINE, ON_SQUARE, ON_CIRCLE = range(5)


@dataclass(frozen=True)
class Mixed(Batch):
    """A place of one of five kinds."""

    x: Tensor  # [B, 2]
    kind: Tensor  # [B] long


class To(Branch[Mixed]):
    """A chart onto the places of one kind, scaled by ``scale``."""

    def __init__(self, base: Measure[Tensor], kind: int, scale: float = 1.0) -> None:
        self.base, self.kind, self.scale = base, kind, scale

    def push(self, s: Mixed, a: Tensor) -> Mixed:
        x = torch.nn.functional.pad(self.scale * a.to(s.x.dtype), (0, 2 - a.shape[-1]))
        return Mixed(x, torch.full_like(s.kind, self.kind))

    def owns(self, s: Mixed, t: Mixed) -> Tensor:
        return t.kind == self.kind


class ToAtom(To):
    def pull(self, s: Mixed, t: Mixed) -> Tensor:
        return t.x[:, :0]


class ToLine(To):
    """Three atoms; from PARKED the middle one is dead."""

    def pull(self, s: Mixed, t: Mixed) -> Tensor:
        return t.x[:, :1].round().long()

    def live(self, s: Mixed) -> Tensor:
        middle = torch.tensor([False, True, False], device=s.kind.device)
        return ~(middle & (s.kind == PARKED)[:, None])


class ToSquare(To):
    """A square of side ``scale`` with its area; from PARKED only its lower edge, with its length.

    The chart is not defined elsewhere: ``pull`` gives NaN for places of another kind.
    """

    def pull(self, s: Mixed, t: Mixed) -> Tensor:
        return torch.where((t.kind == self.kind)[:, None], t.x / self.scale, math.nan)

    def live(self, s: Mixed) -> Tensor:
        return torch.stack([torch.ones_like(s.kind).bool(), s.kind != PARKED], dim=-1)

    def log_weight(self, s: Mixed, a: Tensor) -> Tensor:
        return self.live(s).sum(-1).to(a.dtype) * math.log(self.scale)


class ToCircle(To):
    def pull(self, s: Mixed, t: Mixed) -> Tensor:
        return t.x[:, :1]


def reference() -> ReferenceKernel[Mixed]:
    """From START everything; from PARKED the line and the square; from the rest only the sink."""
    allowed = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0], [0] * 4, [0] * 4, [0] * 4]).bool()
    return ReferenceKernel(
        (
            ToAtom(Atom(), PARKED),
            ToLine(Counting(3), ON_LINE),
            ToSquare(Lebesgue(2, 0.0, 1.0), ON_SQUARE, scale=3.0),
            ToCircle(Haar(1), ON_CIRCLE),
        ),
        allowed=lambda s: allowed.to(s.kind.device)[s.kind],
        sink=lambda s: s.kind != START,
        name="kappa of the workbench",
    )


def places(kinds: list[int], dtype: torch.dtype = torch.float64) -> Mixed:
    """States of the given kinds, at x = 0."""
    return Mixed(torch.zeros(len(kinds), 2, dtype=dtype), torch.tensor(kinds))
