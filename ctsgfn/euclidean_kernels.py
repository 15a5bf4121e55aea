r"""Kernels on R^d where the particles of a warm-up start them: each kind's options, before any training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ctsgfn.builders import build_annealed, build_diffusion, chain_clock
from ctsgfn.errors import InvalidInput
from ctsgfn.gaussian_fits import WIDE, cholesky, widening
from ctsgfn.importance import Importance
from ctsgfn.kernel import Head
from ctsgfn.likelihood import fit_likelihood
from ctsgfn.mixture_fit import Mixture, fit_mixture
from ctsgfn.sampler import Sampler
from ctsgfn.target import Target, Transformed
from ctsgfn.warmup import WarmUp
from ctsgfn.whitening import Whitening

KERNELS = ("auto", "mixture", "autoregressive", "chain", "annealed", "diffusion")
"""What ``fit(kernel=)`` takes on R^d."""

FINE = 16
"""Least number of normals of a finer mixture, which has at least twice as many as were found."""

COMPONENTS = 8
"""Normals per coordinate drawn."""

FITTED = 2000
"""Most points that a mixture is fitted to."""

MOVES, TIMES, TRIED = 8, (1.0, 0.3, 0.1, 0.03), 256
"""Annealed moves; the times of all of them that are tried untrained, and with how many draws."""

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


def started(
    name: str, target: Target[Tensor], start: WarmUp, like: Tensor, settings: Euclidean, flow: bool
) -> Sampler[Any, Tensor]:
    """An untrained sampler of a kind, where it can be fitted to the particles.

    Args:
        name: of the kind: "finer", or one of KERNELS.
        target: a target on R^d, a half-line or a box.
        start: what the warm-up found.
        like: a tensor of the dtype and device to work in.
        settings: what the user set.
        flow: learn the flow of states too.
    """
    if name == "autoregressive":
        return _autoregressive(target, start, like, settings, flow)
    if name == "annealed":
        return _annealed(target, start, like, settings, flow)
    return _build(target, _options(name, start, settings, flow), like)


def _build(target: Target[Tensor], options: dict[str, Any], like: Tensor) -> Sampler[Any, Tensor]:
    built = build_diffusion(target, options)
    return Sampler(built.gfn.to(like), built.target, recipe={"builder": "diffusion", "options": options})


def encoded(sampler: Sampler[Any, Tensor], start: WarmUp) -> Tensor:
    """The particles in the coordinates of the sampler's space."""
    assert isinstance(sampler.target, Transformed)
    z: Tensor = sampler.target.transform.inv(start.points)
    return z


def _autoregressive(
    target: Target[Tensor], start: WarmUp, like: Tensor, settings: Euclidean, flow: bool
) -> Sampler[Any, Tensor]:
    """One step that draws the coordinates in their order or in reverse, as better predicts held-out points.

    Axes keep their meaning: each is scaled, and none is mixed with others.
    """
    scale = start.points.std(0)
    options = _options("autoregressive", replace(start, scale_tril=scale.diag()), settings, flow)
    forth = list(range(len(scale)))
    fits = []
    for order in (forth, forth[::-1]):
        covariance = torch.cov(((start.points - start.location) / scale)[:, order].T)
        tril = cholesky(covariance.reshape(len(order), len(order)))
        options["autoregressive"] = {"components": COMPONENTS, "order": order, "tril": tril}
        sampler = _build(target, dict(options), like)
        z = encoded(sampler, start)
        held = len(z) // 3
        head = sampler.gfn.forward_kernel.heads[0]
        assert isinstance(head, Head)
        fits.append((fit_likelihood(head, z[held:], z[:held]), sampler))
        if len(forth) == 1:
            break
    return max(fits, key=lambda fit: fit[0])[1]


def _annealed(
    target: Target[Tensor], start: WarmUp, like: Tensor, settings: Euclidean, flow: bool
) -> Sampler[Any, Tensor]:
    """Moves of the length that has the best evidence bound before any training.

    Too short, they lead nowhere; too long for the narrowest mode, they leave it and never come back.
    """
    keep = ("dim", "hidden", "layers", "location", "scale_tril", "mixture", "flow", "dtype")
    options = {key: value for key, value in _options("mixture", start, settings, flow).items() if key in keep}
    options |= {"moves": MOVES if settings.slices is None else settings.slices, "wide": options["dim"] > WIDE}
    tried = []
    for time in TIMES:
        gfn, inner, *_ = build_annealed(target, options | {"time": time})
        recipe = {"builder": "annealed", "options": options | {"time": time}}
        sampler: Sampler[Any, Tensor] = Sampler(gfn.to(like), inner, recipe=recipe)
        _, log_weight = Importance(sampler.gfn, inner).weigh(TRIED)
        tried.append((float(log_weight.mean()), sampler))
    return max(tried, key=lambda pair: pair[0])[1]


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
    if len(start.location) > WIDE:
        return guess  # of the best evidence bound already, and the particles are too few
    return fit_mixture(shrink * z + noise * torch.randn_like(z), guess)
