"""Every target of the registry: its integral, its samples, its score, its kind; and its formula, recomputed.

A new target is one line in the registry. Each statistical assertion states its false-alarm rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numerics import probes, z_scores
from registry import TARGETS
from scipy import stats
from scipy.integrate import quad
from torch import Tensor

from ctsgfn import targets
from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Haar, Lebesgue
from ctsgfn.quadrature import rule
from ctsgfn.target import HasLogZ, HasSamples, HasScore, evaluate, score
from ctsgfn.targets.many_well import LOG_WELL, log_envelope

DRAWS = 40_000
Z_LIMIT = 5.5  # two-sided false-alarm rate 4e-8; some 700 z-scores are taken


@pytest.fixture(params=sorted(TARGETS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def grid(measure: Any) -> tuple[Tensor, Tensor] | None:
    """Nodes and weights; midpoints on bounded boxes, where densities may jump."""
    if isinstance(measure, Lebesgue) and measure.is_finite and measure.dim == 2:
        middle = (torch.arange(200, dtype=torch.float64) + 0.5) / 200 * (
            measure.high - measure.low
        ) + measure.low
        cell = ((measure.high - measure.low) / 200) ** 2
        return torch.cartesian_prod(middle, middle), torch.full((200**2,), cell, dtype=torch.float64)
    return rule(measure, 401 if isinstance(measure, Haar) else 1201)


def in_parts(fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([fn(part) for part in x.split(50_000)])


def continuous(target: Any) -> bool:
    return isinstance(target.measure, Lebesgue | Haar)


def draw(target: Any, n: int = DRAWS) -> Tensor:
    """Exact samples in float64 (whole numbers on cells)."""
    x = target.sample(n)
    return x.double() if x.is_floating_point() else x


# ------------------------------------------------------------------ integral and samples
def test_integral_and_samples_against_quadrature(name: str) -> None:
    """Log Z within 1e-3, and bounded functions of exact samples as the density says, by z-score."""
    target = TARGETS[name]()
    nodes = grid(target.measure)
    if nodes is None:
        pytest.skip("more than two axes: see the formulas, and the test by exchange")
    x, w = nodes
    mass = in_parts(target.log_density, x).double().exp() * w
    assert isinstance(target, HasLogZ)
    assert abs(float(mass.sum().log()) - target.log_z) < 1e-3
    assert isinstance(target, HasSamples)
    draws = draw(target)
    assert bool(target.measure.contains(draws).all())
    middle = draws.double().median(0).values
    scale = (draws - middle).abs().double().median(0).values.clamp(min=0.5)
    if isinstance(target.measure, Haar):
        middle, scale = torch.zeros_like(middle), torch.ones_like(scale)  # a function on the circle
    expected = mass @ probes((x - middle) / scale, 16) / mass.sum()
    z = z_scores(probes((draws - middle) / scale, 16), expected)
    assert float(z.abs().max()) < Z_LIMIT


def features(x: Tensor) -> Tensor:
    """Bounded changes when one coordinate moves, [n, 16]: sums over the axes, and random directions."""
    waves = [f(k * x).sum(-1) for k in (0.5, 1.0, 2.0) for f in (torch.sin, torch.cos)]
    return torch.cat([torch.stack(waves, -1), probes(x, 10)], -1)


def exchange(target: Any, x: Tensor) -> Tensor:
    r"""Z-scores of :math:`E[(f(x') - f(x)) \min(1, r(x') / r(x))] = 0`, x from the law, x' - x symmetric.

    Detailed balance of a Metropolis move of one axis, at many scales: it holds in any dimension, needs no
    Z, and all terms are bounded.
    """
    fresh = draw(target, 1000).double()
    spread = ((fresh.quantile(0.84, 0) - fresh.quantile(0.16, 0)) / 2).clamp(min=0.05)
    size = 2 * spread * 10 ** (-1.5 * torch.rand(len(x), 1, dtype=torch.float64))
    step = size * torch.randn(x.shape, dtype=torch.float64)
    if not x.is_floating_point():
        step = step.sign() * step.abs().ceil()
    axis = torch.nn.functional.one_hot(torch.randint(x.shape[-1], (len(x),)), x.shape[-1])
    new = x + (axis * step).to(x.dtype)
    if isinstance(target.measure, Haar):
        new = (new + math.pi).remainder(2 * math.pi) - math.pi
    new = torch.where(target.measure.contains(new)[:, None], new, x)
    accept = (target.log_density(new) - target.log_density(x)).double().clamp(max=0.0).exp()
    middle = fresh.median(0).values
    change = features((new - middle) / spread) - features((x - middle) / spread)
    return z_scores(change * accept[:, None], 0.0)


def test_samples_by_exchange(name: str) -> None:
    target = TARGETS[name]()
    assert float(exchange(target, draw(target)).abs().max()) < Z_LIMIT


@pytest.mark.parametrize("name", ["four_squares", "hypergrid", "linear_gaussian", "many_well", "ring"])
def test_wrong_samples_fail_the_exchange(name: str) -> None:
    """The test above can fail: a tenth too wide, or one cell in twenty moved."""
    target = TARGETS[name]()
    x = draw(target)
    wide = 0.5 + 1.1 * (x - 0.5) if name == "four_squares" else 1.1 * x
    x = wide if x.is_floating_point() else torch.where(torch.rand(len(x), 1) < 0.05, 0, x)
    x = x[target.measure.contains(x)]
    assert float(exchange(target, x).abs().max()) > Z_LIMIT


# ------------------------------------------------------------------ score, batches, kinds
def test_score_against_autograd(name: str) -> None:
    target = TARGETS[name]()
    if not continuous(target):
        pytest.skip("no score on cells")
    x = draw(target, 50)
    leaf = x.clone().requires_grad_()
    value = target.log_density(leaf)
    if not value.requires_grad:
        with pytest.raises(InvalidInput, match="no gradient"):
            score(target, x)
        return
    (expected,) = torch.autograd.grad(value.sum(), leaf)
    torch.testing.assert_close(score(target, x), expected, rtol=1e-8, atol=1e-8)
    h = 1e-6 * torch.eye(x.shape[-1], dtype=torch.float64)[0] * x.abs().amax(-1, keepdim=True).clamp(min=1e-3)
    slope = (target.log_density(x + h) - target.log_density(x - h)) / (2 * h.sum(-1))
    torch.testing.assert_close(slope, expected[:, 0], rtol=1e-4, atol=1e-4)
    if isinstance(target, HasScore):
        assert not score(target, leaf).requires_grad, "detached"


def test_batches_and_kinds(name: str) -> None:
    """Rows do not see each other; the answer has the points' dtype; constants follow the points' device."""
    target = TARGETS[name]()
    x = draw(target, 7)
    value = evaluate(target, x)
    torch.testing.assert_close(torch.cat([evaluate(target, row[None]) for row in x]), value)
    assert tuple(target.log_density(x[:0]).shape) == (0,)
    sampled = target.sample(3)
    assert len(sampled) == 3
    assert sampled.dtype in (torch.get_default_dtype(), torch.int64)
    if continuous(target):
        single = evaluate(target, x.float())
        assert (single.dtype, value.dtype) == (torch.float32, torch.float64)
        torch.testing.assert_close(single.double(), value, rtol=1e-3, atol=2e-3)
    elsewhere = x.to("meta")
    assert target.log_density(elsewhere).device.type == "meta"
    if isinstance(target, HasScore):
        assert target.score(elsewhere).device.type == "meta"


# ------------------------------------------------------------------ formulas, one point at a time
def banana(t: Any, x: np.ndarray) -> float:
    bent = x[1] - t.curvature * (x[0] ** 2 - t.scale**2)
    return float(
        stats.norm(0, t.scale).logpdf(x[0]) + stats.norm.logpdf(bent) + stats.norm.logpdf(x[2:]).sum()
    )


def squares(t: Any, x: np.ndarray) -> float:
    r = t.r0
    r += t.r1 * all(abs(c - 0.5) > 0.25 for c in x)
    r += t.r2 * all(0.3 < abs(c - 0.5) < 0.4 for c in x)
    return math.log(r)


def cells(t: Any, x: np.ndarray) -> float:
    return squares(t, x / (t.side - 1))


def funnel(t: Any, x: np.ndarray) -> float:
    neck = stats.norm(0, math.sqrt(t.variance)).logpdf(x[0])
    return float(neck + stats.norm(0, math.exp(x[0] / 2)).logpdf(x[1:]).sum())


def gaussians(t: Any, x: np.ndarray) -> float:
    """Mixture of isotropic normals at ``modes``, of weights ``weights`` or even."""
    modes, width = t.modes.double().numpy(), t.scale if hasattr(t, "scale") else math.sqrt(t.variance)
    weights = np.broadcast_to(np.asarray(getattr(t, "weights", 1 / len(modes))), len(modes))
    return math.log(sum(w * stats.norm(m, width).pdf(x).prod() for w, m in zip(weights, modes, strict=True)))


def regression(t: Any, x: np.ndarray) -> float:
    fit = t.design.double().numpy() @ x
    data = stats.norm(fit, t.noise).logpdf(t.response.double().numpy()).sum()
    return float(data + stats.norm(0, t.prior_scale).logpdf(x).sum())


def wells(t: Any, x: np.ndarray) -> float:
    pairs = zip(x[::2], x[1::2], strict=True)
    return float(sum(-(a**4) + 6 * a**2 + a / 2 - b**2 / 2 for a, b in pairs))


def ring(t: Any, x: np.ndarray) -> float:
    return -((math.hypot(*x) - t.radius) ** 2) / (2 * t.width**2)


def students(t: Any, x: np.ndarray) -> float:
    return math.log(np.mean([stats.t(t.degrees, m).pdf(x).prod() for m in t.modes.double().numpy()]))


def six_modes(t: Any, x: np.ndarray) -> float:
    return 3 * math.log(math.sin(3 * x[0]) + math.cos(2 * x[1]) + 2)


def angles(t: Any, x: np.ndarray) -> float:
    return sum(k * math.cos(c - m) for k, c, m in zip(t.concentration, x, t.location, strict=True))


FORMULAS: dict[type, Callable[[Any, np.ndarray], float]] = {
    targets.Banana: banana,
    targets.FourSquares: squares,
    targets.Funnel: funnel,
    targets.GaussianGrid: gaussians,
    targets.GaussianMixture: gaussians,
    targets.HypergridReward: cells,
    targets.LinearGaussian: regression,
    targets.ManyWell: wells,
    targets.Ring: ring,
    targets.StudentMixture: students,
    targets.TorusSixModes: six_modes,
    targets.VonMisesProduct: angles,
}


def test_formula_of_the_docstring(name: str) -> None:
    target = TARGETS[name]()
    if type(target) not in FORMULAS:
        pytest.skip("no second formula")
    x = draw(target, 12)
    if target.measure == Lebesgue(x.shape[-1]):
        x = torch.cat([x, 2 * x, torch.zeros_like(x[:1])])  # some in the tails
    naive = [FORMULAS[type(target)](target, row.double().numpy()) for row in x]
    torch.testing.assert_close(
        target.log_density(x).double(), torch.tensor(naive).double(), rtol=1e-6, atol=1e-6
    )


# ------------------------------------------------------------------ log Z where there are many axes
def test_funnels_and_gaussians_are_normalised_by_their_formulas() -> None:
    """Their naive formulas are products of scipy's normalised densities, whatever the dimension."""
    for name in (
        "easy_funnel",
        "hard_funnel",
        "gaussians_3d",
        "forty_gaussians",
        "student_mixture",
        "banana",
    ):
        assert TARGETS[name]().log_z == 0.0
        assert type(TARGETS[name]()) in FORMULAS


