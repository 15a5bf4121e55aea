"""Quadrature on coordinate measures, and goodness of fit: what the conformance suites measure with."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ctsgfn.measures import Atom, Counting, Haar, Lebesgue, Measure, Product


def quadrature(measure: Measure[Tensor], nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes [Q, k] and log-weights [Q] with sum exp(w) f(x) close to the integral of f."""
    if isinstance(measure, Atom):
        return torch.zeros(1, 0, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    if isinstance(measure, Counting):
        return torch.arange(measure.size)[:, None], torch.zeros(measure.size, dtype=torch.float64)
    if isinstance(measure, Product):
        return _grid([quadrature(part, nodes) for part in measure.parts])
    if isinstance(measure, Haar):  # the trapezoid rule converges faster than any power on a circle
        x = (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes * 2 * math.pi - math.pi
        return _grid([(x[:, None], torch.full((nodes,), math.log(2 * math.pi / nodes)))] * measure.dim)
    if isinstance(measure, Lebesgue):
        return _grid([_interval(measure.low, measure.high, nodes)] * measure.dim)
    raise TypeError(f"no quadrature on {measure}")


def _interval(low: float, high: float, nodes: int) -> tuple[Tensor, Tensor]:
    """Trapezoid rule in a variable in which the ends of the interval are infinitely far away."""
    reach = 3.0 if math.isfinite(low) and math.isfinite(high) else 5.0
    t = torch.linspace(-reach, reach, nodes, dtype=torch.float64)
    step = math.log(2 * reach / (nodes - 1))
    if math.isfinite(low) and math.isfinite(high):  # double exponential
        u = math.pi / 2 * t.sinh()
        x = low + (high - low) * torch.sigmoid(2 * u)
        slope = (high - low) * (math.pi / 4) * t.cosh() / u.cosh().square()
    elif math.isfinite(low) or math.isfinite(high):
        distance = (t - (-t).exp()).exp()  # from the wall, approached double-exponentially
        x = low + distance if math.isfinite(low) else high - distance
        slope = distance * (1 + (-t).exp())
    else:
        x, slope = t.sinh(), t.cosh()
    inside = (x > low) & (x < high)
    return x[inside][:, None], slope[inside].log() + step


def _grid(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    points, weights = parts[0]
    for x, w in parts[1:]:
        left = points.repeat_interleave(len(x), 0).double()
        points = torch.cat([left, x.double().repeat(len(points), 1)], dim=-1)
        weights = (weights[:, None] + w).flatten()
    return points, weights


def z_scores(values: Tensor, expected: Tensor | float) -> Tensor:
    """Distance of column means [n, ..] from what they should be, in standard errors."""
    values = values.double()
    error = values.std(0) / math.sqrt(len(values))
    difference = values.mean(0) - expected
    exact = difference.abs() <= 1e-9 * (1 + values.mean(0).abs())
    return torch.where(exact, 0.0, difference / error)


def probes(x: Tensor, count: int, seed: int = 0) -> Tensor:
    """Bounded test functions of coordinates [n, k]: cosines in random directions, [n, count]."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(x.shape[-1], count, generator=generator, dtype=torch.float64)
    phase = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    return (x.double() @ directions + phase).cos()


def shaken(module: Any, size: float = 0.2) -> Any:
    """The module itself, in float64, its parameters moved at random: generic, not at its start."""
    module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module
