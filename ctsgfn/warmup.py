r"""Warm-up on R^d: where the target is, how wide, and a first estimate of its integral.

Users do not know the scale of their posterior, so it is found: dispersed ascents, a Gaussian fitted
along each, their mixture as the start of a short annealed sequential Monte Carlo run with moves
preconditioned by the mixture's own covariances.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ctsgfn.annealing import anneal
from ctsgfn.coordinate_walk import walk
from ctsgfn.counted import CountedTarget
from ctsgfn.errors import InvalidInput, NonFinite, UnreliableEstimate
from ctsgfn.gaussian_fits import GaussianFits, cholesky, fit_gaussians
from ctsgfn.mala import differentiable
from ctsgfn.missed import missed_modes
from ctsgfn.tails import diverges, tail_exponents
from ctsgfn.target import Target, evaluate, without_floor

_WIDEST = 1e12
"""Particles spread wider than this have run away."""

_ENOUGH = 10
"""Particles per dimension from which a covariance is taken; with fewer it is that of the fitted normals."""


@dataclass(frozen=True)
class WarmUp:
    """What the warm-up found, in the target's own coordinates."""

    points: Tensor  # [N, d] particles, evenly weighted
    location: Tensor  # [d] their mean
    scale_tril: Tensor  # [d, d] Cholesky factor of their covariance
    fits: GaussianFits  # the Gaussians that the particles started from
    log_z: float  # sequential Monte Carlo estimate, rough
    density_calls: int
    gradient_calls: int
    differentiable: bool


def warm_up(
    target: Target[Tensor],
    dim: int,
    *,
    particles: int = 2000,
    starts: int = 64,
    like: Tensor,
) -> WarmUp:
    """Find location, covariance and a first log Z of a target on R^dim.

    A target without a gradient is fitted without ascents and Langevin moves: from broad Gaussians, by
    ensemble moves alone.

    Args:
        target: the target.
        dim: its dimension.
        particles: of the sequential Monte Carlo run.
        starts: of the ascents, at scales from 0.1 to 100.
        like: a tensor with the dtype and device that the target wants.

    Warns:
        UnreliableEstimate: when the density falls too slowly to have a finite integral.

    Raises:
        NonFinite: when no start has a finite density.
        InvalidInput: when the particles run away, as they do from a density that has no finite integral.
    """
    counted = CountedTarget(without_floor(target))
    scales = torch.logspace(-1, 2, starts, dtype=like.dtype, device=like.device)
    start = scales[:, None] * torch.randn(starts, dim).to(like)
    start[0] = 0.0
    value = counted.value(start)
    if not bool(torch.isfinite(value).any()):
        evaluate(target, start)  # raises, naming the first point
        raise NonFinite("no start of the warm-up has a finite log-density: check the target near 0.")
    gradient = differentiable(target, start[torch.isfinite(value)])
    start = start[torch.isfinite(value)]
    if gradient:
        fits = fit_gaussians(counted, start)
    else:
        broad = torch.tensor([1.0, 10.0, 100.0], dtype=like.dtype, device=like.device)
        eye = torch.eye(dim, dtype=like.dtype, device=like.device)
        fits = GaussianFits(
            like.new_zeros(3, dim), broad[:, None, None] * eye, like.new_full((3,), -math.log(3.0))
        )
    points, log_z = anneal(counted, fits, particles, gradient)
    if gradient and len(missed := missed_modes(counted, fits, log_z)):
        fits = fit_gaussians(counted, torch.cat([start, missed]))
        points, log_z = anneal(counted, fits, particles, gradient)
    spread = points.std(0)
    if not bool(((spread > 0) & (spread < _WIDEST)).all()):
        raise InvalidInput(
            "the particles of the warm-up ran away or collapsed, as they do where a log-density has no "
            "finite integral: check that it falls off in every direction, or give the target its true "
            "bounds with measure=."
        )
    if gradient and particles < _ENOUGH * dim:
        location, covariance = fits.moments()
    else:
        location, covariance = points.mean(0), torch.cov(points.T).reshape(dim, dim)
    scale_tril = cholesky(covariance)
    if diverges(tail_exponents(counted.value, location, scale_tril), dim):
        warnings.warn(
            f"far out the density falls no faster than |x|^-{dim} in many directions, so its integral over "
            f"R^{dim} is not finite and there is nothing to sample: give the target a proper prior, or its "
            "true bounds.",
            UnreliableEstimate,
            stacklevel=2,
        )
    calls = counted.density_calls, counted.gradient_calls
    return WarmUp(points, location, scale_tril, fits, log_z, *calls, gradient)


SNAPSHOTS = 4
"""Points per particle after ``walk_on``: they stand one after another."""

_CALLS = 6_000_000
"""Density calls that ``walk_on`` may make; up to 75 dimensions it needs fewer."""


def walk_on(target: Target[Tensor], start: WarmUp) -> WarmUp:
    """Walk the particles on, coordinate by coordinate, to spread them over the modes of each.

    Returns:
        The warm-up with ``SNAPSHOTS`` points per particle, their location and covariance.
    """
    n, dim = start.points.shape
    counted = CountedTarget(without_floor(target))
    sweeps = min(40, max(SNAPSHOTS, _CALLS // (n * dim)))
    points = walk(counted, start.points, sweeps=sweeps, kept=SNAPSHOTS).flatten(0, 1)
    covariance = torch.cov(points.T).reshape(dim, dim)
    return replace(
        start,
        points=points,
        location=points.mean(0),
        scale_tril=cholesky(covariance),
        density_calls=start.density_calls + counted.density_calls,
    )