def test_many_wells_factorise() -> None:
    one, _ = quad(lambda x: math.exp(-(x**4) + 6 * x**2 + x / 2), -5, 5, epsabs=0, epsrel=1e-12)
    right, _ = quad(lambda x: math.exp(-(x**4) + 6 * x**2 + x / 2), 0, 5, epsabs=0, epsrel=1e-12)
    assert abs(math.log(one) - LOG_WELL) < 1e-12
    assert abs(right / one - 0.844307) < 1e-6, "the mass that the docstring gives"
    for dim in (2, 6, 32):
        exact = dim / 2 * (math.log(one) + 0.5 * math.log(2 * math.pi))
        assert abs(targets.ManyWell(dim).log_z - exact) < 1e-10
    x = torch.linspace(-6, 6, 10_001, dtype=torch.float64)
    log_r = -x.pow(4) + 6 * x.square() + 0.5 * x
    assert bool((log_envelope(x) >= log_r).all()), "the sampler's envelope"


def test_evidence_of_the_linear_gaussian() -> None:
    """Joint over posterior is the evidence at every point."""
    target = targets.linear_gaussian_toy(dim=4, seed=3)
    x = torch.randn(20, 4, dtype=torch.float64)
    ratio = target.log_density(x) - target.posterior.log_prob(x)
    torch.testing.assert_close(
        ratio, torch.full((20,), target.log_z, dtype=torch.float64), rtol=1e-9, atol=1e-9
    )


