"""Models with coefficients: log-densities beside scipy, dead parameters, charts with their Jacobians."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.distributions.transforms import ExpTransform, SigmoidTransform

from ctsgfn import as_model_target, fit, model_posterior
from ctsgfn.coordinates import Coordinates
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.hypergrid import hypergrid
from ctsgfn.kernels.spaces.parameter_kernels import with_parameters_kernels
from ctsgfn.kernels.spaces.with_parameters import with_parameters
from ctsgfn.measures import Counting, Lebesgue
from ctsgfn.model_target import one_model
from ctsgfn.sampler import Sampler
from ctsgfn.subsets import Subsets
from ctsgfn.targets import LogisticSelection, PoissonSelection, RobustSelection
from ctsgfn.with_parameters import Parameterised

X = torch.tensor([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.8], [0.1, -0.2]], dtype=torch.float64)
MODEL = torch.tensor([[True, False], [True, True], [False, False]])
BETA = torch.tensor([[0.7, 0.0], [-0.4, 1.1], [0.0, 0.0]], dtype=torch.float64)
ALPHA, PHI = torch.tensor([0.3, -0.2, 1.0]).double(), torch.tensor([-0.5, 0.4, 0.0]).double()
ETA = (BETA @ X.T + ALPHA[:, None]).numpy()
PRIOR = np.log([1 / 6, 1 / 3, 1 / 3])  # beta-binomial(1, 1) with 1, 2 and 0 of 2 variables

CASES: dict[str, tuple[Any, Callable[[], np.ndarray]]] = {
    "robust": (
        RobustSelection(X, torch.tensor([0.2, -1.5, 0.9, 4.0], dtype=torch.float64), slab=0.8, degrees=3.0),
        lambda: (
            stats.t(3.0).logpdf((np.array([0.2, -1.5, 0.9, 4.0]) - ETA) / np.exp(PHI.numpy())[:, None])
            - PHI.numpy()[:, None]
        ),
    ),
    "logistic": (
        LogisticSelection(X, torch.tensor([1.0, 0, 0, 1]), slab=0.8),
        lambda: stats.bernoulli(1 / (1 + np.exp(-ETA))).logpmf(np.array([1, 0, 0, 1])),
    ),
    "poisson": (
        PoissonSelection(X, torch.tensor([2.0, 0, 1, 3]), slab=0.8),
        lambda: stats.poisson(np.exp(ETA)).logpmf(np.array([2, 0, 1, 3])),
    ),
}


def points(target: Any) -> Parameterised:
    columns = [BETA, ALPHA[:, None], PHI[:, None]][: 2 + target.nuisances]
    return Parameterised(MODEL, torch.cat(columns, -1))


@pytest.mark.parametrize("name", sorted(CASES))
def test_density_is_likelihood_and_priors(name: str) -> None:
    target, likelihood = CASES[name]
    slab = np.where(MODEL.numpy(), stats.norm(0, 0.8).logpdf(BETA.numpy()), 0.0).sum(-1)
    rest = stats.norm(0, 5.0).logpdf(ALPHA.numpy())
    if target.nuisances:
        rest = rest + stats.norm().logpdf(PHI.numpy())
    expected = likelihood().sum(-1) + slab + rest + PRIOR
    np.testing.assert_allclose(target.log_density(points(target)).numpy(), expected, rtol=1e-12)
    single = Parameterised(MODEL, points(target).theta.float())
    assert target.log_density(single).dtype == torch.float32


@pytest.mark.parametrize("name", sorted(CASES))
def test_what_is_dead_does_not_enter(name: str) -> None:
    """The measure calls the right parameters live, and points with others are outside."""
    target, _ = CASES[name]
    x = points(target)
    assert bool(target.measure.contains(x).all())
    assert target.measure.live(MODEL).sum(-1).tolist() == [k + 1 + target.nuisances for k in (1, 2, 0)]
    astray = x.theta.clone()
    astray[0, 1] = 5.0
    other = Parameterised(MODEL, astray)
    assert not bool(target.measure.contains(other)[0])
    torch.testing.assert_close(target.log_density(other), target.log_density(x))


# ---------------------------------------------------------------- a log-density of the user's own
def first(m: Tensor) -> Tensor:
    return torch.arange(2, device=m.device) < m


def gamma_beta(m: Tensor, theta: Tensor) -> Tensor:
    """Gamma(2, 1) on the first parameter, Beta(2, 3) on the second, where live; e^m on the models."""
    a, b = (torch.where(first(m)[:, j], theta[:, j], 0.5) for j in range(2))
    of_a = a.log() - a
    of_b = math.log(12.0) + b.log() + 2 * (-b).log1p()
    return m[:, 0].to(theta) + torch.where(first(m), torch.stack([of_a, of_b], -1), 0.0).sum(-1)


def test_charts_add_their_jacobians() -> None:
    """In the flow's coordinates every model integrates to e^m; points go there and back."""
    target = as_model_target(gamma_beta, Counting(3), 2, first, charts=[ExpTransform(), SigmoidTransform()])

    def one(z: float) -> float:
        x = Parameterised(torch.tensor([[1]]), torch.tensor([[z, 0.0]], dtype=torch.float64))
        return float(target.log_density(x).exp())

    assert integrate.quad(one, -20, 8)[0] == pytest.approx(math.e, rel=1e-6)
    line = torch.linspace(-15, 15, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    two = target.log_density(Parameterised(torch.full((len(grid), 1), 2), grid))
    assert float(two.exp().sum() * 0.05**2) == pytest.approx(math.e**2, rel=1e-6)
    way = Coordinates(target)
    x = Parameterised(
        torch.tensor([[0], [1], [2]]), torch.tensor([[0, 0], [1.7, 0], [0.4, 0.3]], dtype=torch.float64)
    )
    z, _ = way.encode(x)
    torch.testing.assert_close(way.decode(z).theta, x.theta)
    assert z.theta[0].tolist() == [0.0, 0.0]


def test_a_sampler_speaks_the_users_coordinates() -> None:
    """Draws of an untrained flow, weighted: E[theta_0 | m >= 1] = 2 (|z| < 5)."""
    target = as_model_target(gamma_beta, Counting(3), 2, first, charts=[ExpTransform(), SigmoidTransform()])
    grid = replace(hypergrid(1, 3), points=Counting(3))
    space = with_parameters(grid, 2, first)
    torch.manual_seed(0)
    kernels = with_parameters_kernels(space, grid, (diffuse(grid.kappa), diffuse(grid.kappa_b)), hidden=8)
    posterior = model_posterior(Sampler(GFlowNet(space, *kernels), target), 20_000, seed=1)
    assert float(posterior.x.theta.min()) >= 0.0
    exact = torch.tensor([0.0, 1.0, 2.0]).double().softmax(0)
    mean = posterior.average(lambda x: x.theta)
    wanted = torch.stack([2 * exact[1:].sum(), 0.4 * exact[2]])
    assert float(((mean.value - wanted) / mean.stderr).abs().max()) < 5


@pytest.mark.parametrize("family", [LogisticSelection, PoissonSelection])
def test_fit_gives_models_and_parameters(family: Any) -> None:
    """Both models' evidences, and the coefficient averaged over them, by quadrature (|z| < 5)."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(25, 1, generator=g, dtype=torch.float64)
    y = torch.bernoulli((0.9 * x[:, 0]).sigmoid(), generator=g)
    target = family(x, y)
    line = torch.linspace(-8, 8, 401, dtype=torch.float64)
    beta, alpha = torch.cartesian_prod(line, line).unbind(-1)
    both = target.log_density(Parameterised(torch.ones(401**2, 1) > 0, torch.stack([beta, alpha], -1)))
    none = target.log_density(
        Parameterised(torch.zeros(401, 1) > 0, torch.stack([torch.zeros_like(line), line], -1))
    )
    mass = torch.stack([none.logsumexp(0), both.logsumexp(0) + math.log(0.04)]) + math.log(0.04)
    sampler = fit(target, steps=60, batch_size=64, seed=0, progress_bar=False)
    posterior = model_posterior(sampler, 4000, seed=1)
    assert posterior.evidence.ess > 0.5
    assert abs(posterior.evidence.log_z - float(mass.logsumexp(0))) < 5 * posterior.evidence.stderr
    included = posterior.inclusion_probabilities()
    assert abs(float(included.value - mass.softmax(0)[1])) < 5 * float(included.stderr)
    mean = posterior.average(lambda point: point.theta[:, 0])
    exact = float((both.softmax(0) @ beta) * mass.softmax(0)[1])
    assert abs(float(mean.value) - exact) < 5 * float(mean.stderr)


def test_one_model_alone() -> None:
    """Its density is that of the whole, at its own parameters; it can be fitted by itself."""
    target, _ = CASES["robust"]
    x = points(target)
    alone = one_model(target, MODEL[0])
    assert alone.measure == Lebesgue(3)
    live = target.measure.live(MODEL)[0]
    torch.testing.assert_close(alone.log_density(x.theta[:1, live]), target.log_density(x[:1]))
    with pytest.raises(InvalidInput, match="models with parameters"):
        one_model(alone, MODEL[0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: as_model_target(gamma_beta, Subsets(2), 2, first, charts=[None]),
            "1 charts were given for 2",
        ),
        (lambda: RobustSelection(X, torch.zeros(3)), r"responses \[N\]"),
        (lambda: RobustSelection(X, torch.full((4,), math.inf)), "finite"),
        (lambda: RobustSelection(X, torch.zeros(4), degrees=0.0), "degrees of freedom"),
        (lambda: LogisticSelection(X, torch.zeros(4), slab=0.0), "standard deviations"),
        (lambda: LogisticSelection(X, torch.full((4,), 2.0)), "0 or 1"),
        (lambda: PoissonSelection(X, torch.full((4,), 0.5)), "whole number"),
    ],
)
def test_bad_input(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()
