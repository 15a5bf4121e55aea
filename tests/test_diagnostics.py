"""Distances between samples against closed forms, and counts of modes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ctsgfn.diagnostics import (
    jensen_shannon,
    kde_jsd,
    kde_log_density,
    mmd,
    mode_counts,
    mode_total_variation,
)
from ctsgfn.errors import InvalidInput


def test_jensen_shannon_between_its_bounds() -> None:
    p, q = torch.randn(2, 50)
    assert 0 < jensen_shannon(p, q) < math.log(2)
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p + 7.0), abs=1e-6)
    assert jensen_shannon(p, p) == pytest.approx(0.0, abs=1e-12)
    apart = torch.tensor([0.0, -math.inf])
    assert jensen_shannon(apart, apart.flip(0)) == pytest.approx(math.log(2))


def test_jensen_shannon_of_two_coins() -> None:
    """By hand: p = (0.9, 0.1), q = (0.5, 0.5), m = (0.7, 0.3)."""
    p, q, m = (0.9, 0.1), (0.5, 0.5), (0.7, 0.3)
    by_hand = sum(
        0.5 * a * math.log(a / c) + 0.5 * b * math.log(b / c) for a, b, c in zip(p, q, m, strict=True)
    )
    assert jensen_shannon(torch.tensor(p).log(), torch.tensor(q).log()) == pytest.approx(by_hand, abs=1e-6)


def test_kde_is_the_sum_of_its_kernels() -> None:
    samples, at = torch.rand(300, 2, dtype=torch.float64), torch.rand(40, 2, dtype=torch.float64)
    by_hand = (-(at[:, None] - samples).square().sum(-1).sqrt() / 0.1).exp().sum(1).log()
    assert torch.allclose(kde_log_density(samples, at), by_hand)


def test_kde_agrees_with_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.neighbors", reason="scikit-learn is in the bench extra only")
    samples, at = torch.rand(300, 2, dtype=torch.float64), torch.rand(40, 2, dtype=torch.float64)
    theirs = sklearn.KernelDensity(kernel="exponential", bandwidth=0.1).fit(samples.numpy())
    ours = kde_log_density(samples, at)
    shift = ours - torch.from_numpy(theirs.score_samples(at.numpy()))
    assert (shift - shift.mean()).abs().max() < 1e-6


def test_kde_jsd_sees_a_shift_and_not_a_second_draw() -> None:
    """10,000 points: the floor of the metric is 1e-4, the uniform law is 1e-2 and more away from a slope."""
    x, y = torch.rand(2, 10_000, 2)
    assert kde_jsd(x, y) < 3e-4
    assert kde_jsd(x, y.sqrt()) > 1e-2


def test_modes_are_counted() -> None:
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    x = torch.cat([centres[[0] * 50 + [1] * 30]]) + 0.1 * torch.randn(80, 2)
    x = torch.cat([x, torch.full((20, 2), 40.0)])
    assert mode_counts(x, centres, radius=1.0).tolist() == [50, 30, 0]
    assert mode_counts(x, centres).sum() == 100
    assert mode_total_variation(x[:80], centres[:2], torch.tensor([5.0, 3.0])) == pytest.approx(0.0)
    assert mode_total_variation(x[:80], centres[:2]) == pytest.approx(0.125)
    # the 20 strays are a mode of weight 0, the third centre is missed
    tv = mode_total_variation(x, centres, torch.tensor([0.5, 0.3, 0.2]), radius=1.0)
    assert tv == pytest.approx(0.2)


def test_mmd_of_two_normals() -> None:
    """In closed form: 2 (s^2 / (s^2 + 2))^{d/2} (1 - exp(-|m|^2 / (2 (s^2 + 2))))."""
    d, s, shift = 3, 1.5, 0.8
    closed = 2 * (s * s / (s * s + 2)) ** (d / 2) * -math.expm1(-d * shift**2 / (2 * (s * s + 2)))
    values = []
    for _ in range(60):
        x, y = torch.randn(2, 200, d)
        values.append([mmd(x, y + shift, scale=s), mmd(x, y, scale=s)])
    found = torch.tensor(values, dtype=torch.float64)
    error = found.std(0) / math.sqrt(60)
    assert abs(found[:, 0].mean().item() - closed) < 4.9 * error[0].item()  # false alarm: 1e-6
    assert abs(found[:, 1].mean().item()) < 4.9 * error[1].item()
    assert closed > 20 * error[0].item()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: kde_log_density(x, torch.zeros(3, 1)), "dimensions must agree"),
        (lambda x: kde_log_density(x, x, bandwidth=0.0), "with bandwidth 0.0"),
        (lambda x: kde_log_density(x[:0], x), r"samples must be finite points \[N, d\]"),
        (lambda x: mode_counts(x / 0, x), "x must be finite points"),
        (lambda x: mode_counts(x, torch.zeros(2, 3)), "cannot be assigned to centres in 3"),
        (lambda x: mmd(x, x[:1]), "at least 2 points"),
        (lambda x: mmd(x, x, scale=0.0), "scale of the kernel must be positive"),
        (lambda x: mmd(x[:, 0], x), "x must be finite points"),
    ],
)
def test_bad_input_is_refused(call: object, words: str) -> None:
    x: Tensor = torch.rand(5, 2)
    assert callable(call)
    with pytest.raises(InvalidInput, match=words):
        call(x)
