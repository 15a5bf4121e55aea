r"""Checks that two measures are one: kappa with kappa_b, and nu on terminal states with ``points``.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, eq. 4.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ctsgfn.diffuse import diffuse
from ctsgfn.probing import (
    ROUNDING,
    Edges,
    backward_edges,
    forward_edges,
    gap,
    log_law,
    naming,
    steady,
)
from ctsgfn.reference import describe
from ctsgfn.report import Result
from ctsgfn.space import Space
from ctsgfn.two_sided import FEWEST, Comparison, Side, compare, log_factor
from ctsgfn.walks import rollout

BANDS = 8
"""Ranges of progress in which each pair of branches is compared."""


def pairing(space: Space[Any, Any], n: int, false_alarm: float) -> Result:
    r"""Eq. 4, :math:`\nu \otimes \kappa = \nu \otimes \kappa_b` on pairs of states.

    Left: a nu-probe and a diffuse step forward; right: a nu-probe and a diffuse step back. Both have
    a density against the measure that eq. 4 says is one, so their ratio is known and the identity of
    ``two_sided`` must hold: for the constant, for random cosines of the features of both ends, for
    each pair of branches, and for each of them in ``BANDS`` ranges of progress.
    """
    remedy = (
        "correct the log_weight of the branch of kappa or of its twin in kappa_b, or nu: on paper, "
        "nu(ds) kappa(s, ds') and nu(ds') kappa_b(s', ds) must be the same measure"
    )
    ahead, home = forward_edges(space, n), backward_edges(space, n)
    back = diffuse(space.kappa_b).double()(ahead.t).log_density_to(ahead.s)
    forth = steady(space)(home.s).log_density_to(home.t)
    left_ratio = log_law(space.nu, ahead.t) + back - ahead.log_draw
    right_ratio = home.log_draw - log_law(space.nu, home.s) - forth
    sides = (("nu x kappa", ahead, left_ratio), ("nu x kappa_b", home, right_ratio))
    for name, edges, ratio in sides:
        lost = (~ratio.isfinite()).nonzero().squeeze(-1)
        if len(lost):
            found = (
                f"{len(lost)} of {len(ratio)} edges of {name} have no density in the other, the first from "
                f"{describe(edges.s, int(lost[0]))} to {describe(edges.t, int(lost[0]))}"
            )
            return Result("pairing", "FAIL", found, "0", remedy)
    progress = [space.progress(edges.s).double() for edges in (ahead, home)]
    cuts = torch.cat(progress).quantile(torch.linspace(0, 1, BANDS + 1, dtype=torch.float64)[1:-1])
    left = _edge_side(space, ahead, left_ratio, torch.bucketize(progress[0], cuts), n, -math.inf)
    right = _edge_side(space, home, right_ratio, torch.bucketize(progress[1], cuts), n, math.inf)
    comparison = compare(left, right, false_alarm)
    if comparison.ok:
        return verdict("pairing", comparison, false_alarm)
    return verdict("pairing", comparison, false_alarm, _place(space, comparison, left, right, ahead), remedy)


def verdict(
    name: str, comparison: Comparison, false_alarm: float, note: str = "", remedy: str = ""
) -> Result:
    """A comparison as a result."""
    allowed = f"|z| <= {comparison.limit:.2f}, false alarms {false_alarm:.1e}"
    if not comparison.ok:
        return Result(name, "FAIL", str(comparison) + note, allowed, remedy)
    if not comparison.conclusive:
        found = f"only {comparison.effective:.0f} effective draws overlap"
        return Result(name, "inconclusive", found + note, f"at least {FEWEST:.0f}")
    return Result(name, "pass", str(comparison) + note, allowed)


def _edge_side(
    space: Space[Any, Any], edges: Edges[Any], log_ratio: Tensor, band: Tensor, n: int, missing: float
) -> Side:
    """Scatter edges to the n probes they came from; cells are pairs of branches, and each in a band."""
    phi = torch.cat([space.features(edges.s), space.features(edges.t)], dim=-1).double()
    forward, backward = space.kappa.locate_move(edges.s, edges.t), space.kappa_b.locate_move(edges.t, edges.s)
    pair = forward * len(space.kappa_b.branches) + backward
    cell = torch.stack([pair * (BANDS + 1), pair * (BANDS + 1) + 1 + band], dim=-1)
    return Side(
        torch.full((n,), missing, dtype=torch.float64).index_copy(0, edges.rows, log_ratio),
        phi.new_zeros(n, phi.shape[-1]).index_copy(0, edges.rows, phi),
        torch.full((n, 2), -1).index_copy(0, edges.rows, cell),
    )


def _place(space: Space[Any, Any], comparison: Comparison, left: Side, right: Side, ahead: Edges[Any]) -> str:
    """Where two measures on edges differ most, and by how much."""
    cell = comparison.worst_cell
    if cell is None or left.cell is None:
        return f"; nu x kappa_b is {math.exp(log_factor(left, right)):.3g} of nu x kappa"
    forward, backward = divmod(cell // (BANDS + 1), len(space.kappa_b.branches))
    names = naming(space.kappa, forward), naming(space.kappa_b, backward)
    factor = math.exp(log_factor(left, right, cell))
    text = f"; nu x kappa_b is {factor:.3g} of nu x kappa on {names[0]} with {names[1]}"
    rows = (left.cell[ahead.rows] == cell).any(-1).nonzero().squeeze(-1)
    if not len(rows):
        return text
    row = int(rows[0])
    at = space.progress(ahead.s[rows])
    where = f"at progress {float(at.min()):.3g} to {float(at.max()):.3g}"
    return f"{text} {where}, as from {describe(ahead.s, row)} to {describe(ahead.t, row)}"


def read_write(space: Space[Any, Any], n: int, false_alarm: float) -> Result:
    """``read`` and ``write`` are mutually inverse on X, and carry nu on X to ``points``.

    Also: the features that networks read are ``width`` finite numbers at every state.
    """
    name, sink = "read_write", space.kappa.sink
    assert sink is not None  # a Space has one
    s, _ = space.nu.probe(n)
    finals = rollout(space, diffuse(space.kappa).double(), min(n, 2000)).final
    for states in (s, finals):
        problem = _features_problem(space, states)
        if problem:
            return Result(name, "FAIL", problem, "", "features must map states [B] to finite [B, width]")
    terminal = sink(s).nonzero().squeeze(-1)
    x, _ = space.points.probe(n)
    written = space.write(x)
    trips = (
        ("write(read(s)) differs from s", space.write(space.read(s[terminal])), s[terminal]),
        ("write(read(s)) differs from s where walks end", space.write(space.read(finals)), finals),
        ("read(write(x)) differs from x at the state written there", space.read(written), x),
    )
    for text, there, here in trips:
        apart = gap(there, here)
        if bool((~(apart <= ROUNDING)).any()):
            row = int((~(apart <= ROUNDING)).nonzero()[0])
            state = describe(here if here is not x else written, row)
            remedy = (
                "a terminal state must be the point that the target sees and nothing more: hidden variables "
                "(counters, caches) silently replace the space by a larger one"
            )
            found = f"{text} by {float(apart[row]):.1e}, at {state}"
            return Result(name, "FAIL", found, f"{ROUNDING:.0e}", remedy)
    remedy = "nu on terminal states, read with read, must be the measure points: correct nu, sink or points"
    log_nu, log_points = log_law(space.nu, s[terminal]), log_law(space.points, space.read(s[terminal]))
    left_ratio = log_points - log_nu
    right_ratio = log_law(space.points, x) - torch.where(sink(written), log_law(space.nu, written), -math.inf)
    for text, states, ratio in (
        ("terminal nu-probes are read as points outside of points", s[terminal], left_ratio),
        ("points are written as states that are not terminal or outside of nu", written, right_ratio),
    ):
        lost = (~ratio.isfinite()).nonzero().squeeze(-1)
        if len(lost):
            found = f"{len(lost)} of {len(ratio)} {text}, such as {describe(states, int(lost[0]))}"
            return Result(name, "FAIL", found, "0", remedy)
    phi = space.features(s[terminal]).double()
    ratio = torch.full((n,), -math.inf, dtype=torch.float64)
    left = Side(
        ratio.index_copy(0, terminal, left_ratio),
        phi.new_zeros(n, phi.shape[-1]).index_copy(0, terminal, phi),
    )
    right = Side(right_ratio, space.features(written).double())
    comparison = compare(left, right, false_alarm)
    note = "" if comparison.ok else f"; points is {math.exp(log_factor(left, right)):.3g} of nu on X"
    return verdict(name, comparison, false_alarm, note, remedy)


def _features_problem(space: Space[Any, Any], s: Any) -> str | None:
    """What is wrong with the features at some state, if anything."""
    phi = space.features(s)
    if phi.shape != (len(s), space.width):
        return f"features of {len(s)} states have shape {list(phi.shape)}, not [{len(s)}, {space.width}]"
    bad = (~phi.isfinite()).any(-1)
    return f"features are not finite at {describe(s, int(bad.nonzero()[0]))}" if bool(bad.any()) else None
