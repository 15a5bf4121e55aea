r"""Trajectories as one flat array of states.

Row i's edge goes to row i + 1, or to the sink if ``last[i]``. The sink is not a state: nothing is
padded, and nothing needs a sentinel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, overload

import torch
from torch import Tensor

from ctsgfn.states import Jump, S

NARROW = 8
"""Columns up to which a table is worth keeping column by column."""


class Recorded:
    """A field of log-densities that may be given as what computes them when first asked for."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.slot = f"_{name}"

    @overload
    def __get__(self, of: None, owner: type) -> None: ...
    @overload
    def __get__(self, of: object, owner: type) -> Tensor | None: ...
    def __get__(self, of: Any, owner: type) -> Tensor | None:
        value = None if of is None else of.__dict__[self.slot]
        if callable(value):
            value = of.__dict__[self.slot] = value()
        found: Tensor | None = value
        return found

    def __set__(self, of: Any, value: Tensor | Callable[[], Tensor] | None) -> None:
        of.__dict__[self.slot] = value


@dataclass(frozen=True)
class Trajectories(Generic[S]):
    """N complete trajectories: s_0 .. s_n of the first, then of the second, and so on.

    ``log_forward`` and ``log_backward`` save a pass where the kernels that drew the edges are the
    flow's own, at their present parameters; ``forget`` drops them.
    """

    states: S  # M rows
    owner: Tensor  # [M] long, non-decreasing: which trajectory a row belongs to
    last: Tensor  # [M] bool: the row's edge leads to the sink
    log_forward: Recorded = Recorded()  # [M] log p_F of each edge, if known
    log_backward: Tensor | None = None  # [M] log p_B of each edge, 0 on sink edges, if known
    seen: Tensor | None = None  # [M, ..] what the forward encoder observed of each state, if anything
    own: Tensor | None = None  # [N] bool: drawn by the kernel of ``log_forward`` itself; None for no

    def __len__(self) -> int:
        """N, the number of trajectories."""
        return int(self.owner[-1]) + 1 if len(self.owner) else 0

    @property
    def pathwise(self) -> bool:
        """Whether the densities carry the pathwise gradient of a reparameterised walk."""
        known = (self.__dict__["_log_forward"], self.log_backward)
        return any(isinstance(v, Tensor) and v.requires_grad for v in known)

    @property
    def final(self) -> S:
        """The terminal states, N rows."""
        return self.states[self.last]

    @cached_property
    def source(self) -> Tensor:
        """Which rows are s0, [M] bool."""
        first = torch.ones_like(self.last)
        first[1:] = self.last[:-1]
        return first

    @property
    def lengths(self) -> Tensor:
        """Edges of each trajectory, the one to the sink included, [N] long."""
        return torch.bincount(self.owner)

    @property
    def jumps(self) -> Jump[S]:
        """Where every row's edge leads."""
        return self.edges(0, len(self.owner))[1]

    @cached_property
    def moves(self) -> tuple[S, S, Tensor | None]:
        """States that do not stop, the states their edges lead to, and what was observed of the former.

        Only where all trajectories have the same length.
        """
        count = len(self)

        def grid(v: Tensor, start: int, stop: int | None) -> Tensor:
            if v.ndim == 2 and v.shape[1] <= NARROW:  # coordinate by coordinate: long runs for what follows
                return v.t().unflatten(1, (count, -1))[:, :, start:stop].flatten(1, 2).t()
            return v.unflatten(0, (count, -1))[:, start:stop].flatten(0, 1)

        s, t = self.states.map(lambda v: grid(v, 0, -1)), self.states.map(lambda v: grid(v, 1, None))
        return s, t, None if self.seen is None else grid(self.seen, 0, -1)

    def edges(self, start: int, end: int) -> tuple[S, Jump[S]]:
        """States of rows start .. end - 1, and where their edges lead."""
        s = self.states[start:end]
        if end < len(self.owner):
            t = self.states[start + 1 : end + 1]
        else:
            t = type(s).cat([self.states[start + 1 : end], self.states[:1]])
        return s, Jump(t, self.last[start:end])

    def forget(self) -> Trajectories[S]:
        """The same trajectories without densities and observations: for reuse by another flow."""
        return replace(self, log_forward=None, log_backward=None, seen=None, own=None)

    def select(self, which: Tensor) -> Trajectories[S]:
        """Keep the trajectories numbered in ``which`` ([K] long), in that order, repeats allowed."""
        lengths = self.lengths
        starts = lengths.cumsum(0) - lengths
        chosen = lengths[which]
        owner = torch.repeat_interleave(torch.arange(len(which), device=which.device), chosen)
        within = torch.arange(len(owner), device=which.device) - (chosen.cumsum(0) - chosen)[owner]
        rows = starts[which][owner] + within
        return Trajectories(
            self.states[rows],
            owner,
            self.last[rows],
            known_of([self], lambda known: known[0][rows]),
            None if self.log_backward is None else self.log_backward[rows],
            None if self.seen is None else self.seen[rows],
            None if self.own is None else self.own[which],
        )

    @classmethod
    def cat(cls, parts: list[Trajectories[S]]) -> Trajectories[S]:
        """Stack sets of trajectories; densities are kept only if every part knows them."""
        shift, owners = 0, []
        for part in parts:
            owners.append(part.owner + shift)
            shift += len(part)

        def together(columns: list[Tensor | None]) -> Tensor | None:
            known = [c for c in columns if c is not None]
            return torch.cat(known) if len(known) == len(columns) else None

        return cls(
            type(parts[0].states).cat([p.states for p in parts]),
            torch.cat(owners),
            torch.cat([p.last for p in parts]),
            known_of(parts, torch.cat),
            together([p.log_backward for p in parts]),
            together([p.seen for p in parts]),
            torch.cat([torch.zeros_like(p.last[p.last]) if p.own is None else p.own for p in parts]),
        )


def known_of(
    parts: Sequence[Trajectories[Any]], make: Callable[[list[Tensor]], Tensor]
) -> Tensor | Callable[[], Tensor] | None:
    """What is made of the log p_F of all parts, at once or, where a part waits to be asked, when asked.

    None where a part does not know them. A training step that differentiates them never asks.
    """
    held = [part.__dict__["_log_forward"] for part in parts]
    if any(value is None for value in held):
        return None
    if all(isinstance(value, Tensor) for value in held):
        return make(held)
    return lambda: make([part.log_forward for part in parts if part.log_forward is not None])
