"""Degrees of polynomials: exact evidences beside selection with a g-prior, and a flow over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ctsgfn import fit, model_posterior
from ctsgfn.errors import InvalidInput
from ctsgfn.targets import PolynomialOrder
from ctsgfn.targets.spike_and_slab import GPrior, SpikeAndSlab

T = torch.linspace(0, 2, 25, dtype=torch.float64)
Y = (
    1
    + T
    - 0.7 * T**3
    + 0.3 * torch.randn(25, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
)


def test_evidence_is_that_of_selection_with_a_g_prior() -> None:
    """The span of the first m powers is what counts: the same evidences as models {1, .., m} of powers."""
    target = PolynomialOrder(T, Y, most=4)
    selection = SpikeAndSlab(T[:, None] ** torch.arange(1, 5), Y, slab=GPrior(25.0))
    models = torch.ones(5, 4, dtype=torch.bool).tril(-1)
    prior = selection.prior.log_prob(models.sum(-1), 4)
    expected = selection.log_density(models) - prior - torch.tensor(5.0).double().log()
    torch.testing.assert_close(target.log_density(torch.arange(5)[:, None]), expected, atol=1e-7, rtol=0.0)


def test_curves_are_shrunk_least_squares() -> None:
    target = PolynomialOrder(T, Y, most=3)
    curve = target.curve(torch.tensor([[0], [3]]))
    mean = float(Y.mean())
    torch.testing.assert_close(curve[0], torch.full((25,), mean).double())
    fitted = np.polyval(np.polyfit(T.numpy(), Y.numpy(), 3), T.numpy())
    np.testing.assert_allclose(curve[1].numpy(), mean + 25 / 26 * (fitted - mean), atol=1e-8)


def test_a_flow_averages_over_degrees() -> None:
    target = PolynomialOrder(T, Y, most=4)
    sampler = fit(target, steps=150, batch_size=64, seed=0, progress_bar=False)
    posterior = model_posterior(sampler, 4000, seed=1)
    exact = target.order_probabilities()
    averaged = posterior.average(target.curve)
    wanted = exact @ target.curve(torch.arange(5)[:, None])
    assert float(((averaged.value - wanted).abs() - 5 * averaged.stderr).max()) < 1e-3
    draws = target.sample(20_000)[:, 0].bincount(minlength=5) / 20_000
    assert float((draws - exact).abs().max()) < 5 * 0.5 / 20_000**0.5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PolynomialOrder(T, Y[1:]), "places"),
        (lambda: PolynomialOrder(T[:4], Y[:4]), "different places"),
        (lambda: PolynomialOrder(T, Y * torch.nan), "finite"),
        (lambda: PolynomialOrder(T, Y, g=-1.0), "g must be positive"),
    ],
)
def test_bad_input(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()
