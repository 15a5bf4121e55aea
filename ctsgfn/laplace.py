r"""Normal approximations of the parameters of every model that is met, and what they say of its evidence.

For a model m with k live parameters, Newton's method climbs to a mode of :math:`\log r(m, \theta)`. The
mean and the covariance are then moved to where a normal law is at rest under its own average,

.. math::
    C^{-1} \leftarrow -E_{N(\mu, C)}\bigl[C^{-1} (\theta - \mu)\, \nabla \log r(\theta)^\top\bigr], \qquad
    \mu \leftarrow \mu + C\, E_{N(\mu, C)}[\nabla \log r(\theta)],

with expectations by the 2k cubature points :math:`\mu \pm \sqrt k\, C^{1/2} e_i`; so tails and kinks count
at the width of the posterior and not at one point. The evidence is estimated by importance weights,

.. math:: \log \frac1K \sum_{k=1}^K \frac{r(\theta_k)}{N(\theta_k; \mu, C)},

on the same standardised draws for every model. All of it is exact where log r is quadratic in theta.

References:
    Cubature Kalman filters (Arasaratnam and Haykin, 2009), IEEE Trans. Automatic Control 54, eq. 17; The
    variational Gaussian approximation revisited (Opper and Archambeau, 2009), Neural Computation 21, eq. 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.with_parameters import Parameterised, WithParameters

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

NUMBERS = 2**13
"""Parameters solved for at once, in all models together."""

Density = Callable[[Tensor, Tensor], Tensor]
"""Rows [R] of a batch of problems, and theta [R, m] of each -> log r [R]."""


@runtime_checkable
class Factored(Protocol):
    """A target on models with parameters whose theta is independent vectors side by side, given the model.

    Then log r is the sum over blocks of ``log_block``, and each block is approximated once for each part of a
    model that it depends on: the parents of a node, say, and not the whole graph.
    """

    @property
    def blocks(self) -> int:
        """J; theta [B, J m] is J vectors of m parameters."""

    def parts(self, model: Any) -> Tensor:
        """All of the model that each block depends on, [B, J, w] bool or whole numbers."""

    def block_live(self, part: Tensor) -> Tensor:
        """Live parameters [R, m] of blocks with parts [R, w]."""

    def log_block(self, block: Tensor, part: Tensor, theta: Tensor) -> Tensor:
        """Log-density [R] of blocks numbered [R], with parts [R, w] and theta [R, m]."""


class Normals(NamedTuple):
    """Normal approximations of the blocks of theta, in float64."""

    loc: Tensor  # [B, J, m], 0 on dead axes
    scale_tril: Tensor  # [B, J, m, m], 1 on the diagonal of dead axes
    log_evidence: Tensor  # [B, J], approximate integral over theta of each block
    share: Tensor  # [B, J], mass that a law of twice the width deserves: 0 where the normal is exact


class Laplace:
    """Normal approximations of theta given the model, found once for each model and then looked up.

    Args:
        target: differentiable in theta, on ``WithParameters``; ``Factored`` where its blocks are independent.

    Raises:
        InvalidInput: when the target has another measure, or its blocks do not share theta evenly.

    Example:
        Model m has its first m parameters, each with log r = -(theta - 1)^2: the evidence of 2 is pi.

        >>> from ctsgfn.measures import Counting
        >>> from ctsgfn.target import as_target
        >>> def first(m):
        ...     return torch.arange(2) < m
        >>> measure = WithParameters(Counting(3), 2, first)
        >>> target = as_target(lambda x: -((x.theta - 1).square() * first(x.model)).sum(-1), measure)
        >>> normals = Laplace(target)(torch.tensor([[0], [2]]))
        >>> normals.loc[1, 0].numpy().round(6).tolist(), normals.log_evidence[1].exp().item()
        ([1.0, 1.0], 3.14159...)
    """

    def __init__(self, target: Any) -> None:
        measure = target.measure
        if not isinstance(measure, WithParameters):
            raise InvalidInput(f"Laplace needs a target on WithParameters, got one on {measure}.")
        self.target, self.measure = target, measure
        self.blocks = target.blocks if isinstance(target, Factored) else 1
        self.width, left = divmod(measure.size, self.blocks)
        if left:
            raise InvalidInput(f"{measure.size} parameters are not {self.blocks} blocks of the same width.")
        self._keys = torch.empty(0, dtype=torch.long)  # sorted
        self._row = torch.empty(0, dtype=torch.long)  # where each key's approximation is
        self._found: Normals | None = None

    def __call__(self, model: Any) -> Normals:
        """Approximations for a batch of models."""
        n, j, m = len(model), self.blocks, self.width
        if isinstance(self.target, Factored):
            part = self.target.parts(model).flatten(0, 1)
            row = self._rows_of(torch.arange(j, device=part.device).repeat(n), part)
        else:
            part = _integers(model)
            block = torch.zeros(n, dtype=torch.long, device=part.device)

            def density(rows: Tensor, theta: Tensor) -> Tensor:
                return self.target.log_density(Parameterised(model[rows], theta))

            row = self._look_up(_hash(block, part), self.measure.live(model), density)
        loc, tril, log_evidence, share = (v[row] for v in self._known)
        shapes = loc.reshape(n, j, m), tril.reshape(n, j, m, m)
        return Normals(*shapes, log_evidence.reshape(n, j), share.reshape(n, j))

    def log_evidence(self, model: Any) -> Tensor:
        """Approximate log-evidence of models, [B] float64."""
        return self(model).log_evidence.sum(-1)

    def log_evidence_of(self, block: Tensor, part: Tensor) -> Tensor:
        """Approximate log-evidence [R] of the blocks, with parts [R, w], of a ``Factored`` target."""
        row = self._rows_of(block, part)
        return self._known.log_evidence[row]

    @property
    def _known(self) -> Normals:
        assert self._found is not None  # asked after a look-up
        return self._found

    def _rows_of(self, block: Tensor, part: Tensor) -> Tensor:
        target = self.target

        def density(rows: Tensor, theta: Tensor) -> Tensor:
            return target.log_block(block[rows], part[rows], theta)

        return self._look_up(_hash(block, part), target.block_live(part), density)

    def _look_up(self, keys: Tensor, live: Tensor, density: Density) -> Tensor:
        """Row of each key, after the approximation of those that are new."""
        if self._found is None:
            self._keys, self._row = self._keys.to(keys.device), self._row.to(keys.device)
        place = torch.searchsorted(self._keys, keys)
        known = torch.nn.functional.pad(self._keys, (0, 1))[place] == keys
        new = (~known | (place == len(self._keys))).nonzero().squeeze(-1)
        if len(new):
            fresh, inverse = keys[new].unique(return_inverse=True)
            first = torch.empty_like(fresh).scatter(0, inverse, new)  # one row for each
            at_once = max(1, NUMBERS // self.width)
            solved = [normals(partial(_among, density, some), live[some]) for some in first.split(at_once)]
            parts = solved if self._found is None else [self._found, *solved]
            count = len(self._keys)
            self._found = Normals(*(torch.cat(column) for column in zip(*parts, strict=True)))
            self._keys, order = torch.cat([self._keys, fresh]).sort()
            self._row = torch.cat([self._row, count + torch.arange(len(fresh), device=keys.device)])[order]
            place = torch.searchsorted(self._keys, keys)
        return self._row[place]


def _among(density: Density, some: Tensor, rows: Tensor, theta: Tensor) -> Tensor:
    return density(some[rows], theta)


def normals(density: Density, live: Tensor) -> Normals:
    """Normal approximations [R, m] of densities with live axes [R, m], in float64, without gradient.

    Example:
        >>> fit = normals(lambda rows, theta: -theta.square().sum(-1), torch.ones(1, 1, dtype=torch.bool))
        >>> round(float(fit.scale_tril), 4), round(float(fit.log_evidence.exp()), 4)
        (0.7071, 1.7725)
    """
    generator = torch.Generator().manual_seed(0)
    start = 0.1 * torch.randn(live.shape[-1], generator=generator, dtype=torch.float64)  # 0 may be a saddle
    loc, precision = _climb(density, start.to(live.device) * live, live)
    tril = _narrowed(density, loc, torch.linalg.cholesky(torch.linalg.inv(precision)), live)
    fit = _sweep(density, loc, tril, live)
    noise = torch.randn(DRAWS, live.shape[-1], generator=generator, dtype=torch.float64).to(live.device)
    noise = torch.cat([noise, -noise])
    weight = _log_weights(density, fit, live, noise)
    ess = (2 * weight.logsumexp(0) - (2 * weight).logsumexp(0)).exp() / len(noise)
    fit = fit._replace(log_evidence=_mean(weight), share=torch.where(ess > EXACT, 0.0, SHARE))
    poor = (~(ess > POOR)).nonzero().squeeze(-1)
    if len(poor):
        some = Normals(*(v[poor] for v in fit))
        better = _ascend(partial(_among, density, poor), some, live[poor], generator)
        fit = Normals(*(v.index_copy(0, poor, b) for v, b in zip(fit, better, strict=True)))
    lost = ~torch.stack([v.reshape(len(v), -1).isfinite().all(-1) for v in fit]).all(0)
    if bool(lost.any()):  # log r is not finite around the start: the flow has to find its way alone
        level = fit.log_evidence[~lost].median() if bool((~lost).any()) else fit.log_evidence.new_zeros(())
        loc = torch.where(lost[:, None], 0.0, fit.loc)
        tril = torch.where(lost[:, None, None], _eye(live), fit.scale_tril)
        fit = Normals(loc, tril, torch.where(lost, level, fit.log_evidence), fit.share)
    return fit


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
    """Log r - log N [K, R] at draws with standardised noise [K, m]."""
    z = noise[:, None] * live
    theta = (fit.loc + torch.einsum("rij,krj->kri", fit.scale_tril, z)) * live
    rows = torch.arange(len(live), device=live.device).repeat(len(noise))
    value = density(rows, theta.flatten(0, 1)).reshape(len(noise), -1)
    log_scale = fit.scale_tril.diagonal(dim1=-2, dim2=-1).log()
    return value + ((log_scale + 0.5 * math.log(2 * math.pi)) * live).sum(-1) + 0.5 * z.square().sum(-1)


def _mean(log_weight: Tensor) -> Tensor:
    """Logarithm of the mean of weights [K, R], over K."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def _ascend(density: Density, fit: Normals, live: Tensor, generator: torch.Generator) -> Normals:
    """Adam on the lower bound, from the best of some narrower normals."""
    count, m = live.shape

    def draws(n: int) -> Tensor:
        half = torch.randn(n, m, generator=generator, dtype=torch.float64).to(live.device)
        return torch.cat([half, -half])

    common = draws(DRAWS)
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


def _integers(model: Any) -> Tensor:
    """What identifies each model, [B, w] long."""
    columns = [model] if isinstance(model, Tensor) else list(model.tensors().values())
    flat = [(c.double().view(torch.long) if c.is_floating_point() else c.long()).flatten(1) for c in columns]
    return torch.cat(flat, -1)


def _hash(block: Tensor, part: Tensor) -> Tensor:
    """A number [R] for each block and part; two that agree by chance only share a proposal."""
    width = part.flatten(1).shape[1] + 1
    factors = torch.randint(
        -(2**62), 2**62, (width,), generator=torch.Generator().manual_seed(width), dtype=torch.long
    )
    mixed = (torch.cat([block[:, None], part.flatten(1).long()], -1) + 1) * factors.to(block.device)
    return (mixed ^ (mixed >> 31)).sum(-1)


def differentiable(target: Any, model: Any) -> bool:
    """Whether the log-density of a target has a gradient in theta, at some models [B, ..]."""
    theta = torch.zeros(len(model), target.measure.size, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        return bool(target.log_density(Parameterised(model, theta)).requires_grad)
