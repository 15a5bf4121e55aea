"""The kernel at the ends of its charts draws what the reference allows, and goes to the ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from registry import SPACES
from workbench import PARKED, START, places, reference

from ctsgfn.extreme import ENDS, FAR, Extreme, extreme
from ctsgfn.measures import Counting, Haar, Lebesgue, Product, coordinates
from ctsgfn.probing import never_stopping
from ctsgfn.walks import rollout


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "base",
    [Counting(5), Haar(2), Lebesgue(2), Lebesgue(2, -1.0, 3.0), Product((Counting(3), Lebesgue(1)))],
    ids=str,
)
def test_draws_lie_in_the_base(base: Any, end: str) -> None:
    a = Extreme(base, end)(torch.zeros(300, 0, dtype=torch.float64), None, None).sample()
    assert a.shape == (300, coordinates(base))
    assert bool(base.contains(a).all())
    if end != "either":
        assert float(a.double().std(0).max()) == 0.0
    if base == Lebesgue(2):
        at = {"low": -FAR, "high": FAR}.get(end)
        assert bool((a == at).all()) if at is not None else bool((a.abs() == FAR).any())


def test_dead_atoms_and_axes_are_left_alone() -> None:
    live = torch.tensor([[False, True, True, False]]).expand(6, 4)
    for end, atom in (("low", 1), ("high", 2)):
        a = Extreme(Counting(4), end)(torch.zeros(6, 0), None, live).sample()
        assert a.flatten().tolist() == [atom] * 6
    axes = torch.tensor([[True, False]]).expand(6, 2)
    assert bool((Extreme(Haar(2), "high")(torch.zeros(6, 0), None, axes).sample()[:, 1] == 0).all())


@pytest.mark.parametrize("end", ENDS)
def test_every_branch_is_walked(end: str) -> None:
    kernel = extreme(reference(), end)
    s = places([START, PARKED] * 200)
    jump = kernel(s).sample()
    k = kernel.reference.locate(s, jump)
    assert set(k.tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("name", SPACES)
def test_walks_end_within_the_horizon(name: str) -> None:
    space = SPACES[name].space()
    walks = rollout(space, extreme(never_stopping(space.kappa), "high"), 50)
    assert int(walks.lengths.max()) <= space.horizon
