"""Lists and products of counting measures: weighed one by one, or a coordinate at a time."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ctsgfn
from ctsgfn import Counting, Product
from ctsgfn.errors import InvalidInput, NonFinite
from ctsgfn.kernels.heads.table import Table, TableLaw
from ctsgfn.kernels.spaces.cells import cells
from ctsgfn.listed import LISTED
from ctsgfn.objectives import trajectory_balance

QUICK = {"seed": 0, "progress_bar": False}
MIXED = Product((Counting(2), Counting(5), Counting(3)))


def pull(x: Tensor) -> Tensor:
    """Coordinates that depend on each other, on ``MIXED``."""
    return -2 * (x[:, 0] - x[:, 1] / 4.0).square() + 0.5 * x[:, 2] * x[:, 0]


def test_every_point_is_weighed_and_the_law_is_exact() -> None:
    sampler = ctsgfn.fit(pull, measure=MIXED, **QUICK)
    points = torch.tensor(list(itertools.product(range(2), range(5), range(3))))
    log_r = pull(points).double()
    assert sampler.notes == ("all 30 points were weighed one by one: the law is exact, nothing is trained.",)
    torch.testing.assert_close(
        sampler.log_prob(points).double(), log_r - log_r.logsumexp(0), rtol=0, atol=1e-5
    )
    evidence = sampler.evidence(1000, seed=1)
    assert evidence.reliable
    assert abs(evidence.log_z - float(log_r.logsumexp(0))) < 1e-5
    assert evidence.stderr < 1e-6
    draws = sampler.sample(20_000, seed=2)
    assert MIXED.contains(draws).all()
    expected = (log_r - log_r.logsumexp(0)).exp() * len(draws)
    seen = torch.bincount((draws * torch.tensor([15, 3, 1])).sum(-1), minlength=30)
    chi2 = ((seen - expected).square() / expected).sum()
    assert chi2 < 71.3, "29 degrees of freedom, false alarms 2e-5"


def test_the_list_is_a_space() -> None:
    """Not among the registered ones: the only edges leave s0, and most mutations need others."""
    sampler = ctsgfn.fit(pull, measure=MIXED, **QUICK)
    ctsgfn.check(sampler.gfn.space, sampler.target, sampler.gfn, n=5000, seed=0).raise_if_failed()


def test_points_of_density_zero_are_never_drawn() -> None:
    sampler = ctsgfn.fit(
        lambda x: torch.where(x[:, 0] % 2 == 0, 0.0, -math.inf), measure=Counting(10), **QUICK
    )
    assert abs(sampler.evidence(seed=1).log_z - math.log(5)) < 1e-6
    assert not bool((sampler.sample(5000, seed=2) % 2).any())
    law = TableLaw(torch.tensor([-math.inf, 0.0, -math.inf]), batch=1000)
    assert law.sample().unique().tolist() == [1]


def test_a_long_list_takes_no_time_and_is_saved(tmp_path: Path) -> None:
    table = 3 * torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    sampler = ctsgfn.fit(lambda x: table[x[:, 0]], measure=Counting(100_000), **QUICK)
    assert abs(sampler.evidence(seed=1).log_z - float(table.double().logsumexp(0))) < 1e-5
    sampler.save(tmp_path / "list.pt")
    twin = ctsgfn.load(tmp_path / "list.pt", ctsgfn.as_target(lambda x: table[x[:, 0]], Counting(100_000)))
    assert torch.equal(twin.sample(50, seed=3), sampler.sample(50, seed=3))


def test_what_is_too_many_points_is_drawn_coordinate_by_coordinate() -> None:
    many = Product((Counting(4), Counting(3)) * 6)
    assert LISTED < 12**6
    ends = torch.linspace(-1, 1, 12)
    sampler = ctsgfn.fit(lambda x: x.float() @ ends, measure=many, steps=150, **QUICK)
    exact = sum(
        float((e * torch.arange(size)).double().logsumexp(0))
        for e, size in zip(ends, (4, 3) * 6, strict=True)
    )
    evidence = sampler.evidence(seed=1)
    assert abs(evidence.log_z - exact) < 4.9 * evidence.stderr
    assert evidence.ess > 0.9


def test_an_objective_of_ones_own_is_trained() -> None:
    sampler = ctsgfn.fit(pull, measure=MIXED, objective=trajectory_balance, steps=100, hidden=16, **QUICK)
    assert sampler.history is not None
    assert sampler.evidence(seed=1).ess > 0.5


@pytest.mark.parametrize(
    ("density", "measure", "error", "message"),
    [
        (lambda x: x.sum(-1), Counting(9), InvalidInput, r"got torch.int64: convert it with .float\(\)"),
        (lambda x: x @ torch.ones(1), Counting(9), InvalidInput, r"whole numbers; convert them with x.float"),
        (lambda x: x[:, 0] * math.nan, Counting(9), NonFinite, "nan at row 0, the point"),
        (lambda x: x[:, 0] - math.inf, Counting(9), InvalidInput, "-inf at all 9 points"),
        (
            lambda x: x[:, 0].float(),
            Counting(10**6),
            InvalidInput,
            "list of 1000000 points is too long.*Product",
        ),
    ],
)
def test_what_goes_wrong_on_a_list_is_said(
    density: object, measure: Counting, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ctsgfn.fit(density, measure=measure, **QUICK)


def test_a_list_that_was_given_a_dimension() -> None:
    table = torch.zeros(5)
    with pytest.raises(InvalidInput, match=r"pass measure=Counting\(n\)"):
        ctsgfn.fit(lambda x: table[x[:, 0]], dim=1, **QUICK)


def test_sizes_that_make_no_sense() -> None:
    for sizes in ((), (2, 0), (2, 1.5)):
        with pytest.raises(InvalidInput, match="number of values of each coordinate"):
            cells(sizes)
    assert Table(3).base == Counting(3)
