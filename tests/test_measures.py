"""Measures: probes are unbiased, log_probe is the probe's density, supports and identities.

|z| < 5 has a false-alarm rate of 6e-7 per integral.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from numerics import quadrature, z_scores
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import (
    Atom,
    Counting,
    Haar,
    Lebesgue,
    Measure,
    Product,
    Pushforward,
    Sum,
    coordinates,
    wrap,
)
from ctsgfn.states import Batch
from ctsgfn.subsets import Subsets

INF = math.inf


@dataclass(frozen=True)
class Flag(Batch):
    """A point of a line, or the start."""

    x: Tensor  # [B, 1]
    started: Tensor  # [B] bool


def line(low: float, high: float) -> Pushforward[Flag]:
    return Pushforward(
        Lebesgue(1, low, high),
        push=lambda a: Flag(a, torch.ones(len(a), dtype=torch.bool)),
        pull=lambda s: s.x,
        owns=lambda s: s.started,
    )


start = Pushforward(
    Atom(),
    push=lambda a: Flag(a.new_zeros(len(a), 1), torch.zeros(len(a), dtype=torch.bool)),
    pull=lambda s: s.x[:, :0],
    owns=lambda s: ~s.started,
)

BESSEL_0_OF_1 = 1.2660658777520084

# measure, integrand, its integral
INTEGRALS: dict[str, tuple[Measure[Any], Callable[[Any], Tensor], float]] = {
    "square": (Lebesgue(2, 0.0, 1.0), lambda x: x.prod(-1), 0.25),
    "interval": (Lebesgue(1, -2.0, 5.0), lambda x: x[:, 0], 10.5),
    "volume": (Lebesgue(3, -1.0, 1.0), lambda x: torch.ones(len(x)), 8.0),
    "line": (Lebesgue(1), lambda x: (-0.5 * x.square()).exp()[:, 0], math.sqrt(2 * math.pi)),
    "plane": (Lebesgue(2), lambda x: (-x.abs()).exp().prod(-1), 4.0),
    "off centre": (Lebesgue(1), lambda x: (-0.5 * (x - 3).square()).exp()[:, 0], math.sqrt(2 * math.pi)),
    "above 0": (Lebesgue(1, 0.0), lambda x: (-x).exp()[:, 0], 1.0),
    "above 1": (Lebesgue(2, 1.0), lambda x: (1 - x).exp().prod(-1), 1.0),
    "below 2": (Lebesgue(1, -INF, 2.0), lambda x: (x - 2).exp()[:, 0], 1.0),
    "counting": (Counting(5), lambda x: x[:, 0].double().square(), 30.0),
    "atom": (Atom(), lambda x: torch.full((len(x),), 7.0), 7.0),
    "subsets": (Subsets(4, 1, 3), lambda x: x.double().sum(-1), 28.0),  # 4 + 2 * 6 + 3 * 4
    "circle": (Haar(1), lambda x: x.cos().exp()[:, 0], 2 * math.pi * BESSEL_0_OF_1),
    "torus": (Haar(2), lambda x: x.cos().square().prod(-1), math.pi**2),
    "product": (
        Product((Counting(3), Lebesgue(1))),
        lambda x: x[:, 0] * (-x[:, 1].square()).exp(),
        3 * math.sqrt(math.pi),
    ),
    "product of three": (
        Product((Haar(1), Counting(2), Lebesgue(1, 0.0, 2.0))),
        lambda x: x[:, 0].sin().square() * (1 + x[:, 1]) * x[:, 2],
        math.pi * 3 * 2,
    ),
    "sum": (Sum((Lebesgue(1, 0.0, 1.0), Lebesgue(1, 2.0, 4.0))), lambda x: x[:, 0], 6.5),
    "sum of unequal parts": (
        Sum((Lebesgue(1, 0.0, 0.001), Lebesgue(1, 1.0, 101.0))),
        lambda x: torch.ones(len(x)),
        100.001,
    ),
    "atom and line": (
        Sum((start, line(0.0, 3.0))),
        lambda s: torch.where(s.started, s.x[:, 0], 10.0),
        10.0 + 4.5,
    ),
    "nested sum": (
        Sum((start, Sum((line(0.0, 1.0), line(5.0, 6.0))))),
        lambda s: torch.where(s.started, s.x[:, 0], 1.0),
        1.0 + 0.5 + 5.5,
    ),
}


@pytest.fixture(params=sorted(INTEGRALS))
def entry(request: pytest.FixtureRequest) -> tuple[Measure[Any], Callable[[Any], Tensor], float]:
    return INTEGRALS[request.param]


def test_probes_are_unbiased(entry: Any) -> None:
    measure, integrand, exact = entry
    x, w = measure.probe(50_000)
    assert w.shape == (50_000,)
    assert w.dtype == torch.float64
    assert float(z_scores(w.exp() * integrand(x), exact).abs()) < 5.0


def test_log_probe_is_the_density_of_the_probe(entry: Any) -> None:
    measure, _, _ = entry
    x, w = measure.probe(200)
    torch.testing.assert_close(measure.log_probe(x).double(), -w)
    assert bool(measure.contains(x).all())


@pytest.mark.parametrize(
    "measure", [m for m, _, _ in INTEGRALS.values() if not isinstance(m, Sum | Subsets)], ids=str
)
def test_the_probe_law_has_mass_one(measure: Measure[Tensor]) -> None:
    x, w = quadrature(measure, {0: 1, 1: 20_001}.get(coordinates(measure), 301))
    if isinstance(measure, Lebesgue | Haar) and coordinates(measure) > 2:
        pytest.skip("a grid is too coarse")
    # the Student-t tails beyond the grid, |x| > 74, hold 5e-6 of an axis
    assert float((measure.log_probe(x) + w).exp().sum()) == pytest.approx(1.0, abs=2e-3)


def test_few_probes(entry: Any) -> None:
    """No probes, or fewer than parts, are no special case."""
    for n in (0, 1):
        x, w = entry[0].probe(n)
        assert len(x) == len(w) == n


def test_measures_are_values(entry: Any) -> None:
    import copy

    measure = entry[0]
    if not isinstance(measure, Sum):
        assert measure == copy.copy(measure)
    assert hash(measure) == hash(measure)
    assert isinstance(measure, Measure)
    others = [m for m, _, _ in INTEGRALS.values() if m is not measure]
    assert sum(measure == m for m in others) <= 1  # the line stands in the table twice


def test_supports() -> None:
    nan = math.nan
    table: list[tuple[Measure[Tensor], list[list[float]], list[bool]]] = [
        (Lebesgue(1, 0.0, 1.0), [[0.5], [-0.1], [1.1], [nan]], [True, False, False, False]),
        (Lebesgue(2), [[1e9, -1e9], [INF, 0.0]], [True, False]),
        (Lebesgue(1, 0.0), [[3.0], [-3.0], [INF]], [True, False, False]),
        (Counting(3), [[0.0], [2.0], [3.0], [-1.0]], [True, True, False, False]),
        (Subsets(3, 1, 2), [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [False, True, False]),
        (Haar(1), [[0.0], [-math.pi], [3.2], [nan]], [True, True, False, False]),
        (Product((Counting(2), Haar(1))), [[1.0, 3.0], [2.0, 3.0], [1.0, 4.0]], [True, False, False]),
        (Sum((Lebesgue(1, 0.0, 1.0), Lebesgue(1, 2.0, 4.0))), [[0.5], [1.5], [3.0]], [True, False, True]),
    ]
    for measure, points, expected in table:
        assert measure.contains(torch.tensor(points, dtype=torch.float64)).tolist() == expected


def test_log_probe_is_minus_infinity_off_a_sum() -> None:
    both = Sum((Lebesgue(1, 0.0, 1.0), Lebesgue(1, 2.0, 4.0)))
    assert both.log_probe(torch.tensor([[1.5]])).tolist() == [-INF]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Lebesgue(0), "Lebesgue dim must be a whole number of at least 1, got 0"),
        (lambda: Lebesgue(True), "whole number"),
        (lambda: Lebesgue(2.0), "whole number"),  # type: ignore[arg-type]
        (lambda: Lebesgue(1, 1.0, 1.0), "low < high"),
        (lambda: Lebesgue(1, math.nan, 1.0), "low < high"),
        (lambda: Counting(-1), "Counting size"),
        (lambda: Haar(0), "Haar dim"),
        (lambda: Subsets(0), "Subsets items"),
        (lambda: Subsets(3, -1), "Subsets least must be a whole number of at least 0"),
        (lambda: Subsets(3, 2, 1), "Subsets most must be a whole number of at least 2"),
        (lambda: Subsets(3, 0, 4), "cannot have 4 of them"),
        (lambda: Subsets(21).all(), "listed up to 20 items"),
        (lambda: coordinates(Sum((Atom(), Atom()))), "no fixed number of coordinates"),
    ],
)
def test_bad_measures(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "measure",
    [Lebesgue(1, 0.0, 1.0), Lebesgue(1, -3.0, 1000.0), Lebesgue(1, 1000.0), Lebesgue(1, -INF, -70.0)],
)
def test_interior_leaves_the_walls(measure: Lebesgue, dtype: torch.dtype) -> None:
    walls = [wall for wall in (measure.low, measure.high) if math.isfinite(wall)]
    x = measure.interior(torch.tensor(walls, dtype=dtype)[:, None])
    assert bool(((x > measure.low) & (x < measure.high)).all())
    inner = torch.tensor([[0.5]], dtype=dtype) if measure.contains(torch.tensor([[0.5]])) else x
    assert torch.equal(measure.interior(inner), inner)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrap(dtype: torch.dtype) -> None:
    pi = torch.tensor(math.pi, dtype=dtype)
    around = torch.stack([torch.nextafter(pi, pi * sign) for sign in (0, 1, 2)])
    seam = torch.cat([around, -around, 3 * around, -5 * around])
    angle = torch.cat([seam, 40 * torch.rand(100_000, dtype=dtype) - 20])
    near = wrap(angle)
    assert float(near.min()) >= -float(pi)
    assert float(near.max()) < float(pi)
    turns = (angle.double() - near.double()) / (2 * math.pi)
    assert float((turns - turns.round()).abs().max()) < 1e-5 if dtype == torch.float32 else 1e-14
    small = 1e-9 * torch.rand(100, dtype=dtype)
    assert torch.equal(wrap(small), small)
    assert torch.equal(wrap(near), near)
    x = torch.tensor([5.0], requires_grad=True)
    assert torch.autograd.grad(wrap(x).sum(), x)[0].tolist() == [1.0]
