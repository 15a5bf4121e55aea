"""Sums of sinusoids: the marginal likelihood by scipy, the prior by quadrature, and what a fit finds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from ctsgfn import fit, model_posterior
from ctsgfn.errors import InvalidInput
from ctsgfn.targets import Sinusoids
from ctsgfn.with_parameters import Parameterised

N = 24


def series() -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    t = torch.arange(N, dtype=torch.float64)
    noise = torch.randn(N, generator=g, dtype=torch.float64)
    return 1.5 * (0.9 * t).cos() - (2.0 * t + 0.3).sin() + 0.5 * noise


def test_evidence_is_that_of_the_normal_law() -> None:
    """Ratio of two models: with sigma integrated out, y is Student-t of shape I + g D (D'D)^-1 D'."""
    y, target = series(), Sinusoids(series(), most=2)
    theta = torch.tensor([[0.3, 0.0], [-1.0, 0.2]], dtype=torch.float64)
    x = Parameterised(torch.tensor([[1], [2]]), theta)
    omega, log_det = target._broken(x)
    level = target.log_density(x) - log_det
    expected = []
    for row, m in enumerate((1, 2)):
        phase = np.outer(np.arange(N), omega[row, :m].numpy())
        d = np.hstack([np.cos(phase), np.sin(phase)])
        shape = np.eye(N) + N * d @ np.linalg.solve(d.T @ d, d.T)
        rest = y.numpy() @ np.linalg.solve(shape, y.numpy())
        likelihood = -0.5 * np.linalg.slogdet(shape)[1] - 0.5 * N * math.log(rest)
        poisson = stats.poisson(1.0)
        prior = poisson.logpmf(m) - math.log(poisson.cdf(2)) + math.lgamma(m + 1) - m * math.log(math.pi)
        expected.append(likelihood + prior)
    constant = math.lgamma(N / 2) - N / 2 * math.log(math.pi)
    assert level.tolist() == pytest.approx([e + constant for e in expected], abs=1e-6)


def test_sticks_are_a_chart_of_ordered_frequencies() -> None:
    theta = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = Sinusoids(series(), most=3)
    x = Parameterised(torch.full((20, 1), 3), theta)
    omega, log_det = target._broken(x)
    assert bool((omega.diff(dim=1) > 0).all())
    assert bool(((omega > 0) & (omega < math.pi)).all())
    for row in range(3):
        one = x[row : row + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda z, one=one: target._broken(Parameterised(one.model, z[None]))[0][0], theta[row]
        )
        assert float(torch.linalg.slogdet(jacobian).logabsdet) == pytest.approx(float(log_det[row]), abs=1e-9)


@pytest.mark.slow
def test_a_fit_finds_the_number() -> None:
    """Probabilities of 0, 1 and 2 sinusoids beside quadrature over both frequencies (|z| < 5)."""
    target = Sinusoids(series(), most=2)
    line = torch.linspace(-9, 9, 1801, dtype=torch.float64)
    one = target.log_density(
        Parameterised(torch.ones(1801, 1).long(), torch.stack([line, 0 * line], -1))
    ).logsumexp(0) + math.log(0.01)
    side = line[::3]
    grid = torch.cartesian_prod(side, side)
    parts = [
        target.log_density(Parameterised(torch.full((len(z), 1), 2), z)).logsumexp(0)
        for z in grid.split(50_000)
    ]
    two = torch.stack(parts).logsumexp(0) + 2 * math.log(0.03)
    none = target.log_density(Parameterised(torch.zeros(1, 1).long(), torch.zeros(1, 2)))[0]
    exact = torch.stack([none, one, two])
    sampler = fit(target, steps=200, batch_size=100, seed=0, progress_bar=False)
    posterior = model_posterior(sampler, 8000, seed=1)
    assert posterior.evidence.ess > 0.1
    assert abs(posterior.evidence.log_z - float(exact.logsumexp(0))) < 5 * posterior.evidence.stderr
    found = posterior.dimension_probabilities()
    for m, p in enumerate(exact.softmax(0).tolist()[: len(found.value)]):
        assert abs(float(found.value[m]) - p) < 5 * float(found.stderr[m]) + 1e-4


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Sinusoids(torch.ones(3)), "at least 4"),
        (lambda: Sinusoids(torch.zeros(9)), "not all 0"),
        (lambda: Sinusoids(torch.ones(9), mean=0.0), "mean and g"),
        (lambda: Sinusoids(torch.ones(9), most=0), "most must be"),
    ],
)
def test_bad_input(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()
