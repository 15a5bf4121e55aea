"""Checks along walks: what one kernel can do the other can undo, and every walk ends in time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from ctsgfn.diffuse import diffuse
from ctsgfn.errors import NoSuchEdge
from ctsgfn.extreme import ENDS, extreme
from ctsgfn.measures import Counting
from ctsgfn.probing import ROUNDING, default_dtype, gap, naming, never_stopping, steady, untrusting
from ctsgfn.reference import describe
from ctsgfn.report import Result
from ctsgfn.space import Space
from ctsgfn.trajectories import Trajectories
from ctsgfn.walks import backtrack, rollout

SINGLE = 1e-3
"""Largest relative error of a state in float32."""

ROWS = 200_000
"""States that one set of walks may visit."""


def walkers(space: Space[Any, Any], n: int) -> int:
    """How many walks to draw: n, or fewer where they are long."""
    return max(200, min(n, ROWS // space.horizon))


def support(space: Space[Any, Any], n: int) -> Result:
    """Reachability (Def. 1, eq. 1): each kernel scores the other's walks, and all of nu leads to s0.

    Along walks from s0, every step has a finite log p_B and stays in the support of nu; along walks
    back from nu-probes, every step has a finite log p_F, and s0 is reached. The walks are diffuse, and at
    the ends of the charts; in float64, and in the float32 of training, whose rounding must not carry a
    step out of either support.
    """
    remedy = (
        "allowed, live and owns must open an edge in kappa exactly where they open it in kappa_b (never "
        "close a branch by a tolerance, and round into the open side), and nu must cover exactly the "
        "states that s0 leads to"
    )
    steps = 0
    for dtype, tolerance in ((torch.float64, ROUNDING), (torch.float32, SINGLE)):
        try:
            with default_dtype(dtype):
                made, problem = _walks_problem(space, walkers(space, n), dtype, tolerance)
        except NoSuchEdge as error:
            made, problem = 0, str(error)
        if problem is not None:
            return Result("support", "FAIL", f"{problem} ({str(dtype).removeprefix('torch.')})", "0", remedy)
        steps += made
    found = f"{steps} steps out and back, in float64 and float32, all of them edges of both kernels"
    return Result("support", "pass", found, "no exception")


def _walks_problem(
    space: Space[Any, Any], count: int, dtype: torch.dtype, tolerance: float
) -> tuple[int, str | None]:
    """Steps of walks out and back, and what is wrong with the first bad one, if any is."""
    forward = diffuse(untrusting(space.kappa)).to(dtype)
    backward = diffuse(untrusting(space.kappa_b)).to(dtype)
    stepwise = replace(space, synchronous=False)
    plain = rollout(stepwise, forward, count)
    outs, homes = [plain], [backtrack(space, backward, space.nu.probe(count)[0])]
    few = max(100, count // 8)
    for end in ENDS:
        for kappa in (untrusting(space.kappa), never_stopping(untrusting(space.kappa))):
            outs.append(rollout(stepwise, extreme(kappa, end).to(dtype), few))
        edgewise = extreme(untrusting(space.kappa_b), end).to(dtype)
        homes.append(backtrack(space, edgewise, space.nu.probe(few)[0]))
    out, home = Trajectories.cat(outs), Trajectories.cat(homes)
    ahead_s, ahead_t = _moves(out)
    home_s, home_t = _moves(home)
    back, forth = backward(ahead_t).log_density_to(ahead_s), forward(home_s).log_density_to(home_t)
    assert plain.log_forward is not None  # a rollout keeps the densities of its draws
    scored = forward(out.states).log_density(out.jumps)
    again = forward(plain.states).log_density(plain.jumps) - plain.log_forward
    # a chart may be steep, and its weight then lose digits in float32
    wrong = ~(again.abs() <= tolerance) if dtype == torch.float64 else torch.zeros_like(plain.last)
    starts = home.states[home.source]
    away = gap(space.source(len(starts)).like(forward.anchor), starts)
    problems = (
        ("states visited lie outside of nu", ~space.nu.contains(out.states), out.states),
        ("steps of walks from s0 have no density forwards", ~scored.isfinite(), out.states),
        ("steps of walks from s0 have no density backwards", ~back.isfinite(), ahead_t),
        ("steps back from nu-probes have no density forwards", ~forth.isfinite(), home_s),
        ("walks back end at progress 0, yet not at s0", ~(away <= tolerance), starts),
        ("steps have another log-density than their draw", wrong, plain.states),
    )
    for text, bad, states in problems:
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            return 0, f"{int(bad.sum())} of {len(bad)} {text}, the first at {describe(states, row)}"
    return len(ahead_s) + len(home_s), None


def _moves(walks: Trajectories[Any]) -> tuple[Any, Any]:
    """Both ends of every edge between states."""
    move = (~walks.last).nonzero().squeeze(-1)
    return walks.states[move], walks.states[move + 1]


def absorbing(space: Space[Any, Any], n: int) -> Result:
    """Every walk ends within the horizon, because progress rises by at least 1 along every edge.

    Walks: diffuse, diffuse but never stopping where anything else is open, and never stopping with
    coordinates at the ends of their range. Also: kappa_b is closed at s0, something is open at every
    other state, and the flags ``forced`` and ``synchronous`` say the truth.
    """
    remedy = (
        "progress must be 0 at s0, rise by at least 1 along every edge and stay below horizon: correct "
        "progress, horizon, sink or the flags forced and synchronous"
    )
    probes, _ = space.nu.probe(min(n, 20_000))
    problem = _source_problem(space) or _state_problem(space, probes)
    lengths: list[int] = []
    for walks in _walks(space, n) if problem is None else ():
        problem = _rise_problem(space, walks) or _state_problem(space, walks.states)
        lengths += [int(walks.lengths.min()), int(walks.lengths.max())]
        if problem is not None:
            break
    if problem is None and space.synchronous and min(lengths) < space.horizon:
        problem = f"a synchronous space has a walk of {min(lengths)} edges, not {space.horizon}"
    if problem is not None:
        return Result("absorbing", "FAIL", problem, "a rise of at least 1, at most horizon - 1", remedy)
    return Result("absorbing", "pass", f"longest walk {max(lengths)} edges", f"{space.horizon}")


def _walks(space: Space[Any, Any], n: int) -> Iterator[Trajectories[Any]]:
    stepwise = replace(space, synchronous=False)
    count = walkers(space, n)
    yield rollout(stepwise, diffuse(space.kappa).double(), count)
    yield rollout(stepwise, steady(space), count)
    for end in ENDS:
        yield rollout(stepwise, extreme(never_stopping(space.kappa), end), max(200, count // 4))


def _rise_problem(space: Space[Any, Any], walks: Trajectories[Any]) -> str | None:
    """Where progress rises by less than 1 or reaches the horizon, if anywhere."""
    s, t = _moves(walks)
    rise = (space.progress(t) - space.progress(s)).double()
    slow = (~(rise >= 1 - ROUNDING)).nonzero().squeeze(-1)
    if len(slow):
        row = int(slow[0])
        return f"progress rises by {float(rise[row]):.6g} from {describe(s, row)} to {describe(t, row)}"
    top = space.progress(walks.states).double()
    row = int(top.argmax())
    if not float(top[row]) <= space.horizon - 1 + ROUNDING:
        at = describe(walks.states, row)
        return f"progress reaches {float(top[row]):.6g} at {at} with a horizon of {space.horizon}"
    return None


def _state_problem(space: Space[Any, Any], s: Any) -> str | None:
    """What is wrong with the masses at some state, if anything."""
    away = s[space.progress(s) > 0]
    for reference, states in ((space.kappa, s), (space.kappa_b, away)):
        is_open = reference.open(states)
        count = is_open.sum(-1)
        if bool((count == 0).any()):
            row = int((count == 0).nonzero()[0])
            return f"{reference.name} has nothing open at {describe(states, row)}"
        if reference.forced and bool((count != 1).any()):
            row = int((count != 1).nonzero()[0])
            at = describe(states, row)
            return (
                f"{reference.name} is called forced, but has {int(count[row])} branches or sink open at {at}"
            )
        for i, branch in enumerate(reference.branches):
            rows = is_open[:, i].nonzero().squeeze(-1)
            live = branch.live(states[rows]) if isinstance(branch.base, Counting) and len(rows) else None
            if live is not None and bool((~live.any(-1)).any()):
                row = int(rows[(~live.any(-1)).nonzero()[0]])
                return f"{naming(reference, i)} is open without a live atom at {describe(states, row)}"
    return None


def _source_problem(space: Space[Any, Any]) -> str | None:
    """What is wrong at s0, if anything."""
    s0 = space.source(1).like(torch.empty(0, dtype=torch.float64))
    if float(space.progress(s0)) != 0:
        return f"progress is {float(space.progress(s0)):.6g} at s0, not 0"
    if bool(space.kappa_b.open(s0).any()):
        return f"{space.kappa_b.name} has an edge out of s0"
    return None
