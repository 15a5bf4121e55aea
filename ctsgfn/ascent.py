r"""Batched L-BFGS: many ascents of one log-density at once.

References:
    On the limited memory BFGS method for large scale optimization (Liu and Nocedal, 1989),
    Mathematical Programming 45.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ValueAndScore = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points [B, d] -> log-density [B] (-inf where it is not finite) and its gradient [B, d]."""


def ascend(function: ValueAndScore, start: Tensor, *, steps: int, memory: int = 10) -> list[Tensor]:
    """Climb from every row of ``start``; returns the points [B, d] after each step.

    A trial point without a finite density is never accepted. Rows climb independently.

    Example:
        >>> def bowl(x):
        ...     return -(x - 3.0).square().sum(-1), -2 * (x - 3.0)
        >>> path = ascend(bowl, torch.randn(5, 2, dtype=torch.float64), steps=10)
        >>> bool((path[-1] - 3.0).abs().max() < 1e-6)
        True
    """
    x = start
    value, slope = function(x)
    moves: list[tuple[Tensor, Tensor]] = []
    path = []
    for _ in range(steps):
        direction = _direction(slope, moves)
        uphill = (direction * slope).sum(-1, keepdim=True)
        direction = torch.where(uphill > 0, direction, slope)
        if not moves:  # nothing known of the scale yet: a first step of length at most 1
            direction = direction / slope.norm(dim=-1, keepdim=True).clamp(min=1.0)
        rise = (direction * slope).sum(-1)
        ahead, new_value, new_slope = _search(function, x, value, slope, direction, rise)
        moves = [*moves[-(memory - 1) :], (ahead - x, slope - new_slope)]
        x, value, slope = ahead, new_value, new_slope
        path.append(x)
    return path


def _direction(slope: Tensor, moves: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Two-loop recursion, each row with its own curvatures; bad pairs count nothing."""
    q = slope
    stack = []
    for step, change in reversed(moves):
        curvature = (step * change).sum(-1, keepdim=True)
        rho = torch.where(curvature > 1e-12, 1.0 / curvature, 0.0)
        alpha = rho * (step * q).sum(-1, keepdim=True)
        q = q - alpha * change
        stack.append((alpha, rho, step, change))
    if moves:
        step, change = moves[-1]
        curvature = (step * change).sum(-1, keepdim=True)
        size = curvature / change.square().sum(-1, keepdim=True)
        q = q * torch.where((curvature > 1e-12) & torch.isfinite(size), size, 1.0)
    for alpha, rho, step, change in reversed(stack):
        beta = rho * (change * q).sum(-1, keepdim=True)
        q = q + (alpha - beta) * step
    return q


def _search(
    function: ValueAndScore, x: Tensor, value: Tensor, slope: Tensor, direction: Tensor, rise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Backtrack by powers of 1/4 until Armijo's condition holds; rows that never rise stay."""
    best, best_value, best_slope = x, value, slope
    waiting = torch.ones_like(value, dtype=torch.bool)
    length = 1.0
    for _ in range(10):
        trial = x + length * direction
        trial_value, trial_slope = function(trial)
        good = waiting & torch.isfinite(trial_value) & torch.isfinite(trial_slope).all(-1)
        good = good & (trial_value >= value + 1e-4 * length * rise)
        best = torch.where(good[:, None], trial, best)
        best_value = torch.where(good, trial_value, best_value)
        best_slope = torch.where(good[:, None], trial_slope, best_slope)
        waiting = waiting & ~good
        if not bool(waiting.any()):
            break
        length *= 0.25
    return best, best_value, best_slope
