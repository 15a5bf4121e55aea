"""Check of the charts: ``pull`` inverts ``push``, and weights are Jacobians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctsgfn.diffuse import Diffuse
from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Haar, Lebesgue, Measure, Product, coordinates, wrap
from ctsgfn.probing import ROUNDING, backward_edges, forward_edges, gap, naming
from ctsgfn.reference import Branch, ReferenceKernel, describe
from ctsgfn.report import Result
from ctsgfn.space import Space

JACOBIANS = 4000
"""States at which each branch is differentiated."""


@dataclass(frozen=True)
class Errors:
    """What one test of one branch found at every state or edge that it looked at."""

    text: str  # what is wrong where an error is too large
    size: Tensor  # [E]
    s: Any  # [E] the states
    t: Any  # [E] where their edges lead

    @property
    def worst(self) -> int:
        """Row of the largest error, NaN counting as the largest of all."""
        return int(torch.where(self.size.isnan(), math.inf, self.size).argmax())

    def __str__(self) -> str:
        row = self.worst
        edge = f"on the edge from {describe(self.s, row)} to {describe(self.t, row)}"
        return f"{self.text} {edge}, error {float(self.size[row]):.1e}"


def charts(space: Space[Any, Any], n: int) -> Result:
    """``pull(push(a)) = a``, ``push(pull(t)) = t``, ``log_weight`` = half log-det of the Gram matrix.

    The coordinates of the first are diffuse; the states t of the second are predecessors and
    successors by the other kernel, so that both kernels are held to the same set of edges. The third
    is asked of branches that declare ``intrinsic``.
    """
    s, _ = space.nu.probe(n)
    home, ahead = backward_edges(space, n), forward_edges(space, n)
    found: list[Errors] = []
    declared = total = 0
    for reference, start, end in ((space.kappa, home.s, home.t), (space.kappa_b, ahead.t, ahead.s)):
        on = reference.locate_move(start, end)
        for i, branch in enumerate(reference.branches):
            where = naming(reference, i)
            rows = reference.allowed(s)[:, i].nonzero().squeeze(-1)
            twin = (on == i).nonzero().squeeze(-1)
            total += 1
            if len(rows):
                found += _out_and_back(reference, i, s[rows], where)
                area = _area(branch, s[rows[:JACOBIANS]], where)
                declared += area is not None
                found += [] if area is None else [area]
            if len(twin):
                found += _back_and_out(branch, start[twin], end[twin], where)
    allowed = f"{ROUNDING:.0e}"
    wrong = [errors for errors in found if bool((~(errors.size <= ROUNDING)).any())]
    if wrong:
        remedy = (
            "push and pull must invert each other on every edge of either kernel, branches must not share "
            "edges, and log_weight is the log of the chart's area element"
        )
        more = f" (and {len(wrong) - 1} more such errors)" if len(wrong) > 1 else ""
        return Result("charts", "FAIL", str(wrong[0]) + more, allowed, remedy)
    largest = max(float(errors.size[errors.worst]) for errors in found)
    return Result(
        "charts", "pass", f"largest error {largest:.1e}; Jacobians of {declared} of {total} branches", allowed
    )


def _out_and_back(reference: ReferenceKernel[Any], i: int, s: Any, where: str) -> list[Errors]:
    """Push diffuse coordinates and pull them back; the edge belongs to this branch alone."""
    branch = reference.branches[i]
    a = _diffuse_coordinates(branch, s)
    t = branch.push(s, a)
    owners = torch.stack([b.owns(s, t) for b in reference.branches], dim=-1) & reference.allowed(s)
    alone = owners[:, i] & (owners.sum(-1) == 1)
    return [
        Errors(f"{where} does not own, or not alone, what it pushes", (~alone).double(), s, t),
        Errors(
            f"{where} pulls other coordinates than it pushed",
            _coordinate_gap(branch.base, branch.pull(s, t), a),
            s,
            t,
        ),
    ]


def _back_and_out(branch: Branch[Any], s: Any, t: Any, where: str) -> list[Errors]:
    """Pull edges that the other kernel drew, and push them out again."""
    a = branch.pull(s, t)
    outside = ~branch.base.contains(a)
    return [
        Errors(f"{where} pulls coordinates outside of its base", outside.double(), s, t),
        Errors(f"{where} does not push to where it pulled from", gap(branch.push(s, a), t), s, t),
    ]


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


def _area(branch: Branch[Any], s: Any, where: str) -> Errors | None:
    """Errors of ``log_weight`` against autograd, or None where no intrinsic measure is declared."""
    smooth = _mask(branch.base, Lebesgue, Haar)
    if not bool(smooth.any()) or not isinstance(branch.intrinsic(s[:1]), Tensor):
        return None
    with torch.enable_grad():
        a = _diffuse_coordinates(branch, s).requires_grad_()
        t = branch.push(s, a)
        y = branch.intrinsic(t)
        if not isinstance(y, Tensor) or y.dim() != 2:
            raise InvalidInput(
                f"intrinsic of {where} must return Euclidean coordinates [B, m] of its states."
            )
        rows = [torch.autograd.grad(column.sum(), a, retain_graph=True)[0] for column in y.unbind(-1)]
    jacobian = torch.stack(rows, dim=1)[..., smooth]  # [B, m, k]
    gram = jacobian.transpose(1, 2) @ jacobian
    live = branch.live(s)
    if live is not None:  # a dead axis is an atom: it has no length
        alive = live.expand(len(s), len(smooth))[:, smooth]
        both = alive.unsqueeze(1) & alive.unsqueeze(2)
        gram = torch.where(both, gram, torch.eye(gram.shape[-1], dtype=gram.dtype))
    error = (0.5 * torch.logdet(gram) - branch.log_weight(s, a.detach())).abs()
    return Errors(f"log_weight of {where} is not the log of its area element", error, s, t)
