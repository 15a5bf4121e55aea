"""Narrow modes that ascents miss and values find; where there are none, nothing changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ctsgfn
from ctsgfn import Lebesgue, as_target
from ctsgfn.counted import CountedTarget
from ctsgfn.gaussian_fits import GaussianFits
from ctsgfn.missed import missed_modes

BROAD = GaussianFits(torch.zeros(1, 2), torch.eye(2)[None], torch.zeros(1))
LOG_Z = math.log(2 * math.pi)


def two(width: float, far: float, height: float = 0.0) -> ctsgfn.Target:
    """A standard normal and a narrow one of as much mass (times e^height), in the plane."""

    def log_density(x: Tensor) -> Tensor:
        narrow = -0.5 * ((x - far) / width).square().sum(-1) - 2 * math.log(width) + height
        return torch.logaddexp(-0.5 * x.square().sum(-1), narrow)

    return as_target(log_density, Lebesgue(2))


@pytest.mark.parametrize(("width", "far"), [(0.1, 8.0), (0.03, 4.0)])
def test_a_narrow_mode_far_away_is_found(width: float, far: float) -> None:
    """Lost before, silently, with half of the mass: log Z 0.69 too low."""
    sampler = ctsgfn.fit(two(width, far), steps=100, seed=0, progress_bar=False)
    evidence = sampler.evidence(seed=1)
    assert abs(evidence.log_z - LOG_Z - math.log(2)) < 4.9 * evidence.stderr + 1e-3
    share = (sampler.resample(2000, seed=2)[:, 0] > far / 2).double().mean()
    assert abs(float(share) - 0.5) < 4.9 * math.sqrt(0.25 / 2000)


def test_what_is_explained_is_not_missed_and_the_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    normal = as_target(lambda x: -0.5 * x.square().sum(-1), Lebesgue(2))
    assert len(missed_modes(CountedTarget(normal), BROAD, LOG_Z)) == 0
    heavy = as_target(lambda x: -2.0 * (1 + x.square()).log().sum(-1), Lebesgue(2))
    assert len(missed_modes(CountedTarget(heavy), BROAD, 1.0)) == 0, "tails lead to the mode that is known"
    endless = as_target(lambda x: -(1 + x.square().sum(-1)).log(), Lebesgue(2))
    assert len(missed_modes(CountedTarget(endless), BROAD, LOG_Z)) == 0, "no integral, no mode"
    small = two(0.1, 4.0, height=-8.0)
    assert len(missed_modes(CountedTarget(small), BROAD, LOG_Z)) == 0, "a mode of no weight"
    assert torch.equal(torch.get_rng_state(), before)


def test_beyond_ten_dimensions_nothing_is_asked() -> None:
    counted = CountedTarget(as_target(lambda x: -0.5 * x.square().sum(-1), Lebesgue(11)))
    fits = GaussianFits(torch.zeros(1, 11), torch.eye(11)[None], torch.zeros(1))
    assert len(missed_modes(counted, fits, 0.0)) == 0
    assert counted.density_calls == 0
