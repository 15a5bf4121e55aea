"""Straying: shared parameters, one coordinate at a time, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Kernel
from ctsgfn.kernels.heads.autoregressive import AutoregressiveMixture
from ctsgfn.kernels.heads.straying import Straying, straying
from ctsgfn.kernels.spaces.diffusion import diffusion
from ctsgfn.networks import NoContext


def test_a_coordinate_strays_as_often_and_as_far_as_stated() -> None:
    """One standard normal per coordinate: the draw's variance is 1 - rho + rho f^2, by z-score (1e-6)."""
    rate, factor, n = 0.25, 3.0, 40_000
    torch.manual_seed(0)
    head = AutoregressiveMixture(2, 0, components=1).double()
    draws = Straying(head, rate, factor)(torch.zeros(n, 0).double(), None, None).sample()
    second, fourth = 1 - rate + rate * factor**2, 3 * (1 - rate + rate * factor**4)
    z = (draws.square().mean(0) - second) / math.sqrt((fourth - second**2) / n)
    assert bool((z.abs() < 4.9).all())


def test_its_parameters_are_those_of_the_kernel() -> None:
    space = diffusion(3, steps=1)
    own = Kernel(space.kappa, NoContext(), [AutoregressiveMixture(3, 0, hidden=8)])
    walker = straying(own)
    assert {id(p) for p in walker.parameters()} == {id(p) for p in own.parameters()}
    assert walker.reference is own.reference


@pytest.mark.parametrize(
    ("rate", "factor", "message"),
    [
        (0.0, 2.0, r"rate must be in \(0, 1\), got 0.0"),
        (1.0, 2.0, "rate must be"),
        (0.5, 0.0, "factor must be a"),
    ],
)
def test_numbers_that_make_no_sense(rate: float, factor: float, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Straying(AutoregressiveMixture(1, 0), rate, factor)


def test_other_heads_do_not_stray() -> None:
    space = diffusion(1, steps=1)
    with pytest.raises(InvalidInput, match="Diffuse is none: explore with widened"):
        straying(diffuse(space.kappa))
