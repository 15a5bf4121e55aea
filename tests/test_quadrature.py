"""Rules of coordinate measures integrate what they should, and are absent where there is none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ctsgfn.measures import Atom, Counting, Haar, Lebesgue, Product
from ctsgfn.quadrature import rule


def gaussian(x: Tensor) -> Tensor:
    return (-x.double().square().sum(-1)).exp()


@pytest.mark.parametrize(
    ("measure", "function", "integral"),
    [
        (Atom(), lambda x: torch.ones(len(x)).double(), 1.0),
        (Counting(4), lambda x: x[:, 0].double(), 6.0),
        (Lebesgue(1), gaussian, math.sqrt(math.pi)),
        (Lebesgue(2), gaussian, math.pi),
        (Lebesgue(2, -1.0, 3.0), lambda x: x.square().sum(-1), 2 * 4 * 28 / 3),
        (Haar(2), lambda x: x.cos().sum(-1).exp(), (2 * math.pi * 1.2660658777520084) ** 2),
        (Product((Counting(3), Lebesgue(1))), lambda x: x[:, 0] * gaussian(x[:, 1:]), 3 * math.sqrt(math.pi)),
        (
            Product((Counting(2), Haar(1), Lebesgue(1, 0.0, 1.0))),
            lambda x: x[:, 1].cos().square() * x[:, 2],
            math.pi,
        ),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_integrals(measure: Any, function: Any, integral: float) -> None:
    grid = rule(measure, 300)
    assert grid is not None
    x, w = grid
    assert bool(measure.contains(x).all())
    assert float((w * function(x)).sum()) == pytest.approx(integral, rel=1e-9)


@pytest.mark.parametrize(
    "measure",
    [
        Lebesgue(3),
        Haar(3),
        Lebesgue(1, 0.0),
        Product((Counting(2), Lebesgue(1, 0.0))),
        Product((Counting(400),) * 2),
    ],
    ids=str,
)
def test_no_rule(measure: Any) -> None:
    assert rule(measure, 4) is None
