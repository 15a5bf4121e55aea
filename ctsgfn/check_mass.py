"""Check of the laws: mass 1 at every state, and draws that follow the density."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ctsgfn.check_pairing import verdict
from ctsgfn.diffuse import diffuse
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernel import Kernel
from ctsgfn.measures import Counting, coordinates
from ctsgfn.quadrature import rule
from ctsgfn.reference import describe
from ctsgfn.report import Result
from ctsgfn.space import Space
from ctsgfn.two_sided import Side, compare

QUADRATURE = 1e-3
"""Largest error of a total mass by quadrature."""

STATES = 24
"""States at which masses are integrated."""


def normalisation(space: Space[Any, Any], gfn: GFlowNet[Any] | None, n: int, false_alarm: float) -> Result:
    r"""Masses and branch integrals: :math:`p(s, s_f) + \int p(s, s')\,\kappa(s, ds') = 1`.

    By quadrature at a few states, where every branch open there has at most two continuous axes; and,
    for the kernels of a flow, by comparing their draws with those of the diffuse kernel through the
    identity of ``two_sided``, at any dimension: that also sees draws which do not follow the density.
    """
    kernels: list[tuple[str, Kernel[Any]]] = [
        ("diffuse kernel on kappa", diffuse(space.kappa).double()),
        ("diffuse kernel on kappa_b", diffuse(space.kappa_b).double()),
    ]
    if gfn is not None:
        kernels += [("forward kernel", gfn.forward_kernel), ("backward kernel", gfn.backward_kernel)]
    remedy = (
        "a head must return a normalised density on its branch's base whose log_prob is that of its own "
        "draws (no clamped coordinates), and pull and owns must see every state that push reaches"
    )
    s, _ = space.nu.probe(n)
    worst, judged = 0.0, 0
    for name, kernel in kernels:
        start = s[kernel.reference.open(s).any(-1)]
        some = start[torch.randperm(len(start))[:STATES]]
        error, sure = _mass_errors(kernel, some)
        judged += int(sure.sum())
        if bool((~(error[sure] <= QUADRATURE)).any()):
            row = int((sure & ~(error <= QUADRATURE)).nonzero()[0])
            found = f"the {name} has a total mass {float(error[row]):.2e} off 1 at {describe(some, row)}"
            return Result("normalisation", "FAIL", found, f"{QUADRATURE:.0e}", remedy)
        worst = max([worst, *error[sure].tolist()])
    note = f"; mass 1 +- {worst:.0e} at {judged} states"
    if gfn is None and judged == 0:
        return Result("normalisation", "inconclusive", "every branch has too many axes for quadrature")
    if gfn is None:
        return Result("normalisation", "pass", note[2:], f"{QUADRATURE:.0e}")
    share = false_alarm / 2
    outcomes = []
    for name, kernel in kernels[2:]:
        start = s[kernel.reference.open(s).any(-1)]
        comparison = compare(*_against_diffuse(space, kernel, start), share)
        what = "" if comparison.ok else ": its draws do not follow its density"
        outcomes.append(verdict("normalisation", comparison, share, f", {name}{what}{note}", remedy))
    order = ["FAIL", "inconclusive", "pass", "skipped"]
    return min(outcomes, key=lambda r: order.index(r.verdict))


def _mass_errors(kernel: Kernel[Any], s: Any) -> tuple[Tensor, Tensor]:
    """|total mass - 1| at each state, and at which of them the quadrature can be trusted, [B] each."""
    stop = kernel(s).log_mass[:, -1].exp().double()
    fine, coarse = stop, stop
    for i, branch in enumerate(kernel.reference.branches):
        rows = kernel.reference.allowed(s)[:, i].nonzero().squeeze(-1)
        nodes = 64 if coordinates(branch.base) > 1 else 400
        if len(rows):
            fine = fine.index_add(0, rows, _branch_mass(kernel, i, s[rows], nodes))
            coarse = coarse.index_add(0, rows, _branch_mass(kernel, i, s[rows], 3 * nodes // 4))
    unsure = fine.isinf() | ((fine - coarse).abs() > QUADRATURE / 2)
    return (fine - 1).abs(), ~unsure


def _branch_mass(kernel: Kernel[Any], i: int, s: Any, nodes: int) -> Tensor:
    """Integral [B] of the law at each state over branch i; +inf where there is no rule for it."""
    base = kernel.reference.branches[i].base
    live, grid = kernel.reference.branches[i].live(s), rule(base, nodes)
    out = torch.full((len(s),), math.inf, dtype=torch.float64)
    if grid is None:
        return out
    x, w = grid
    if live is None:
        return _sum(kernel, i, s, x, w, torch.ones(len(s), len(w), dtype=torch.bool))
    if isinstance(base, Counting):
        return _sum(kernel, i, s, x, w, live)
    alive = live.expand(len(s), x.shape[-1])
    for rows, where, weight in (
        (alive.all(-1), x, w),
        (~alive.any(-1), torch.zeros_like(x[:1]), torch.ones_like(w[:1])),  # dead axes: an atom at 0
    ):
        if bool(rows.any()):
            keep = torch.ones(int(rows.sum()), len(weight), dtype=torch.bool)
            out[rows] = _sum(kernel, i, s[rows], where, weight, keep)
    return out


def _sum(kernel: Kernel[Any], i: int, s: Any, x: Tensor, w: Tensor, keep: Tensor) -> Tensor:
    """Weighted sum [B] of the law's density on branch i over the nodes x [m, k] that are kept, [B, m]."""
    branch = kernel.reference.branches[i]
    state, node = keep.nonzero().unbind(-1)
    start, a = s[state], x[node]
    log_density = kernel(start).log_density_to(branch.push(start, a)) + branch.log_weight(start, a)
    return w.new_zeros(len(s)).index_add(0, state, w[node] * log_density.double().exp())


def _against_diffuse(space: Space[Any, Any], kernel: Kernel[Any], s: Any) -> tuple[Side, Side]:
    """Steps of the diffuse kernel and of the given one from the same states, as two sides."""
    plain = diffuse(kernel.reference).double()
    sides = []
    for walker in (plain, kernel):
        jump, _ = walker(s).draw()
        log_ratio = kernel(s).log_density(jump).double() - plain(s).log_density(jump)
        arrival = torch.where(jump.stop.unsqueeze(-1), 0.0, space.features(jump.target).double())
        phi = torch.cat([space.features(s).double(), arrival], dim=-1)
        sides.append(Side(log_ratio, phi, kernel.reference.locate(s, jump)[:, None]))
    return sides[0], sides[1]
