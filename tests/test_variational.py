"""Normals of the best evidence bound: against the optimum in closed form, and in many dimensions by fit."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

import ctsgfn
from ctsgfn.counted import CountedTarget
from ctsgfn.gaussian_fits import WIDE
from ctsgfn.measures import Lebesgue
from ctsgfn.target import as_target
from ctsgfn.variational import climb, fit_normal


def rotated_log_gammas(dim: int, shape: float):
    """Logarithms of independent gamma variables, scaled and rotated; log Z = d log Gamma(shape) exactly."""
    generator = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    scale = torch.logspace(-1, 1, dim, dtype=torch.float64)
    inverse = (turn / scale).T  # x = turn scale y

    def log_density(x: Tensor) -> Tensor:
        y = x @ inverse.to(x).T
        return (shape * y - y.exp()).sum(-1) - float(scale.log().sum())

    return as_target(log_density, Lebesgue(dim))


def best_bound(shape: float) -> float:
    """Of a normal N(m, s^2) for one coordinate: E[shape y - e^y] in closed form, plus its entropy."""

    def loss(v) -> float:
        m, log_s = v
        fit = shape * m - math.exp(m + 0.5 * math.exp(2 * log_s))
        return -(fit + log_s + 0.5 * (1 + math.log(2 * math.pi)))

    tight = {"xatol": 1e-9, "fatol": 1e-12}
    return -float(minimize(loss, [math.log(shape), -0.5], method="Nelder-Mead", options=tight).fun)


def test_mode_and_best_bound() -> None:
    """The mode is where e^y = 4; the bound is the optimum less what 40 noisy steps leave, and its noise."""
    torch.manual_seed(0)
    dim = 30
    target = rotated_log_gammas(dim, 4.0)
    counted = CountedTarget(target)
    mode, factor = climb(counted, torch.zeros(dim, dtype=torch.float64))
    assert float(target.log_density(mode[None])) == pytest.approx(dim * (4 * math.log(4) - 4), abs=1e-2)
    mean, tril, _ = fit_normal(counted, mode, factor)
    z = torch.randn(200_000, dim, dtype=torch.float64)
    value = target.log_density(mean + z @ tril.T)
    entropy = tril.diagonal().log().sum() + 0.5 * dim * (1 + math.log(2 * math.pi))
    error = float(value.std()) / math.sqrt(len(z))
    bound, best = float(value.mean() + entropy), dim * best_bound(4.0)
    assert bound < best + 4 * error  # false alarms 3e-5
    assert bound > best - 0.3, "less than a tenth of what Laplace's approximation loses"


def test_many_dimensions_get_the_best_normal() -> None:
    """Log Z by z-score (false alarms 6e-5), the bound near its optimum, and a note."""
    dim = WIDE + 6
    target = rotated_log_gammas(dim, 40.0)
    sampler = ctsgfn.fit(target, kernel="mixture", seed=0, progress_bar=False, dtype=torch.float64)
    assert "best evidence bound" in sampler.notes[0]
    evidence = sampler.evidence(20_000, seed=1)
    assert abs(evidence.log_z - dim * math.lgamma(40.0)) < 4 * evidence.stderr
    assert evidence.lower_bound > dim * best_bound(40.0) - 0.5


def test_where_the_best_normal_falls_short_annealed_moves_follow() -> None:
    """Few updates and few draws here; ``benchmarks/large.py`` has the real thing."""
    dim = WIDE + 2
    target = rotated_log_gammas(dim, 4.0)
    sampler = ctsgfn.fit(target, steps=3, slices=2, batch_size=16, seed=0, progress_bar=False)
    assert "not enough" in sampler.notes[0]
    assert sampler.notes[1].startswith("annealed Langevin moves after a mixture: ESS")
    assert sampler.gfn.space.horizon == (4 if "kept" in sampler.notes[1] else 2)
