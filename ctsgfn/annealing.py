r"""Annealed sequential Monte Carlo from fitted Gaussians to a target on R^d.

References:
    Sequential Monte Carlo samplers (Del Moral et al., 2006), JRSS B 68; A Markov chain Monte Carlo
    version of the genetic algorithm differential evolution (ter Braak, 2006), Stat. Comput. 16.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctsgfn.counted import CountedTarget
from ctsgfn.gaussian_fits import GaussianFits
from ctsgfn.psis import largest


def anneal(
    counted: CountedTarget, fits: GaussianFits, particles: int, differentiable: bool
) -> tuple[Tensor, float]:
    """Sequential Monte Carlo from the fits to the target; even particles and a log Z estimate."""
    x, label = fits.sample(particles)
    base, value = fits.log_prob(x), counted.value(x)
    beta, log_z, size = 0.0, 0.0, 1.0
    for _ in range(200):
        gap = torch.where(torch.isfinite(value), value - base, -math.inf)
        step = _next_temperature(gap, 1.0 - beta)
        weight = step * gap
        log_z += float(weight.logsumexp(0)) - math.log(particles)
        beta += step
        rows = _systematic(weight.softmax(0))
        x, label, base, value = x[rows], label[rows], base[rows], value[rows]
        for _ in range(3):
            x, base, value = _ensemble(counted, fits, x, base, value, beta)
            if differentiable:
                x, base, value, size = _langevin(counted, fits, x, label, base, value, beta, size)
        if beta >= 1.0:
            break
    return x, log_z


def _next_temperature(gap: Tensor, left: float) -> float:
    """Largest step of the inverse temperature that keeps half of the effective sample size."""

    def effective(step: float) -> bool:
        w = (step * gap).softmax(0)
        return float(1.0 / w.square().sum()) / len(gap) >= 0.5

    return max(largest(effective, left, halvings=30), min(left, 1e-6))


def _systematic(share: Tensor) -> Tensor:
    """Systematic resampling: indices [N]."""
    n = len(share)
    grid = (torch.arange(n, device=share.device, dtype=share.dtype) + torch.rand(()).to(share)) / n
    return torch.searchsorted(share.cumsum(0), grid).clamp(max=n - 1)


def _ensemble(
    counted: CountedTarget, fits: GaussianFits, x: Tensor, base: Tensor, value: Tensor, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Differential-evolution move: each half of the particles moves along differences of the other."""
    n, dim = x.shape
    order = torch.randperm(n, device=x.device)
    for mine, other in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
        pairs = other[torch.randint(len(other), (2, len(mine)), device=x.device)]
        wide = torch.rand(len(mine), 1).to(x) < 0.1
        gamma = torch.where(wide, 1.0, 2.38 / math.sqrt(2 * dim))
        ahead = x[mine] + gamma * (x[pairs[0]] - x[pairs[1]]) * (1 + 0.01 * torch.randn(len(mine), 1).to(x))
        new_base, new_value = fits.log_prob(ahead), counted.value(ahead)
        log_ratio = (1 - beta) * (new_base - base[mine]) + beta * (new_value - value[mine])
        good = torch.rand(len(mine)).to(x).log() < log_ratio
        rows = mine[good]
        x, base, value = x.clone(), base.clone(), value.clone()
        x[rows], base[rows], value[rows] = ahead[good], new_base[good], new_value[good]
    return x, base, value


def _langevin(
    counted: CountedTarget,
    fits: GaussianFits,
    x: Tensor,
    label: Tensor,
    base: Tensor,
    value: Tensor,
    beta: float,
    size: float,
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Langevin move preconditioned by the covariance of the component a particle came from."""

    def pull(at: Tensor, slope: Tensor) -> Tensor:
        """Tempered score in the coordinates of the component's factor."""
        total = (1 - beta) * fits.score(at) + beta * slope
        return fits.pulled(label, total)

    h = size
    _, slope = counted.value_and_score(x)
    drift = 0.5 * h * h * pull(x, slope)
    noise = torch.randn_like(x)
    ahead = x + fits.moves(label, drift + h * noise)
    new_value, new_slope = counted.value_and_score(ahead)
    new_base = fits.log_prob(ahead)
    back = -drift - h * noise - 0.5 * h * h * pull(ahead, new_slope)
    log_ratio = (1 - beta) * (new_base - base) + beta * (new_value - value)
    log_ratio = log_ratio + 0.5 * noise.square().sum(-1) - 0.5 * (back / h).square().sum(-1)
    good = torch.rand(len(x)).to(x).log() < log_ratio
    x = torch.where(good[:, None], ahead, x)
    rate = float(good.double().mean())
    size = min(3.0, max(1e-3, h * math.exp(0.5 * (rate - 0.574))))
    return x, torch.where(good, new_base, base), torch.where(good, new_value, value), size
