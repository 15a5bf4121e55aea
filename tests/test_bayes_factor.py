"""Bayes factors against exact ones, across dimensions; their words, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from test_sampler import Normal, on_line
from torch import Tensor

import ctsgfn
from ctsgfn import Lebesgue, bayes_factor, fit, from_pyro
from ctsgfn.bayes_factor import WORDS, BayesFactor
from ctsgfn.errors import InvalidInput, UnreliableEstimate
from ctsgfn.evidence import estimate_evidence
from ctsgfn.target import as_target

Z = 4.9
QUICK: dict[str, Any] = {"steps": 5, "kernel": "mixture", "seed": 0, "progress_bar": False}
X = torch.linspace(-1, 1, 8)
Y = torch.tensor([-0.9, -0.8, -0.2, -0.3, 0.3, 0.1, 0.8, 1.1])


def constant(x: Tensor, y: Tensor) -> None:
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(level + 0 * x, 0.5).to_event(1), obs=y)


def line(x: Tensor, y: Tensor) -> None:
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(level + slope * x, 0.5).to_event(1), obs=y)


def exact(columns: int) -> float:
    """Log evidence of the linear model with the first columns (1, x): a normal of the data."""
    design = torch.stack([torch.ones(8), X], -1)[:, :columns].double()
    covariance = 0.25 * torch.eye(8, dtype=torch.float64) + design @ design.T
    law = torch.distributions.MultivariateNormal(torch.zeros(8, dtype=torch.float64), covariance)
    return law.log_prob(Y.double()).item()


def test_models_of_one_and_two_parameters_against_the_exact_factor() -> None:
    two, one = (fit(from_pyro(model, X, Y), **QUICK) for model in (line, constant))
    factor = bayes_factor(two, one, seed=1)
    truth = exact(2) - exact(1)
    assert abs(factor.log - truth) < Z * factor.stderr + 1e-4
    assert factor.stderr == pytest.approx(math.hypot(factor.first.stderr, factor.second.stderr))
    assert factor.first.measure != factor.second.measure
    assert factor.reliable
    back = bayes_factor(one, two, seed=1)
    assert abs(back.log + truth) < Z * back.stderr + 1e-4
    assert factor.probability + back.probability == pytest.approx(1.0, abs=0.01)
    assert bayes_factor(two, one, seed=1) == factor


@pytest.mark.parametrize(
    ("log", "words"),
    [(0.0, 0), (0.99, 0), (-1.01, 1), (2.99, 1), (3.01, 2), (-4.99, 2), (5.01, 3), (-900.0, 3)],
)
def test_words_of_kass_and_raftery(log: float, words: int) -> None:
    a, b = estimate_evidence(torch.full((50,), log)), estimate_evidence(torch.zeros(50))
    factor = bayes_factor(a, b)
    assert factor.words == WORDS[words][1]
    assert 0.0 <= factor.probability <= 1.0
    text = str(factor)
    assert f"in favour of the {'first' if log >= 0 else 'second'} model: {WORDS[words][1]}" in text
    assert "others" not in text


def test_words_that_hang_on_the_error_are_said_to() -> None:
    a = estimate_evidence(2.9 + 0.5 * torch.randn(100))
    assert "within 2 errors the words could be others" in str(
        bayes_factor(a, estimate_evidence(torch.zeros(50)))
    )


def test_an_unreliable_side_is_named() -> None:
    good = on_line(as_target(Normal(sd=0.9).log_density, Lebesgue(2)))
    bad = on_line(as_target(Normal(sd=0.05).log_density, Lebesgue(2)), steps=1)
    with pytest.warns(UnreliableEstimate, match="of the second model, the effective sample size") as caught:
        factor = bayes_factor(good, bad, n=4096, seed=0)
    assert len(caught) == 1
    assert "NOT reliable" in str(factor)
    refined = bad.refine(0.1, seed=0)
    again = bayes_factor(good, refined, n=4096, seed=0)
    assert again.reliable
    assert abs(again.log) < Z * again.stderr
    assert bayes_factor(good, refined.evidence, n=4096, seed=0) == again


def test_what_makes_no_sense_is_refused() -> None:
    one = fit(from_pyro(constant, X, Y), **QUICK)
    with pytest.raises(InvalidInput, match="same data, and their observed site 'y' has other values"):
        bayes_factor(one, fit(from_pyro(line, X, Y + 1), **QUICK))

    def other(z: Tensor) -> None:
        pyro.sample("z", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=z)

    with pytest.raises(InvalidInput, match="one observes 8 numbers and the other 1"):
        bayes_factor(one, fit(from_pyro(other, torch.tensor(0.5)), **QUICK))
    with pytest.raises(InvalidInput, match="b must be a fitted sampler or its evidence, got float"):
        bayes_factor(one, 3.0)  # type: ignore[arg-type]
    assert ctsgfn.bayes_factor is bayes_factor
    assert BayesFactor.__module__ == "ctsgfn.bayes_factor"
