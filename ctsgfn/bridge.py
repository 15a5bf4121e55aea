r"""The geometric path between two densities on R^d, and moves that leave a member of it invariant.

.. math:: \pi_\beta(z) \propto q(z)^{1 - \beta}\, r(z)^\beta

References:
    Annealed importance sampling (Neal, 2001), Statistics and Computing 11; MCMC using Hamiltonian
    dynamics (Neal, 2011), arXiv 1206.1901; A Markov chain Monte Carlo version of the genetic algorithm
    differential evolution (ter Braak, 2006), Statistics and Computing 16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ctsgfn.counted import CountedTarget
from ctsgfn.gaussian_fits import cholesky
from ctsgfn.mala import differentiable
from ctsgfn.start_law import StartLaw
from ctsgfn.target import Target, evaluate

GOAL = 0.7
"""Acceptance rate that step sizes are adapted to: between the optima of one leapfrog step and of many."""

_JITTER = 0.4
"""Spread of the logarithm of the step sizes of single particles."""

_WIDE = 0.1
"""Fraction of the difference moves at full length, which jump between modes."""


@dataclass(frozen=True)
class Places:
    """Points, and both log-densities there; slopes are 0 where the target has no gradient."""

    z: Tensor  # [N, d]
    base: Tensor  # [N] log q
    value: Tensor  # [N] log r
    base_slope: Tensor  # [N, d]
    slope: Tensor  # [N, d]

    @property
    def log_ratio(self) -> Tensor:
        """Log r - log q, [N]."""
        return self.value - self.base

    def log_density(self, beta: float) -> Tensor:
        """Log-density [N] of the path at beta, up to its constant."""
        return (1 - beta) * self.base + beta * self.value

    def score(self, beta: float) -> Tensor:
        """Its gradient, [N, d]."""
        return (1 - beta) * self.base_slope + beta * self.slope

    def rows(self, index: Tensor) -> Places:
        """The points of these rows."""
        return Places(*(getattr(self, f.name)[index] for f in fields(self)))

    def where(self, chosen: Tensor, other: Places) -> Places:
        """The points of ``other`` where chosen [N], else one's own."""
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return Places(*(torch.where(chosen if a.dim() == 1 else chosen[:, None], b, a) for a, b in pairs))


@dataclass(frozen=True)
class Scale:
    """A linear map that gives points the spread of a cloud: a triangular factor, or a diagonal."""

    factor: Tensor  # [d, d] lower triangular, or [d]

    @classmethod
    def of(cls, z: Tensor) -> Scale:
        """Of points [N, d]: a whole covariance where there are enough of them, else standard deviations."""
        n, dim = z.shape
        if n < 10 * dim:
            return cls(z.std(0).clamp(min=torch.finfo(z.dtype).tiny))
        return cls(cholesky(torch.cov(z.T).reshape(dim, dim)))

    def push(self, v: Tensor) -> Tensor:
        """L v for rows v [B, d]."""
        return v * self.factor if self.factor.dim() == 1 else v @ self.factor.T

    def pull(self, v: Tensor) -> Tensor:
        """L^T v for rows v [B, d]: a gradient in the coordinates that L maps from."""
        return v * self.factor if self.factor.dim() == 1 else v @ self.factor


_LOOKS = 64
"""Points at which the target may show that it has a slope."""


class Bridge:
    """The path from a law to a target, with its calls counted.

    Args:
        law: q.
        target: r, on R^d; its original may be on a half-line or a box.
    """

    def __init__(self, law: StartLaw, target: Target[Tensor]) -> None:
        self.law, self.counted = law, CountedTarget(target)
        self.differentiable = differentiable(target, law.draw(_LOOKS))

    @property
    def calls(self) -> int:
        """Calls of the density and of its gradient so far."""
        return self.counted.density_calls + self.counted.gradient_calls

    def start(self, n: int) -> Places:
        """Draws of the law.

        Raises:
            NonFinite: where the target is not finite at one of them.
        """
        at = self.look(self.law.draw(n))
        if bool(torch.isfinite(at.value).all()):
            return at
        with torch.no_grad():  # a gradient that is not finite leaves a density that is
            return replace(at, value=evaluate(self.counted.target, at.z).to(at.z.dtype))

    def look(self, z: Tensor) -> Places:
        """Both densities, and slopes where there are any."""
        if self.differentiable:
            value, slope = self.counted.value_and_score(z)
            base, base_slope = self.law.score(z)
            return Places(z, base, value, base_slope, slope)
        nothing = torch.zeros_like(z)
        return Places(z, self.law.log_density(z), self.counted.value(z), nothing, nothing)

    def leap(self, at: Places, beta: float, scale: Scale, size: float, leaps: int) -> tuple[Places, float]:
        """One Hamiltonian move of a few leapfrog steps; returns the acceptance rate too.

        Every particle has its own step size, drawn anew: no single one serves a wide range of scales.
        """
        n = len(at.z)
        h = size * (_JITTER * torch.randn(n, 1)).exp().to(at.z)
        start = torch.randn_like(at.z)
        momentum, here = start, at
        for _ in range(leaps):
            momentum = momentum + 0.5 * h * scale.pull(here.score(beta))
            here = self.look(here.z + scale.push(h * momentum))
            momentum = momentum + 0.5 * h * scale.pull(here.score(beta))
        kinetic = 0.5 * (start.square() - momentum.square()).sum(-1)
        return _accept(at, here, here.log_density(beta) - at.log_density(beta) + kinetic)

    def differ(self, at: Places, beta: float, pool: Tensor) -> tuple[Places, float]:
        """One Metropolis move along differences of two points of a fixed pool [P, d].

        Half of the particles move in one coordinate alone: the way between wells that lie side by side.
        """
        n, dim = at.z.shape
        one, two = pool[torch.randint(len(pool), (2, n), device=pool.device)]
        length = 2.38 / math.sqrt(2 * dim) * (0.5 * torch.randn(n, 1)).exp().to(at.z)
        length = torch.where(torch.rand(n, 1).to(at.z) < _WIDE, 1.0, length)
        single = torch.rand(n, 1).to(at.z) < 0.5
        axis = torch.randint(dim, (n, 1), device=at.z.device)
        along = torch.where(single, torch.zeros_like(at.z).scatter(1, axis, 1.0), length)
        ahead = self.look(at.z + along * (one - two))
        return _accept(at, ahead, ahead.log_density(beta) - at.log_density(beta))


def _accept(at: Places, ahead: Places, log_ratio: Tensor) -> tuple[Places, float]:
    chosen = torch.rand(len(log_ratio)).to(log_ratio).log() < log_ratio
    return at.where(chosen, ahead), float(chosen.double().mean())
