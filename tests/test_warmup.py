"""The warm-up on R^d: ascents, Gaussian fits, annealing, whitening and the mixture it hands on.

Statistical assertions have a false-alarm rate of 1e-6 each (4.9 standard errors) and fixed seeds.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from numerics import quadrature, z_scores
from torch import Tensor

from ctsgfn.annealing import anneal
from ctsgfn.ascent import ascend
from ctsgfn.counted import CountedTarget
from ctsgfn.errors import InvalidInput, NonFinite, UnreliableEstimate
from ctsgfn.gaussian_fits import GaussianFits, cholesky
from ctsgfn.measures import Lebesgue
from ctsgfn.mixture_fit import Mixture, expectation_maximisation, fit_mixture
from ctsgfn.target import as_target, transformed
from ctsgfn.warmup import warm_up
from ctsgfn.whitening import Whitening

LIKE = torch.zeros(0, dtype=torch.float64)
MEAN = torch.tensor([300.0, -2.0, 0.01], dtype=torch.float64)
TRIL = torch.tensor([[50.0, 0.0, 0.0], [0.9, 0.5, 0.0], [0.001, 0.0, 0.002]], dtype=torch.float64)


def normal(x: Tensor) -> Tensor:
    """An unnormalised normal with three scales, correlated: log Z is known."""
    z = torch.linalg.solve_triangular(TRIL, (x.double() - MEAN).T, upper=False).T
    return -0.5 * z.square().sum(-1)


LOG_Z = float(TRIL.diagonal().log().sum()) + 1.5 * math.log(2 * math.pi)


def test_it_finds_location_scale_and_normaliser() -> None:
    start = warm_up(as_target(normal, Lebesgue(3)), 3, like=LIKE)
    z = torch.linalg.solve_triangular(TRIL, (start.location - MEAN)[:, None], upper=False)
    assert float(z.abs().max()) < 0.2
    inner = torch.linalg.solve_triangular(TRIL, start.scale_tril, upper=False)
    torch.testing.assert_close(inner @ inner.T, torch.eye(3).double(), atol=0.3, rtol=0)
    assert start.log_z == pytest.approx(LOG_Z, abs=0.1)
    assert start.points.shape == (2000, 3)
    assert start.points.dtype == torch.float64
    assert start.differentiable
    assert start.density_calls > 2000
    assert start.gradient_calls > 0


@pytest.mark.parametrize("apart", [10.0, 40.0])
def test_it_finds_both_of_two_modes(apart: float) -> None:
    centres = torch.tensor([[-apart / 2] * 4, [apart / 2] * 4]).double()

    def two(x: Tensor) -> Tensor:
        return (-0.5 * (x[:, None] - centres).square().sum(-1)).logsumexp(-1)

    start = warm_up(as_target(two, Lebesgue(4)), 4, like=LIKE)
    assert 0.3 < float((start.points[:, 0] > 0).double().mean()) < 0.7
    assert start.log_z == pytest.approx(math.log(2) + 2 * math.log(2 * math.pi), abs=0.2)


def test_a_target_without_gradient() -> None:
    start = warm_up(as_target(lambda x: -0.5 * (x.detach() - 3).square().sum(-1), Lebesgue(2)), 2, like=LIKE)
    assert not start.differentiable
    assert start.gradient_calls == 0
    assert float((start.location - 3).abs().max()) < 0.3
    assert start.log_z == pytest.approx(math.log(2 * math.pi), abs=0.2)


def test_an_analytic_score_is_used() -> None:
    class Scored:
        measure = Lebesgue(2)
        asked = 0

        def log_density(self, x: Tensor) -> Tensor:
            return -0.5 * x.detach().square().sum(-1)

        def score(self, x: Tensor) -> Tensor:
            self.asked += len(x)
            return -x

    target = Scored()
    start = warm_up(target, 2, like=LIKE)
    assert start.differentiable
    assert target.asked > 0
    assert float(start.location.abs().max()) < 0.3


def test_absurd_starts_of_a_half_line_are_passed_over() -> None:
    """Exp of the farthest starts is infinite: those rows are rejected, in both ways of differentiating."""
    gamma = as_target(lambda x: (2 * x.log() - x).sum(-1), Lebesgue(1, 0.0))
    line = transformed(gamma, torch.distributions.ExpTransform(), Lebesgue(1))
    start = warm_up(line, 1, like=torch.zeros(0))
    assert start.log_z == pytest.approx(math.lgamma(3.0), abs=0.1)


def test_a_target_that_is_nowhere_finite() -> None:
    with pytest.raises(NonFinite, match="the log-density is nan at row 0"):
        warm_up(as_target(lambda x: x.sum(-1) * math.nan, Lebesgue(2)), 2, like=LIKE)


def test_calls_are_counted() -> None:
    counted = CountedTarget(as_target(normal, Lebesgue(3)))
    counted.value(torch.zeros(7, 3))
    counted.value_and_score(torch.zeros(5, 3))
    assert (counted.density_calls, counted.gradient_calls) == (7, 5)


# ------------------------------------------------------------------ parts
def test_ascents_climb_a_narrow_valley() -> None:
    """Rosenbrock's function: every row finds the top, and rows do not disturb each other."""

    def valley(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = -(1 - leaf[:, 0]).square() - 100 * (leaf[:, 1] - leaf[:, 0].square()).square()
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), slope

    start = torch.randn(20, 2, dtype=torch.float64)
    end = ascend(valley, start, steps=100)[-1]
    torch.testing.assert_close(end, torch.ones_like(end), atol=1e-4, rtol=0)
    torch.testing.assert_close(ascend(valley, start[:3], steps=100)[-1], end[:3], atol=1e-6, rtol=0)


