"""Pyro models as targets: densities against hand-written ones, Jacobians, traps, and their messages."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from numerics import quadrature
from pyro import poutine
from pyro.infer import Predictive
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

import ctsgfn
from ctsgfn.errors import CtsgfnWarning, InvalidInput
from ctsgfn.from_pyro import from_pyro
from ctsgfn.pyro_target import PyroTarget
from ctsgfn.target import HasConstrain, HasScore, as_target, evaluate, score
from ctsgfn.traced import PATIENCE

Y = torch.tensor([0.5, -0.5, 1.0])


@pytest.fixture
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def normal_data(mean: Any) -> None:
    """Three observations about a mean."""
    pyro.sample("y", dist.Normal(mean, 1.0).expand([3]).to_event(1), obs=Y.to(torch.get_default_dtype()))


# ------------------------------------------------------------------ eight schools, by hand
EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=torch.float64)


def eight_schools(y: Tensor, sigma: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def by_hand(u: Tensor) -> Tensor:
    """Log joint of eight schools at (mu, log tau, eta), Jacobian tau and all constants included."""
    mu, log_tau, eta = u[:, 0], u[:, 1], u[:, 2:]
    tau, square = log_tau.exp(), math.log(2 * math.pi)
    prior = -0.5 * (mu / 5).square() - math.log(5) - 0.5 * square
    prior = prior + math.log(2 / (5 * math.pi)) - (1 + (tau / 5).square()).log() + log_tau
    prior = prior - 0.5 * (eta.square() + square).sum(-1)
    residual = (EFFECTS - mu[:, None] - tau[:, None] * eta) / ERRORS
    return prior - 0.5 * (residual.square() + square).sum(-1) - ERRORS.log().sum()


@pytest.mark.usefixtures("double")
def test_eight_schools_by_hand() -> None:
    target, hand = from_pyro(eight_schools, EFFECTS, ERRORS), as_target(by_hand, ctsgfn.Lebesgue(10))
    u = 3 * torch.randn(50, 10)
    assert (target.measure, target.batched) == (ctsgfn.Lebesgue(10), True)
    torch.testing.assert_close(evaluate(target, u), by_hand(u), rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(score(target, u), score(hand, u), rtol=1e-10, atol=1e-10)
    theta = target.deterministic(u)["theta"]
    torch.testing.assert_close(theta, u[:, :1] + u[:, 1:2].exp() * u[:, 2:])


def test_points_and_model_in_other_dtypes() -> None:
    target = from_pyro(eight_schools, EFFECTS.float(), ERRORS.float())
    u = torch.randn(5, 10, dtype=torch.float64)
    assert target.log_density(u).dtype == torch.float64, "of the points"
    torch.testing.assert_close(target.log_density(u), by_hand(u), rtol=1e-5, atol=1e-4)
    assert target.score(u.float()).dtype == torch.float32


# ------------------------------------------------------------------ supports
def lower(x: Tensor) -> Tensor:
    """Entries on and below the diagonal."""
    row, column = torch.tril_indices(x.shape[-1], x.shape[-1])
    return x[..., row, column]


def below(x: Tensor) -> Tensor:
    """Entries below the diagonal."""
    row, column = torch.tril_indices(x.shape[-1], x.shape[-1], -1)
    return x[..., row, column]


def simplex(x: Tensor) -> Tensor:
    """All but the last entry."""
    return x[..., :-1]


def plain(x: Tensor) -> Tensor:
    """Coordinates that are free as they are."""
    return x


def pair(a: float, b: float) -> Tensor:
    return torch.tensor([a, b])


def even() -> Any:
    return dist.Categorical(pair(0.5, 0.5))


# a law, and the coordinates that its density is against
LAWS: dict[str, tuple[Callable[[], Any], Callable[[Tensor], Tensor]]] = {
    "normal": (lambda: dist.Normal(pair(0.5, -1.0), 0.7).to_event(1), plain),
    "gamma": (lambda: dist.Gamma(2.5, 1.5), plain),
    "half_normal": (lambda: dist.HalfNormal(pair(0.3, 2.0)).to_event(1), plain),
    "beta": (lambda: dist.Beta(2.0, 3.0), plain),
    "uniform": (lambda: dist.Uniform(-1.0, 2.5), plain),
    "pareto": (lambda: dist.Pareto(0.5, 6.0), plain),
    "lognormal": (lambda: dist.LogNormal(0.2, 0.4), plain),
    "von_mises": (lambda: dist.VonMises(1.0, 2.0), plain),
    "bivariate_normal": (
        lambda: dist.MultivariateNormal(pair(1.0, 0.0), torch.tensor([[1.0, 0.5], [0.5, 2.0]])),
        plain,
    ),
    "dirichlet": (lambda: dist.Dirichlet(torch.tensor([2.0, 1.5, 3.0])), simplex),
    "logistic_normal": (lambda: dist.LogisticNormal(pair(0.0, 0.5), pair(0.8, 1.0)), simplex),
    "lkj_cholesky": (lambda: dist.LKJCholesky(3, 2.0), below),
    "lkj": (lambda: dist.LKJ(2, 1.5), below),
    "wishart": (lambda: dist.Wishart(torch.tensor(5.0), torch.tensor([[0.3, 0.1], [0.1, 0.2]])), lower),
    "two_bells": (lambda: dist.MixtureSameFamily(even(), dist.Normal(pair(-2.0, 1.0), 0.5)), plain),
    "two_betas": (lambda: dist.MixtureSameFamily(even(), dist.Beta(pair(2.0, 5.0), 3.0)), plain),
    "affine_beta": (lambda: dist.AffineBeta(2.0, 2.0, 1.0, 3.0), plain),
}


def prior(law: Callable[[], Any]) -> Callable[[], None]:
    """A model of one site, with an observation that changes nothing."""

    def model() -> None:
        pyro.sample("x", law())
        pyro.factor("nothing", torch.zeros(()))

    return model


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", LAWS)
def test_priors_integrate_to_one(name: str) -> None:
    """A wrong Jacobian, a lost constant or a spurious coordinate would each change the integral."""
    law, coordinates = LAWS[name]
    target = from_pyro(prior(law))
    assert target.batched
    u, w = quadrature(target.measure, {1: 400, 2: 150, 3: 70}[target.measure.dim])
    u, w = u[u.abs().amax(-1) < 40], w[u.abs().amax(-1) < 40]
    mass = (target.log_density(u).double() + w).exp()
    assert abs(float(mass.sum()) - 1) < 2e-4
    x = target.constrain(u)["x"]
    mean = torch.tensordot(mass, coordinates(x).reshape(len(x), -1), 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Singular sample")  # Wishart redraws those
        draws = coordinates(law().sample((20_000,))).reshape(20_000, -1)
    z = (draws.mean(0) - mean) / (draws.std(0) / math.sqrt(20_000))
    assert float(z.abs().max()) < 5, "the values at the nodes are not those of the law"  # p < 6e-7 each


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", LAWS)
def test_jacobians_against_autograd(name: str) -> None:
    """Log density = log joint of Pyro's own trace + log |det| of the coordinates by autograd."""
    law, coordinates = LAWS[name]
    model = prior(law)
    target = from_pyro(model)

    def value(u: Tensor) -> Tensor:
        return coordinates(target.constrain(u[None])["x"][0]).reshape(-1)

    for u in torch.randn(3, target.measure.dim):
        jacobian: Any = torch.autograd.functional.jacobian(value, u)
        site = {"x": target.constrain(u[None])["x"][0]}
        trace = poutine.trace(poutine.condition(model, data=site)).get_trace()
        expected = trace.log_prob_sum() + torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(target.log_density(u[None])[0], expected, rtol=1e-9, atol=1e-9)
    u = torch.randn(4, target.measure.dim)
    torch.testing.assert_close(target.unconstrain(target.constrain(u)), u, rtol=1e-7, atol=1e-7)


