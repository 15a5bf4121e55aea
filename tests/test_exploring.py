"""Models of a list: those beyond one that is hundreds of nats worse are not given up."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ctsgfn import Counting, Lebesgue, as_model_target, fit

DEGREES, NOISE = torch.arange(4), 0.2


def live(m: Tensor) -> Tensor:
    """A polynomial of degree m has m + 1 coefficients."""
    return m >= DEGREES


def data() -> tuple[Tensor, Tensor]:
    """A parabola: degrees 0 and 1 are some 200 nats worse than 2, and degree 3 is 2 nats worse."""
    torch.manual_seed(1)
    t = torch.linspace(-1, 1, 40)
    return t[:, None] ** DEGREES, 1 - 2 * t**2 + NOISE * torch.randn(40)


def exact_log_evidence() -> Tensor:
    """Standard normal priors and known noise: y is normal at every degree, up to the constant left out."""
    power, y = (v.double() for v in data())
    out = []
    for degree in DEGREES:
        x = power[:, : degree + 1]
        covariance = NOISE**2 * torch.eye(40, dtype=torch.float64) + x @ x.T
        law = torch.distributions.MultivariateNormal(torch.zeros(40, dtype=torch.float64), covariance)
        out.append(law.log_prob(y) + 20 * math.log(2 * math.pi * NOISE**2))
    return torch.stack(out)


@pytest.mark.parametrize("seed", range(3))
def test_a_list_of_models_is_weighed_whole(seed: int) -> None:
    """Log Z by z-score (false alarms 6e-7 each), and an ESS that a flow without degree 2 has too."""
    power, y = data()

    def log_density(m: Tensor, theta: Tensor) -> Tensor:
        prior = torch.where(live(m), -0.5 * theta.square() - 0.5 * math.log(2 * math.pi), 0.0)
        return -0.5 * ((y.to(theta) - theta @ power.T.to(theta)) / NOISE).square().sum(-1) + prior.sum(-1)

    target = as_model_target(log_density, models=Counting(4), size=4, live=live)
    sampler = fit(target, steps=100, batch_size=100, seed=seed, progress_bar=False)
    evidence = sampler.evidence(2000, seed=1)
    exact = exact_log_evidence()
    assert float(exact.max() - exact[:2].max()) > 100
    assert abs(evidence.log_z - float(exact.logsumexp(0))) < 5 * evidence.stderr
    assert evidence.ess > 0.9


def test_a_bounded_box_is_known_before_it_is_learned() -> None:
    """Two narrow modes; where walks led back from even points, nearly all far in the tails, ESS was 18 %."""

    def modes(x: Tensor) -> Tensor:
        far = torch.stack([-0.5 * ((x - at) / 0.06).square().sum(-1) for at in (-0.7, 1.7)], -1)
        return (far + torch.tensor([0.7, 0.3]).log()).logsumexp(-1)

    sampler = fit(modes, measure=Lebesgue(2, -1.0, 2.0), steps=200, seed=0, progress_bar=False)
    evidence = sampler.evidence(seed=1)
    assert abs(evidence.log_z - math.log(2 * math.pi * 0.06**2)) < 4.9 * evidence.stderr
    assert evidence.ess > 0.5
