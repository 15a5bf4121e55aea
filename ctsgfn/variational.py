r"""Normals fitted to a log-density in many dimensions, where points are too few to fit a covariance to.

A mode by Newton's method, then the normal of the best evidence bound,

.. math::
    \max_{m, P}\ E_{N(m, P^{-1})}[\log r(x)] - \tfrac12 \log |P| + \text{const}, \qquad
    P = -E[\nabla^2 \log r], \quad E[\nabla \log r] = 0,

by natural-gradient steps on draws: the precision is an average of curvatures, and so is the mean's step.

References:
    The variational Gaussian approximation revisited (Opper and Archambeau, 2009), Neural Computation 21;
    Fast and simple natural-gradient variational inference with mixture of exponential-family approximations
    (Lin, Khan and Schmidt, 2019), arXiv 1906.02914.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctsgfn.counted import CountedTarget

NEWTON, ROUNDS = 30, 40
"""Newton steps at most, and natural-gradient steps."""

SLOPES = 128
"""Draws behind each step of the mean."""

SHARE = 0.05
"""Part of an axis' conditional scale over which the score is differenced."""

_ROWS = 4096
"""Points per call."""


def climb(counted: CountedTarget, x: Tensor) -> tuple[Tensor, Tensor]:
    """Newton's method with backtracking, from x [d]: a mode, and the Cholesky factor of the curvature there.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> from ctsgfn.target import as_target
        >>> target = as_target(lambda x: -2 * (x - 3).square().sum(-1), Lebesgue(2))
        >>> mode, factor = climb(CountedTarget(target), torch.zeros(2))
        >>> mode.round(decimals=3).tolist(), factor.diagonal().round(decimals=3).tolist()
        ([3.0, 3.0], [2.0, 2.0])
    """
    nudge = 1e-3 * x.abs().clamp(min=1.0)
    ends = _slopes(counted, torch.stack([x - nudge, x + nudge]))
    scale = ((ends[0] - ends[1]) / (2 * nudge)).abs().clamp(min=1e-6).sqrt()
    factor = torch.diag(scale)
    for _ in range(NEWTON):
        factor = _definite(_precision(counted, x, SHARE / scale))
        scale = factor.norm(dim=-1)
        (value,), (slope,) = counted.value_and_score(x[None])
        direction = torch.cholesky_solve(slope[:, None], factor).squeeze(-1)
        rise = float(slope @ direction)  # twice what a quadratic would still gain
        lengths = 0.5 ** torch.arange(12).to(x)
        values = counted.value(x + lengths[:, None] * direction)
        good = (values >= value + 1e-4 * lengths * rise).nonzero().flatten()
        if rise < 1e-2 or len(good) == 0:
            break
        x = x + lengths[good[0]] * direction
    return x, factor


def fit_normal(counted: CountedTarget, mean: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The normal of the best evidence bound near a mode: mean [d], Cholesky factor [d, d], the bound.

    Args:
        counted: a differentiable target.
        mean: [d], the mode.
        factor: [d, d], Cholesky factor of the precision there, as ``climb`` returns both.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> from ctsgfn.target import as_target
        >>> target = as_target(lambda x: -(x.exp() - x).sum(-1), Lebesgue(3))
        >>> counted = CountedTarget(target)
        >>> mean, tril, bound = fit_normal(counted, *climb(counted, torch.ones(3)))
        >>> bool((mean + 0.5).abs().max() < 0.1)  # the mode is 0, of curvature 1
        True
    """
    laplace = mean, factor, _bound(counted, mean, factor)
    precision = factor @ factor.T
    for step in range(1, ROUNDS + 1):
        rate = (step + 1) ** -0.7  # falls as an average that forgets its start
        z = torch.randn_like(mean)
        away = _carried(factor, z[None])[0]
        nudge = SHARE / precision.diagonal().sqrt()
        curvature = 0.5 * sum(_precision(counted, x, nudge) for x in (mean + away, mean - away))
        ahead = (1 - rate) * precision + rate * curvature
        new, failed = torch.linalg.cholesky_ex(ahead)
        if not int(failed) and bool(torch.isfinite(new).all()):  # else the draw tells nothing of a normal
            precision, factor = ahead, new
        z = torch.randn(SLOPES // 2, len(mean)).to(mean)
        away = _carried(factor, z)
        slope = _slopes(counted, torch.cat([mean + away, mean - away])).mean(0)
        mean = mean + rate * torch.cholesky_solve(slope[:, None], factor).squeeze(-1)
    fitted = mean, factor, _bound(counted, mean, factor)
    mean, factor, bound = fitted if fitted[2] > laplace[2] else laplace
    return mean, _covariance_factor(factor), mean.new_tensor(bound)


def _precision(counted: CountedTarget, x: Tensor, nudge: Tensor) -> Tensor:
    """Negative Hessian [d, d] at a point [d], by differences of the score over a nudge [d] of each axis."""
    columns = []
    for axes in torch.arange(len(x), device=x.device).split(_ROWS // 2):
        shift = torch.zeros(len(axes), len(x)).to(x)
        shift[torch.arange(len(axes)), axes] = nudge[axes]
        slopes = _slopes(counted, torch.cat([x - shift, x + shift]))
        columns.append((slopes[: len(axes)] - slopes[len(axes) :]) / (2 * nudge[axes, None]))
    hessian = torch.cat(columns)
    return 0.5 * (hessian + hessian.T)


def _definite(matrix: Tensor) -> Tensor:
    """Cholesky factor of a symmetric matrix, its negative eigenvalues turned positive where it has some."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not int(failed):
        return factor
    values, vectors = torch.linalg.eigh(matrix.double())
    floor = 1e-6 * float(values.abs().max())
    fixed = (vectors * values.abs().clamp(min=floor)) @ vectors.T
    return torch.linalg.cholesky(fixed).to(matrix)


def _slopes(counted: CountedTarget, x: Tensor) -> Tensor:
    return torch.cat([counted.value_and_score(rows)[1] for rows in x.split(_ROWS)])


def _carried(factor: Tensor, z: Tensor) -> Tensor:
    """Noise [n, d] to draws of N(0, (F F^T)^-1)."""
    return torch.linalg.solve_triangular(factor.T, z.T, upper=True).T


def _bound(counted: CountedTarget, mean: Tensor, factor: Tensor) -> float:
    """Evidence bound of N(mean, (F F^T)^-1), from antithetic draws; -inf where the density is not finite."""
    away = _carried(factor, torch.randn(256, len(mean)).to(mean))
    value = counted.value(torch.cat([mean + away, mean - away])).double().mean()
    entropy = 0.5 * len(mean) * (1 + math.log(2 * math.pi)) - factor.diagonal().double().log().sum()
    return float(value + entropy)


def _covariance_factor(factor: Tensor) -> Tensor:
    """Lower Cholesky factor of (F F^T)^-1."""
    eye = torch.eye(len(factor)).to(factor)
    inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
    _, upper = torch.linalg.qr(inverse)
    return (upper * upper.diagonal().sign()[:, None]).T
