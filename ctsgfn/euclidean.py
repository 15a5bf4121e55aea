r"""Fitting on R^d: a mixture of normals first, and richer kernels where it falls short.

A warm-up finds the places; a mixture fitted to its particles is the law of the first step, and all of
it is then learned by the flow's own objective, on the flow's draws and on the particles. Where that is
not enough (funnels, more modes than normals), one step draws coordinate by coordinate instead; what no
single step can do is left to more steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ctsgfn.behaviours import Behaviour, from_data, mixed, on_policy
from ctsgfn.builders import build_diffusion, chain_clock, on_line
from ctsgfn.errors import InvalidInput
from ctsgfn.evidence import Evidence, estimate_evidence
from ctsgfn.gaussian_fits import cholesky, widening
from ctsgfn.importance import Importance
from ctsgfn.kernel import Head
from ctsgfn.likelihood import fit_likelihood
from ctsgfn.mixture_fit import Mixture, fit_mixture
from ctsgfn.objectives import trajectory_balance
from ctsgfn.penalties import huber
from ctsgfn.sampler import Sampler
from ctsgfn.target import Target, Transformed, evaluate
from ctsgfn.training import Training
from ctsgfn.warmup import WarmUp, walk_on, warm_up
from ctsgfn.whitening import Whitening

KERNELS = ("auto", "mixture", "autoregressive", "chain", "diffusion")
"""What ``fit(kernel=)`` takes on R^d."""

USABLE = 0.7
LADDER = (("autoregressive", 0.95), ("finer", 0.9), ("chain", USABLE))
"""What is tried after a mixture of few normals, each where the ESS so far is below its number."""

TIGHT = 0.05
"""Bounds this near to each other, from draws and from particles, say more than the few largest weights."""

SAID = {
    "mixture": "a mixture of few normals as the only step",
    "autoregressive": "a mixture per coordinate, given those before it",
    "finer": "a finer mixture",
    "chain": "diffusion steps after a mixture",
}

FINE = 16
"""Least number of normals of a finer mixture, which has at least twice as many as were found."""

WIDEST = 128
"""Most coordinates that are drawn one after another."""

COMPONENTS = 8
"""Normals per coordinate drawn."""

FITTED = 2000
"""Most points that a mixture is fitted to."""

FIRST = 0.95
"""Fraction of the clock that the first step of a chain covers."""


@dataclass(frozen=True)
class Euclidean:
    """What a user may set about a sampler on R^d; None leaves a choice to ``fit``."""

    kernel: str
    slices: int | None
    hidden: int
    layers: int
    langevin: bool | None
    dtype: str

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise InvalidInput(f"kernel must be one of {', '.join(KERNELS)}, got {self.kernel!r}.")


def fit_euclidean(
    target: Target[Tensor],
    like: Tensor,
    settings: Euclidean,
    training: Training,
    behaviour: Behaviour | None,
) -> Sampler[Any, Tensor]:
    """Warm up, fit the cheapest kernel, and go on to a richer one where it falls short.

    Args:
        target: a target on R^d, or on a half-line or its powers.
        like: a tensor of the dtype and device to work in.
        settings: of the kernels.
        training: of the training runs.
        behaviour: who draws; by default the flow, and walks back from the particles.
    """
    kernel = settings.kernel
    if training.pathwise:
        if kernel not in ("auto", "diffusion"):
            raise InvalidInput(
                f"{training.objective} differentiates through its draws, which a mixture does not allow: use "
                'kernel="diffusion", or reverse_kl_score.'
            )
        kernel = "diffusion"
    line = on_line(target)
    dim = line.measure.dim
    evaluate(line, torch.zeros(2, dim).to(like))  # shape, kind and device, before anything is tried
    start = warm_up(line, dim, like=like)

    def stage(name: str) -> tuple[Sampler[Any, Tensor], Evidence]:
        return _stage(name, target, start, like, settings, training, behaviour)

    if kernel == "autoregressive":
        start = walk_on(line, start)
    if kernel not in ("auto", "mixture"):
        return stage(kernel)[0]
    sampler, judged = stage("mixture")
    notes = [f"{SAID['mixture']}: {_said(judged)}"]
    for name, least in LADDER if kernel == "auto" else LADDER[1:2]:
        short = _short(judged, least)
        if not short:
            break
        if name == "autoregressive":
            if dim > WIDEST:
                continue
            start = walk_on(line, start)
            judged = _judge(sampler, _encoded(sampler, start))  # at better points than before
            notes = [f"{SAID['mixture']}: {_said(judged)}"]
        notes[-1] += f", not enough ({short})"
        training.say(f"{notes[-1]}; trying {SAID[name]}.")
        richer, again = stage(name)
        better = _gap(again) < _gap(judged) or (bool(_short(judged, USABLE)) and not _short(again, USABLE))
        notes.append(f"{SAID[name]}: {_said(again)}, {'kept' if better else 'no better and dropped'}")
        if better:
            sampler, judged = richer, again
    sampler.notes = tuple(f"{note}." for note in notes)
    return sampler


def _stage(
    name: str,
    target: Target[Tensor],
    start: WarmUp,
    like: Tensor,
    settings: Euclidean,
    training: Training,
    behaviour: Behaviour | None,
) -> tuple[Sampler[Any, Tensor], Evidence]:
    """Build, train and judge one kind of kernel."""
    if name == "autoregressive":
        sampler = _autoregressive(target, start, like, settings, training)
        if training.objective is trajectory_balance:
            training = replace(training, objective=trajectory_balance.using(g=huber))  # tails start loose
    else:
        sampler = _build(target, _options(name, start, settings, training.reads_flow), like)
    gfn, z = sampler.gfn, _encoded(sampler, start)
    if behaviour is None:
        behaviour = on_policy if training.pathwise else mixed(on_policy, from_data(z), 1 / 3)
    fitted = None
    if name != "diffusion":
        fitted = _judge(sampler, z), {key: value.clone() for key, value in gfn.state_dict().items()}
    sampler.history = training.run(gfn, sampler.target, behaviour, name, steps=1000)
    trained = _judge(sampler, z)
    if fitted is not None and _gap(fitted[0]) < _gap(trained):
        gfn.load_state_dict(fitted[1])  # as fitted to the particles: training made it no better
        with torch.no_grad():
            gfn.log_z.fill_(fitted[0].log_z)
        return sampler, fitted[0]
    return sampler, trained


def _build(target: Target[Tensor], options: dict[str, Any], like: Tensor) -> Sampler[Any, Tensor]:
    gfn, inner = build_diffusion(target, options)
    return Sampler(gfn.to(like), inner, recipe={"builder": "diffusion", "options": options})


def _encoded(sampler: Sampler[Any, Tensor], start: WarmUp) -> Tensor:
    """The particles in the coordinates of the sampler's space."""
    assert isinstance(sampler.target, Transformed)
    z: Tensor = sampler.target.transform.inv(start.points)
    return z


