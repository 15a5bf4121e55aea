"""Ways of breaking the weights, measures, charts and supports of a space.

Each is a function from a correct space to a broken one, or to None where it makes no sense; they know
the general form of a space and nothing of any particular one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from altered import AnySpace, Replaced, Tilted, alter, alter_all, amend, moved, reference_of, score, strip
from torch import Tensor

from ctsgfn.measures import Atom, Counting, Haar, Lebesgue
from ctsgfn.reference import Branch

Change = Callable[[AnySpace], AnySpace | None]


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
