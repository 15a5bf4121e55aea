r"""Trajectories as one flat array of states, and the two walks that make them.

Row i's edge goes to row i + 1, or to the sink if ``last[i]``. The sink is not a state: nothing is
padded, and nothing needs a sentinel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, Protocol

import torch
from torch import Tensor, nn

from ctsgfn.errors import InvalidInput, NotAbsorbed
from ctsgfn.kernel import Kernel
from ctsgfn.law import log_densities
from ctsgfn.networks import held
from ctsgfn.reference import describe
from ctsgfn.space import Space
from ctsgfn.states import Jump, S


@dataclass(frozen=True)
class Trajectories(Generic[S]):
    """N complete trajectories: s_0 .. s_n of the first, then of the second, and so on.

    ``log_forward`` and ``log_backward`` save a pass where the kernels that drew the edges are the
    flow's own, at their present parameters; ``forget`` drops them.
    """

    states: S  # M rows
    owner: Tensor  # [M] long, non-decreasing: which trajectory a row belongs to
    last: Tensor  # [M] bool: the row's edge leads to the sink
    log_forward: Tensor | None = None  # [M] log p_F of each edge, if known
    log_backward: Tensor | None = None  # [M] log p_B of each edge, 0 on sink edges, if known
    seen: Tensor | None = None  # [M, ..] what the forward encoder observed of each state, if anything
    own: Tensor | None = None  # [N] bool: drawn by the kernel of ``log_forward`` itself; None for no

    def __len__(self) -> int:
        """N, the number of trajectories."""
        return int(self.owner[-1]) + 1 if len(self.owner) else 0

    @property
    def final(self) -> S:
        """The terminal states, N rows."""
        return self.states[self.last]

    @property
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
            None if self.log_forward is None else self.log_forward[rows],
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
            together([p.log_forward for p in parts]),
            together([p.log_backward for p in parts]),
            together([p.seen for p in parts]),
            torch.cat([torch.zeros_like(p.last[p.last]) if p.own is None else p.own for p in parts]),
        )


RUN = 8192
"""Rows whose densities a walk computes at once."""


NARROW = 8
"""Columns up to which a table is worth keeping column by column."""


class Walker(Protocol):
    """What a rollout needs of a kernel: laws to draw from, on its device and in its dtype."""

    anchor: Tensor

    def bind(self) -> Callable[[Any], Any]:
        """States -> law of the next state from each: ``draw``, ``draw_move``, ``single`` and ``seen``."""
        ...

    def modules(self) -> Iterable[nn.Module]:
        """The networks it walks with."""
        ...


def rollout(
    space: Space[S, Any], kernel: Walker, n: int, *, reparameterised: bool = False
) -> Trajectories[S]:
    """Draw n trajectories from s0 to the sink with a forward kernel.

    Without ``reparameterised`` nothing is differentiated; with it the states and densities carry the
    pathwise gradient (the masses must be forced, and the heads have ``rsample``).

    Raises:
        InvalidInput: when n < 1.
        NotAbsorbed: when a trajectory outlives the space's horizon.
    """
    if n < 1:
        raise InvalidInput(f"rollout needs at least one trajectory, got n={n}.")
    with torch.set_grad_enabled(reparameterised), held(kernel.modules()):
        s = space.source(n).like(kernel.anchor)
        walk = _march if space.synchronous else _wander
        return walk(space, kernel.bind(), s, reparameterised)


def arrivals(space: Space[S, Any], kernel: Walker, n: int) -> S:
    """Draw the terminal states of n trajectories, as ``rollout`` does, and keep nothing else of them.

    Raises:
        InvalidInput: when n < 1.
        NotAbsorbed: when a trajectory outlives the space's horizon.
    """
    if n < 1 or not space.synchronous:
        return rollout(space, kernel, n).final
    with torch.no_grad(), held(kernel.modules()):
        s, law_of = space.source(n).like(kernel.anchor), kernel.bind()
        for _ in range(space.horizon - 1):
            law = law_of(s)
            s = law.draw_unscored()[0] if law.single else law.draw_move()[0]
    return s


def _march(space: Space[S, Any], kernel: Callable[[S], Any], s: S, reparameterised: bool) -> Trajectories[S]:
    """All trajectories in step, exactly ``horizon`` edges each: static shapes, no selection."""
    n, edges = len(s), space.horizon
    states, scored, observations, moves = [s], [], [], []
    for _ in range(edges - 1):
        law = kernel(s)
        if reparameterised or not law.single:
            s, log_density = law.draw_move(reparameterised=reparameterised)
            scored.append(log_density)
        else:
            s, move = law.draw_unscored()
            moves.append(move)
            if n * len(moves) >= RUN:
                scored.append(log_densities(moves))
                moves = []
        states.append(s)
        if law.seen is not None:
            observations.append(law.seen)
    if moves:
        scored.append(log_densities(moves))
    log_forward = torch.nn.functional.pad(torch.cat(scored).unflatten(0, (-1, n)), (0, 0, 0, 1)).t().flatten()
    columns = zip(*[part.tensors().values() for part in states], strict=True)
    device = log_forward.device
    last = torch.zeros(n, edges, dtype=torch.bool, device=device)
    last[:, -1] = True
    seen = None
    if observations:
        observations.append(torch.zeros_like(observations[-1]))
        seen = torch.stack(observations, dim=1).flatten(0, 1)
    return Trajectories(
        type(s)(*[torch.stack(column, dim=1).flatten(0, 1) for column in columns]),
        torch.arange(n, device=device).repeat_interleave(edges),
        last.flatten(),
        log_forward,
        None,
        seen,
        torch.ones(n, dtype=torch.bool, device=device),
    )


def _wander(space: Space[S, Any], kernel: Callable[[S], Any], s: S, reparameterised: bool) -> Trajectories[S]:
    """Trajectories of different lengths: those that stopped leave the batch."""
    alive = torch.arange(len(s), device=s.anchor.device)
    states, owners, stops, densities, observations = [], [], [], [], []
    for _ in range(space.horizon):
        law = kernel(s)
        jump, log_density = law.draw(reparameterised=reparameterised)
        states.append(s)
        owners.append(alive)
        stops.append(jump.stop)
        densities.append(log_density)
        if law.seen is not None:
            observations.append(law.seen)
        go_on = (~jump.stop).nonzero().squeeze(-1)
        if len(go_on) == 0:
            break
        s, alive = jump.target[go_on], alive[go_on]
    else:
        raise NotAbsorbed(
            f"{len(alive)} trajectories of {space.name} did not reach the sink within its horizon of "
            f"{space.horizon} edges, one of them at {describe(s, 0)}: give the space its true horizon, or "
            "make the kernel stop."
        )
    owner = torch.cat(owners)
    order = owner.argsort(stable=True)
    return Trajectories(
        type(s).cat(states)[order],
        owner[order],
        torch.cat(stops)[order],
        torch.cat(densities)[order],
        None,
        torch.cat(observations)[order] if observations else None,
        torch.ones_like(stops[0]),
    )


def backtrack(space: Space[S, Any], kernel: Kernel[S], finals: S) -> Trajectories[S]:
    """Draw trajectories backwards from terminal states to s0 with a backward kernel.

    Raises:
        InvalidInput: without terminal states.
        NotAbsorbed: when a walk does not reach s0 within the space's horizon.
    """
    if len(finals) == 0:
        raise InvalidInput("backtrack needs at least one terminal state.")
    with torch.no_grad(), held(kernel.modules()):
        s, law = finals.like(kernel.anchor), kernel.bind()
        alive = torch.arange(len(s), device=kernel.anchor.device)
        states, owners, densities = [s], [alive], [kernel.anchor.new_zeros(len(s))]
        for _ in range(space.horizon - 1):
            go_on = (space.progress(s) > 0).nonzero().squeeze(-1)
            if len(go_on) == 0:
                break
            if len(go_on) < len(s):
                s, alive = s[go_on], alive[go_on]
            s, log_density = law(s).draw_move()
            states.append(s)
            owners.append(alive)
            densities.append(log_density)
        left = space.progress(s) > 0
        if bool(left.any()):
            raise NotAbsorbed(
                f"{int(left.sum())} backward walks of {space.name} did not reach s0 within its horizon of "
                f"{space.horizon} edges, one of them at {describe(s, int(left.nonzero()[0]))}: kappa_b must "
                "lead home."
            )
    # latest first, then a stable sort by owner: s0 .. s_n within each trajectory
    owner = torch.cat(owners[::-1])
    order = owner.argsort(stable=True)
    owner = owner[order]
    last = torch.ones_like(owner, dtype=torch.bool)
    last[:-1] = owner[1:] != owner[:-1]
    return Trajectories(
        type(s).cat(states[::-1])[order], owner, last, None, torch.cat(densities[::-1])[order]
    )
