"""Named ways of breaking a space, each with the check that must notice, and changes that break nothing.

A mutation is a function from a correct space to a broken one, or to None where it makes no sense.
They know the general form of a space and nothing of any particular one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from altered import (
    AnySpace,
    Replaced,
    Tilted,
    alter,
    alter_all,
    amend,
    moved,
    reference_of,
    score,
    strip,
    with_counter,
)
from torch import Tensor

from ctsgfn.measures import Atom, Counting, Haar, Lebesgue, wrap
from ctsgfn.reference import Branch

Change = Callable[[AnySpace], AnySpace | None]


class Mutation(NamedTuple):
    """A way of breaking a space, and the check that is there to notice it."""

    caught_by: str
    change: Change


# ---------------------------------------------------------------- weights and measures
def weight(side: str, factor: float, i: int = -1) -> Change:
    """One branch of one kernel has a factor too much."""

    def change(space: AnySpace) -> AnySpace | None:
        if i == 0 and len(reference_of(space, side).branches) == 1:
            return None  # the last branch is the first
        extra = math.log(factor)
        return alter(space, side, i, log_weight=lambda inner, s, a: inner.log_weight(s, a) + extra)

    return change


def tilted_weight(side: str) -> Change:
    """A factor that depends on the state, and is 1 on average or nearly."""

    def change(space: AnySpace) -> AnySpace:
        value = score(space)

        def tilted(inner: Branch[Any], s: Any, a: Tensor) -> Tensor:
            return inner.log_weight(s, a) + 0.5 * value(s).sin()

        return alter(space, side, log_weight=tilted)

    return change


def forgotten_jacobian(side: str) -> Change:
    """The chart's weight is left out."""

    def change(space: AnySpace) -> AnySpace | None:
        plain = type(reference_of(space, side).branches[-1]).log_weight is Branch.log_weight
        return None if plain else alter(space, side, log_weight=Branch.log_weight)

    return change


def same_factor_twice(space: AnySpace) -> AnySpace | None:
    """Kernels that are paired, but are not the areas that they say they are."""
    if not has_intrinsic(space):
        return None
    return alter_all(space, log_weight=lambda inner, s, a: inner.log_weight(s, a) + 0.5)


def has_intrinsic(space: AnySpace) -> bool:
    return type(space.kappa.branches[-1]).intrinsic is not Branch.intrinsic


def wrong_intrinsic(change_of: Callable[[Tensor], Tensor]) -> Change:
    """The Euclidean coordinates of the image are others."""

    def change(space: AnySpace) -> AnySpace | None:
        if not has_intrinsic(space):
            return None
        return alter(space, "kappa", intrinsic=lambda inner, t: change_of(inner.intrinsic(t)))

    return change


def tilted_nu(space: AnySpace) -> AnySpace:
    """Nu weighs states unevenly, and no kernel knows it."""
    value = score(space)
    return replace(space, nu=Tilted(space.nu, lambda s: 0.5 * value(s).sin()))


def heavy_source(space: AnySpace) -> AnySpace:
    """Nu has mass 2 at s0."""
    return replace(space, nu=Tilted(space.nu, lambda s: math.log(2.0) * (space.progress(s) == 0)))


def everything_doubled(space: AnySpace) -> AnySpace:
    """Nu and points are twice what they were, s0 included: the source's flow is no longer Z."""
    nu = Tilted(space.nu, lambda s: torch.full((len(s),), math.log(2.0), dtype=torch.float64))
    points = Tilted(space.points, lambda x: torch.full((len(x),), math.log(2.0), dtype=torch.float64))
    return replace(space, nu=nu, points=points)


def tilted_points(space: AnySpace) -> AnySpace:
    """The target's measure weighs points otherwise than nu does."""
    return replace(space, points=Tilted(space.points, lambda x: 0.5 * x.double().sin().sum(-1)))


def lonely_nu(space: AnySpace) -> AnySpace:
    """Nu leaves out states that walks visit."""
    left_out = strip(space, lambda s: space.progress(s) > 0)
    return replace(space, nu=Replaced(space.nu, support=lambda s: space.nu.contains(s) & ~left_out(s)))


def second_source(space: AnySpace) -> AnySpace | None:
    """Some of nu's probes at s0 lie beside it, where no walk has been."""
    if not any(t.is_floating_point() for t in space.source(1).tensors().values()):
        return None

    def beside(s: Any) -> Any:
        away = 0.3 * (space.progress(s) == 0)
        return s.map(lambda t: t + away[:, None] if t.is_floating_point() else t)

    return replace(space, nu=Replaced(space.nu, beside, lambda s: torch.ones(len(s), dtype=torch.bool)))


