r"""Warm-up on circles: annealed sequential Monte Carlo from the uniform law to a target of angles.

The densities :math:`r^\beta` lead from arc length to the target. Particles move along wrapped differences of
others, which lead from mode to mode, and by wrapped normal steps; no gradient is needed.

References:
    Sequential Monte Carlo samplers (Del Moral et al., 2006), JRSS B 68; A Markov chain Monte Carlo
    version of the genetic algorithm differential evolution (ter Braak, 2006), Stat. Comput. 16.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ctsgfn.counted import CountedTarget
from ctsgfn.measures import wrap
from ctsgfn.psis import effective_sample_size, largest, systematic
from ctsgfn.target import Target, evaluate, without_floor

SWEEPS = 5
"""Moves of each kind at a temperature."""

_KEPT = 0.7
"""Effective fraction of the particles that a temperature step keeps."""

_GOAL = 0.3
"""Acceptance rate that the normal steps are kept at."""


_WIDER = 0.8
"""Inverse temperature below which the wider particles are taken."""


class Particles(NamedTuple):
    """What the warm-up found, evenly weighted."""

    points: Tensor  # [N, d] that stand for the target
    wider: Tensor  # [N, d] that stand for a root of its density: they reach into its tails


def warm_up_circles(target: Target[Tensor], dim: int, *, particles: int = 8000, like: Tensor) -> Particles:
    """Find the modes of a target on a torus, and how they weigh against each other.

    Args:
        target: on angles.
        dim: how many.
        particles: N.
        like: a tensor with the dtype and device that the target wants.

    Raises:
        NonFinite: when the log-density is finite at no particle.

    Example:
        >>> from ctsgfn.measures import Haar
        >>> from ctsgfn.target import as_target
        >>> north = as_target(lambda x: 50 * x.cos().sum(-1), Haar(2))
        >>> found = warm_up_circles(north, 2, like=torch.zeros(0))
        >>> bool(found.points.std() < found.wider.std()), bool((found.points.abs() < 1.0).all())
        (True, True)
    """
    counted = CountedTarget(without_floor(target))
    x = ((2 * torch.rand(particles, dim) - 1) * math.pi).to(like)
    value = counted.value(x)
    if not bool(torch.isfinite(value).any()):
        evaluate(target, x)  # raises, naming the first point
    beta, size, wider = 0.0, 1.0, x
    while beta < 1.0:
        step = _next_temperature(value, 1.0 - beta)
        beta = 1.0 if beta + step > 1 - 1e-9 else beta + step
        rows = systematic((step * value).log_softmax(0), particles)
        x, value = x[rows], value[rows]
        for _ in range(SWEEPS):
            one, two = x[torch.randint(particles, (2, particles), device=x.device)]
            single = torch.rand(particles, 1).to(x) < 0.5
            axis = torch.randint(dim, (particles, 1), device=x.device)
            along = torch.where(single, torch.zeros_like(x).scatter(1, axis, 1.0), 1.0)
            x, value, _ = _moved(counted, x, value, along * wrap(one - two), beta)
            scale = size * torch.randn(particles, 1).exp().to(x)
            x, value, rate = _moved(counted, x, value, scale * torch.randn_like(x), beta)
            size = min(3.0, max(1e-3, size * math.exp(rate - _GOAL)))
        if beta < _WIDER:
            wider = x
    return Particles(x, wider)


def _moved(
    counted: CountedTarget, x: Tensor, value: Tensor, turn: Tensor, beta: float
) -> tuple[Tensor, Tensor, float]:
    """One Metropolis move of every particle, and the rate of acceptance."""
    ahead = wrap(x + turn)
    new = counted.value(ahead)
    good = torch.rand(len(x)).to(x).log() < beta * (new - value)
    return torch.where(good[:, None], ahead, x), torch.where(good, new, value), float(good.double().mean())


def _next_temperature(value: Tensor, left: float) -> float:
    """Largest step of the inverse temperature that keeps enough of the particles effective."""

    def effective(step: float) -> bool:
        return effective_sample_size(step * value) / len(value) >= _KEPT

    return max(largest(effective, left, halvings=30), min(left, 1e-6))
