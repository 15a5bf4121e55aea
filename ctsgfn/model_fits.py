r"""Laws of the parameters of a few models, where one normal law per model is not enough.

Each model is explored alone on its own R^k, by the warm-up of ``fit``. Where the normal approximation of one
of them does not cover what is found, every model gets an autoregressive mixture of normals instead, fitted
to the particles by maximum likelihood, after these have walked on: by a chain of the target's own where it
has one (``HasChain``), else coordinate by coordinate. Then it is fitted to the density at its own draws too
(``ctsgfn.both_ways``), and its evidence follows from the weights of these. A flow over the models alone is
then all that is left to learn: trained together with imperfect laws, it would choose models by their evidence
bounds, and give up those whose laws are poor.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from ctsgfn.both_ways import fit_both_ways
from ctsgfn.coordinate_walk import walk
from ctsgfn.counted import CountedTarget
from ctsgfn.errors import UnreliableEstimate
from ctsgfn.gaussian_fits import cholesky
from ctsgfn.laplace import Laplace, differentiable
from ctsgfn.likelihood import fit_likelihood
from ctsgfn.measures import Counting
from ctsgfn.model_target import one_model
from ctsgfn.structure_builders import one_law
from ctsgfn.target import HasChain, Target
from ctsgfn.warmup import warm_up
from ctsgfn.with_parameters import Parameterised, WithParameters

FEW = 16
"""Most models that are explored one by one."""

FAR, MISSED = 5.0, 0.001
"""A particle this many nats above its normal law and evidence is not covered; the share that may be."""

NEGLIGIBLE = 12.0
"""A model whose evidence is this many nats below the best may have a poor law."""

SWEEPS, KEPT = 60, 30
"""Walks of the particles over each coordinate, and how many of their places are fitted to."""

SETTLE, THIN = 60, 4
"""Steps of a target's own chain before the first place that is kept, and from one to the next."""

TRY, CLIMB = 400, 3000
"""Most steps of a law's likelihood, to choose an order of the coordinates and in the end."""

HELD = 4000
"""Most places held out."""

DRAWS = 4096
"""Of a fitted law, for its evidence."""

CLIP = 5.0
"""Particles count for the first guess of a law up to so many standard deviations away."""


def few_models(target: Target[Any]) -> list[Tensor]:
    """The models of a target on a short list of numbers with parameters, [1] each; none for another.

    Example:
        >>> from ctsgfn.model_target import as_model_target
        >>> def first(m):
        ...     return torch.arange(2) < m
        >>> target = as_model_target(lambda m, theta: -theta.square().sum(-1), Counting(3), 2, first)
        >>> [m.tolist() for m in few_models(target)]
        [[0], [1], [2]]
    """
    measure = target.measure
    if not isinstance(measure, WithParameters) or not isinstance(measure.models, Counting):
        return []
    count = measure.models.size
    return [torch.tensor([m]) for m in range(count)] if 1 < count <= FEW else []


def fit_models(target: Target[Any], like: Tensor, hidden: int) -> list[dict[str, Any]] | None:
    """Fitted laws of a few models' parameters, as options of the builder; None where normals serve.

    Args:
        target: on ``WithParameters`` of a short list of numbers.
        like: a tensor of the dtype and device to work in.
        hidden: width of the networks.
    """
    models = few_models(target)
    live = [target.measure.live(m[None])[0] for m in models]
    alone = {k: one_model(target, m) for k, m in enumerate(models) if bool(live[k].any())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEstimate)  # of one model alone; all are judged in the end
        found = {k: warm_up(one, int(live[k].sum()), like=like) for k, one in alone.items()}
    best = max(start.log_z for start in found.values())
    some = {k: start.points for k, start in found.items() if start.log_z > best - NEGLIGIBLE}
    if all(_covered(target, models[k], points) for k, points in some.items()):
        return None
    fits: list[dict[str, Any]] = []
    for k, model in enumerate(models):
        if k in found:
            fits.append(
                _fit(target, model, alone[k], _walked(target, model, alone[k], found[k].points), hidden)
            )
        else:
            value = target.log_density(_at(target, model, like.new_zeros(1, 0)))
            fits.append({"log_z": float(value)})
    return fits