def walks_start_beside(space: AnySpace) -> AnySpace | None:
    """The walks' first state is not the s0 that nu and kappa_b know."""
    if not any(t.is_floating_point() for t in space.source(1).tensors().values()):
        return None

    def source(n: int) -> Any:
        return space.source(n).map(lambda t: t + 0.3 if t.is_floating_point() else t)

    return replace(space, source=source)


# ---------------------------------------------------------------- charts
def on_coordinates(side: str, method: str) -> Change:
    """Push or pull moves the coordinates a little."""

    def change(space: AnySpace) -> AnySpace | None:
        base = reference_of(space, side).branches[-1].base
        if isinstance(base, Atom):
            return None
        parts: dict[str, Callable[..., Any]] = {
            "push": lambda inner, s, a: inner.push(s, moved(base, a, 1e-3)),
            "pull": lambda inner, s, t: moved(base, inner.pull(s, t), 1e-3),
        }
        return alter(space, side, **{method: parts[method]})

    return change


def folded(space: AnySpace) -> AnySpace | None:
    """Two coordinates lead to one state."""
    base = space.kappa.branches[-1].base
    if not isinstance(base, Lebesgue | Haar):
        return None
    middle = 0.5 * (base.low + base.high) if isinstance(base, Lebesgue) and base.is_finite else 0.0
    return alter(space, "kappa", push=lambda inner, s, a: inner.push(s, middle + (a - middle).abs()))


def narrow_owns(side: str) -> Change:
    """A branch does not know some of its own edges."""

    def change(space: AnySpace) -> AnySpace:
        denied = strip(space, lambda s: reference_of(space, side).allowed(s)[:, -1])
        return alter(space, side, owns=lambda inner, s, t: inner.owns(s, t) & ~denied(s))

    return change


def greedy_owns(side: str) -> Change:
    """A branch claims the edges of its neighbours."""

    def change(space: AnySpace) -> AnySpace | None:
        s, _ = space.nu.probe(200)
        several = (reference_of(space, side).allowed(s).sum(-1) > 1).any()
        return alter(space, side, owns=Branch.owns) if bool(several) else None

    return change


# ---------------------------------------------------------------- support
def closed_strip(side: str) -> Change:
    """One kernel has no moves out of some states that the other leads through."""

    def change(space: AnySpace) -> AnySpace:
        allowed = reference_of(space, side).allowed
        closed = strip(space, lambda s: allowed(s).any(-1))
        return amend(space, side, allowed=lambda s: allowed(s) & ~closed(s)[:, None])

    return change


def closed_branch(side: str) -> Change:
    """One kernel lacks its last branch in a strip, where it has others."""

    def change(space: AnySpace) -> AnySpace | None:
        allowed = reference_of(space, side).allowed
        if len(reference_of(space, side).branches) == 1:
            return None
        closed = strip(space, lambda s: allowed(s)[:, -1])

        def fewer(s: Any) -> Tensor:
            is_open = allowed(s).clone()
            is_open[:, -1] &= ~closed(s)
            return is_open

        return amend(space, side, allowed=fewer)

    return change


def live_everywhere(side: str, discrete: bool) -> Change:
    """A kernel forgets that some atoms, or some axes, are dead."""

    def change(space: AnySpace) -> AnySpace | None:
        s, _ = space.nu.probe(200)
        branch = reference_of(space, side).branches[-1]
        if isinstance(branch.base, Counting) != discrete:
            return None
        live = branch.live(s[reference_of(space, side).allowed(s)[:, -1]])
        return None if live is None or bool(live.all()) else alter(space, side, live=Branch.live)

    return change


# ---------------------------------------------------------------- sink, horizon, progress, flags
def sink_of(space: AnySpace) -> Callable[[Any], Tensor]:
    assert space.kappa.sink is not None
    return space.kappa.sink


def sink_closed_in_a_strip(space: AnySpace) -> AnySpace:
    """Some terminal states may not stop."""
    sink = sink_of(space)
    closed = strip(space, sink)
    return amend(space, "kappa", sink=lambda s: sink(s) & ~closed(s))


def sink_closed(space: AnySpace) -> AnySpace:
    """No state may stop."""
    sink = sink_of(space)
    return amend(space, "kappa", sink=lambda s: torch.zeros_like(sink(s)))


def sink_open(space: AnySpace) -> AnySpace | None:
    """Every state may stop."""
    sink = sink_of(space)
    if bool(sink(space.nu.probe(1000)[0]).all()):
        return None
    return amend(space, "kappa", sink=lambda s: torch.ones_like(sink(s)))


