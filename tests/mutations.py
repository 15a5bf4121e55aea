"""Named ways of breaking a space, each with the check that must notice, and changes that break nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from altered import AnySpace, alter, reference_of, score, with_counter
from broken_charts import (
    Change,
    closed_branch,
    closed_strip,
    everything_doubled,
    folded,
    forgotten_jacobian,
    greedy_owns,
    heavy_source,
    live_everywhere,
    lonely_nu,
    narrow_owns,
    on_coordinates,
    same_factor_twice,
    second_source,
    tilted_nu,
    tilted_points,
    tilted_weight,
    walks_start_beside,
    weight,
    wrong_intrinsic,
)
from broken_walks import (
    claimed_forced,
    claimed_synchronous,
    horizon,
    nan_features,
    open_at_source,
    progress,
    shifted,
    sink_closed,
    sink_closed_in_a_strip,
    sink_open,
    stalling,
)
from torch import Tensor

from ctsgfn.measures import Haar, Lebesgue, wrap
from ctsgfn.reference import Branch


class Mutation(NamedTuple):
    """A way of breaking a space, and the check that is there to notice it."""

    caught_by: str
    change: Change


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