def _autoregressive(
    target: Target[Tensor], start: WarmUp, like: Tensor, settings: Euclidean, training: Training
) -> Sampler[Any, Tensor]:
    """One step that draws the coordinates in their order or in reverse, as better predicts held-out points.

    Axes keep their meaning: each is scaled, and none is mixed with others.
    """
    scale = start.points.std(0)
    options = _options(
        "autoregressive", replace(start, scale_tril=scale.diag()), settings, training.reads_flow
    )
    forth = list(range(len(scale)))
    fits = []
    for order in (forth, forth[::-1]):
        covariance = torch.cov(((start.points - start.location) / scale)[:, order].T)
        tril = cholesky(covariance.reshape(len(order), len(order)))
        options["autoregressive"] = {"components": COMPONENTS, "order": order, "tril": tril}
        sampler = _build(target, dict(options), like)
        z = _encoded(sampler, start)
        held = len(z) // 3
        head = sampler.gfn.forward_kernel.heads[0]
        assert isinstance(head, Head)
        fits.append((fit_likelihood(head, z[held:], z[:held]), sampler))
        if len(forth) == 1:
            break
    return max(fits, key=lambda fit: fit[0])[1]


def _options(name: str, start: WarmUp, settings: Euclidean, flow: bool) -> dict[str, Any]:
    """Plain options of the builder for a kind of kernel."""
    dim = len(start.location)
    sigma, slices, clock = 1.0, 1, None
    mixture: Mixture | None = None
    if name in ("mixture", "finer"):
        mixture = _mixture(start, sigma, 1.0)
        if name == "finer":
            mixture = mixture.split(max(FINE, 2 * len(mixture)))
    elif name == "chain":
        sigma, slices = 1.2, 1 + (8 if settings.slices is None else settings.slices)
        clock = chain_clock(FIRST, slices - 1)
        mixture = _mixture(start, sigma, FIRST).split(FINE)
    elif name == "diffusion":
        slices = 50 if settings.slices is None else settings.slices
    return {
        "dim": dim,
        "slices": slices,
        "clock": clock,
        "sigma": sigma,
        "hidden": settings.hidden,
        "layers": settings.layers,
        "langevin": start.differentiable if settings.langevin is None else settings.langevin,
        "location": start.location,
        "scale_tril": start.scale_tril,
        "mixture": None if mixture is None else {k: v.to(start.points) for k, v in vars(mixture).items()},
        "autoregressive": None,
        "flow": flow,
        "dtype": settings.dtype,
    }


