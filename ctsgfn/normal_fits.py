r"""Normal approximations of many densities at once, each on some of the axes, and of their integrals.

On k live axes, Newton's method climbs to a mode of :math:`\log r(\theta)`. The
mean and the covariance are then moved to where a normal law is at rest under its own average,

.. math::
    C^{-1} \leftarrow -E_{N(\mu, C)}\bigl[C^{-1} (\theta - \mu)\, \nabla \log r(\theta)^\top\bigr], \qquad
    \mu \leftarrow \mu + C\, E_{N(\mu, C)}[\nabla \log r(\theta)],

with expectations by the 2k cubature points :math:`\mu \pm \sqrt k\, C^{1/2} e_i`; so tails and kinks count
at the width of the posterior and not at one point. The evidence is estimated by importance weights,

.. math:: \log \frac1K \sum_{k=1}^K \frac{r(\theta_k)}{N(\theta_k; \mu, C)},

on the same standardised draws for every row. All of it is exact where log r is quadratic in theta.

References:
    Cubature Kalman filters (Arasaratnam and Haykin, 2009), IEEE Trans. Automatic Control 54, eq. 17; The
    variational Gaussian approximation revisited (Opper and Archambeau, 2009), Neural Computation 21, eq. 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

NEWTON, HALVINGS, SWEEPS = 40, 20, 6
"""Most steps to a mode, halvings of each, and sweeps over the cubature points."""

NARROWINGS = 8
"""Most times that a normal law is made narrower before the sweeps."""

DRAWS, POOR = 64, 0.8
"""Pairs of draws that judge a normal law, and the effective fraction of them below which it is improved."""

EXACT, SHARE = 1 - 1e-6, 0.05
"""Effective fraction above which a normal law counts as exact, and the share of a wider one elsewhere."""

ASCENT, BATCH = 300, 8
"""Steps of the improvement, and pairs of draws in each."""

AT_REST = 1e-10
"""Gain in log r that a Newton step promises, below which the mode is found."""

Density = Callable[[Tensor, Tensor], Tensor]
"""Rows [R] of a batch of problems, and theta [R, m] of each -> log r [R]."""


class Normals(NamedTuple):
    """Normal approximations of the blocks of theta, in float64."""

    loc: Tensor  # [B, J, m], 0 on dead axes
    scale_tril: Tensor  # [B, J, m, m], 1 on the diagonal of dead axes
    log_evidence: Tensor  # [B, J], approximate integral over theta of each block
    share: Tensor  # [B, J], mass that a law of twice the width deserves: 0 where the normal is exact


def among(density: Density, some: Tensor, rows: Tensor, theta: Tensor) -> Tensor:
    """The densities of some of the rows."""
    return density(some[rows], theta)


def normals(density: Density, live: Tensor) -> Normals:
    """Normal approximations [R, m] of densities with live axes [R, m], in float64, without gradient.

    Example:
        >>> fit = normals(lambda rows, theta: -theta.square().sum(-1), torch.ones(1, 1, dtype=torch.bool))
        >>> round(float(fit.scale_tril), 4), round(float(fit.log_evidence.exp()), 4)
        (0.7071, 1.7725)
    """
    return _normals(density, live, torch.arange(live.shape[-1], device=live.device).expand(live.shape))


def _normals(density: Density, live: Tensor, axes: Tensor, count: int | None = None) -> Normals:
    """The same, of axes [R, m] among ``count``; draws along one axis are the same in every row."""
    generator, count = torch.Generator().manual_seed(0), live.shape[-1] if count is None else count
    start = 0.1 * torch.randn(count, generator=generator, dtype=torch.float64)  # 0 may be a saddle
    noise = torch.randn(DRAWS, count, generator=generator, dtype=torch.float64)
    start, noise = (v.to(live.device)[..., axes] for v in (start, torch.cat([noise, -noise])))
    loc, precision = _climb(density, start * live, live)
    tril = _narrowed(density, loc, torch.linalg.cholesky(torch.linalg.inv(precision)), live)
    fit = _sweep(density, loc, tril, live)
    weight = _log_weights(density, fit, live, noise)
    ess = (2 * weight.logsumexp(0) - (2 * weight).logsumexp(0)).exp() / len(noise)
    fit = fit._replace(log_evidence=_mean(weight), share=torch.where(ess > EXACT, 0.0, SHARE))
    poor = (~(ess > POOR)).nonzero().squeeze(-1)
    if len(poor):
        some = Normals(*(v[poor] for v in fit))
        better = _ascend(partial(among, density, poor), some, live[poor], noise[:, poor], generator)
        fit = Normals(*(v.index_copy(0, poor, b) for v, b in zip(fit, better, strict=True)))
    lost = ~torch.stack([v.reshape(len(v), -1).isfinite().all(-1) for v in fit]).all(0)
    if bool(lost.any()):  # log r is not finite around the start: the flow has to find its way alone
        level = fit.log_evidence[~lost].median() if bool((~lost).any()) else fit.log_evidence.new_zeros(())
        loc = torch.where(lost[:, None], 0.0, fit.loc)
        tril = torch.where(lost[:, None, None], _eye(live), fit.scale_tril)
        fit = Normals(loc, tril, torch.where(lost, level, fit.log_evidence), fit.share)
    return fit


def packed_normals(density: Density, live: Tensor) -> Normals:
    """The same on the live axes alone, packed to the left: [R, k] with k the most that a row has.

    A model of few parameters among many that there could be then costs what the few do.

    Example:
        >>> live = torch.tensor([[False, True, False]])
        >>> packed_normals(lambda rows, theta: -(theta - 3).square()[:, 1], live).loc.round().tolist()
        [[3.0]]
    """
    axes = live_axes(live, max(1, int(live.sum(-1).max())))

    def on_axes(rows: Tensor, theta: Tensor) -> Tensor:
        return density(rows, theta.new_zeros(len(rows), live.shape[-1]).scatter(1, axes[rows], theta))

    return _normals(on_axes, live.gather(1, axes), axes, live.shape[-1])


def live_axes(live: Tensor, count: int) -> Tensor:
    """The first ``count`` axes [R, count], live ones first, in ascending order."""
    return live.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices[:, :count]


def _narrowed(density: Density, loc: Tensor, tril: Tensor, live: Tensor) -> Tensor:
    """Factors with columns shortened until log r falls by 1/2 along each: a kink has no curvature."""
    rows = torch.arange(len(loc), device=live.device).repeat_interleave(2 * loc.shape[-1])
    top = density(rows[:: 2 * loc.shape[-1]], loc)
    for _ in range(NARROWINGS):
        arms = tril.transpose(1, 2) * live[:, :, None]
        points = loc[:, None, None] + torch.stack([arms, -arms], 1)
        there = density(rows, points.flatten(0, 2)).reshape(len(loc), 2, -1)
        drop = (top[:, None] - there.mean(1)).nan_to_num(math.inf)
        ratio = torch.where(drop > 1.0, (0.5 / drop).sqrt().clamp(min=0.1), 1.0)
        tril = tril * ratio[:, None]
    return tril


def _sweep(density: Density, loc: Tensor, tril: Tensor, live: Tensor) -> Normals:
    """The best of what the fixed point of the cubature passes through."""
    best = Normals(loc, tril, loc.new_full((len(loc),), -math.inf), loc.new_zeros(len(loc)))
    for _ in range(SWEEPS):
        slope, hessian, bound = _average(density, loc, tril, live)
        better = (bound > best.log_evidence).nonzero().squeeze(-1)
        kept = (loc, tril, bound, best.share)
        best = Normals(*(b.index_copy(0, better, k[better]) for b, k in zip(best, kept, strict=True)))
        factor, failed = torch.linalg.cholesky_ex(_on_live(-0.5 * (hessian + hessian.transpose(1, 2)), live))
        sound = ((failed == 0) & slope.isfinite().all(-1))[:, None]
        factor = torch.where(sound[..., None], factor, _eye(live))
        step = torch.cholesky_solve(slope[..., None], factor).squeeze(-1)
        loc = torch.where(sound, loc + step, best.loc) * live
        tril = torch.where(
            sound[..., None], torch.linalg.cholesky(torch.cholesky_inverse(factor)), best.scale_tril
        )
    return best


def _log_weights(density: Density, fit: Normals, live: Tensor, noise: Tensor) -> Tensor:
    """Log r - log N [K, R] at draws with standardised noise [K, R, m]."""
    z = noise * live
    theta = (fit.loc + torch.einsum("rij,krj->kri", fit.scale_tril, z)) * live
    rows = torch.arange(len(live), device=live.device).repeat(len(noise))
    value = density(rows, theta.flatten(0, 1)).reshape(len(noise), -1)
    log_scale = fit.scale_tril.diagonal(dim1=-2, dim2=-1).log()
    return value + ((log_scale + 0.5 * math.log(2 * math.pi)) * live).sum(-1) + 0.5 * z.square().sum(-1)


def _mean(log_weight: Tensor) -> Tensor:
    """Logarithm of the mean of weights [K, R], over K."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def _ascend(
    density: Density, fit: Normals, live: Tensor, common: Tensor, generator: torch.Generator
) -> Normals:
    """Adam on the lower bound, from the best of some narrower normals."""
    count, m = live.shape

    def draws(n: int) -> Tensor:
        half = torch.randn(n, 1, m, generator=generator, dtype=torch.float64).to(live.device)
        return torch.cat([half, -half])

    widths = [1.0, 0.5, 0.2, 0.05, 0.01]
    narrower = [fit._replace(scale_tril=_on_live(w * fit.scale_tril, live)) for w in widths]
    bounds = torch.stack([_log_weights(density, some, live, common).mean(0) for some in narrower])
    width = torch.tensor(widths, dtype=torch.float64, device=live.device)[
        bounds.nan_to_num(-math.inf, neginf=-math.inf).argmax(0)
    ]
    shift = torch.zeros(count, m, dtype=torch.float64, device=live.device, requires_grad=True)
    factor = torch.diag_embed(width.log()[:, None].expand(-1, m)).requires_grad_()

    def moved() -> Normals:
        lower = factor.tril(-1) + torch.diag_embed(factor.diagonal(dim1=1, dim2=2).exp())
        loc = fit.loc + torch.einsum("rij,rj->ri", fit.scale_tril, shift * live)
        return fit._replace(loc=loc, scale_tril=fit.scale_tril @ _on_live(lower, live))

    optimiser = torch.optim.Adam([shift, factor], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, ASCENT)
    with torch.enable_grad():
        for _ in range(ASCENT):
            bound = _log_weights(density, moved(), live, draws(BATCH)).mean(0)
            optimiser.zero_grad()
            (-torch.where(bound.isfinite(), bound, 0.0).sum()).backward()
            optimiser.step()
            schedule.step()
    found = Normals(*(v.detach() for v in moved()))
    return found._replace(log_evidence=_mean(_log_weights(density, found, live, common)))


