"""Jumps drawn and not scored: densities cost less when those of many steps are computed at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Generic, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from ctsgfn.distributions import CoordinateLaw
from ctsgfn.states import Jump, S


class Move(NamedTuple):
    """Coordinates drawn on one branch."""

    law: Distribution
    a: Tensor  # [B, k] the coordinates drawn from it
    log_weight: Tensor  # [B], or [1] for all of them, of the chart


def log_densities(moves: Sequence[Move]) -> Tensor:
    """Log-densities [sum of B] of moves on one branch, the first move first."""
    out = []
    for kind, group in groupby(moves, key=lambda move: type(move.law)):
        run = list(group)
        laws = [move.law for move in run if isinstance(move.law, CoordinateLaw)]
        if issubclass(kind, CoordinateLaw):
            out.append(kind.score(laws, [move.a for move in run]))
        else:
            out += [move.law.log_prob(move.a) for move in run]
    weight, rows = torch.cat([move.log_weight for move in moves]), moves[0].a.shape[0]
    return torch.cat(out) - (weight.repeat_interleave(rows) if len(weight) == len(moves) else weight)


@dataclass(frozen=True)
class Draws:
    """One jump per state, drawn and not scored."""

    branch: Tensor  # [B] long, K for the sink
    logits: Tensor | None  # [B, K + 1] log-masses up to a constant per row; None where they are forced
    moves: list[tuple[int, Tensor | None, Move]]  # branch, rows on it (None for all), their coordinates

    @staticmethod
    def score(draws: Sequence[Draws]) -> Tensor:
        """Log-densities [sum of B] of the jumps, the first draws first."""
        starts = accumulate([d.branch.shape[0] for d in draws], initial=0)
        drawn = [
            (i, rows, move, start)
            for d, start in zip(draws, starts, strict=False)
            for i, rows, move in d.moves
        ]
        drawn.sort(key=lambda entry: entry[0])
        k, logits = torch.cat([d.branch for d in draws]), [d.logits for d in draws if d.logits is not None]
        masses = torch.cat(logits).log_softmax(-1).gather(-1, k[:, None]).squeeze(-1) if logits else None
        if not drawn:
            return torch.zeros(k.shape[0], device=k.device) if masses is None else masses
        groups = groupby(drawn, key=lambda entry: entry[0])
        density = torch.cat([log_densities([move for _, _, move, _ in group]) for _, group in groups])
        where = [
            torch.arange(start, start + move.a.shape[0], device=k.device) if rows is None else rows + start
            for _, rows, move, start in drawn
        ]
        out = density.new_zeros(k.shape[0]).index_copy(0, torch.cat(where), density)
        return out if masses is None else out + masses


@dataclass(frozen=True)
class Step(Generic[S]):
    """One jump per state, as a walk needs it: who stops, and where the others go."""

    stop: Tensor  # [B] bool
    rows: Tensor | None  # [B'] long, the rows that go on; None for all, in their order
    target: S  # [B'] where they go
    scored: Tensor | Draws  # log-densities [B], or what they take

    @classmethod
    def of(cls, jump: Jump[S], log_density: Tensor) -> Step[S]:
        """The step of jumps that are scored already."""
        rows = (~jump.stop).nonzero().squeeze(-1)
        return cls(jump.stop, rows, jump.target.index_select(0, rows), log_density)