# ------------------------------------------------------------------ models of many kinds
def hierarchical() -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(4)))
        pyro.sample("count", dist.Poisson(rate * weights[..., 0]), obs=torch.ones(2, 3))


def switching() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    high = pyro.sample("high", dist.Uniform(mean, mean + 2))  # a support that moves with a latent
    normal_data(high)


def recurrent() -> None:
    x: Any = torch.zeros(())
    for t in pyro.plate("time", 3):
        x = pyro.sample(f"x{t}", dist.Normal(x, 0.5))
        pyro.sample(f"y{t}", dist.Normal(x, 1.0), obs=Y[t].to(torch.get_default_dtype()))


def masked_and_scaled() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with (
        pyro.plate("rows", 3),
        poutine.mask(mask=torch.tensor([True, False, True])),
        poutine.scale(scale=2.0),
    ):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=Y.to(torch.get_default_dtype()))


def centred() -> None:
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("rows", 3):
        x = pyro.sample("x", dist.Normal(0.5, tau))
        pyro.sample("y", dist.Normal(x, 1.0), obs=Y.to(torch.get_default_dtype()))


def assigned() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    x = torch.zeros(3) + mean
    x[0] = 0.5  # in place, on a tensor of its own
    normal_data(x)


class Net(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = PyroSample(dist.Normal(0.0, 1.0).expand([3]).to_event(1))

    def forward(self) -> None:
        normal_data(self.weight.tanh())


MODELS: dict[str, tuple[Callable[[], Any], dict[str, tuple[int, ...]]]] = {
    "nested_plates": (hierarchical, {"rate": (), "weights": (2, 3, 4)}),
    "moving_support": (switching, {"mean": (), "high": ()}),
    "sequential_plate": (recurrent, {"x0": (), "x1": (), "x2": ()}),
    "masked_data": (masked_and_scaled, {"mean": ()}),
    "reparametrised": (
        poutine.reparam(centred, {"x": LocScaleReparam(0.0)}),
        {"tau": (), "x_decentered": (3,)},
    ),
    "conditioned": (poutine.condition(centred, {"x": torch.zeros(3)}), {"tau": ()}),
    "module": (lambda: Net()(), {"weight": (3,)}),
    "in_place": (assigned, {"mean": ()}),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", MODELS)
def test_models_agree_with_pyros_own_trace(name: str) -> None:
    """Batched, one by one, and Pyro's own log joint at the constrained values plus the Jacobian."""
    model, shapes = MODELS[name]
    target = from_pyro(model)
    assert target.batched
    assert {site: tuple(shape) for site, shape in target.sites.items()} == shapes
    u = torch.randn(4, target.measure.dim)
    values = target.constrain(u)
    assert {site: tuple(v.shape) for site, v in values.items()} == {n: (4, *s) for n, s in shapes.items()}
    alone = torch.cat([target.log_density(row[None]) for row in u])
    torch.testing.assert_close(target.log_density(u), alone)
    for i in range(4):
        data = {site: v[i] for site, v in values.items()}
        trace = poutine.trace(poutine.condition(model, data=data)).get_trace()
        parts = torch.autograd.functional.jacobian(
            lambda row: torch.cat(
                [_free(site, v[0]).reshape(-1) for site, v in target.constrain(row[None]).items()]
            ),
            u[i],
        )
        expected = trace.log_prob_sum() + torch.linalg.slogdet(parts).logabsdet
        torch.testing.assert_close(target.log_density(u)[i], expected, rtol=1e-9, atol=1e-9)


def _free(site: str, value: Tensor) -> Tensor:
    return value[..., :-1] if site == "weights" else value


# ------------------------------------------------------------------ to the posterior and on
def test_posterior_goes_straight_into_predictive() -> None:
    """A conjugate model: the evidence and the posterior are known."""

    def model(y: Tensor | None, rows: int = 3) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", rows):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    target = from_pyro(model, Y)
    assert isinstance(target, HasConstrain)
    assert isinstance(target, HasScore)
    sampler = ctsgfn.fit(target, steps=20, kernel="mixture", seed=0, progress_bar=False)
    exact = dist.MultivariateNormal(torch.zeros(3), torch.eye(3) + torch.ones(3, 3)).log_prob(Y)
    evidence = sampler.evidence(4096, seed=1)
    assert abs(float(evidence.log_z) - float(exact)) < 5 * float(evidence.stderr) + 1e-6
    draws = sampler.posterior(4000, seed=2)
    assert {name: tuple(v.shape) for name, v in draws.items()} == {"mean": (4000,)}
    future = Predictive(model, draws)(None, rows=5)["y"]
    assert tuple(future.shape) == (4000, 5)
    z = (future.mean() - Y.sum() / 4) / math.sqrt((0.25 + 0.2) / 4000)
    assert abs(float(z)) < 6  # the pool of draws is resampled, so not quite independent


def test_store_and_generator_are_left_alone() -> None:
    pyro.clear_param_store()

    def model() -> None:
        scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mean, scale), obs=torch.tensor(1.0))

    before = torch.get_rng_state()
    with pytest.warns(CtsgfnWarning, match=r"pyro.param values of the model \(scale\) are not inferred"):
        target = from_pyro(model)
    value = target.log_density(torch.zeros(1, 1))
    assert len(pyro.get_param_store()) == 0
    assert torch.equal(before, torch.get_rng_state())
    pyro.get_param_store().setdefault("scale", torch.tensor(1.0), dist.constraints.positive)
    with pytest.warns(CtsgfnWarning):
        other = from_pyro(model)
    assert float(value) != float(other.log_density(torch.zeros(1, 1))), "the store's value is used"
    assert torch.equal(target.log_density(torch.zeros(1, 1)), value), "and frozen"
    pyro.clear_param_store()


