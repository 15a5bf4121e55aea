"""Normal laws and heads: closed forms against autograd, dead axes, pace, drift, widening."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from numerics import shaken, z_scores
from torch import Tensor
from torch.distributions import Normal

from ctsgfn.distributions import DiagonalNormal, StandardNormal
from ctsgfn.errors import InvalidInput
from ctsgfn.kernels.heads.encoders import Steered
from ctsgfn.kernels.heads.gaussian import GaussianStep, LangevinStep, Widened
from ctsgfn.kernels.heads.gaussian_mixture import GaussianMixture, GaussianMixtureLaw
from ctsgfn.kernels.heads.step_normal import StepNormal


def double(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64)


def by_hand(output: Tensor, drift: Tensor | None, pace: Tensor, bound: float) -> Normal:
    """The law of a step, from torch's own normal."""
    mu, rho = output.chunk(2, -1)
    mean = pace * (mu if drift is None else mu + drift)
    return Normal(mean, (0.5 * bound * (rho / 2).tanh()).exp())


# ------------------------------------------------------------------ the law of a step
@pytest.mark.parametrize("drifted", [False, True])
@pytest.mark.parametrize("rows", [1, 7])
def test_the_density_of_a_step_and_its_gradient(drifted: bool, rows: int) -> None:
    output, value = double(7, 6).requires_grad_(), double(7, 3).requires_grad_()
    drift = double(7, 3).requires_grad_() if drifted else None
    pace, weights = torch.rand(rows, 1, dtype=torch.float64) + 0.5, double(7)
    law = StepNormal(output, drift, pace, 1.7)
    plain = by_hand(output, drift, pace, 1.7).log_prob(value).sum(-1)
    torch.testing.assert_close(law.log_prob(value), plain)
    inputs = [output, value, *([] if drift is None else [drift])]
    got = torch.autograd.grad((law.log_prob(value) * weights).sum(), inputs)
    for g, e in zip(got, torch.autograd.grad((plain * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(g, e)


def test_the_gradient_of_a_step_by_finite_differences() -> None:
    pace = torch.full((4, 1), 0.3, dtype=torch.float64)
    inputs = [double(4, 2).requires_grad_(), double(4, 4).requires_grad_(), double(4, 2).requires_grad_()]
    assert torch.autograd.gradcheck(lambda v, o, d: StepNormal(o, d, pace, 0.8).log_prob(v), inputs)


def test_the_gradient_of_a_step_can_be_taken_where_the_drift_takes_none() -> None:
    output = double(5, 4).requires_grad_()
    law = StepNormal(output, double(5, 2), torch.ones(1, 1).double(), 1.0)
    law.log_prob(double(5, 2)).sum().backward()
    assert output.grad is not None


@pytest.mark.parametrize("drifted", [False, True])
def test_draws_of_a_step(drifted: bool) -> None:
    """Mean and variance by draws (|z| < 5: rate 4 * 6e-7); the density that comes with a draw is its own."""
    n = 20_000
    output, drift = double(1, 4).expand(n, 4), double(1, 2).expand(n, 2) if drifted else None
    pace = torch.full((1, 1), 0.4, dtype=torch.float64)
    law, exact = StepNormal(output, drift, pace, 2.0), by_hand(output, drift, pace, 2.0)
    a, log_density = law.sample_scored()
    torch.testing.assert_close(log_density, exact.log_prob(a).sum(-1))
    torch.testing.assert_close(law.mean, exact.mean)
    torch.testing.assert_close(law.log_scale.exp(), exact.stddev)
    assert float(z_scores(a, exact.mean[0]).abs().max()) < 5
    assert float(z_scores((a - exact.mean).square(), exact.variance[0]).abs().max()) < 5


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("bound", [1.0, 1.7])
@pytest.mark.parametrize("drifted", [False, True])
def test_the_last_draws_of_several_steps_are_scored_at_once(
    drifted: bool, bound: float, by_row: bool
) -> None:
    """From the noise, in either layout of the output; the exact density is that of the draws."""
    pace = torch.full((1, 1), 0.4, dtype=torch.float64)
    laws, draws, exact = [], [], []
    for rows in (5, 7):
        output = double(rows, 4) if by_row else double(4, rows).t()
        drift = double(rows, 2) if drifted else None
        laws.append(StepNormal(output, drift, pace, bound))
        draws.append(laws[-1].draw())
        exact.append(by_hand(output, drift, pace, bound).log_prob(draws[-1]).sum(-1))
    torch.testing.assert_close(StepNormal.score(laws, draws), torch.cat(exact))
    torch.testing.assert_close(
        torch.cat([law.log_prob(a) for law, a in zip(laws, draws, strict=True)]), torch.cat(exact)
    )


def test_reparameterised_draws_of_a_step() -> None:
    """d a / d output is that of mean + scale * the same noise."""
    output = double(6, 4).requires_grad_()
    pace = torch.full((1, 1), 0.4, dtype=torch.float64)
    torch.manual_seed(1)
    a = StepNormal(output, None, pace, 2.0).rsample()
    torch.manual_seed(1)
    exact = by_hand(output, None, pace, 2.0)
    expected = exact.mean + exact.stddev * torch.randn(6, 2, dtype=torch.float64)
    torch.testing.assert_close(a, expected)
    (got,) = torch.autograd.grad(a.square().sum(), output)
    torch.testing.assert_close(got, torch.autograd.grad(expected.square().sum(), output)[0])


# ------------------------------------------------------------------ plain laws
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("axes", [None, 1, 3])
def test_diagonal_normal_on_its_live_axes(scaled: bool, axes: int | None) -> None:
    loc, value = double(5, 3), double(5, 3)
    log_scale = 0.3 * double(5, 3) if scaled else None
    live = None if axes is None else torch.rand(5, axes) > 0.4
    law = DiagonalNormal(loc, log_scale, live)
    each = Normal(loc, torch.ones_like(loc) if log_scale is None else log_scale.exp()).log_prob(value)
    mask = torch.ones_like(loc) if live is None else live.expand(5, 3).double()
    torch.testing.assert_close(law.log_prob(value), (each * mask).sum(-1))
    a, log_density = law.sample_scored()
    assert bool((a[mask == 0] == 0).all())
    torch.testing.assert_close(log_density, law.log_prob(a))


def test_standard_normal_on_its_live_axes() -> None:
    value = double(6, 2)
    for live in (None, torch.arange(6)[:, None] % 2 == 0, torch.rand(6, 2) > 0.5):
        mask = torch.ones(6, 2).double() if live is None else live.expand(6, 2).double()
        law = StandardNormal(value, 2, live)
        expected = (Normal(0.0, 1.0).log_prob(value) * mask).sum(-1)
        torch.testing.assert_close(law.log_prob(value), expected)
        assert not bool(torch.signbit(law.log_prob(value)[mask.sum(-1) == 0]).any())  # 0, not -0
        assert bool((law.sample()[mask == 0] == 0).all())


def test_the_mixture_law_by_hand() -> None:
    log_weight = double(4, 3).log_softmax(-1)
    loc, log_scale, value = double(4, 3, 2), 0.2 * double(4, 3, 2), double(4, 2)
    each = Normal(loc, log_scale.exp()).log_prob(value[:, None]).sum(-1)
    law = GaussianMixtureLaw(log_weight, loc, log_scale)
    torch.testing.assert_close(law.log_prob(value), (log_weight + each).logsumexp(-1))


def test_mixture_components_start_apart() -> None:
    """Equal components would have equal gradients and never part."""
    law = GaussianMixture(2, 4, components=3)(torch.zeros(1, 4), None, None)
    gaps = torch.pdist(law.loc[0].detach())
    assert float(gaps.min()) > 0.01
    torch.testing.assert_close(law.log_weight.exp(), torch.full((1, 3), 1 / 3))


# ------------------------------------------------------------------ heads
def test_steps_start_as_standard_normals() -> None:
    for bound in (None, 1.0):
        law = GaussianStep(3, 5, log_variance_bound=bound)(torch.randn(4, 5), None, None)
        value = torch.randn(4, 3)
        torch.testing.assert_close(law.log_prob(value), Normal(0.0, 1.0).log_prob(value).sum(-1))


@pytest.mark.parametrize("bound", [None, 1.5])
def test_pace_and_drift_of_a_head(bound: float | None) -> None:
    pace = torch.rand(6, 1, dtype=torch.float64)
    step = shaken(GaussianStep(2, 4, pace=lambda s: pace, log_variance_bound=bound))
    hidden, drift = double(6, 4), double(6, 2)
    law = LangevinStep(step)(Steered(hidden, drift), None, None)
    mu = step.output(hidden)[:, :2]
    torch.testing.assert_close(law.loc, pace * (mu + drift))
    torch.testing.assert_close(step(hidden, None, None).loc, pace * mu)
    assert (law.log_scale is None) == (bound is None)


def test_dead_axes_of_a_learned_step() -> None:
    step = shaken(GaussianStep(2, 4))
    live = torch.tensor([[True, True], [True, False], [False, False]])
    context, value = double(3, 4), double(3, 2) * live
    law, whole = step(context, None, live), step(context, None, None)
    each = Normal(whole.loc, whole.log_scale.exp()).log_prob(value)
    torch.testing.assert_close(law.log_prob(value), (each * live).sum(-1))
    assert law.sample()[2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bound", [None, 1.0])
def test_widening(bound: float | None) -> None:
    step = shaken(GaussianStep(2, 4, log_variance_bound=bound))
    context = double(3, 4)
    law, wide = step(context, None, None), Widened(step, 1.5)(context, None, None)
    assert isinstance(wide, DiagonalNormal)
    assert wide.log_scale is not None
    torch.testing.assert_close(wide.loc, law.loc)
    before = torch.zeros(3, 2).double() if law.log_scale is None else law.log_scale
    torch.testing.assert_close(wide.log_scale.expand(3, 2), before + math.log(1.5))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GaussianStep(2, 4, log_variance_bound=0.0), "log_variance_bound must be positive, or None"),
        (lambda: GaussianStep(2, 4, log_variance_bound=-1.0), "got -1.0"),
        (lambda: GaussianStep(0, 4), "Lebesgue dim"),
        (lambda: Widened(GaussianStep(2, 4), 0.0), "factor must be positive, got 0.0"),
        (lambda: GaussianMixture(2, 4, components=0), "at least one component"),
    ],
)
def test_bad_arguments(build: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()
