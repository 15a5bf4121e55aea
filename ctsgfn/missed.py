"""Modes that dispersed ascents missed: where a density is far above what the fits and their sum explain.

A narrow mode beside a broad one is uphill only from nearby. Many cheap values of the density find its basin
where few ascents do not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctsgfn.ascent import ascend
from ctsgfn.counted import CountedTarget
from ctsgfn.gaussian_fits import GaussianFits, cholesky, laplace_fits

PROBES = 2**15
"""Points at which the density is asked, from once to thirty times as far out as the fits."""

STARTS = 32
"""Ascents from the most promising of them."""

MOST = 10
"""Dimensions beyond which probes do not meet a basin."""

SURPLUS = 5.0
"""Nats above the fits from which a density is unexplained."""

SHARE = 0.01
"""Least share of the mass that a mode has to have."""

FLAT = 0.1
"""Largest slope at a mode, in nats a standard deviation of its normal: without an integral there is none."""


@torch.no_grad()
def missed_modes(counted: CountedTarget, fits: GaussianFits, log_z: float) -> Tensor:
    """Modes [K, d] that hold mass and that the fits leave out; none above ten dimensions.

    Draws from a generator of its own, so that nothing else changes where there are none.

    Args:
        counted: the target.
        fits: what was found so far.
        log_z: their mass.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> from ctsgfn.target import as_target
        >>> def two(x):
        ...     narrow = -0.5 * ((x - 8.0) / 0.1).square().sum(-1) + 2 * math.log(10)
        ...     return torch.logaddexp(-0.5 * x.square().sum(-1), narrow)
        >>> counted = CountedTarget(as_target(two, Lebesgue(2)))
        >>> broad = GaussianFits(torch.zeros(1, 2), torch.eye(2)[None], torch.zeros(1))
        >>> missed_modes(counted, broad, math.log(2 * math.pi))[0]
        tensor([8., 8.])
    """
    mean, covariance = fits.moments()
    dim = len(mean)
    if dim > MOST:
        return mean.new_zeros(0, dim)
    own = torch.Generator().manual_seed(0)
    z, far = torch.randn(PROBES, dim, generator=own), 1.5 * torch.rand(PROBES, 1, generator=own)
    x = mean + (10**far * z).to(mean) @ cholesky(covariance).T
    value = counted.value(x)
    surplus = value - fits.log_prob(x) - log_z
    promise = value + (dim * math.log(10) * far[:, 0] + 0.5 * z.square().sum(-1)).to(value)
    promise = torch.where(surplus > SURPLUS, promise, -math.inf)
    rows = promise.topk(STARTS).indices
    rows = rows[torch.isfinite(promise[rows])]
    if len(rows) == 0:
        return mean.new_zeros(0, dim)
    ends = ascend(counted.value_and_score, x[rows], steps=60)[-1]
    ends = ends[counted.value(ends) - fits.log_prob(ends) - log_z > SURPLUS]
    if len(ends) == 0:
        return ends
    with torch.random.fork_rng(devices=[]):
        _, tril, bound = laplace_fits(counted, ends)
    slope = torch.einsum("kij,ki->kj", tril, counted.value_and_score(ends)[1])
    return ends[(slope.norm(dim=-1) < FLAT) & (bound > log_z + math.log(SHARE))]
