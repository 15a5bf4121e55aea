"""Check of a target: its measure, its support, its batching and, where it can be summed, its log Z."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput, NonFinite
from ctsgfn.measures import Measure
from ctsgfn.probing import default_dtype
from ctsgfn.quadrature import rule
from ctsgfn.report import Result
from ctsgfn.space import Space
from ctsgfn.target import Target, evaluate

AGREEMENT = 1e-9
"""Largest relative difference between a batch and its rows one at a time."""


def target_itself(space: Space[Any, Any], target: Target[Any], log_z: float | None, n: int) -> Result:
    """The measure is that of the space; the density is finite on it, batched, and in the dtype of its points.

    A known log Z is compared with quadrature where the measure has at most two continuous axes.
    """
    if target.measure != space.points:
        return Result(
            "target",
            "FAIL",
            f"its density is against {target.measure}, the space ends on {space.points}",
            "",
            "give the target the measure of the space, or change its coordinates with transformed(..)",
        )
    x, _ = space.points.probe(n)
    try:
        problem = _problem(target, x)
        if problem is None and isinstance(x, Tensor) and log_z is not None:
            error, tolerance = _log_z_error(target, space.points, log_z)
            if not error <= tolerance:
                problem = f"log_z is {log_z:.6g}, quadrature differs by {error:.2e} (allowed {tolerance:.0e})"
            elif math.isfinite(tolerance):
                return Result("target", "pass", f"log Z by quadrature within {error:.1e}", f"{tolerance:.0e}")
    except (NonFinite, InvalidInput) as error_raised:
        problem = str(error_raised)
    if problem is not None:
        remedy = (
            "log_density must map points [B, ..] to [B] row by row, finite on the measure's support and in "
            "the dtype of its points, and log_z be its log-integral"
        )
        return Result("target", "FAIL", problem, "", remedy)
    return Result("target", "pass", f"finite, batched, dtype kept at {n} points; log Z not summed", "")


def _problem(target: Target[Any], x: Any) -> str | None:
    """What is wrong with the values at probes of the measure, if anything."""
    value = evaluate(target, x)
    if not bool(target.measure.contains(x).all()):
        return "the measure does not contain its own probes"
    few = torch.randperm(len(value))[:32]
    alone = torch.cat([evaluate(target, x[i : i + 1]) for i in few])
    apart = float(((value[few] - alone).abs() / (1 + alone.abs())).max())
    if not apart <= AGREEMENT:
        row = int(few[((value[few] - alone).abs() / (1 + alone.abs())).argmax()])
        return f"row {row} of a batch differs by {apart:.1e} from the same point alone"
    if isinstance(x, Tensor) and x.is_floating_point():
        for dtype in (torch.float64, torch.float32):
            with default_dtype(dtype):
                kind = evaluate(target, x[few].to(dtype)).dtype
            if kind != dtype:
                return f"points of {dtype} give a log-density of {kind}"
    return None


def _log_z_error(target: Target[Any], measure: Measure[Tensor], log_z: float) -> tuple[float, float]:
    """|log Z - quadrature|, and what two resolutions leave uncertain; 0 and inf where there is no rule."""
    values = []
    for nodes in (600, 900):
        grid = rule(measure, nodes)
        if grid is None:
            return 0.0, math.inf
        x, w = grid
        parts = [
            evaluate(target, p) + v.log() for p, v in zip(x.split(200_000), w.split(200_000), strict=True)
        ]
        values.append(float(torch.cat(parts).logsumexp(0)))
    return abs(values[1] - log_z), max(1e-3, 5 * abs(values[1] - values[0]))
