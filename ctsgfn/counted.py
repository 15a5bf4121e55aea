"""A target whose calls are counted, and whose non-finite values are -inf: for walks of our own making."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctsgfn.coordinates import Coordinates
from ctsgfn.errors import FailedFactor
from ctsgfn.measures import Lebesgue
from ctsgfn.target import HasScore, Target


class CountedTarget:
    """A target as a function of points: -inf where it is not finite, calls counted.

    Only for points that the library proposes itself (dispersed starts, trial moves), which may be absurd
    and are then never accepted; points that enter a result go through ``evaluate``.

    Args:
        target: the target; where a change of coordinates leads to a half-line, points that overflow to its
            edge are -inf without asking it.
    """

    def __init__(self, target: Target[Tensor]) -> None:
        self.target, self.density_calls, self.gradient_calls = target, 0, 0
        self._way = Coordinates(target)
        measure = self._way.original.measure
        self._edges: Lebesgue | None = None
        if self._way.changes and isinstance(measure, Lebesgue) and measure != Lebesgue(measure.dim):
            self._edges = measure

    def value(self, x: Tensor) -> Tensor:
        """Log-density [B]: points of the warm-up's own making may be absurd, and are then rejected."""
        self.density_calls += len(x)
        inside, x = self._within(x)
        with torch.no_grad():
            value = self._density(x)
        good = torch.isfinite(value) if inside is None else torch.isfinite(value) & inside
        return torch.where(good, value, -math.inf).to(x.dtype)

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density [B] and gradient [B, d]."""
        self.gradient_calls += len(x)
        if isinstance(self.target, HasScore):
            value, slope = self.value(x), torch.zeros_like(x)
            rows = torch.isfinite(value).nonzero().squeeze(-1)
            if len(rows):
                slope[rows] = self.target.score(x[rows]).to(x.dtype)
            return value, slope
        inside, x = self._within(x)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = self._density(leaf)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        value = value.detach()
        good = torch.isfinite(value) & torch.isfinite(slope).all(-1)
        good = good if inside is None else good & inside
        return torch.where(good, value, -math.inf).to(x.dtype), torch.where(good[:, None], slope, 0.0)

    def _density(self, x: Tensor) -> Tensor:
        """Log-density [B]; NaN at points where a factorisation fails, which fails the batch they are in."""
        try:
            return self.target.log_density(x)
        except (torch.linalg.LinAlgError, FailedFactor):  # type: ignore[attr-defined]
            if len(x) == 1:
                return math.nan * x.sum(-1)
            half = len(x) // 2
            return torch.cat([self._density(x[:half]), self._density(x[half:])])

    def _within(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Which rows [B] stay off the edges (None where there are none), and the points with 0 elsewhere."""
        if self._edges is None:
            return None, x
        y = self._way.decode(x)
        inside = ((y > self._edges.low) & (y < self._edges.high)).all(-1)
        return inside, torch.where(inside[:, None], x, 0.0)
