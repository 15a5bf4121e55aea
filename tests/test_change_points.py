"""Change-points: segments by quadrature, the recursion by enumeration, changes by differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.targets import GaussianChangePoints, PoissonChangePoints, coal_mining
from ctsgfn.targets.change_points import ChangePoints

COUNTS = torch.tensor([0, 1, 0, 1, 9, 7, 8, 9])
VALUES = torch.tensor([0.3, -0.1, 0.2, 2.1, 2.4, 1.9, -1.0])
CASES: dict[str, Callable[[], ChangePoints]] = {
    "poisson": lambda: PoissonChangePoints(COUNTS, most=3, shape=1.5, rate=0.7),
    "gaussian": lambda: GaussianChangePoints(VALUES, most=3, mean=0.5, strength=0.4, shape=2.0, rate=0.8),
}


@pytest.fixture(params=sorted(CASES))
def target(request: pytest.FixtureRequest) -> ChangePoints:
    return CASES[request.param]()


def segment(target: Any, a: int, b: int) -> float:
    """Log marginal likelihood of rows a to b - 1, by quadrature over the level."""
    y = target.y[a:b].double().numpy()
    if isinstance(target, PoissonChangePoints):
        rate = stats.gamma(target.shape, scale=1 / target.rate)
        of = lambda v: np.exp(stats.poisson(v).logpmf(y).sum()) * rate.pdf(v)  # noqa: E731
        return math.log(integrate.quad(of, 0, 60, epsabs=0, epsrel=1e-9, limit=200)[0])

    points = np.polynomial.legendre.leggauss(160)
    means, weight = 12 * points[0], 12 * points[1]
    logs, weights = 1 + 6 * points[0], 6 * points[1]
    v = np.exp(logs)[:, None]
    density = stats.invgamma(target.shape, scale=target.rate).pdf(v) * v
    density = density * stats.norm.pdf(means, target.mean, np.sqrt(v / target.strength))
    for value in y:
        density = density * stats.norm.pdf(value, means, np.sqrt(v))
    return math.log(weights @ density @ weight)


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 4), (2, 7)])
def test_segments_by_quadrature(target: ChangePoints, a: int, b: int) -> None:
    assert float(target.scores[a, b]) == pytest.approx(segment(target, a, b), abs=1e-4)


def slow(target: ChangePoints, model: Tensor) -> float:
    """Log r by walking through the segments."""
    cuts = [0, *(1 + int(j) for j in model.nonzero().squeeze(-1)), len(target.y)]
    total = sum(float(target.scores[a, b]) for a, b in itertools.pairwise(cuts))
    k = torch.arange(target.most + 1)
    mass = stats.poisson(3.0).pmf(k.numpy())
    each = mass / mass.sum() / np.array([math.comb(len(target.y) - 1, int(i)) for i in k])
    return total + math.log(each[int(model.sum())])


def test_density_by_segments(target: ChangePoints) -> None:
    models = target.measure.all()
    expected = torch.tensor([slow(target, m) for m in models], dtype=torch.float64)
    torch.testing.assert_close(target.log_density(models), expected)


def test_changes_are_differences(target: ChangePoints) -> None:
    models = target.measure.all()
    changes = target.changes(models)
    for j in range(models.shape[1]):
        free = (models.sum(-1) < target.most) & ~models[:, j]
        more = models[free].clone()
        more[:, j] = True
        difference = target.log_density(more) - target.log_density(models[free])
        torch.testing.assert_close(changes[free, j], difference, atol=1e-10, rtol=1e-10)


def test_the_recursion_is_the_sum_over_all_sets(target: ChangePoints) -> None:
    models = target.measure.all()
    log_density = target.log_density(models)
    weight = log_density.softmax(0)
    assert target.log_z == pytest.approx(float(log_density.logsumexp(0)))
    torch.testing.assert_close(target.inclusion_probabilities(), weight @ models.double())
    by_number = torch.zeros(target.most + 1, dtype=torch.float64).index_add(0, models.sum(-1), weight)
    torch.testing.assert_close(target.number_probabilities(), by_number)


def test_draws_follow_the_law(target: ChangePoints) -> None:
    """Chi-square of the sizes, |z| < 5 of the places."""
    torch.manual_seed(0)
    draws = target.sample(20_000)
    assert bool(target.measure.contains(draws).all())
    expected = 20_000 * target.number_probabilities().numpy()
    found = draws.sum(-1).bincount(minlength=target.most + 1).numpy()
    seen = expected > 5
    statistic = ((found - expected)[seen] ** 2 / expected[seen]).sum()
    assert stats.chi2(seen.sum()).sf(statistic) > 1e-6
    p = target.inclusion_probabilities()
    assert (
        float(((draws.double().mean(0) - p) / (p * (1 - p) / 20_000).sqrt().clamp(min=1e-4)).abs().max()) < 5
    )


def test_levels_are_posterior_means() -> None:
    """By the formulas of the conjugate families, and constant between change-points."""
    target = CASES["poisson"]()
    model = torch.tensor([[False, False, False, True, False, False, False]])
    level = target.row_levels(model)[0]
    assert level[:4].tolist() == pytest.approx([3.5 / 4.7] * 4)
    assert level[4:].tolist() == pytest.approx([34.5 / 4.7] * 4)
    normal = CASES["gaussian"]()
    mean, sd = normal.levels(torch.tensor(3), torch.tensor(6))
    assert float(mean) == pytest.approx((0.4 * 0.5 + 6.4) / 3.4)
    assert 0.1 < float(sd) < 1.0


def test_coal_mining() -> None:
    target = coal_mining()
    assert (len(target.y), int(target.y.sum())) == (112, 191)
    place = target.inclusion_probabilities()
    assert float(place[1884 - 1851 : 1898 - 1851].sum()) > 0.95  # one change between 1884 and 1898


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PoissonChangePoints(torch.tensor([0.5, 1.0, 2.0])), "whole numbers"),
        (lambda: PoissonChangePoints(COUNTS, most=8), "cannot have 8"),
        (lambda: PoissonChangePoints(COUNTS, shape=0.0), "shape and rate"),
        (lambda: GaussianChangePoints(VALUES, rate=0.0), "must be positive"),
        (lambda: GaussianChangePoints(torch.tensor([1.0, 2.0])), "at least 3"),
    ],
)
def test_bad_input(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()