def _covered(target: Target[Any], model: Tensor, points: Tensor) -> bool:
    """Whether the normal approximation of a model, and its evidence, account for almost all particles."""
    x = _at(target, model, points.double())
    if not differentiable(target, x.model[:4]):
        return False
    fit = Laplace(target).packed(model[None])
    k = points.shape[-1]
    away = torch.linalg.solve_triangular(
        fit.scale_tril[0, :k, :k], (points.double() - fit.loc[0, :k]).T, upper=False
    )
    log_scale = fit.scale_tril[0].diagonal()[:k].log().sum()
    log_normal = -0.5 * away.square().sum(0) - log_scale - 0.5 * k * math.log(2 * math.pi)
    excess = target.log_density(x) - log_normal - fit.log_evidence[0]
    return float((excess > FAR).double().mean()) <= MISSED


def _walked(target: Target[Any], model: Tensor, alone: Target[Tensor], points: Tensor) -> Tensor:
    """Places [N, KEPT, k] of the particles [N, k] of a model as they walk on."""
    if not isinstance(target, HasChain):
        return walk(CountedTarget(alone), points, sweeps=SWEEPS, kept=KEPT)
    x, live = _at(target, model, points), target.measure.live(model[None])[0]
    path = []
    for step in range(SETTLE + THIN * KEPT):
        x = target.chain(x)
        if step >= SETTLE and step % THIN == 0:
            path.append(x.theta[:, live.to(points.device)])
    return torch.stack(path, 1)


def _fit(
    target: Target[Any], model: Tensor, alone: Target[Tensor], path: Tensor, hidden: int
) -> dict[str, Any]:
    """The law of one model: coordinates in order or in reverse, as better predicts particles held out."""
    points = path.flatten(0, 1)
    location, scale = points.mean(0), points.std(0)
    z = ((path - location) / scale)[torch.randperm(len(path))]
    held, z = z[: len(z) // 6].flatten(0, 1), z[len(z) // 6 :].flatten(0, 1)  # a particle's places are alike
    held = held[torch.randperm(len(held))[:HELD]]
    covariance = torch.cov(z.clamp(-CLIP, CLIP).T).reshape(len(location), len(location))
    forth = list(range(len(location)))
    best, kept = -math.inf, None
    for order in (forth, forth[::-1])[: len(forth)]:
        tril = cholesky(covariance[order][:, order])
        options = {"location": location, "scale": scale, "order": order, "tril": tril}
        law = one_law(options, target.measure.live(model[None])[0], hidden)
        score = fit_likelihood(law.law, z, held, steps=TRY)
        if score > best:
            best, kept = score, (options, law)
    assert kept is not None
    options, law = kept
    fit_likelihood(law.law, z, held, steps=CLIMB)
    fit_both_ways(law.law, lambda a: alone.log_density(location + scale * a), z)
    with torch.no_grad():
        theta = law.draw(DRAWS)
        weight = target.log_density(_at(target, model, theta)).double() - law.log_prob(theta).double()
    log_z = float(weight.logsumexp(0)) - math.log(DRAWS)
    return {**options, "state": dict(law.law.state_dict()), "log_z": log_z}


def _at(target: Target[Any], model: Tensor, theta: Tensor) -> Parameterised:
    """Points of one model with live parameters [n, k]."""
    live = target.measure.live(model[None])[0].nonzero().squeeze(-1)
    full = theta.new_zeros(len(theta), target.measure.size).index_copy(1, live.to(theta.device), theta)
    return Parameterised(model.to(theta.device).expand(len(theta), *model.shape), full)
