"""Fitting on bounded boxes: through the sigmoid, with every mode, and with density up to the faces.

Statistical assertions have a false-alarm rate of 1e-6 each (4.9 standard errors) and fixed seeds.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from numerics import z_scores
from torch import Tensor

import ctsgfn
from ctsgfn.measures import Lebesgue

CENTRES = torch.tensor([[0.1, 0.1, 0.9], [0.9, 0.8, 0.2], [0.2, 0.9, 0.8], [0.85, 0.15, 0.5]]).double()
SHARE, WIDTH = torch.tensor([0.55, 0.25, 0.15, 0.05]).double(), 0.02


def four_modes(x: Tensor) -> Tensor:
    """Normalised, but for what lies outside: at least five standard deviations away."""
    each = -0.5 * ((x[:, None] - CENTRES.to(x)) / WIDTH).square().sum(-1)
    return (SHARE.log().to(x) + each).logsumexp(-1) - 3 * math.log(WIDTH * math.sqrt(2 * math.pi))


def test_every_mode_is_found() -> None:
    """Walks on the cube itself had an ESS of 1 %."""
    sampler = ctsgfn.fit(four_modes, measure=Lebesgue(3, 0.0, 1.0), steps=200, seed=0, progress_bar=False)
    evidence = sampler.evidence(8192, seed=1)
    assert evidence.ess > 0.5
    assert abs(evidence.log_z) < 4.9 * evidence.stderr
    x = sampler.resample(4000, pool=20_000, seed=2)
    assert bool(((x > 0) & (x < 1)).all())
    nearest = torch.cdist(x.double(), CENTRES).argmin(-1)
    for k in range(4):
        assert abs(float(z_scores((nearest == k).double(), float(SHARE[k])))) < 4.9


def tilted(x: Tensor) -> Tensor:
    """Highest at the upper faces of (2, 6)^2."""
    return (x - 6).sum(-1)


def arcsine(x: Tensor) -> Tensor:
    """Infinite at the faces of (0, 1)^2."""
    return -0.5 * (x.log() + (-x).log1p()).sum(-1)


@pytest.mark.parametrize(
    ("log_density", "measure", "log_z", "mean"),
    [
        (tilted, Lebesgue(2, 2.0, 6.0), 2 * math.log1p(-math.exp(-4.0)), 6 - 1 + 4 / math.expm1(4.0)),
        (arcsine, Lebesgue(2, 0.0, 1.0), 2 * math.log(math.pi), 0.5),
    ],
)
def test_density_up_to_the_faces(
    log_density: object, measure: Lebesgue, log_z: float, mean: float, tmp_path: Path
) -> None:
    sampler = ctsgfn.fit(log_density, measure=measure, steps=200, seed=0, progress_bar=False)
    evidence = sampler.evidence(8192, seed=1)
    assert evidence.ess > 0.8
    assert abs(evidence.log_z - log_z) < 4.9 * evidence.stderr
    x = sampler.resample(2000, pool=20_000, seed=2)
    assert bool(((x >= measure.low) & (x <= measure.high)).all())
    assert float(z_scores(x.double(), mean).abs().max()) < 4.9
    sampler.save(tmp_path / "box.pt")
    twin = ctsgfn.load(tmp_path / "box.pt", ctsgfn.as_target(log_density, measure))
    assert torch.equal(twin.sample(5, seed=3), sampler.sample(5, seed=3))


def test_moves_stay_in_the_box() -> None:
    sampler = ctsgfn.fit(
        tilted, measure=Lebesgue(2, 2.0, 6.0), kernel="mixture", steps=50, seed=0, progress_bar=False
    )
    x = sampler.mcmc(2000, seed=1)
    assert bool(((x >= 2) & (x <= 6)).all())
    assert float(z_scores(x.double(), 5 + 4 / math.expm1(4.0)).abs().max()) < 4.9
    assert abs(sampler.refine(error=0.02, seed=2).log_z - 2 * math.log1p(-math.exp(-4.0))) < 0.1
