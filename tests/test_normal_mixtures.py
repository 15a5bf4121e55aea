"""Mixtures with an unknown number of components: the density beside scipy, the Jacobian by autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.targets import NormalMixtures, galaxies
from ctsgfn.with_parameters import Parameterised

Y = torch.tensor([-1.0, 0.2, 0.3, 2.5, 3.0], dtype=torch.float64)
SPAN, MIDDLE = 4.0, 1.0


def points(n: int = 6) -> Parameterised:
    generator = torch.Generator().manual_seed(2)
    target = NormalMixtures(Y, most=3)
    model = torch.arange(n)[:, None] % 3
    theta = 0.5 * torch.randn(n, 8, generator=generator, dtype=torch.float64)
    return Parameterised(model, theta * target.measure.live(model))


def log_determinant(target: NormalMixtures, m: int, theta: Tensor) -> float:
    """Of the map from the live coordinates to means, sds, and all weights but the last."""
    live = target.measure.live(torch.tensor([[m]]))[0].nonzero().squeeze(-1)

    def of(z: Tensor) -> Tensor:
        mixture = target.components(m, torch.zeros_like(theta).index_copy(0, live, z)[None])
        return torch.cat([mixture.mean[0], mixture.sd[0], mixture.weight[0, :m]])

    return float(torch.linalg.slogdet(torch.func.jacrev(of)(theta[live])).logabsdet)


def test_density_is_that_of_the_paper() -> None:
    """Likelihood and priors by scipy on the mixture itself, the rate by quadrature, and the Jacobian."""
    target, x = NormalMixtures(Y, most=3), points()
    for row in range(len(x)):
        m = int(x.model[row])
        mixture = target.components(m, x.theta[row : row + 1])
        w, mean, sd = (v[0].numpy() for v in (mixture.weight, mixture.mean, mixture.sd))
        assert (np.diff(mean) > 0).all()
        assert w.sum() == pytest.approx(1.0)
        likelihood = np.log(stats.norm.pdf(Y.numpy()[:, None], mean, sd) @ w).sum()
        of_mean = stats.norm(MIDDLE, SPAN).logpdf(mean).sum() + math.lgamma(m + 2)

        def given(log_rate: float, sd: np.ndarray = sd) -> float:
            rate = math.exp(log_rate)
            tau = stats.gamma(2.0, scale=1 / rate).logpdf(sd**-2.0).sum()
            return math.exp(tau + stats.gamma(0.2, scale=SPAN**2 / 10).logpdf(rate) + log_rate)

        of_sd = math.log(integrate.quad(given, -40, 10, epsabs=0, limit=200)[0]) + np.log(2 * sd**-3.0).sum()
        prior = of_mean + of_sd + math.lgamma(m + 1) - math.log(3)
        expected = likelihood + prior + log_determinant(target, m, x.theta[row])
        assert float(target.log_density(x[row : row + 1])) == pytest.approx(expected, abs=1e-8)


def test_rows_do_not_mix() -> None:
    """A batch of several models is what its rows are alone, in single precision too."""
    target, x = NormalMixtures(Y, most=3), points()
    alone = torch.cat([target.log_density(x[k : k + 1]) for k in range(len(x))])
    torch.testing.assert_close(target.log_density(x), alone)
    single = target.log_density(Parameterised(x.model, x.theta.float()))
    torch.testing.assert_close(single, alone, atol=1e-3, rtol=1e-4)


def test_far_out_is_finite() -> None:
    target = NormalMixtures(Y, most=3)
    theta = 40 * torch.tensor([[1.0, -1, 1, -1, 1, -1, 1, -1], [-1.0, 1, -1, 1, -1, 1, -1, 1]])
    assert bool(target.log_density(Parameterised(torch.tensor([[2], [2]]), theta)).isfinite().all())


def test_live_parameters() -> None:
    live = NormalMixtures(Y, most=3).measure.live(torch.tensor([[0], [2]]))
    assert live.sum(-1).tolist() == [2, 8]
    assert live[0].nonzero().squeeze(-1).tolist() == [0, 3]


def test_predictive_density_integrates_to_one() -> None:
    target, x = NormalMixtures(Y, most=3), points(3)
    at = torch.linspace(-60, 60, 12_001, dtype=torch.float64)
    density = target.predictive(2, x.theta[2:], at)
    assert float(density.sum() * 0.01) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NormalMixtures(torch.tensor([1.0])), "at least 2"),
        (lambda: NormalMixtures(torch.tensor([1.0, math.nan])), "finite"),
        (lambda: NormalMixtures(torch.ones(3)), "all the same"),
        (lambda: galaxies(0), "most must be a whole number"),
    ],
)
def test_bad_input(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()


def test_coordinates_are_found_back() -> None:
    target, x = NormalMixtures(Y, most=3), points()
    for m in range(3):
        theta = x.theta[m::3]
        torch.testing.assert_close(target._encode(target.components(m, theta)), theta)


@pytest.mark.parametrize("m", [0, 1])
def test_chain_leaves_the_posterior_as_it_is(m: int) -> None:
    """Means of parameters and of their squares, beside importance sampling from a wide Student-t law."""
    torch.manual_seed(m)
    target, n = NormalMixtures(Y, most=2), 4000
    x = Parameterised(torch.full((n, 1), m), torch.zeros(n, 5, dtype=torch.float64))
    for _ in range(60):
        x = target.chain(x)
    t = torch.distributions.StudentT(torch.tensor(4.0).double(), 0.0, 1.5)
    live = target.measure.live(torch.tensor([[m]]))[0]
    wide = t.sample((200_000, 5)) * live
    model = torch.full((len(wide), 1), m)
    weight = (target.log_density(Parameterised(model, wide)) - (t.log_prob(wide) * live).sum(-1)).softmax(0)
    for f in (torch.atan, lambda v: torch.atan(v).square()):
        ours, other = f(x.theta[:, live]), f(wide[:, live])
        mean = weight @ other
        stderr = ((weight.square() @ (other - mean).square()) + ours.var(0) / n).sqrt()
        assert bool(((ours.mean(0) - mean).abs() < 4.5 * stderr).all())