def horizon(change: int) -> Change:
    """The horizon is wrong; where lengths vary, a longer one is no error."""
    return lambda space: (
        replace(space, horizon=space.horizon + change) if change < 0 or space.synchronous else None
    )


def progress(change_of: Callable[[Tensor], Tensor]) -> Change:
    """Progress is measured otherwise."""
    return lambda space: replace(space, progress=lambda s: change_of(space.progress(s)))


def stalling(space: AnySpace) -> AnySpace:
    """Progress stands still at the end."""
    s, _ = space.nu.probe(2000)
    top = float(space.progress(s).max()) - 1.0
    return replace(space, progress=lambda s: space.progress(s).clamp(max=top))


def claimed_forced(side: str) -> Change:
    """A kernel says that nothing is ever chosen, and something is."""
    return lambda space: None if reference_of(space, side).forced else amend(space, side, forced=True)


def claimed_synchronous(space: AnySpace) -> AnySpace | None:
    """The space says that all walks have one length, and they have not."""
    return None if space.synchronous else replace(space, synchronous=True)


def open_at_source(space: AnySpace) -> AnySpace:
    """A way back out of s0."""
    allowed = space.kappa_b.allowed
    return amend(space, "kappa_b", allowed=lambda s: allowed(s) | (space.progress(s) == 0)[:, None])


# ---------------------------------------------------------------- read, write, features
def shifted(x: Tensor) -> Tensor:
    """Other points of the same kind."""
    return x.flip(0) if not x.is_floating_point() else 0.99 * x


def nan_features(space: AnySpace) -> AnySpace:
    """Features are NaN in a strip."""
    bad = strip(space, lambda s: space.progress(s) > 0)

    def features(s: Any) -> Tensor:
        return torch.where(bad(s)[:, None], math.nan, space.features(s))

    return replace(space, features=features)


MUTATIONS: dict[str, Mutation] = {
    "kappa has a factor too much": Mutation("pairing", weight("kappa", 1.5)),
    "kappa_b has a factor too much": Mutation("pairing", weight("kappa_b", 1.5)),
    "the first branch of kappa has a factor too much": Mutation("pairing", weight("kappa", 1.5, 0)),
    "the first branch of kappa_b has a factor too much": Mutation("pairing", weight("kappa_b", 1.5, 0)),
    "kappa has a factor that depends on the state": Mutation("pairing", tilted_weight("kappa")),
    "kappa_b has a factor that depends on the state": Mutation("pairing", tilted_weight("kappa_b")),
    "kappa forgets its Jacobian": Mutation("pairing", forgotten_jacobian("kappa")),
    "kappa_b forgets its Jacobian": Mutation("pairing", forgotten_jacobian("kappa_b")),
    "nu is tilted": Mutation("pairing", tilted_nu),
    "nu has mass 2 at s0": Mutation("pairing", heavy_source),
    "nu and points are doubled": Mutation("evidence", everything_doubled),
    "both kernels are no areas": Mutation("charts", same_factor_twice),
    "intrinsic is in other units": Mutation("charts", wrong_intrinsic(lambda y: 2 * y)),
    "intrinsic lacks a dimension": Mutation("charts", wrong_intrinsic(lambda y: y[:, :-1])),
    "kappa pulls other coordinates": Mutation("charts", on_coordinates("kappa", "pull")),
    "kappa_b pulls other coordinates": Mutation("charts", on_coordinates("kappa_b", "pull")),
    "kappa pushes elsewhere": Mutation("charts", on_coordinates("kappa", "push")),
    "kappa_b pushes elsewhere": Mutation("charts", on_coordinates("kappa_b", "push")),
    "the chart of kappa is folded": Mutation("charts", folded),
    "kappa disowns edges": Mutation("charts", narrow_owns("kappa")),
    "kappa_b disowns edges": Mutation("charts", narrow_owns("kappa_b")),
    "branches of kappa share edges": Mutation("charts", greedy_owns("kappa")),
    "branches of kappa_b share edges": Mutation("charts", greedy_owns("kappa_b")),
    "kappa is closed where kappa_b leads through": Mutation("support", closed_strip("kappa")),
    "kappa_b is closed where kappa leads through": Mutation("support", closed_strip("kappa_b")),
    "a branch of kappa is closed in a strip": Mutation("support", closed_branch("kappa")),
    "a branch of kappa_b is closed in a strip": Mutation("support", closed_branch("kappa_b")),
    "kappa forgets its dead atoms": Mutation("support", live_everywhere("kappa", discrete=True)),
    "kappa_b forgets its dead atoms": Mutation("support", live_everywhere("kappa_b", discrete=True)),
    "kappa_b forgets its dead axes": Mutation("charts", live_everywhere("kappa_b", discrete=False)),
    "nu leaves out states": Mutation("support", lonely_nu),
    "nu has a second source": Mutation("support", second_source),
    "walks start beside s0": Mutation("support", walks_start_beside),
    "the sink is closed in a strip": Mutation("read_write", sink_closed_in_a_strip),
    "the sink is closed": Mutation("absorbing", sink_closed),
    "the sink is open everywhere": Mutation("read_write", sink_open),
    "the horizon is too short": Mutation("absorbing", horizon(-1)),
    "the horizon is too long": Mutation("absorbing", horizon(+1)),
    "progress is too slow": Mutation("absorbing", progress(lambda p: 0.5 * p)),
    "progress does not start at 0": Mutation("absorbing", progress(lambda p: p + 1)),
    "progress falls": Mutation("absorbing", progress(lambda p: -p)),
    "progress stands still at the end": Mutation("absorbing", stalling),
    "kappa claims to be forced": Mutation("absorbing", claimed_forced("kappa")),
    "kappa_b claims to be forced": Mutation("absorbing", claimed_forced("kappa_b")),
    "walks claim to have one length": Mutation("absorbing", claimed_synchronous),
    "kappa_b is open at s0": Mutation("absorbing", open_at_source),
    "read returns another point": Mutation(
        "read_write", lambda space: replace(space, read=lambda s: shifted(space.read(s)))
    ),
    "write goes to another point": Mutation(
        "read_write", lambda space: replace(space, write=lambda x: space.write(shifted(x)))
    ),
    "states count their steps": Mutation("read_write", with_counter),
    "points are tilted": Mutation("read_write", tilted_points),
    "features are NaN in places": Mutation("read_write", nan_features),
    "features have another width": Mutation(
        "read_write", lambda space: replace(space, width=space.width + 1)
    ),
}


