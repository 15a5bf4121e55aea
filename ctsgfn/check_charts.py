"""Check of the charts: ``pull`` inverts ``push``, and weights are Jacobians."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ctsgfn.diffuse import Diffuse
from ctsgfn.measures import Haar, Lebesgue, Measure, Product, coordinates, wrap
from ctsgfn.probing import ROUNDING, backward_edges, forward_edges, gap
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.report import Result
from ctsgfn.space import Space

JACOBIANS = 4000
"""States at which each branch is differentiated."""


def charts(space: Space[Any, Any], n: int) -> Result:
    """``pull(push(a)) = a``, ``push(pull(t)) = t``, ``log_weight`` = half log-det of the Gram matrix.

    The coordinates of the first are diffuse; the states t of the second are predecessors and
    successors by the other kernel, so that both kernels are held to the same set of edges. The third
    is asked of branches that declare ``intrinsic``.
    """
    s, _ = space.nu.probe(n)
    home, ahead = backward_edges(space, n), forward_edges(space, n)
    worst: dict[str, float] = {}
    declared = total = 0
    for reference, start, end in ((space.kappa, home.s, home.t), (space.kappa_b, ahead.t, ahead.s)):
        on = reference.locate_move(start, end)
        for i, branch in enumerate(reference.branches):
            where = f"{type(branch).__name__} of {reference.name}"
            rows = reference.allowed(s)[:, i].nonzero().squeeze(-1)
            twin = (on == i).nonzero().squeeze(-1)
            total += 1
            if len(rows):
                worst |= _out_and_back(reference, i, s[rows], where)
                area = _area(branch, s[rows[:JACOBIANS]])
                if area is not None:
                    declared += 1
                    worst[f"log_weight of {where} is not half the log-det of its Gram matrix, error"] = area
            if len(twin):
                worst |= _back_and_out(branch, start[twin], end[twin], where)
    text, value = max(worst.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1])
    allowed = f"{ROUNDING:.0e}"
    if not value <= ROUNDING:
        remedy = (
            "push and pull must invert each other on every edge of either kernel, branches must not share "
            "edges, and log_weight is the log of the chart's area element"
        )
        return Result("charts", "FAIL", f"{text} {value:.1e}", allowed, remedy)
    found = f"largest error {value:.1e}; Jacobians of {declared} of {total} branches"
    return Result("charts", "pass", found, allowed)


def _out_and_back(reference: ReferenceKernel[Any], i: int, s: Any, where: str) -> dict[str, float]:
    """Push diffuse coordinates and pull them back; the edge belongs to this branch alone."""
    branch = reference.branches[i]
    a = _diffuse_coordinates(branch, s)
    t = branch.push(s, a)
    apart = _coordinate_gap(branch.base, branch.pull(s, t), a)
    allowed = reference.allowed(s)
    owners = torch.stack([b.owns(s, t) for b in reference.branches], dim=-1) & allowed
    strangers = (owners.sum(-1) != 1) | ~owners[:, i]
    return {
        f"pull(push(a)) of {where} differs from a by": float(apart.max()),
        f"edges of {where} that it does not own, or not alone:": float(strangers.sum())
        if len(reference.branches) > 1
        else 0.0,
    }


def _back_and_out(branch: Branch[Any], s: Any, t: Any, where: str) -> dict[str, float]:
    """Pull edges that the other kernel drew, and push them out again."""
    a = branch.pull(s, t)
    outside = ~branch.base.contains(a)
    return {
        f"push(pull(t)) of {where} differs, on edges of its twin, from t by": float(
            gap(branch.push(s, a), t).max()
        ),
        f"edges of its twin that lie outside the coordinates of {where}:": float(outside.sum()),
    }


def _diffuse_coordinates(branch: Branch[Any], s: Any) -> Tensor:
    context = torch.empty(len(s), 0, dtype=torch.float64)
    return Diffuse(branch.base)(context, s, branch.live(s)).sample()


def _coordinate_gap(base: Measure[Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Largest relative difference of coordinates per row, around the circle where they are angles."""
    if a.shape[-1] == 0:
        return a.new_zeros(len(a), dtype=torch.float64)
    angle = _mask(base, Haar)
    apart = (a - b).double()
    apart = torch.where(angle, wrap(apart), apart)
    return (apart.abs() / (1 + b.abs())).amax(-1)


def _mask(base: Measure[Tensor], *kinds: type) -> Tensor:
    """Which coordinate columns belong to measures of the given kinds, [k] bool."""
    if isinstance(base, Product):
        return torch.cat([_mask(part, *kinds) for part in base.parts])
    return torch.full((coordinates(base),), isinstance(base, kinds))


def _area(branch: Branch[Any], s: Any) -> float | None:
    """Largest error of ``log_weight`` against autograd, or None where no intrinsic measure is declared."""
    smooth = _mask(branch.base, Lebesgue, Haar)
    if not bool(smooth.any()) or not isinstance(branch.intrinsic(s[:1]), Tensor):
        return None
    with torch.enable_grad():
        a = _diffuse_coordinates(branch, s).requires_grad_()
        y = branch.intrinsic(branch.push(s, a))
        assert y is not None
        rows = [torch.autograd.grad(column.sum(), a, retain_graph=True)[0] for column in y.unbind(-1)]
    jacobian = torch.stack(rows, dim=1)[..., smooth]  # [B, m, k]
    gram = jacobian.transpose(1, 2) @ jacobian
    live = branch.live(s)
    if live is not None:  # a dead axis is an atom: it has no length
        alive = live.expand(len(s), len(smooth))[:, smooth]
        both = alive.unsqueeze(1) & alive.unsqueeze(2)
        gram = torch.where(both, gram, torch.eye(gram.shape[-1], dtype=gram.dtype))
    return float((0.5 * torch.logdet(gram) - branch.log_weight(s, a.detach())).abs().max())
