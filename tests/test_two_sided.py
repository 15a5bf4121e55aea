"""The bounded two-sided identity: calibrated where the sides agree, and loud where they do not."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from ctsgfn.two_sided import FEWEST, FUNCTIONS, Side, compare, log_factor, z_limit


def beta_sides(n: int, error: float = 0.0, cells: int = 0) -> tuple[Side, Side]:
    """L uniform and R of density 2 x on the unit interval; the ratio is e^error too small."""
    x, y = torch.rand(n, 1, dtype=torch.float64), torch.rand(n, 1, dtype=torch.float64).sqrt()

    def side(at: Tensor) -> Side:
        cell = (at * cells).long() if cells else None
        return Side((2 * at[:, 0]).log() - error, at, cell)

    return side(x), side(y)


def test_false_alarms_are_as_rare_as_they_should_be() -> None:
    """400 comparisons at a rate of 5 % (Bonferroni): more than 36 would have probability 4e-4."""
    alarms = sum(not compare(*beta_sides(2000, cells=4), 0.05).ok for _ in range(400))
    assert 0 < alarms <= 36


def test_z_is_standard_normal() -> None:
    """The constant alone, 500 times: the variance of z within five of its standard errors."""
    z = []
    for _ in range(500):
        left, right = beta_sides(1000)
        terms = left.log_ratio.sigmoid(), (-right.log_ratio).sigmoid()
        spread = sum(float(t.var()) / 1000 for t in terms)
        z.append((float(terms[0].mean()) - float(terms[1].mean())) / math.sqrt(spread))
    values = torch.tensor(z)
    assert abs(float(values.mean())) < 5 / math.sqrt(500)
    assert abs(float(values.var()) - 1) < 5 * math.sqrt(2 / 500)


def test_largest_z_of_a_comparison_is_that_of_its_functions() -> None:
    """The limit for one function, for the constant alone, is the two-sided normal quantile."""
    assert z_limit(0.05, 1) == pytest.approx(NormalDist().inv_cdf(0.975))
    comparison = compare(*beta_sides(5000), 1e-3)
    assert comparison.functions == 1 + FUNCTIONS
    assert comparison.limit == pytest.approx(z_limit(1e-3, 1 + FUNCTIONS))


@pytest.mark.parametrize("error", [-0.1, 0.1])
def test_a_constant_factor_is_seen_and_measured(error: float) -> None:
    left, right = beta_sides(40_000, error)
    assert not compare(left, right, 1e-4).ok
    assert abs(log_factor(left, right) - error) < 0.03


def test_an_error_that_averages_to_nothing_is_seen() -> None:
    left, right = beta_sides(40_000)
    wave = [0.3 * (2 * math.pi * side.features[:, 0]).sin() for side in (left, right)]
    bent = [Side(s.log_ratio + w, s.features) for s, w in zip((left, right), wave, strict=True)]
    assert not compare(bent[0], bent[1], 1e-4).ok


def test_the_piece_with_the_error_is_named() -> None:
    left, right = beta_sides(100_000, cells=10)
    wrong = [Side(s.log_ratio - 0.5 * (s.cell[:, 0] == 7), s.features, s.cell) for s in (left, right)]  # type: ignore[index]
    comparison = compare(wrong[0], wrong[1], 1e-4)
    assert not comparison.ok
    assert comparison.worst_cell == 7
    assert abs(log_factor(wrong[0], wrong[1], 7) - 0.5) < 0.1
    assert abs(log_factor(wrong[0], wrong[1], 2)) < 0.1


def test_importance_weights_stand_for_draws() -> None:
    left, _ = beta_sides(40_000)
    y = torch.rand(40_000, 1, dtype=torch.float64)  # uniform draws, weighted to the density 2 y
    ratio = (2 * y[:, 0]).log()
    assert compare(left, Side(ratio, y, None, ratio + 3.0), 1e-4).ok
    assert not compare(left, Side(ratio, y), 1e-4).ok


def test_rows_without_a_draw_count_as_nothing() -> None:
    """Half of each side's probes have no draw, and the other half has the wrong features there."""
    left, right = beta_sides(20_000)
    gone = torch.arange(20_000) % 2 == 0
    masked = [
        Side(torch.where(gone, missing, s.log_ratio), torch.where(gone[:, None], 0.0, s.features))
        for s, missing in ((left, -math.inf), (right, math.inf))
    ]
    assert compare(masked[0], masked[1], 1e-4).ok


def test_few_draws_decide_nothing() -> None:
    left, right = beta_sides(int(FEWEST) // 4)
    comparison = compare(left, right, 1e-4)
    assert not comparison.conclusive
    assert comparison.ok


def test_nan_is_a_difference() -> None:
    left, right = beta_sides(2000)
    comparison = compare(Side(left.log_ratio * math.nan, left.features), right, 1e-4)
    assert not comparison.ok