def _mixture(start: WarmUp, sigma: float, fraction: float) -> Mixture:
    """Normals for the first step, in its chart coordinates: fitted to particles carried back to it.

    A first step that covers the fraction f of the clock ends at f z plus noise of variance
    f (1 - f) sigma^2, where z is a particle; the chart's unit is sigma sqrt(f).
    """
    whitening = Whitening(start.location.double(), start.scale_tril.double())
    unit = sigma * math.sqrt(fraction)
    shrink, noise = fraction / unit, math.sqrt(1 - fraction)
    thinned = start.points[:: math.ceil(len(start.points) / FITTED)]
    z = whitening.inv(thinned.double())
    mean = whitening.inv(start.fits.mean.double())
    narrow = start.fits.tril.double() / widening(len(start.location))
    tril = torch.linalg.solve_triangular(whitening.scale_tril, narrow, upper=False)
    eye = torch.eye(len(start.location)).to(z)
    covariance = shrink**2 * tril @ tril.transpose(-1, -2) + (noise**2 + 1e-6) * eye
    share = z.new_full((len(mean),), 1 / len(mean))
    guess = Mixture(share, shrink * mean, torch.linalg.cholesky(covariance))
    return fit_mixture(shrink * z + noise * torch.randn_like(z), guess)


def _judge(sampler: Sampler[Any, Tensor], z: Tensor) -> Evidence:
    """Weights of 4096 draws, and the upper bound at the particles."""
    importance: Importance[Any, Tensor] = Importance(sampler.gfn, sampler.target)
    _, log_weight = importance.weigh(4096)
    return estimate_evidence(log_weight, log_weight_at_target=importance.weigh_ends(z))


def _gap(e: Evidence) -> float:
    """Distance of the bounds; the particles behind the upper one are not exact, log Z itself is another."""
    assert e.upper_bound is not None
    return max(e.upper_bound, e.log_z) - e.lower_bound


def _said(e: Evidence) -> str:
    return f"ESS {100 * e.ess:.0f} %, Pareto k {e.pareto_k:.2f}, bounds {_gap(e):.2f} nats apart"


def _short(e: Evidence, least_ess: float) -> str:
    """What speaks against a kernel, or nothing."""
    if not e.ess >= least_ess:
        return f"ESS below {100 * least_ess:.0f} %"
    if not e.pareto_k <= 0.7 and not _gap(e) <= TIGHT:
        return "Pareto k above 0.7"
    return "" if _gap(e) <= 0.5 else "bounds more than 0.5 nats apart"
