r"""Sequential Monte Carlo along a path of densities, with a plan that a first run makes.

The first run chooses temperatures, step sizes and numbers of moves as it goes. Later runs follow its
plan to the letter and share nothing else with it, so that each of them estimates Z without bias.

References:
    Sequential Monte Carlo samplers (Del Moral et al., 2006), JRSS B 68; Sandwiching the marginal
    likelihood using bidirectional Monte Carlo (Grosse et al., 2015), arXiv 1511.02543.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.bridge import GOAL, Bridge, Places, Scale
from ctsgfn.errors import InvalidInput
from ctsgfn.psis import effective_sample_size, largest, psis

KEPT = 0.7
"""Effective fraction of the particles that a temperature step keeps: under it, widening has heavy tails."""

LOOSE = 0.3
"""Rank correlation of log r - log q with itself before the moves at which they have moved enough."""

FEWEST, MOST = 3, 40
"""Sweeps of moves at a temperature."""

POOL = 256
"""Particles kept at a temperature, whose differences later runs move along."""


@dataclass(frozen=True)
class Level:
    """What is done at one temperature."""

    step: float  # from the temperature before
    beta: float
    scale: Scale
    pool: Tensor  # [P, d]
    size: float  # of the leapfrog steps
    sweeps: int
    acceptance: float  # of the Hamiltonian moves, or of the difference moves where there is no gradient
    correlation: float  # of log r - log q with itself before the moves


@dataclass(frozen=True)
class Plan:
    """The temperatures from 0 to 1."""

    levels: tuple[Level, ...]
    leaps: int
    cost: float  # density calls per particle of a run

    @property
    def worst_correlation(self) -> Level:
        """The temperature at which the particles moved least; the last one does not count."""
        return max(self.levels[:-1] or self.levels, key=lambda level: level.correlation)


@dataclass(frozen=True)
class Runs:
    """Independent runs along a plan, side by side."""

    z: Tensor  # [R N, d] particles at the end, evenly weighted within a run
    log_z: Tensor  # [R] float64
    ess: float  # least effective fraction of the particles of a run at any temperature
    pareto_k: float  # largest Pareto shape of the weights of all runs at a temperature


def plan(bridge: Bridge, particles: int, most_calls: int) -> tuple[Plan, Tensor]:
    """Run once, choosing what is chosen, and return the plan and the particles at the end.

    Args:
        bridge: the path.
        particles: of the run.
        most_calls: density calls that it may take.

    Raises:
        InvalidInput: when they do not reach the end.
    """
    first = bridge.calls
    at = bridge.start(particles)
    dim = at.z.shape[1]
    leaps, size = math.ceil(1.5 * dim**0.25), dim**-0.25
    beta, levels = 0.0, []
    while beta < 1.0:
        step = _next_temperature(at.log_ratio, 1.0 - beta)
        beta = 1.0 if beta + step > 1 - 1e-9 else beta + step
        at = at.rows(_systematic((step * at.log_ratio)[None])[0])
        scale = Scale.of(at.z)
        pool = at.z[torch.randperm(particles, device=at.z.device)[:POOL]]
        before, rates, sweeps, correlation = at.log_ratio, [], 0, 1.0
        most = MOST if beta < 1.0 else FEWEST  # what is done at the end does not bear on log Z
        while sweeps < FEWEST or (correlation > LOOSE and sweeps < most):
            at, rate = bridge.differ(at, beta, pool)
            if bridge.differentiable:
                at, rate = bridge.leap(at, beta, scale, size, leaps)
                size = min(3.0, max(1e-4, size * math.exp(rate - GOAL)))
            rates.append(rate)
            sweeps += 1
            correlation = _rank_correlation(before, at.log_ratio)
            if bridge.calls > most_calls:
                raise InvalidInput(
                    f"the first run had reached the inverse temperature {beta:.2g} of 1 when it had taken "
                    f"{bridge.calls} of the calls: pass a larger calls=, or train the sampler longer."
                )
        levels.append(Level(step, beta, scale, pool, size, sweeps, sum(rates) / len(rates), correlation))
    return Plan(tuple(levels), leaps, (bridge.calls - first) / particles), at.z


def run(bridge: Bridge, plan: Plan, runs: int, particles: int) -> Runs:
    r"""Independent runs from q to r: each has :math:`E \hat Z = Z`."""
    at = bridge.start(runs * particles)
    log_z, ess, k = at.value.new_zeros(runs).double(), 1.0, -math.inf
    for level in plan.levels:
        at, log_mean, effective, tail = _reweighed(at, level.step, runs)
        log_z, ess, k = log_z + log_mean, min(ess, effective), max(k, tail)
        at = _moved(bridge, plan, level, at)
    return Runs(at.z, log_z, ess, k)


def run_back(bridge: Bridge, plan: Plan, runs: int, exact: Tensor) -> Tensor:
    r"""Log Z [R] by runs from exact samples of r back to q: each has :math:`E\, 1 / \hat Z = 1 / Z`.

    So that minus the logarithm of their mean errs upwards, and sees mass that no draw of q leads to.

    Args:
        bridge: the path.
        plan: of its temperatures.
        runs: how many.
        exact: samples [R N, d] of the target.
    """
    at, log_z = bridge.look(exact), exact.new_zeros(runs).double()
    for level in reversed(plan.levels):
        at = _moved(bridge, plan, level, at)
        at, log_mean, _, _ = _reweighed(at, -level.step, runs)
        log_z = log_z - log_mean
    return log_z


def _moved(bridge: Bridge, plan: Plan, level: Level, at: Places) -> Places:
    for _ in range(level.sweeps):
        at, _ = bridge.differ(at, level.beta, level.pool)
        if bridge.differentiable:
            at, _ = bridge.leap(at, level.beta, level.scale, level.size, plan.leaps)
    return at


def _reweighed(at: Places, step: float, runs: int) -> tuple[Places, Tensor, float, float]:
    """Resample within runs; returns log mean weights [R], the least effective fraction and Pareto's k."""
    log_weight = (step * at.log_ratio).double().reshape(runs, -1)
    n = log_weight.shape[1]
    total = log_weight.logsumexp(1)
    effective = (2 * total - (2 * log_weight).logsumexp(1)).exp() / n
    tail = psis((log_weight - total[:, None]).flatten()).pareto_k
    index = (_systematic(log_weight) + n * torch.arange(runs, device=total.device)[:, None]).flatten()
    return at.rows(index), total - math.log(n), float(effective.min()), tail


def _systematic(log_weight: Tensor) -> Tensor:
    """Systematic resampling of every row [R, N] by itself: indices [R, N]."""
    runs, n = log_weight.shape
    share = log_weight.double().softmax(1).cumsum(1)
    comb = torch.arange(n, dtype=share.dtype) + torch.rand(runs, 1, dtype=share.dtype)
    comb = comb.to(share.device) / n * share[:, -1:]
    return torch.searchsorted(share, comb, right=True).clamp(max=n - 1)


def _next_temperature(gap: Tensor, left: float) -> float:
    """Largest step of the inverse temperature that keeps enough of the particles effective."""

    def effective(step: float) -> bool:
        return effective_sample_size(step * gap) / len(gap) >= KEPT

    return max(largest(effective, left, halvings=40), min(left, 1e-6))


def _rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two vectors; 0 where one of them does not vary."""
    pair = torch.stack([a, b]).argsort(1).argsort(1).double()
    return float(torch.corrcoef(pair)[0, 1]) if bool((a.std() > 0) & (b.std() > 0)) else 0.0