def _climb(density: Density, theta: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Modes [R, m] by damped Newton steps, and the negative Hessians there, made positive."""
    theta, precision = theta.clone(), _eye(live).expand(len(live), -1, -1).clone()
    active = torch.arange(len(theta), device=live.device)
    for _ in range(NEWTON):
        value, slope, hessian = _derivatives(density, active, theta[active], live[active])
        sound = value.isfinite() & slope.isfinite().all(-1) & hessian.flatten(1).isfinite().all(-1)
        active, value, slope, hessian = active[sound], value[sound], slope[sound], hessian[sound]
        if not len(active):
            break
        curvature, axes = torch.linalg.eigh(_on_live(-hessian, live[active]))
        floor = 1e-6 * curvature.abs().amax(-1, keepdim=True).clamp(min=1.0)
        curvature = curvature.abs().maximum(floor)
        precision[active] = axes * curvature[:, None] @ axes.transpose(1, 2)
        step = (axes @ ((axes.transpose(1, 2) @ slope[..., None]) / curvature[..., None])).squeeze(-1)
        promise = (step * slope).sum(-1)
        size = torch.ones_like(promise)
        climbing = (promise > AT_REST).nonzero().squeeze(-1)
        moved = climbing[:0]
        for _ in range(HALVINGS):
            if not len(climbing):
                break
            rows = active[climbing]
            there = theta[rows] + size[climbing, None] * step[climbing]
            gain = density(rows, there) - value[climbing]
            enough = gain >= 1e-4 * size[climbing] * promise[climbing]  # False for NaN
            theta[rows[enough]] = there[enough]
            moved = torch.cat([moved, climbing[enough]])
            climbing = climbing[~enough]
            size[climbing] *= 0.5
        active = active[moved]
        if not len(active):
            break
    return theta * live, precision


def _derivatives(
    density: Density, rows: Tensor, theta: Tensor, live: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log r [R], its gradient [R, m] and its Hessian [R, m, m]."""
    with torch.enable_grad():
        leaf = theta.detach().requires_grad_()
        value = density(rows, leaf)
        (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
        axes = live.any(0).nonzero().squeeze(-1).tolist()
        hessian = theta.new_zeros(*theta.shape, theta.shape[-1])
        for i in axes if slope.requires_grad else ():
            (hessian[:, i],) = torch.autograd.grad(
                slope[:, i].sum(), leaf, retain_graph=True, materialize_grads=True
            )
    return value.detach(), slope.detach() * live, hessian


def _average(density: Density, loc: Tensor, tril: Tensor, live: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Average gradient [R, m], average Hessian [R, m, m] and lower bound [R] under the normals."""
    count, m = loc.shape
    k = live.sum(-1).clamp(min=1).to(loc)
    arms = k.sqrt()[:, None, None] * (tril * live[:, None]).transpose(1, 2)  # [R, i, m]
    points = (loc[:, None, None] + torch.stack([arms, -arms], 1)).requires_grad_()  # [R, 2, i, m]
    rows = torch.arange(count, device=live.device).repeat_interleave(2 * m)
    with torch.enable_grad():
        value = density(rows, points.flatten(0, 2))
        (slope,) = torch.autograd.grad(value.sum(), points)
    slope = slope * live[:, None, None]
    weight = live / (2 * k[:, None])  # of each point; with no live axis the points are all loc
    spread = (slope[:, 0] - slope[:, 1]) * live[..., None] / (2 * k.sqrt())[:, None, None]
    hessian = torch.linalg.solve_triangular(tril.transpose(1, 2), spread, upper=True)
    mean_slope = (slope.sum(1) * weight[..., None]).sum(1)
    value = value.detach().reshape(count, 2, m)
    level = torch.where(live.any(-1), (value.sum(1) * weight).sum(-1), value[:, 0, 0])
    entropy = (tril.diagonal(dim1=1, dim2=2).log() + 0.5 * math.log(2 * math.pi * math.e)) * live
    return mean_slope, hessian, level + entropy.sum(-1)


def _eye(live: Tensor) -> Tensor:
    return torch.eye(live.shape[-1], dtype=torch.float64, device=live.device)


def _on_live(matrix: Tensor, live: Tensor) -> Tensor:
    """The matrices [R, m, m] on the live axes, the identity on the others."""
    both = live[:, :, None] & live[:, None, :]
    return torch.where(both, matrix, _eye(live))
