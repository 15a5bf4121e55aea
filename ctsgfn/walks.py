"""Walks that make trajectories: forwards from s0, forwards for their ends alone, and backwards to s0."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ctsgfn.errors import InvalidInput, NotAbsorbed
from ctsgfn.kernel import Kernel
from ctsgfn.moves import Draws, Step, log_densities
from ctsgfn.networks import held
from ctsgfn.reference import describe
from ctsgfn.space import Space
from ctsgfn.states import S
from ctsgfn.trajectories import Trajectories

RUN = 8192
"""Rows whose densities a walk computes at once."""
BLOCK = 4096
"""Trajectories of which only the ends are kept that walk together: few enough to stay in the cache."""


class Walker(Protocol):
    """What a rollout needs of a kernel: laws to draw from, on its device and in its dtype."""

    anchor: Tensor

    def bind(self) -> Callable[[Any], Any]:
        """States -> law of the next state from each: a ``Law``, or what a walk asks of one."""
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
    parts = []
    with torch.no_grad(), held(kernel.modules()):
        law_of = kernel.bind()
        for rows in torch.arange(n).chunk(math.ceil(n / BLOCK)):
            s = space.source(len(rows)).like(kernel.anchor)
            for _ in range(space.horizon - 1):
                law = law_of(s)
                s = law.draw_unscored()[0] if law.single else law.draw_move()[0]
            parts.append(s)
    return type(s).cat(parts)


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

    def log_forward() -> Tensor:
        rest = [log_densities(moves)] if moves else []
        of_edges = torch.cat([*scored, *rest]).unflatten(0, (-1, n))
        return torch.nn.functional.pad(of_edges, (0, 0, 0, 1)).t().flatten()

    columns = zip(*[part.tensors().values() for part in states], strict=True)
    device = s.anchor.device
    last = torch.zeros(n, edges, dtype=torch.bool, device=device)
    last[:, -1] = True
    seen = None
    if observations:
        observations.append(torch.zeros_like(observations[-1]))
        seen = torch.stack(observations, dim=1).flatten(0, 1)
    return Trajectories(
        s.of(torch.stack(column, dim=1).flatten(0, 1) for column in columns),
        torch.arange(n, device=device).repeat_interleave(edges),
        last.flatten(),
        log_forward() if reparameterised else torch.no_grad()(log_forward),
        None,
        seen,
        torch.ones(n, dtype=torch.bool, device=device),
    )


def _wander(space: Space[S, Any], kernel: Callable[[S], Any], s: S, reparameterised: bool) -> Trajectories[S]:
    """Trajectories of different lengths: those that stopped leave the batch."""
    alive = torch.arange(len(s), device=s.anchor.device)
    states, owners, stops, densities, observations = [], [], [], [], []
    waiting: list[Draws] = []
    rows = 0
    for _ in range(space.horizon):
        law = kernel(s)
        step = Step.of(*law.draw(reparameterised=True)) if reparameterised else law.step()
        states.append(s)
        owners.append(alive)
        stops.append(step.stop)
        if law.seen is not None:
            observations.append(law.seen)
        if isinstance(step.scored, Draws):
            waiting.append(step.scored)
            rows += step.stop.shape[0]
        else:
            densities.append(step.scored)
        if rows >= RUN:
            densities.append(Draws.score(waiting))
            waiting, rows = [], 0
        if len(step.target) == 0:
            break
        s, alive = step.target, alive if step.rows is None else alive.index_select(0, step.rows)
    else:
        raise NotAbsorbed(
            f"{len(alive)} trajectories of {space.name} did not reach the sink within its horizon of "
            f"{space.horizon} edges, one of them at {describe(s, 0)}: give the space its true horizon, or "
            "make the kernel stop."
        )
    owner = torch.cat(owners)
    order = owner.argsort(stable=True)

    def log_forward() -> Tensor:
        rest = [Draws.score(waiting)] if waiting else []
        return torch.cat([*densities, *rest]).index_select(0, order)

    return Trajectories(
        type(s).cat(states).index_select(0, order),
        owner.index_select(0, order),
        torch.cat(stops).index_select(0, order),
        log_forward() if reparameterised else torch.no_grad()(log_forward),
        None,
        torch.cat(observations).index_select(0, order) if observations else None,
        torch.ones_like(stops[0]),
    )


def backtrack(
    space: Space[S, Any], kernel: Kernel[S], finals: S, *, reparameterised: bool = False
) -> Trajectories[S]:
    """Draw trajectories backwards from terminal states to s0 with a backward kernel.

    Without ``reparameterised`` nothing is differentiated; with it the states and densities carry the
    pathwise gradient (the masses must be forced, and the heads have ``rsample``).

    Raises:
        InvalidInput: without terminal states.
        NotAbsorbed: when a walk does not reach s0 within the space's horizon.
    """
    if len(finals) == 0:
        raise InvalidInput("backtrack needs at least one terminal state.")
    with torch.set_grad_enabled(reparameterised), held(kernel.modules()):
        s, law = finals.like(kernel.anchor), kernel.bind()
        alive = torch.arange(len(s), device=kernel.anchor.device)
        states, owners, densities = [s], [alive], [kernel.anchor.new_zeros(len(s))]
        for _ in range(space.horizon - 1):
            go_on = (space.progress(s) > 0).nonzero().squeeze(-1)
            if len(go_on) == 0:
                break
            if len(go_on) < len(s):
                s, alive = s[go_on], alive[go_on]
            s, log_density = law(s).draw_move(reparameterised=reparameterised)
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
