"""One head for the first step out of s0 and another for all later ones, on one branch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ctsgfn.distributions import CoordinateLaw
from ctsgfn.errors import MeasureMismatch
from ctsgfn.kernel import Head


class SplitLaw(CoordinateLaw):
    """One law on some rows and another on the rest.

    Args:
        rows: the rows of each law.
        laws: the two laws.
        like: [B, k], for dtype and device.
    """

    def __init__(
        self, rows: tuple[Tensor, Tensor], laws: tuple[Distribution, Distribution], like: Tensor
    ) -> None:
        super().__init__(len(like), like.shape[-1])
        self.rows, self.laws, self.like = rows, laws, like

    def draw(self) -> Tensor:
        """Draw each law on its rows, [B, k]."""
        out = torch.zeros_like(self.like)
        for rows, law in zip(self.rows, self.laws, strict=True):
            out = out.index_copy(0, rows, law.sample())
        return out

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] at [B, k]."""
        out = self.like.new_zeros(len(value))
        for rows, law in zip(self.rows, self.laws, strict=True):
            out = out.index_add(0, rows, law.log_prob(value[rows]))
        return out


class FirstStep(Head):
    """Head ``first`` at s0 and head ``later`` elsewhere, for states with a ``step`` field.

    Raises:
        MeasureMismatch: when the two heads have different bases.
    """

    def __init__(self, first: Head, later: Head) -> None:
        super().__init__()
        if first.base != later.base:
            raise MeasureMismatch(
                f"the first step's head is a density against {first.base} and the later steps' against "
                f"{later.base}: one branch has one base."
            )
        self.base, self.first, self.later = first.base, first, later

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> Distribution:
        """Law of the coordinates, [B, k]."""
        here = (s.step == 0).nonzero().squeeze(-1)
        if len(here) == 0:
            return self.later(context, s, live)
        if len(here) == len(context):
            return self.first(context, s, live)
        there = (s.step != 0).nonzero().squeeze(-1)
        laws = tuple(
            head(context[rows], s[rows], None if live is None else live[rows])
            for head, rows in ((self.first, here), (self.later, there))
        )
        return SplitLaw((here, there), (laws[0], laws[1]), s.x)
