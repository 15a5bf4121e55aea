"""Quadrature rules of coordinate measures: nodes and weights."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ctsgfn.measures import Atom, Counting, Haar, Lebesgue, Measure, Product

REACH = 9.0
"""Half-width of the rules on R, in the variable u of x = sinh(u): |x| up to 4,000."""


def rule(measure: Measure[Tensor], nodes: int) -> tuple[Tensor, Tensor] | None:
    r"""Nodes [m, k] and weights [m] with :math:`\sum_i w_i f(x_i) \approx \int f\,d\mathrm{measure}`.

    Gauss-Legendre on bounded boxes, trapezia on circles and, through x = sinh(u), on the line, and
    plain sums over atoms; products of these. ``None`` where more than two axes would be gridded.

    Args:
        measure: a coordinate measure.
        nodes: nodes per continuous axis.

    Example:
        >>> x, w = rule(Lebesgue(1), 400)
        >>> round(float((w * (-x[:, 0].square()).exp()).sum()), 6)  # sqrt(pi)
        1.772454
        >>> x, w = rule(Lebesgue(2, 0.0, 1.0), 8)
        >>> round(float((w * x.prod(-1)).sum()), 6), rule(Lebesgue(3), 8)
        (0.25, None)
    """
    axes = _axes(measure)
    if axes is None or sum(isinstance(a, Lebesgue | Haar) for a in axes) > 2:
        return None
    if math.prod(a.size if isinstance(a, Counting) else 1 for a in axes) > 100_000:
        return None
    x, w = torch.zeros(1, 0, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for axis in axes:
        more, weight = _line(axis, nodes)
        x = torch.cat([x.repeat_interleave(len(more), 0), more.repeat(len(x)).unsqueeze(-1)], dim=-1)
        w = (w.unsqueeze(-1) * weight).flatten()
    return (x.long() if x.shape[-1] and all(isinstance(a, Counting) for a in axes) else x), w


def _axes(measure: Measure[Tensor]) -> list[Lebesgue | Haar | Counting] | None:
    """The one-dimensional factors of a measure; None where there is no rule for it."""
    if isinstance(measure, Counting):
        return [measure]
    if isinstance(measure, Atom):
        return []
    if isinstance(measure, Haar):
        return [Haar(1)] * measure.dim
    if isinstance(measure, Lebesgue):
        one_sided = not measure.is_finite and measure != Lebesgue(measure.dim)
        return None if one_sided else [Lebesgue(1, measure.low, measure.high)] * measure.dim
    if isinstance(measure, Product):
        parts = [_axes(part) for part in measure.parts]
        known = [p for p in parts if p is not None]
        return [a for p in known for a in p] if len(known) == len(parts) else None
    return None


def _line(axis: Lebesgue | Haar | Counting, nodes: int) -> tuple[Tensor, Tensor]:
    if isinstance(axis, Counting):
        atoms = torch.arange(axis.size, dtype=torch.float64)
        return atoms, torch.ones_like(atoms)
    if isinstance(axis, Haar):
        turn = (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes
        return (2 * turn - 1) * math.pi, torch.full((nodes,), 2 * math.pi / nodes, dtype=torch.float64)
    if axis.is_finite:
        x, w = _legendre(nodes)
        half = 0.5 * (axis.high - axis.low)
        return axis.low + half * (x + 1), half * w
    u = torch.linspace(-REACH, REACH, nodes, dtype=torch.float64)
    return u.sinh(), u.cosh() * (2 * REACH / (nodes - 1))


@cache
def _legendre(nodes: int) -> tuple[Tensor, Tensor]:
    x, w = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy(x), torch.from_numpy(w)
