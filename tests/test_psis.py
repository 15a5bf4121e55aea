"""Importance weights: PSIS against ArviZ and against known tails, ESS, systematic resampling."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.psis import convergence_rate, effective_sample_size, generalised_pareto, psis, systematic


def exponential(n: int, k: float) -> Tensor:
    """Log-weights whose weights have a Pareto tail of shape k exactly."""
    return -k * torch.rand(n, dtype=torch.float64).log()


CASES = {
    "normal": lambda: torch.randn(4000, dtype=torch.float64),
    "heavy": lambda: exponential(4000, 1.5),
    "borderline": lambda: exponential(1000, 0.7),
    "bounded": lambda: torch.rand(1000, dtype=torch.float64).log(),
    "few": lambda: torch.randn(30, dtype=torch.float64),
    "shifted": lambda: 1e4 + torch.randn(500, dtype=torch.float64),
    "wild": lambda: 300 * torch.randn(500, dtype=torch.float64),
}


@pytest.mark.parametrize("name", CASES)
def test_psis_is_that_of_arviz(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.x announces 1.0
        arviz = pytest.importorskip("arviz")
    log_weight = CASES[name]()
    if int(arviz.__version__.split(".")[0]) >= 1:
        pytest.skip("psislw moved in ArviZ 1.x")
    expected, k = arviz.psislw(log_weight.numpy().copy())
    ours = psis(log_weight)
    np.testing.assert_allclose(ours.log_weight.numpy(), expected, rtol=0, atol=1e-9)
    assert ours.pareto_k == pytest.approx(float(k), abs=1e-9)


@pytest.mark.parametrize("k", [-0.5, 0.0, 0.3, 0.6, 0.9, 1.3])
def test_generalised_pareto_finds_shape_and_scale(k: float) -> None:
    """Within 5 asymptotic standard errors of the maximum-likelihood estimate, (1 + k) / sqrt(n)."""
    n, sigma = 20_000, 2.5
    u = torch.rand(n, dtype=torch.float64)
    y = sigma * (-u.log() if k == 0 else (u**-k - 1) / k)
    found, scale = generalised_pareto(y)
    # k <= -1/2 leaves the regular case: the bound of the support is then found faster
    assert abs(found - k) < 5 * (1 + abs(k)) / math.sqrt(n)
    assert abs(scale / sigma - 1) < 5 * math.sqrt(2 * (1 + abs(k)) / n)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.8, 1.2])
def test_k_hat_of_known_tails(k: float) -> None:
    """The tail of n = 50,000 weights has 671 members: 5 standard errors are 5 (1 + k) / sqrt(671)."""
    assert abs(psis(exponential(50_000, k)).pareto_k - k) < 5 * (1 + k) / math.sqrt(671)


def test_smoothing_touches_the_tail_only_and_keeps_its_order() -> None:
    log_weight = exponential(1000, 0.6)
    smoothed = psis(log_weight).log_weight
    assert smoothed.exp().sum().item() == pytest.approx(1.0)
    assert torch.equal(smoothed.argsort(), log_weight.argsort())
    tail = math.ceil(3 * math.sqrt(1000))
    body = log_weight.argsort()[:-tail]
    shift = (smoothed - log_weight)[body]
    assert (shift.max() - shift.min()).item() < 1e-12
    assert (smoothed - log_weight - shift[0]).abs().max() > 1e-3
    assert smoothed.max() - shift[0] <= log_weight.max() + 1e-12


def test_smoothing_does_not_depend_on_scale_order_or_device_of_the_weights() -> None:
    log_weight = exponential(1000, 0.6)
    order = torch.randperm(1000)
    one, other = psis(log_weight), psis(log_weight[order] - 700.0)
    assert one.pareto_k == pytest.approx(other.pareto_k, abs=1e-9)
    assert torch.allclose(one.log_weight[order], other.log_weight, atol=1e-9)


def test_even_weights_are_perfect_and_a_handful_is_unknown() -> None:
    assert psis(torch.zeros(100)).pareto_k == -math.inf
    assert psis(torch.randn(10)).pareto_k == math.inf
    assert torch.allclose(psis(torch.zeros(3)).log_weight, torch.full((3,), -math.log(3)).double())


def test_weights_of_zero_are_allowed() -> None:
    log_weight = torch.where(torch.arange(1000) % 2 == 0, torch.randn(1000), -math.inf)
    smoothed = psis(log_weight)
    assert bool((smoothed.log_weight[1::2] == -math.inf).all())
    assert math.isfinite(smoothed.pareto_k)
    assert effective_sample_size(log_weight) < 500


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (torch.zeros(0), "non-empty vector"),
        (torch.zeros(3, 2), r"got shape \[3, 2\]"),
        (torch.tensor([0.0, math.nan]), "nan at row 1"),
        (torch.tensor([math.inf, 0.0]), "inf at row 0"),
        (torch.full((4,), -math.inf), "every log-weight is -inf"),
    ],
)
def test_bad_weights_are_refused(weights: Tensor, words: str) -> None:
    for function in (psis, effective_sample_size):
        with pytest.raises(InvalidInput, match=words):
            function(weights)


def test_effective_sample_size() -> None:
    assert effective_sample_size(torch.full((7,), 123.0)) == pytest.approx(7)
    assert effective_sample_size(torch.tensor([0.0, 0.0, -800.0])) == pytest.approx(2)
    w = torch.rand(50, dtype=torch.float64)
    expected = w.sum().square() / w.square().sum()
    assert effective_sample_size(w.log() - 1e4) == pytest.approx(expected.item())


def test_systematic_resampling_is_even_and_unbiased() -> None:
    w = torch.tensor([0.5, 0.03, 0.07, 0.4], dtype=torch.float64)
    counts = torch.stack([torch.bincount(systematic(w.log(), 10), minlength=4) for _ in range(4000)])
    assert bool((counts.sum(1) == 10).all())
    assert bool((counts >= (10 * w).floor()).all())
    assert bool((counts <= (10 * w + 1e-9).ceil()).all())
    mean = counts.double().mean(0)
    error = counts.double().std(0) / math.sqrt(4000)
    assert bool(((mean - 10 * w).abs() <= 4.9 * error + 1e-12).all())  # false alarm: 1e-6 per entry
    first = torch.stack([systematic(w.log(), 10)[0] for _ in range(2000)])
    share = (first == 0).double().mean().item()
    assert abs(share - 0.5) < 4.9 * math.sqrt(0.25 / 2000)  # shuffled: any slot may hold any row


def test_convergence_rate_falls_from_1_to_0() -> None:
    k = [-1.0, 0.0, 0.2, 0.4, 0.4999999, 0.5, 0.5000002, 0.6, 0.8, 0.99, 1.0, math.inf]
    rates = [convergence_rate(v, 4096) for v in k]
    assert rates[0] == rates[1] == 1.0
    assert rates[-1] == rates[-2] == 0.0
    assert all(a >= b - 1e-5 for a, b in pairwise(rates))
    assert rates[4] == pytest.approx(rates[5], abs=1e-5)
    assert rates[5] == pytest.approx(rates[6], abs=1e-5)


def test_rounding_is_no_tail() -> None:
    """Weights of a perfect sampler differ by rounding, which takes few values: no reason to warn."""
    rounded = 1e-6 * torch.randint(0, 3, (4096,)).double()
    rounded[7] = 1e-5
    assert psis(rounded).pareto_k == -math.inf
    assert psis(100.0 * (rounded > 5e-6).double()).pareto_k == math.inf  # few large ones are