def three() -> GaussianFits:
    mean = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, -3.0]], dtype=torch.float64)
    tril = torch.tensor([[[1.0, 0.0], [0.5, 0.3]]], dtype=torch.float64).repeat(3, 1, 1)
    return GaussianFits(mean, tril, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log())


def test_fits_are_a_density() -> None:
    x, w = quadrature(Lebesgue(2), 201)
    assert float((three().log_prob(x) + w).logsumexp(0)) == pytest.approx(0.0, abs=1e-6)


def test_fits_know_their_score_and_draw_from_themselves() -> None:
    fits = three()
    x = torch.randn(50, 2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(fits.log_prob(x).sum(), x)
    torch.testing.assert_close(fits.score(x.detach()), slope)
    draws, component = fits.sample(40_000)
    mean = (fits.log_share.exp()[:, None] * fits.mean).sum(0)
    assert float(z_scores(draws, mean).abs().max()) < 4.9
    share = torch.nn.functional.one_hot(component, 3).double()
    assert float(z_scores(share, fits.log_share.exp()).abs().max()) < 4.9


@pytest.mark.parametrize("differentiable", [True, False])
def test_annealing_is_unbiased_for_the_normaliser(differentiable: bool) -> None:
    """The mean of exp(estimate) over runs, against the exact integral, by z-score."""
    wide = GaussianFits(torch.zeros(1, 2).double(), 3 * torch.eye(2)[None].double(), torch.zeros(1).double())
    target = as_target(lambda x: -0.5 * (x - 1).square().sum(-1) / 0.25, Lebesgue(2))
    truth = math.log(2 * math.pi * 0.25)
    ratio = torch.tensor(
        [math.exp(anneal(CountedTarget(target), wide, 200, differentiable)[1] - truth) for _ in range(40)]
    )
    assert abs(float(z_scores(ratio, 1.0))) < 4.9


def test_whitening_is_the_affine_map_it_says() -> None:
    t = Whitening(MEAN, TRIL)
    z = torch.randn(10, 3, dtype=torch.float64)
    torch.testing.assert_close(t.inv(t(z)), z)
    jacobian = torch.func.vmap(torch.func.jacrev(t))(z)
    torch.testing.assert_close(t.log_abs_det_jacobian(z, t(z)), jacobian.det().log())
    with pytest.raises(InvalidInput, match=r"location \[d\] and scale_tril \[d, d\], got \[3\] and \[2, 2\]"):
        Whitening(MEAN, TRIL[:2, :2])
    with pytest.raises(InvalidInput, match="positive diagonal"):
        Whitening(MEAN, -TRIL)


def test_cholesky_of_a_singular_covariance() -> None:
    singular = torch.ones(2, 2).double()
    factor = cholesky(singular)
    torch.testing.assert_close(factor @ factor.T, singular, atol=0.02, rtol=0)


# ------------------------------------------------------------------ mixtures
def test_a_mixture_is_a_density() -> None:
    fits = three()
    mixture = Mixture(fits.log_share.exp(), fits.mean, fits.tril)
    x = torch.randn(20, 2, dtype=torch.float64)
    torch.testing.assert_close(mixture.log_prob(x), fits.log_prob(x))


def test_expectation_maximisation_finds_the_truth() -> None:
    fits = three()
    x, _ = fits.sample(20_000)
    guess = Mixture(torch.full((3,), 1 / 3).double(), fits.mean + 0.5, 2 * fits.tril)
    found = expectation_maximisation(x, guess, iterations=60)
    order = found.mean[:, 0].sub(4).abs().argmin()
    assert float(found.share[order]) == pytest.approx(0.2, abs=0.02)
    torch.testing.assert_close(found.mean, fits.mean, atol=0.05, rtol=0)
    truth = Mixture(fits.log_share.exp(), fits.mean, fits.tril)
    assert float(found.log_prob(x).mean()) > float(truth.log_prob(x).mean()) - 1e-3


def test_the_size_is_chosen_on_points_held_out() -> None:
    """One normal is not cut into many, and eight far modes are not merged."""
    one = Mixture(torch.ones(1).double(), torch.zeros(1, 2).double(), torch.eye(2)[None].double())
    x = torch.randn(3000, 2, dtype=torch.float64)
    fitted = fit_mixture(x, one)
    fresh = torch.randn(3000, 2, dtype=torch.float64)
    assert float((one.log_prob(fresh) - fitted.log_prob(fresh)).mean()) < 0.01
    angle = torch.arange(8).double() * math.pi / 4
    centres = 10 * torch.stack([angle.cos(), angle.sin()], -1)
    ring = centres[torch.randint(8, (3000,))] + 0.2 * torch.randn(3000, 2, dtype=torch.float64)
    fitted = fit_mixture(ring, one)
    entropy = math.log(8) + math.log(2 * math.pi * math.e * 0.04)
    assert float(-fitted.log_prob(ring).mean()) < entropy + 0.05


def test_splitting_keeps_the_first_two_moments() -> None:
    fits = three()
    whole = Mixture(fits.log_share.exp(), fits.mean, fits.tril)

    def moments(m: Mixture) -> tuple[Tensor, Tensor]:
        mean = (m.share[:, None] * m.mean).sum(0)
        second = m.tril @ m.tril.transpose(-1, -2) + m.mean[:, :, None] * m.mean[:, None, :]
        return mean, (m.share[:, None, None] * second).sum(0)

    for least in (1, 4, 20):
        parts = whole.split(least)
        assert least <= len(parts) < max(4, 2 * least)
        assert float(parts.share.sum()) == pytest.approx(1.0)
        for ours, theirs in zip(moments(parts), moments(whole), strict=True):
            torch.testing.assert_close(ours, theirs)
        assert bool((parts.tril.diagonal(dim1=-2, dim2=-1) > 0).all())
        assert not bool(parts.tril.triu(1).any())


def test_too_few_points_for_a_mixture() -> None:
    with pytest.raises(InvalidInput, match="at least 10 points, got 9"):
        fit_mixture(torch.randn(9, 1), Mixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1)))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_a_density_without_a_finite_integral_is_called_so(dim: int) -> None:
    """|x|^-d diverges, |x|^-(d + 1) does not; a constant does, and a normal does not."""
    like = torch.zeros(1)

    def power(p: float) -> Any:
        return as_target(lambda x: -0.5 * p * x.square().sum(-1).log1p(), Lebesgue(dim))

    torch.manual_seed(0)
    with pytest.warns(UnreliableEstimate, match="integral over R"):
        warm_up(power(float(dim)), dim, like=like)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warm_up(power(dim + 1.0), dim, like=like)
        warm_up(as_target(lambda x: -0.5 * x.square().sum(-1), Lebesgue(dim)), dim, like=like)
