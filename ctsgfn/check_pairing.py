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
from ctsgfn.probing import ROUNDING, backward_edges, forward_edges, gap, log_law, steady
from ctsgfn.report import Result
from ctsgfn.space import Space
from ctsgfn.trajectories import rollout
from ctsgfn.two_sided import Comparison, Side, compare


def pairing(space: Space[Any, Any], n: int, false_alarm: float) -> Result:
    r"""Eq. 4, :math:`\nu \otimes \kappa = \nu \otimes \kappa_b` on pairs of states.

    Left: a nu-probe and a diffuse step forward; right: a nu-probe and a diffuse step back. Both have
    a density against the measure that eq. 4 says is one, so their ratio is known and the identity of
    ``two_sided`` must hold.
    """
    remedy = (
        "the log_weight of a branch of kappa and of its twin in kappa_b, or the measure nu: on paper, "
        "nu(ds) kappa(s, ds') and nu(ds') kappa_b(s', ds) must be the same measure"
    )
    ahead, home = forward_edges(space, n), backward_edges(space, n)
    back = diffuse(space.kappa_b).double()(ahead.t).log_density_to(ahead.s)
    forth = steady(space)(home.s).log_density_to(home.t)
    left_ratio = log_law(space.nu, ahead.t) + back - ahead.log_draw
    right_ratio = home.log_draw - log_law(space.nu, home.s) - forth
    lost = int((~left_ratio.isfinite()).sum()) + int((~right_ratio.isfinite()).sum())
    if lost:
        found = f"{lost} of {len(left_ratio) + len(right_ratio)} edges exist on one side only"
        return Result("pairing", "FAIL", found, "0", remedy)
    left = _edge_side(space, ahead.rows, left_ratio, ahead.s, ahead.t, n, -math.inf)
    right = _edge_side(space, home.rows, right_ratio, home.s, home.t, n, math.inf)
    return verdict("pairing", compare(left, right, false_alarm), false_alarm, remedy)


def verdict(name: str, comparison: Comparison, false_alarm: float, remedy: str, note: str = "") -> Result:
    """A comparison as a result."""
    allowed = f"|z| <= {comparison.limit:.2f}, false alarms {false_alarm:.0e}"
    if not comparison.ok:
        return Result(name, "FAIL", str(comparison) + note, allowed, remedy)
    if not comparison.conclusive:
        found = f"only {comparison.effective:.0f} effective draws overlap"
        return Result(name, "inconclusive", found + note, "100", "")
    return Result(name, "pass", str(comparison) + note, allowed)


def _edge_side(
    space: Space[Any, Any], rows: Tensor, log_ratio: Tensor, s: Any, t: Any, n: int, missing: float
) -> Side:
    """Scatter edges to the probes they came from; group them by the pair of branches they are on."""
    phi = torch.cat([space.features(s), space.features(t)], dim=-1).double()
    forward, backward = space.kappa.locate_move(s, t), space.kappa_b.locate_move(t, s)
    across, total = len(space.kappa_b.branches), len(space.kappa.branches) * len(space.kappa_b.branches)
    cell = torch.nn.functional.one_hot(forward * across + backward, total)
    groups = cell.new_zeros(n, total).index_copy(0, rows, cell) if total > 1 else None
    ratio = torch.full((n,), missing, dtype=torch.float64)
    return Side(
        ratio.index_copy(0, rows, log_ratio),
        phi.new_zeros(n, phi.shape[-1]).index_copy(0, rows, phi),
        groups,
    )


def read_write(space: Space[Any, Any], n: int, false_alarm: float) -> Result:
    """``read`` and ``write`` are mutually inverse on X, and carry nu on X to ``points``."""
    name, sink = "read_write", space.kappa.sink
    assert sink is not None  # a Space has one
    s, _ = space.nu.probe(n)
    terminal = sink(s).nonzero().squeeze(-1)
    x, _ = space.points.probe(n)
    written = space.write(x)
    finals = rollout(space, diffuse(space.kappa).double(), min(n, 2000)).final
    trips = {
        "write(read(s)) differs from s at nu-probes": _worst(
            space.write(space.read(s[terminal])), s[terminal]
        ),
        "write(read(s)) differs from s where diffuse walks end": _worst(
            space.write(space.read(finals)), finals
        ),
        "read(write(x)) differs from x": _worst(space.read(written), x),
    }
    for text, worst in trips.items():
        if not worst <= ROUNDING:
            remedy = (
                "a terminal state must be the point that the target sees and nothing more: hidden variables "
                "(counters, caches) silently replace the space by a larger one"
            )
            return Result(name, "FAIL", f"{text} by {worst:.1e}", f"{ROUNDING:.0e}", remedy)
    remedy = "nu on terminal states, read with read, must be the measure points: check nu, sink, and points"
    log_nu, log_points = log_law(space.nu, s[terminal]), log_law(space.points, space.read(s[terminal]))
    left_ratio = log_points - log_nu
    right_ratio = log_law(space.points, x) - torch.where(sink(written), log_law(space.nu, written), -math.inf)
    lost = int((~left_ratio.isfinite()).sum()) + int((~right_ratio.isfinite()).sum())
    if lost:
        found = f"{lost} of {len(left_ratio) + n} points lie in one of nu on X and points only"
        return Result(name, "FAIL", found, "0", remedy)
    phi = space.features(s[terminal]).double()
    ratio = torch.full((n,), -math.inf, dtype=torch.float64)
    left = Side(
        ratio.index_copy(0, terminal, left_ratio),
        phi.new_zeros(n, phi.shape[-1]).index_copy(0, terminal, phi),
    )
    right = Side(right_ratio, space.features(written).double())
    return verdict(name, compare(left, right, false_alarm), false_alarm, remedy)


def _worst(a: Any, b: Any) -> float:
    apart = gap(a, b)
    return float(apart.max()) if len(apart) else 0.0