# ---------------------------------------------------------------- harmless changes
def another_chart(side: str) -> Change:
    """Other coordinates a = g(b) of the same measure, with the Jacobian of g in the weight."""

    def change(space: AnySpace) -> AnySpace | None:
        base = reference_of(space, side).branches[-1].base
        if isinstance(base, Lebesgue) and base.is_finite:  # g(b) = b^2 on the unit cube
            return alter(
                space,
                side,
                push=lambda inner, s, b: inner.push(s, b.square()),
                pull=lambda inner, s, t: inner.pull(s, t).sqrt(),
                log_weight=lambda inner, s, b: inner.log_weight(s, b.square()) + (2 * b).log().sum(-1),
            )
        if isinstance(base, Lebesgue):  # g(b) = 2 b
            return alter(
                space,
                side,
                push=lambda inner, s, b: inner.push(s, 2 * b),
                pull=lambda inner, s, t: inner.pull(s, t) / 2,
                log_weight=lambda inner, s, b: inner.log_weight(s, 2 * b) + live_axes(inner, s) * math.log(2),
            )
        if isinstance(base, Haar) and side == "kappa":  # g(b) = b + 1
            return alter(
                space,
                side,
                push=lambda inner, s, b: inner.push(s, wrap(b + 1)),
                pull=lambda inner, s, t: wrap(inner.pull(s, t) - 1),
            )
        return None

    return change


def live_axes(branch: Branch[Any], s: Any) -> Tensor | int:
    """How many axes of a branch are live, [B]."""
    assert isinstance(branch.base, Lebesgue)
    live = branch.live(s)
    return branch.base.dim if live is None else live.expand(len(s), branch.base.dim).sum(-1)


def other_reference(space: AnySpace) -> AnySpace:
    """Both kernels are weighed by one function of the edge: another reference, paired as before."""
    value = score(space)

    def weighed(sign: float) -> Callable[..., Tensor]:
        def log_weight(inner: Branch[Any], s: Any, a: Tensor) -> Tensor:
            rise = sign * (value(inner.push(s, a)) - value(s))
            return inner.log_weight(s, a) + 0.5 * rise.sin()

        return log_weight

    for side, sign in (("kappa", 1.0), ("kappa_b", -1.0)):
        for i in range(len(reference_of(space, side).branches)):
            space = alter(space, side, i, log_weight=weighed(sign), intrinsic=Branch.intrinsic)
    return space


HARMLESS: dict[str, Change] = {
    "another chart of kappa": another_chart("kappa"),
    "another chart of kappa_b": another_chart("kappa_b"),
    "another reference for both kernels": other_reference,
    "a longer horizon": lambda space: (
        None if space.synchronous else replace(space, horizon=space.horizon + 3)
    ),
}
"""Changes of a space that the theory does not mind: every check must pass."""
