"""Edges and states to test a space on: drawn from its own measure nu and its diffuse kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic

import torch
from torch import Tensor

from ctsgfn.diffuse import diffuse
from ctsgfn.kernel import Kernel
from ctsgfn.measures import Measure
from ctsgfn.reference import ReferenceKernel
from ctsgfn.space import Space
from ctsgfn.states import Batch, S

ROUNDING = 1e-6
"""Largest relative error of a round trip in float64."""


@dataclass(frozen=True)
class Edges(Generic[S]):
    """Edges s -> t between states, and the log-density of the walk that drew each."""

    s: S  # [E]
    t: S  # [E]
    rows: Tensor  # [E] long: which of the n probes each edge started from
    log_draw: Tensor  # [E] log nu-density of the probe + log kernel density of the step


def log_law(measure: Measure[Any], x: Any) -> Tensor:
    """Log-density [B] of the law of ``measure.probe``, -inf outside the support."""
    inside = measure.contains(x)
    rows = inside.nonzero().squeeze(-1)
    out = torch.full((len(inside),), -math.inf, dtype=torch.float64)
    return out.index_copy(0, rows, measure.log_probe(x[rows]).double())


def naming(reference: ReferenceKernel[Any], i: int) -> str:
    """A branch as a short text for messages: its class, its place and its kernel."""
    name = type(reference.branches[i]).__name__
    return (
        f"{name} of {reference.name}"
        if len(reference.branches) == 1
        else f"branch {i} ({name}) of {reference.name}"
    )


def untrusting(reference: ReferenceKernel[S]) -> ReferenceKernel[S]:
    """The same kernel without its word that masses are forced: every edge is looked up."""
    return replace(reference, forced=False)


def never_stopping(reference: ReferenceKernel[S]) -> ReferenceKernel[S]:
    """The kernel without the sink, wherever anything else is open."""
    sink = reference.sink
    if sink is None:
        return reference
    inner = sink
    return replace(reference, sink=lambda s: inner(s) & ~reference.allowed(s).any(-1))


def steady(space: Space[S, Any]) -> Kernel[S]:
    """The diffuse forward kernel that never stops where it can move."""
    return diffuse(never_stopping(space.kappa)).double()


def forward_edges(space: Space[S, Any], n: int) -> Edges[S]:
    """A step of kappa from each of n nu-probes that can move."""
    s, _ = space.nu.probe(n)
    rows = space.kappa.allowed(s).any(-1).nonzero().squeeze(-1)
    start = s[rows]
    t, log_density = steady(space)(start).draw_move()
    return Edges(start, t, rows, log_law(space.nu, start) + log_density)


def backward_edges(space: Space[S, Any], n: int) -> Edges[S]:
    """A step of kappa_b back from each of n nu-probes that has a predecessor."""
    t, _ = space.nu.probe(n)
    rows = space.kappa_b.allowed(t).any(-1).nonzero().squeeze(-1)
    end = t[rows]
    s, log_density = diffuse(space.kappa_b).double()(end).draw_move()
    return Edges(s, end, rows, log_law(space.nu, end) + log_density)


def gap(a: Any, b: Any) -> Tensor:
    """How far apart two batches of points are, row by row: [B], inf where whole numbers differ."""
    left = a.tensors() if isinstance(a, Batch) else {"x": a}
    right = b.tensors() if isinstance(b, Batch) else {"x": b}
    worst = []
    for name, u in left.items():
        v = right[name]
        if u.shape != v.shape:
            return torch.full((len(u),), math.inf, dtype=torch.float64)
        if u.is_floating_point():
            apart = (u - v).abs() / (1 + u.abs())
        else:
            apart = torch.where(u == v, 0.0, math.inf)
        worst.append(apart.double().flatten(1).amax(-1) if apart.dim() > 1 else apart.double())
    return torch.stack(worst).amax(0)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make ``dtype`` torch's default for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
