"""Ways of breaking the sink, the horizon, the progress, the flags, and what the target and networks see.

Each is a function from a correct space to a broken one, or to None where it makes no sense.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from altered import AnySpace, amend, reference_of, strip
from broken_charts import Change
from torch import Tensor


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