# ------------------------------------------------------------------ recordings
def test_recorded_batches_give_the_same_bits() -> None:
    u = torch.randn(61, 10)
    fresh = from_pyro(eight_schools, EFFECTS.float(), ERRORS.float())
    value, slope = fresh.log_density(u), fresh.score(u)
    target = from_pyro(eight_schools, EFFECTS.float(), ERRORS.float())
    for _ in range(PATIENCE):
        target.log_density(u[:57])
        target.score(u[:57])
    assert (target._way._value.recordings, target._way._slope.recordings) == (1, 1)
    assert torch.equal(target.log_density(u), value)
    assert torch.equal(target.score(u), slope)
    leaf = u.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target.log_density(leaf).sum(), leaf, create_graph=True)
    torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-4)
    assert gradient.requires_grad, "twice differentiable where autograd asks"


def test_large_batches_go_in_chunks() -> None:
    target = from_pyro(eight_schools, EFFECTS, ERRORS)
    small = PyroTarget(target.model, target.sites, target.free, target.params, target.dtype, chunk=7)
    u = torch.randn(30, 10)
    torch.testing.assert_close(small.log_density(u), target.log_density(u))
    torch.testing.assert_close(small.score(u), target.score(u))
    torch.testing.assert_close(small.constrain(u)["eta"], target.constrain(u)["eta"])
    assert target.chunk > 1000


def test_wrong_points_and_values_are_refused() -> None:
    target = from_pyro(eight_schools, EFFECTS, ERRORS)
    with pytest.raises(InvalidInput, match=r"has 10 unconstrained coordinates, got points \[5, 3\]"):
        target.log_density(torch.zeros(5, 3))
    values = target.constrain(torch.zeros(2, 10))
    with pytest.raises(InvalidInput, match=r"needs the latent sites \['eta', 'mu', 'tau'\], got \['mu'\]"):
        target.unconstrain({"mu": values["mu"]})
    with pytest.raises(InvalidInput, match=re.escape("site 'eta' needs values of shape [2, 8], got [2]")):
        target.unconstrain({**values, "eta": values["mu"]})
    with pytest.raises(InvalidInput, match="site 'tau' lies outside its support, or on its edge, in row 1"):
        target.unconstrain({**values, "tau": torch.tensor([1.0, -1.0])})


def test_an_ordinary_model_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target = from_pyro(eight_schools, EFFECTS, ERRORS)
        for _ in range(PATIENCE + 1):
            target.score(torch.randn(3, 10))
        target.constrain(torch.randn(3, 10))