def test_hypergrid_enumeration() -> None:
    target = targets.HypergridReward(3, 9)
    p = target.probabilities()
    assert abs(float(p.sum()) - 1) < 1e-12
    assert p[1, 1, 7] == p.max()


def test_known_modes() -> None:
    """Where a target lists its modes, no point nearby is better."""
    for name in ("nine_gaussians", "twenty_five_gaussians", "torus_six_modes"):
        target = TARGETS[name]()
        modes = target.modes.double()
        near = modes[:, None] + 0.1 * torch.randn(len(modes), 50, 2, dtype=torch.float64)
        best = target.log_density(modes)
        assert bool((target.log_density(near.reshape(-1, 2)).reshape(len(modes), 50) < best[:, None]).all())
    counts = [len(TARGETS[n]().modes) for n in ("nine_gaussians", "twenty_five_gaussians", "forty_gaussians")]
    assert counts == [9, 25, 40]


# ------------------------------------------------------------------ bad arguments
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "banana": (lambda: targets.Banana(1), "dim >= 2 and scale > 0, got 1, 10.0"),
    "squares": (lambda: targets.FourSquares(0.0), "needs r0 > 0, .* got 0.0, 0.5, 2.0"),
    "funnel": (lambda: targets.Funnel(10, 0.0), "dim >= 2 and variance > 0, got 10, 0.0"),
    "grid": (lambda: targets.GaussianGrid(0), "needs side >= 1, .*got GaussianGrid"),
    "mixture": (lambda: targets.GaussianMixture(torch.zeros(3), 1.0), r"needs modes \[K, d\] .*got \[3\]"),
    "weights": (
        lambda: targets.GaussianMixture(torch.zeros(3, 2), 1.0, torch.ones(2)),
        "needs 3 positive weights, one a mode",
    ),
    "hypergrid": (lambda: targets.HypergridReward(2, 1), "side >= 2"),
    "regression": (lambda: targets.LinearGaussian(torch.ones(3, 2), torch.ones(2)), r"\[3, 2\] and \[2\]"),
    "noise": (lambda: targets.LinearGaussian(torch.ones(1, 1), torch.ones(1), 0.0), "needs noise > 0"),
    "wells": (lambda: targets.ManyWell(3), "an even dim of at least 2, got 3"),
    "ring": (lambda: targets.Ring(1.0, 0.0), "radius >= 0 and width > 0, got 1.0, 0.0"),
    "students": (lambda: targets.StudentMixture(degrees=0.0), "degrees > 0"),
    "circles": (lambda: targets.VonMisesProduct((0.0,), (1.0, 2.0)), "one location and one concentration"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused(case: str) -> None:
    build, message = BAD[case]
    with pytest.raises(InvalidInput, match=message):
        build()
