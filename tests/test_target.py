"""Callables as targets: what is refused at the door, the score, floors, and changes of coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from numerics import quadrature
from torch import Tensor
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    LowerCholeskyTransform,
    SigmoidTransform,
    StickBreakingTransform,
    TanhTransform,
    Transform,
)

from ctsgfn.counted import CountedTarget
from ctsgfn.errors import InvalidInput, NonFinite
from ctsgfn.measures import Counting, Lebesgue
from ctsgfn.states import Batch
from ctsgfn.target import HasFloor, HasScore, Target, as_target, evaluate, score, transformed, without_floor


def bell(x: Tensor) -> Tensor:
    """Log of a standard normal, up to a constant."""
    return -0.5 * x.square().sum(-1)


PLANE = Lebesgue(2)
POINTS = torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]])


# ------------------------------------------------------------------ as_target and evaluate
def test_a_callable_and_its_measure_are_a_target() -> None:
    target = as_target(bell, PLANE)
    assert isinstance(target, Target)
    assert not isinstance(target, HasScore)
    assert target.measure == PLANE
    assert torch.equal(evaluate(target, POINTS), bell(POINTS))
    assert evaluate(target, POINTS.double()).dtype == torch.float64


def test_states_of_tensors_are_points_too() -> None:
    @dataclass(frozen=True)
    class Pair(Batch):
        label: Tensor
        place: Tensor

    target: Any = as_target(lambda s: s.place.sum(-1) + s.label, Counting(2))
    pair = Pair(torch.tensor([0, 1]), torch.tensor([[1.0, 2.0], [3.0, math.nan]]))
    assert evaluate(target, pair[:1]).tolist() == [3.0]
    with pytest.raises(NonFinite, match=r"is nan at row 1, the point \{'label': tensor\(1\), 'place'"):
        evaluate(target, pair)


REFUSED: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    "a number": (
        lambda x: bell(x).sum(),
        InvalidInput,
        r"points of shape \[3, 2\] and returned shape \[\], not \[3\]: it must be batched.*sum\(-1\)",
    ),
    "a column": (lambda x: bell(x)[:, None], InvalidInput, r"returned shape \[3, 1\], not \[3\]"),
    "one row": (lambda x: bell(x)[:1], InvalidInput, r"returned shape \[1\], not \[3\]"),
    "per coordinate": (lambda x: -x.square(), InvalidInput, r"returned shape \[3, 2\], not \[3\].*sum\(-1\)"),
    "whole numbers": (lambda x: bell(x).long(), InvalidInput, "a floating-point tensor, got torch.int64"),
    "an array": (lambda x: bell(x).numpy(), InvalidInput, "a floating-point tensor, got ndarray"),
    "a float": (lambda x: 0.0, InvalidInput, "a floating-point tensor, got float"),
    "nothing": (lambda x: None, InvalidInput, "a floating-point tensor, got NoneType"),
    "another device": (
        lambda x: torch.empty(3, device="meta"),
        InvalidInput,
        "points on cpu, returned meta: move its constants",
    ),
    "constants of another dtype": (
        lambda x: x @ torch.ones(2, dtype=torch.float64),
        InvalidInput,
        r"failed on points of dtype torch.float32 on cpu \(.*pass dtype= and device= to fit",
    ),
    "constants on another device": (
        lambda x: x @ torch.ones(2, device="meta"),
        InvalidInput,
        "failed on points of dtype torch.float32 on cpu.*keep its constants",
    ),
    "nan": (
        lambda x: torch.where(x[:, 0] == 2, math.nan, bell(x)),
        NonFinite,
        r"is nan at row 1, the point \[2.0, -1.0\], and not finite at 1 of 3 points: mend",
    ),
    "plus infinity": (
        lambda x: torch.where(x[:, 0] > 0, math.inf, bell(x)),
        NonFinite,
        r"is inf at row 1, the point \[2.0, -1.0\], and not finite at 2 of 3 points: mend",
    ),
    "minus infinity": (
        lambda x: torch.where(x[:, 0] > 0, -math.inf, bell(x)),
        NonFinite,
        "is -inf at row 1, .*: pass floor= to allow -inf outside the support, or give .* its true bounds",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_log_density_must_not_return(case: str) -> None:
    fn, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        evaluate(as_target(fn, PLANE), POINTS)


def test_a_log_densitys_own_error_comes_through() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        evaluate(as_target(broken, PLANE), POINTS)


def test_as_target_refuses_what_is_no_callable_or_no_floor() -> None:
    with pytest.raises(InvalidInput, match="needs a callable log-density, got float"):
        as_target(3.0, PLANE)
    with pytest.raises(InvalidInput, match=r"needs a measure, such as Lebesgue\(dim\), got int"):
        as_target(bell, 2)
    for floor in (-math.inf, math.nan, "low"):
        with pytest.raises(InvalidInput, match="floor must be a finite number or None"):
            as_target(bell, PLANE, floor=floor)


# ------------------------------------------------------------------ floors
def half(x: Tensor) -> Tensor:
    """A bell on the right half-plane."""
    return torch.where(x[:, 0] > 0, bell(x), -math.inf)


def test_a_floor_replaces_minus_infinity_and_what_is_below() -> None:
    target = as_target(half, PLANE, floor=-2)
    assert evaluate(target, POINTS).tolist() == [-2.0, -2.0, -0.25]
    assert isinstance(target, HasFloor)
    assert target.unfloored().log_density(POINTS).tolist() == [-math.inf, -2.5, -0.25]
    with pytest.raises(NonFinite, match="is nan"):
        evaluate(as_target(lambda x: half(x) * math.nan, PLANE, floor=-2.0), POINTS)


def test_a_floor_is_found_under_changes_of_coordinates() -> None:
    moved = transformed(as_target(half, PLANE, floor=-9.0), AffineTransform(1.0, 2.0), PLANE)
    bare = without_floor(transformed(moved, AffineTransform(0.0, 2.0), PLANE))
    assert bare.log_density(torch.full((1, 2), -1.0)).tolist() == [-math.inf]
    assert without_floor(as_target(bell, PLANE)).log_density(POINTS).tolist() == bell(POINTS).tolist()


def test_counted_targets_take_points_that_are_absurd() -> None:
    counted = CountedTarget(as_target(lambda x: torch.where(x[:, 0] == 2, math.nan, half(x)), PLANE))
    assert counted.value(POINTS).tolist() == [-math.inf, -math.inf, -0.25]
    value, slope = counted.value_and_score(POINTS)
    assert value.tolist() == [-math.inf, -math.inf, -0.25]
    assert slope.tolist() == [[0.0, 0.0], [0.0, 0.0], [-0.5, -0.5]]
    assert (counted.density_calls, counted.gradient_calls) == (3, 3)


# ------------------------------------------------------------------ score
def test_score_is_the_gradient_detached() -> None:
    leaf = POINTS.clone().requires_grad_()
    slope = score(as_target(bell, PLANE), leaf)
    assert torch.equal(slope, -POINTS)
    assert not slope.requires_grad
    with torch.no_grad():
        assert torch.equal(score(as_target(bell, PLANE), POINTS), -POINTS)


def test_a_score_of_ones_own_is_used() -> None:
    class Own:
        measure = PLANE

        def log_density(self, x: Tensor) -> Tensor:
            return bell(x).detach()

        def score(self, x: Tensor) -> Tensor:
            return -x + 1

    assert torch.equal(score(Own(), POINTS), 1 - POINTS)


def test_score_needs_a_differentiable_density() -> None:
    with pytest.raises(InvalidInput, match="no gradient with respect to its points"):
        score(as_target(lambda x: bell(x.detach()), PLANE), POINTS)


# ------------------------------------------------------------------ changes of coordinates
def shear() -> Transform:
    """Affine, mixed up by nothing: one number an axis."""
    return AffineTransform(torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 3.0]).double())


# a transform onto the support of a density of known integral
ONTO: dict[str, tuple[Callable[[], Transform], Callable[[Tensor], Tensor], Lebesgue, float]] = {
    "affine": (shear, bell, PLANE, math.log(2 * math.pi)),
    "exp": (ExpTransform, lambda x: (x.log() - x).sum(-1), Lebesgue(2, 0.0), 0.0),
    "sigmoid": (SigmoidTransform, lambda x: (x + 1).log().sum(-1), Lebesgue(2, 0.0, 1.0), 2 * math.log(1.5)),
    "tanh": (TanhTransform, lambda x: x.sum(-1), Lebesgue(2, -1.0, 1.0), 2 * math.log(math.e - 1 / math.e)),
    "scaled exp": (
        lambda: ComposeTransform([AffineTransform(0.3, 0.7), ExpTransform()]),
        lambda x: (2 * x.log() - x).sum(-1),
        Lebesgue(2, 0.0),
        2 * math.lgamma(3.0),
    ),
}


@pytest.mark.parametrize("name", ONTO)
def test_a_change_of_coordinates_keeps_the_integral(name: str) -> None:
    """The Jacobian by quadrature: log Z is the same in both."""
    build, fn, measure, log_z = ONTO[name]
    target = transformed(as_target(fn, measure), build(), PLANE)
    z, w = quadrature(PLANE, 301)
    keep = z.abs().amax(-1) < 15  # beyond, exp and tanh leave the numbers
    mass = (target.log_density(z[keep]) + w[keep]).exp().sum()
    assert abs(float(mass.log()) - log_z) < 1e-6


@pytest.mark.parametrize("name", ONTO)
def test_a_change_of_coordinates_against_autograd(name: str) -> None:
    """The Jacobian, the score and the way back, at single points."""
    build, fn, measure, _ = ONTO[name]
    transform, original = build(), as_target(fn, measure)
    target = transformed(original, transform, PLANE)
    z = torch.randn(5, 2, dtype=torch.float64)
    assert torch.equal(target.decode(z), transform(z))
    for row in z:
        jacobian: Any = torch.autograd.functional.jacobian(transform, row)
        expected = fn(transform(row)) + torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(target.log_density(row[None])[0], expected)
    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(target.log_density(leaf).sum(), leaf)
    torch.testing.assert_close(score(target, z), slope)


def test_transforms_of_whole_vectors() -> None:
    """Stick-breaking: three coordinates on the simplex from two, density against the first two."""
    uniform = as_target(lambda x: 0.0 * x.sum(-1), Lebesgue(3, 0.0, 1.0))
    target = transformed(uniform, StickBreakingTransform(), PLANE)
    z, w = quadrature(PLANE, 301)
    keep = z.abs().amax(-1) < 15
    assert abs(float((target.log_density(z[keep]) + w[keep]).exp().sum()) - 0.5) < 1e-5, "area of the simplex"


def test_transforms_of_matrices_are_refused() -> None:
    with pytest.raises(InvalidInput, match="needs a transform of vectors, not of events of 2 axes"):
        transformed(as_target(bell, PLANE), LowerCholeskyTransform(), PLANE)


def test_errors_name_the_point_in_the_users_coordinates() -> None:
    limited = as_target(lambda x: torch.where(x[:, 0] > 2, -math.inf, bell(x)), Lebesgue(2, 0.0))
    target = transformed(limited, ExpTransform(), PLANE)
    with pytest.raises(NonFinite, match=r"row 1, the point \[2.718282, 1.0\]"):
        evaluate(target, torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
