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
from ctsgfn.probing import naming
from ctsgfn.quadrature import rule
from ctsgfn.reference import describe
from ctsgfn.report import Result
from ctsgfn.space import Space
from ctsgfn.two_sided import Comparison, Side, compare

QUADRATURE = 1e-3
"""Largest error of a total mass by quadrature."""

STATES = 24
"""States at which masses are integrated."""

BINS = 16
"""Bins of each chart coordinate in which draws are counted."""

AXES = 8
"""Most coordinates of a chart that are binned."""


SHAPES = (
    "a head returns one law for each state, of all k coordinates of its branch's base together: make "
    "parameters of shape [B, k], and wrap the law in torch.distributions.Independent(law, 1)"
)


def normalisation(space: Space[Any, Any], gfn: GFlowNet[Any] | None, n: int, false_alarm: float) -> Result:
    r"""Masses and branch integrals: :math:`p(s, s_f) + \int p(s, s')\,\kappa(s, ds') = 1`.

    By quadrature at a few states, where every branch open there has at most two continuous axes; and,
    for the kernels of a flow, by comparing their draws on each branch with those of the diffuse kernel
    through the identity of ``two_sided``, at any dimension: so draws must follow the density.
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
    for name, kernel in kernels[2:]:
        start = s[kernel.reference.open(s).any(-1)]
        if found := misshapen(kernel, start[:STATES]):
            return Result("normalisation", "FAIL", f"the {name}: {found}", "batch [B], event [k]", SHAPES)
    worst, judged = 0.0, 0
    for name, kernel in kernels:
        start = s[kernel.reference.open(s).any(-1)]
        some = start[torch.randperm(len(start))[:STATES]]
        error, sure = _mass_errors(kernel, some)
        judged += int((sure & kernel.reference.allowed(some).any(-1)).sum())
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
    learned = kernels[2:]
    total = sum(len(kernel.heads) for _, kernel in learned)
    share = false_alarm / total
    largest, limit, told = 0.0, 0.0, 0
    for name, kernel in learned:
        for i, comparison in enumerate(_draws(space, kernel, s, share)):
            if not comparison.ok:
                where = naming(kernel.reference, i)
                said = f"; the draws of the {name} do not follow its density on {where}"
                return verdict("normalisation", comparison, share, said, remedy)
            largest, limit = max(largest, comparison.z), max(limit, comparison.limit)
            told += comparison.conclusive
    found = f"draws on {told} of {total} branches, max |z| = {largest:.1f}"
    allowed = f"|z| <= {limit:.2f}, false alarms {false_alarm:.1e}"
    return Result("normalisation", "pass" if told else "inconclusive", found + note, allowed)


def misshapen(kernel: Kernel[Any], s: Any) -> str:
    """Say which head returns a law of other shapes than [B] and [k] where its branch is open, or nothing.

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid
        >>> space = hypergrid(2, 3)
        >>> misshapen(diffuse(space.kappa), space.source(2))
        ''
    """
    for i, (branch, head) in enumerate(zip(kernel.reference.branches, kernel.heads, strict=True)):
        some = s[kernel.reference.allowed(s)[:, i]]
        if len(some) == 0:
            continue
        law = head(kernel.encoder(some, kernel.encoder.observe(some)), some, branch.live(some))
        shapes, wanted = (law.batch_shape, law.event_shape), ((len(some),), (coordinates(branch.base),))
        if shapes != wanted:
            return (
                f"head {i} ({type(head).__name__}) returns a law of batch shape {list(shapes[0])} and event "
                f"shape {list(shapes[1])} at {len(some)} states, not {list(wanted[0])} and {list(wanted[1])}"
            )
    return ""


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


def _draws(space: Space[Any, Any], kernel: Kernel[Any], s: Any, false_alarm: float) -> list[Comparison]:
    """Compare the draws of a kernel with those of the diffuse one, branch by branch.

    In chart coordinates, and in bins of each, where a draw that was clamped or moved shows most; f = 1
    is the mass of the branch.
    """
    s = s[kernel.reference.open(s).any(-1)]
    plain = diffuse(kernel.reference).double()
    phi = space.features(s).double()
    walks = []
    for walker in (plain, kernel):
        jump, _ = walker(s).draw()
        log_ratio = kernel(s).log_density(jump).double() - plain(s).log_density(jump)
        walks.append((jump.target, kernel.reference.locate(s, jump), log_ratio))
    out = []
    for i, branch in enumerate(kernel.reference.branches):
        sides: list[Side] = []
        cuts = torch.zeros(0, dtype=torch.float64)
        for (target, k, log_ratio), missing in zip(walks, (-math.inf, math.inf), strict=True):
            rows = (k == i).nonzero().squeeze(-1)
            a = branch.pull(s[rows], target[rows]).double()
            if not sides and a.numel():
                cuts = a[:, :AXES].quantile(torch.arange(1, BINS, dtype=torch.float64) / BINS, dim=0)
            full = phi.new_zeros(len(s), phi.shape[-1] + a.shape[-1])
            full = full.index_copy(0, rows, torch.cat([phi[rows], a], dim=-1))
            cell = torch.full((len(s), cuts.shape[-1] if len(cuts) else 0), -1)
            for axis in range(cell.shape[-1]):
                bins = torch.bucketize(a[:, axis].contiguous(), cuts[:, axis].contiguous())
                cell[rows, axis] = axis * BINS + bins
            sides.append(Side(torch.where(k == i, log_ratio, missing), full, cell))
        out.append(compare(sides[0], sides[1], false_alarm))
    return out
