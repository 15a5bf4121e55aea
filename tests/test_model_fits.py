"""Laws of the parameters of a few models: fitted where one normal each is not enough, and only there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import ctsgfn
from ctsgfn import as_model_target, fit, model_posterior
from ctsgfn.both_ways import fit_both_ways
from ctsgfn.errors import InvalidInput
from ctsgfn.kernels.heads.autoregressive import AutoregressiveMixture
from ctsgfn.kernels.heads.per_model import OneModel, PerModelHead
from ctsgfn.likelihood import fit_likelihood
from ctsgfn.measures import Counting
from ctsgfn.model_fits import FEW, KEPT, SETTLE, THIN, _walked, few_models, fit_models
from ctsgfn.model_target import one_model
from ctsgfn.with_parameters import Parameterised

LIKE = torch.zeros(0)


def first(m: Tensor) -> Tensor:
    return torch.arange(2) < m


def normal(m: Tensor, theta: Tensor) -> Tensor:
    """Standard normals on the live parameters."""
    return torch.where(first(m), -0.5 * theta.square(), 0.0).sum(-1)


def two_modes(m: Tensor, theta: Tensor) -> Tensor:
    """Model 1: modes at -5 and 5 of weights 1 and 3; model 2: both, times a standard normal."""
    modes = torch.stack([-0.5 * (theta[:, 0] + 5).square(), -0.5 * (theta[:, 0] - 5).square() + math.log(3)])
    second = torch.where(m[:, 0] == 2, -0.5 * theta[:, 1].square(), 0.0)
    return torch.where(m[:, 0] > 0, modes.logsumexp(0), 0.0) + second


def test_only_short_lists_are_explored() -> None:
    assert len(few_models(as_model_target(normal, Counting(3), 2, first))) == 3
    assert not few_models(as_model_target(normal, Counting(FEW + 1), 2, first))
    assert not few_models(as_model_target(normal, ctsgfn.Subsets(2), 2, first))


def test_normals_stay_where_they_serve() -> None:
    torch.manual_seed(0)
    assert fit_models(as_model_target(normal, Counting(3), 2, first), LIKE, 16) is None


@pytest.mark.slow
def test_modes_that_one_normal_misses(tmp_path: Path) -> None:
    """Evidences 1, 4 c and 4 c^2, c the root of 2 pi, within 5 errors; both modes; a file gives it back."""
    target = as_model_target(two_modes, Counting(3), 2, first)
    sampler = fit(target, steps=60, batch_size=100, hidden=32, seed=0, progress_bar=False)
    assert "fitted laws" in sampler.notes[0]
    posterior = model_posterior(sampler, 8000, seed=1)
    assert posterior.evidence.ess > 0.3
    order = posterior.models[:, 0].argsort()
    exact = torch.tensor([0.0, math.log(4), math.log(4)]) + torch.arange(3) * 0.5 * math.log(2 * math.pi)
    value, stderr = (v[order] for v in posterior.model_evidence())
    assert bool(((value - exact).abs() < 5 * stderr + 1e-6).all())
    low = posterior.average(lambda x: (x.theta[:, 0] < 0) & (x.model[:, 0] > 0))
    there = posterior.average(lambda x: x.model[:, 0] > 0)
    assert abs(float(low.value - 0.25 * there.value)) < 5 * float(low.stderr)
    sampler.save(tmp_path / "models.pt")
    twin = ctsgfn.load(tmp_path / "models.pt", target)
    assert torch.equal(twin.sample(20, seed=2).theta, sampler.sample(20, seed=2).theta)


class Adding(NamedTuple):
    """A target whose chain adds 1 to every live parameter."""

    inner: Any

    @property
    def measure(self) -> Any:
        return self.inner.measure

    def log_density(self, x: Parameterised) -> Tensor:
        value: Tensor = self.inner.log_density(x)
        return value

    def chain(self, x: Parameterised) -> Parameterised:
        return Parameterised(x.model, x.theta + first(x.model))


def test_particles_walk_by_the_chain_of_the_target() -> None:
    target, model = Adding(as_model_target(normal, Counting(3), 2, first)), torch.tensor([2])
    path = _walked(target, model, one_model(target, model), torch.zeros(5, 2))
    steps = SETTLE + 1 + THIN * torch.arange(KEPT)
    assert torch.equal(path, steps[None, :, None].expand(5, KEPT, 2).float())


def test_own_draws_empty_the_valley() -> None:
    """Two far modes: likelihood alone leaves mass between them; the divergence falls, and no mode is lost."""
    torch.manual_seed(0)
    sign = torch.randint(2, (4000, 1)) * 2 - 1
    x = 4 * sign + 0.5 * torch.randn(4000, 1)

    def density(a: Tensor) -> Tensor:
        return torch.logaddexp(-2 * (a - 4).square(), -2 * (a + 4).square())[:, 0]

    def divergence() -> float:
        with torch.no_grad():
            law = one(torch.zeros(4000, 0), None, None)
            a = law.sample()
            assert 0.3 < float((a > 0).double().mean()) < 0.7
            return float((law.log_prob(a) - density(a)).mean())

    one = AutoregressiveMixture(1, 0, 4, hidden=8)
    fit_likelihood(one, x[:3000], x[3000:], steps=300, lr=0.01)
    before = divergence()
    fit_both_ways(one, density, x, steps=600, lr=0.01)
    least = -math.log(2 * math.sqrt(2 * math.pi) * 0.5)  # the divergence is this at its best
    assert divergence() - least < min(0.05, 0.7 * (before - least))


def head() -> PerModelHead:
    torch.manual_seed(1)
    laws: list[OneModel | None] = [None]
    for axes in ([1], [0, 2]):
        law = AutoregressiveMixture(len(axes), 0, 3, hidden=8, share=0.1).double()
        laws.append(
            OneModel(
                law,
                torch.tensor(axes),
                torch.ones(len(axes)).double(),
                torch.full((len(axes),), 2.0).double(),
            )
        )
    return PerModelHead(3, laws, lambda s: s)


@torch.no_grad()
def test_each_row_has_the_law_of_its_model() -> None:
    """Densities integrate to 1 on the live axes, dead ones stay 0, and draws match (|z| < 5)."""
    law = head()(torch.zeros(3, 0), torch.tensor([0, 1, 2]), None)
    draw = law.sample()
    assert (draw != 0).tolist() == [[False] * 3, [False, True, False], [True, False, True]]
    assert float(law.log_prob(draw)[0]) == 0.0
    line = torch.linspace(-40, 40, 801, dtype=torch.float64)
    points = torch.zeros(801, 3, dtype=torch.float64)
    points[:, 1] = line
    density = head()(points, torch.ones(801, dtype=torch.long), None).log_prob(points).exp()
    assert float(density.sum() * 0.1) == pytest.approx(1.0, abs=1e-3)
    grid = torch.cartesian_prod(line[::2], line[::2])
    points = torch.stack([grid[:, 0], torch.zeros(len(grid)), grid[:, 1]], -1)
    both = head()(points, torch.full((len(grid),), 2), None).log_prob(points).exp()
    assert float(both.sum() * 0.04) == pytest.approx(1.0, abs=1e-3)
    draws = head()(torch.zeros(20_000, 0), torch.ones(20_000, dtype=torch.long), None).sample()[:, 1]
    mean = float(density @ line * 0.1)
    assert abs(float(draws.mean()) - mean) < 5 * float(draws.std()) / math.sqrt(20_000)


def test_bad_input() -> None:
    law = AutoregressiveMixture(1, 0, 1)
    with pytest.raises(InvalidInput, match="as many axes"):
        OneModel(law, torch.tensor([0, 1]), torch.zeros(1), torch.ones(1))
    with pytest.raises(InvalidInput, match="positive"):
        OneModel(law, torch.tensor([0]), torch.zeros(1), torch.zeros(1))
    with pytest.raises(InvalidInput, match="no model has parameters"):
        PerModelHead(2, [None, None], lambda s: s)
    with pytest.raises(InvalidInput, match="share"):
        AutoregressiveMixture(1, 0, 1, share=1.0)
