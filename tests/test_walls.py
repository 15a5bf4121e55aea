"""Densities with hard limits: what a flow learns from them, and that it covers the mass beside a wall."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ctsgfn
from ctsgfn import Lebesgue, as_target
from ctsgfn.counted import CountedTarget
from ctsgfn.errors import FailedFactor
from ctsgfn.target import Eased, evaluate, has_floor, transformed
from ctsgfn.whitening import Whitening


def cut(x: Tensor) -> Tensor:
    """A standard normal where the coordinates add up to at least 3."""
    inside = x.sum(-1) >= 3
    return torch.where(inside, -0.5 * x.square().sum(-1) - math.log(2 * math.pi), -math.inf)


def test_the_mass_beside_a_wall_is_covered() -> None:
    """Learning from residuals of 1000 nats beyond it, a mixture kept away: ESS 43 %, k 0.95."""
    sampler = ctsgfn.fit(cut, dim=2, floor=-1e3, kernel="mixture", steps=300, seed=0, progress_bar=False)
    exact = math.log(0.5 * math.erfc(1.5))
    evidence = sampler.evidence(seed=1)
    assert evidence.reliable
    assert evidence.log_z - evidence.lower_bound > 1, "some draws are beyond the wall, and weigh nothing"
    assert abs(evidence.log_z - exact) < 4.9 * evidence.stderr
    assert evidence.ess > 0.75
    inside = sampler.resample(2000, seed=2).sum(-1) >= 3
    assert bool(inside.all())


def test_an_eased_target_has_a_higher_floor() -> None:
    target = as_target(cut, Lebesgue(2), floor=-1e3)
    x = torch.tensor([[2.0, 2.0], [0.0, 0.0]])
    eased = Eased(target, -50.0)
    assert evaluate(eased, x).tolist() == [evaluate(target, x)[0].item(), -50.0]
    assert eased.measure == target.measure
    assert has_floor(target)
    assert has_floor(transformed(target, Whitening(torch.ones(2), torch.eye(2)), Lebesgue(2)))
    assert not has_floor(as_target(cut, Lebesgue(2)))


def process(u: Tensor) -> Tensor:
    """A Gaussian process with length scale and size e^u: far out its matrix has no factor."""
    x = torch.linspace(0, 3, 8).to(u)
    scale, size = u.exp().unbind(-1)
    near = -0.5 * ((x[:, None] - x) / scale[:, None, None]).square()
    matrix = size[:, None, None].square() * near.exp() + 1e-3 * torch.eye(8).to(u)
    factor = torch.linalg.cholesky(matrix)
    z = torch.linalg.solve_triangular(factor, x.sin()[:, None].expand(len(u), 8, 1), upper=False)
    fit = -0.5 * z.square().sum((1, 2)) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return fit - 0.5 * u.square().sum(-1)


def test_points_whose_matrix_has_no_factor_are_not_finite() -> None:
    target, bad = as_target(process, Lebesgue(2)), torch.tensor([[0.0, 0.0], [9.0, 40.0], [0.1, 0.2]])
    with pytest.raises(FailedFactor, match=r"positive-definite.*cholesky_ex"):
        evaluate(target, bad)
    value = CountedTarget(target).value(bad)
    torch.testing.assert_close(value[[0, 2]], process(bad[[0, 2]]))
    assert value[1] == -math.inf
    value, slope = CountedTarget(target).value_and_score(bad)
    assert torch.isfinite(value).tolist() == [True, False, True]
    assert torch.isfinite(slope).all()
    sampler = ctsgfn.fit(process, dim=2, kernel="mixture", steps=20, seed=0, progress_bar=False)
    assert sampler.evidence(seed=1).ess > 0.5
