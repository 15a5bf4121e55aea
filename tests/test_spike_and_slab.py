"""Variable selection in a linear regression: evidence by quadrature, changes, exact answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.targets import Bernoulli, BetaBinomial, GPrior, NormalSlab, SpikeAndSlab, correlated_regression
from ctsgfn.targets.model_priors import PoissonSize, SizePrior, log_binomial

SLABS = [NormalSlab(0.7), GPrior(12.0)]


def regression(slab: NormalSlab | GPrior, prior: SizePrior | None = None) -> SpikeAndSlab:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(20, 4, generator=g, dtype=torch.float64)
    x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
    y = 1.0 + x[:, 0] - 0.5 * x[:, 3] + 0.8 * torch.randn(20, generator=g, dtype=torch.float64)
    return SpikeAndSlab(x, y, slab, BetaBinomial() if prior is None else prior)


def direct(target: SpikeAndSlab, model: Tensor) -> float:
    """Log p(y | m): normal with the marginal covariance, alpha and sigma^2 integrated by quadrature."""
    x, y = target.x.numpy()[:, model.numpy()], target.y.numpy()
    x = x - x.mean(0)
    n, gram = len(y), x.T @ x
    precision = np.eye(x.shape[1]) / 0.7 if isinstance(target.slab, NormalSlab) else gram / 12.0
    shape = np.eye(n) + x @ np.linalg.solve(precision, x.T) if x.shape[1] else np.eye(n)
    inverse, log_det = np.linalg.inv(shape), np.linalg.slogdet(shape)[1]
    one = np.ones(n)
    # flat in alpha: the quadratic form in it, integrated
    a, b, c = one @ inverse @ one, one @ inverse @ y, y @ inverse @ y

    def given(log_variance: float) -> float:
        v = math.exp(log_variance)
        of_alpha = 0.5 * math.log(2 * math.pi * v / a) - 0.5 * (c - b * b / a) / v
        return math.exp(of_alpha - 0.5 * n * math.log(2 * math.pi * v) - 0.5 * log_det + 30.0)

    return math.log(integrate.quad(given, -8.0, 8.0, epsabs=0, epsrel=1e-9, limit=200)[0]) - 30.0


@pytest.mark.parametrize("slab", SLABS, ids=str)
def test_evidence_by_quadrature(slab: NormalSlab | GPrior) -> None:
    target = regression(slab, Bernoulli(0.3))
    for row in (0, 1, 6, 15):
        model = target.measure.all()[row]
        prior = target.prior.log_prob(model.sum(), 4)
        assert float(target.log_density(model[None]) - prior) == pytest.approx(
            direct(target, model), abs=1e-6
        )


@pytest.mark.parametrize("slab", SLABS, ids=str)
def test_changes_are_differences(slab: NormalSlab | GPrior) -> None:
    target = regression(slab)
    models = target.measure.all()
    changes = target.changes(models)
    for j in range(4):
        more = models.clone()
        more[:, j] = True
        difference = target.log_density(more) - target.log_density(models)
        torch.testing.assert_close(changes[:, j], difference, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("slab", SLABS, ids=str)
def test_coefficients_given_a_model(slab: NormalSlab | GPrior) -> None:
    """Means by the normal equations; draws have the mean and the variance that are stated (|z| < 5)."""
    target = regression(slab)
    model = torch.tensor([[True, False, True, True]])
    mean, variance = target.coefficients(model)
    x, y = target.x - target.x.mean(0), target.y - target.y.mean()
    some = x[:, model[0]]
    gram = some.T @ some
    precision = torch.eye(3).double() / 0.7 if isinstance(slab, NormalSlab) else gram / 12.0
    torch.testing.assert_close(mean[0, model[0]], torch.linalg.solve(gram + precision, some.T @ y))
    torch.manual_seed(0)
    draws = target.sample_coefficients(model.expand(40_000, -1))
    assert not bool(draws[:, 1].any())
    z = (draws.mean(0) - mean[0])[model[0]] / (variance[0][model[0]] / 40_000).sqrt()
    assert float(z.abs().max()) < 5
    ratio = draws.var(0)[model[0]] / variance[0][model[0]]
    assert float((ratio - 1).abs().max()) < 5 * math.sqrt(2.5 / 40_000)  # kurtosis of a Student-t, 19 degrees


def test_exact_answers_are_sums_over_models() -> None:
    target = regression(NormalSlab(0.7))
    models = target.measure.all()
    weight = target.log_density(models).softmax(0)
    torch.testing.assert_close(target.inclusion_probabilities(), weight @ models.double())
    torch.testing.assert_close(target.posterior_mean(), weight @ target.coefficients(models)[0])
    assert target.log_z == pytest.approx(float(target.log_density(models).logsumexp(0)))
    torch.manual_seed(1)
    draws = target.sample(20_000)
    code = (draws.long() * (1 << torch.arange(4))).sum(-1).bincount(minlength=16)
    assert stats.chisquare(code.numpy(), 20_000 * weight.numpy()).pvalue > 1e-6


@pytest.mark.parametrize("prior", [Bernoulli(0.2), BetaBinomial(), BetaBinomial(2.0, 5.0)], ids=str)
def test_model_priors_sum_to_one(prior: SizePrior) -> None:
    size = torch.arange(8)
    assert float((prior.log_prob(size, 7) + log_binomial(7, size)).logsumexp(0)) == pytest.approx(0.0)


def test_poisson_sizes() -> None:
    size = torch.arange(6)
    mass = PoissonSize(1.5).log_prob(size, 9) + log_binomial(9, size)
    np.testing.assert_allclose(mass.exp().numpy(), stats.poisson(1.5).pmf(np.arange(6)))


def test_simulated_blocks_are_correlated() -> None:
    target = correlated_regression(10, 4000, block=5, correlation=0.9)
    r = torch.corrcoef(target.x.T)
    pairs = list(itertools.combinations(range(10), 2))
    within = [float(r[i, j]) for i, j in pairs if i // 5 == j // 5]
    between = [float(r[i, j]) for i, j in pairs if i // 5 != j // 5]
    assert min(within) > 0.87
    assert max(map(abs, between)) < 0.1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SpikeAndSlab(torch.zeros(5), torch.zeros(5)), r"predictors \[N, p\]"),
        (lambda: SpikeAndSlab(torch.ones(5, 2), torch.full((5,), math.nan)), "must be finite"),
        (lambda: SpikeAndSlab(torch.ones(5, 2), torch.ones(5), GPrior(3.0)), "linearly dependent"),
        (lambda: NormalSlab(0.0), "variance of the slab"),
        (lambda: GPrior(-1.0), "g must be positive"),
        (lambda: Bernoulli(1.0), "strictly between"),
        (lambda: BetaBinomial(0.0), "a and b"),
        (lambda: PoissonSize(0.0), "mean size"),
        (lambda: SpikeAndSlab(torch.randn(30, 17), torch.randn(30)).log_z, "listed up to 16"),
    ],
)
def test_bad_input(build: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()  # type: ignore[operator]
