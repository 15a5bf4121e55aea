"""Knots of splines: evidences by the marginal law of the data, curves, and a flow over sets of knots."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate

from ctsgfn import fit, model_posterior
from ctsgfn.diagnostics import jensen_shannon
from ctsgfn.errors import InvalidInput
from ctsgfn.targets import NormalSlab, SplineKnots

T = torch.linspace(0, 1, 40, dtype=torch.float64)
NOISE = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = 2 * (T - 0.35).clamp(min=0) - 3 * (T - 0.65).clamp(min=0) + 0.05 * NOISE
KNOTS = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)


@pytest.mark.parametrize("degree", [1, 3])
def test_evidence_is_the_integral_over_coefficients_and_noise(degree: int) -> None:
    """Differences of log p(y | m): polynomials projected out, beta by a covariance, sigma by quadrature."""
    target = SplineKnots(T, Y, KNOTS, degree=degree, slab=NormalSlab(2.0))
    models = torch.zeros(3, 9, dtype=torch.bool)
    models[1, [2, 5]], models[2, [0, 3, 8]] = True, True
    t, y = T.numpy(), Y.numpy()
    powers = np.vander(t, degree + 1)
    left = np.linalg.svd(powers)[0][:, degree + 1 :]  # what is orthogonal to all polynomials
    basis = left.T @ np.maximum(t[:, None] - KNOTS.numpy(), 0.0) ** degree
    basis /= np.sqrt((basis**2).sum(0) / len(t))
    z, logs = left.T @ y, []
    for model in models.numpy():
        covariance = np.eye(len(z)) + 2.0 * basis[:, model] @ basis[:, model].T
        square, (_, log_det) = z @ np.linalg.solve(covariance, z), np.linalg.slogdet(covariance)
        best = math.log(square / len(z))

        def of_noise(log_variance: float, square: float = square, best: float = best) -> float:
            away = log_variance - best
            return math.exp(-0.5 * len(z) * away - 0.5 * square * math.exp(-log_variance) + 0.5 * len(z))

        mass = integrate.quad(of_noise, best - 5, best + 5)[0]
        logs.append(-0.5 * log_det + math.log(mass) - 0.5 * len(z) * best - 0.5 * len(z))
    found = target.log_density(models) - target.prior.log_prob(models.sum(-1), 9)
    np.testing.assert_allclose(np.diff(found.numpy()), np.diff(logs), atol=1e-6)


def test_polynomials_cost_nothing() -> None:
    """The posterior of the knots does not see polynomials in the data."""
    one, other = SplineKnots(T, Y, KNOTS), SplineKnots(T, Y + 5 - 3 * T + T**3, KNOTS)
    models = torch.rand(20, 9, generator=torch.Generator().manual_seed(1)) < 0.4
    torch.testing.assert_close(one.log_density(models), other.log_density(models), atol=1e-7, rtol=0.0)


def test_curve_goes_to_least_squares_under_a_wide_slab() -> None:
    target = SplineKnots(T, Y, KNOTS, degree=1, slab=NormalSlab(1e8))
    model = torch.zeros(1, 9, dtype=torch.bool)
    model[0, 4] = True
    design = np.stack([np.ones(40), T.numpy(), np.maximum(T.numpy() - 0.5, 0)], 1)
    fitted = design @ np.linalg.lstsq(design, Y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(target.curve(model)[0].numpy(), fitted, atol=1e-6)


def test_a_flow_finds_the_exact_probabilities() -> None:
    """All 512 sets of knots: log Z, the probabilities of sets, knots, and the averaged curve."""
    target = SplineKnots(T, Y, KNOTS, degree=1)
    sampler = fit(target, steps=200, batch_size=128, seed=0, progress_bar=False)
    posterior = model_posterior(sampler, 8000, seed=1)
    assert abs(posterior.evidence.log_z - target.log_z) < 5 * posterior.evidence.stderr + 1e-3
    models = target.measure.all()
    exact = (target.log_density(models) - target.log_z).exp()
    place = (posterior.models.long() * (1 << torch.arange(9))).sum(-1)
    there = (models.long() * (1 << torch.arange(9))).sum(-1)
    found = torch.zeros(512, dtype=torch.float64).index_copy(0, place, posterior.model_probabilities().value)[
        there
    ]
    assert jensen_shannon(found.clamp(min=1e-30).log(), exact.log()) < 0.01
    inclusion = posterior.inclusion_probabilities().value
    assert float((inclusion - target.inclusion_probabilities()).abs().max()) < 0.02
    averaged = posterior.average(target.curve)
    assert float((averaged.value - exact @ target.curve(models)).abs().max()) < 0.01


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SplineKnots(T, Y[1:], KNOTS), "needs places"),
        (lambda: SplineKnots(T, Y * math.nan, KNOTS), "finite"),
        (lambda: SplineKnots(T, Y, KNOTS + 0.1), "strictly inside"),
        (lambda: SplineKnots(T[:4], Y[:4], T[1:2]), "6 different places"),
        (lambda: SplineKnots(T, Y, torch.tensor([0.5, 0.5])), "same curves"),
        (lambda: SplineKnots(T, Y, KNOTS, degree=0), "degree must be a whole number"),
    ],
)
def test_bad_input(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()
