"""The posterior over models: weights turned into probabilities, evidences and averages, by exact answers."""

from __future__ import annotations

import math
from dataclasses import replace

import matplotlib as mpl
import pytest
import torch
from torch import Tensor

from ctsgfn import model_posterior
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput, UnreliableEstimate
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.hypergrid import hypergrid
from ctsgfn.kernels.spaces.parameter_kernels import with_parameters_kernels
from ctsgfn.kernels.spaces.subsets import subset_kernels, subsets
from ctsgfn.kernels.spaces.with_parameters import with_parameters
from ctsgfn.measures import Lebesgue
from ctsgfn.sampler import Sampler
from ctsgfn.target import as_target
from ctsgfn.with_parameters import Parameterised

mpl.use("agg")
N = 20_000


def first(m: Tensor) -> Tensor:
    """Model m of {0, 1, 2} has its first m parameters."""
    return torch.arange(2, device=m.device) < m


def joint(x: Parameterised) -> Tensor:
    """Normals of precision 2 on the live parameters: Z_m = e^(m / 2) pi^(m / 2)."""
    return 0.5 * x.model[:, 0].double() - x.theta.double().square().sum(-1)


LOG_Z = [0.5 * m * (1 + math.log(math.pi)) for m in range(3)]


def numbers() -> Sampler:
    """A flow without training on numbers with parameters."""
    grid = hypergrid(1, 3)
    space = with_parameters(grid, 2, first)
    torch.manual_seed(0)
    kernels = with_parameters_kernels(space, grid, (diffuse(grid.kappa), diffuse(grid.kappa_b)), hidden=8)
    return Sampler(GFlowNet(space, *kernels), as_target(joint, space.points))


def marginal() -> Sampler:
    space = subsets(3)
    torch.manual_seed(0)
    gfn = GFlowNet(space, *subset_kernels(space, hidden=8))
    return Sampler(gfn, as_target(lambda m: m[:, 0].double() - 0.7 * m.sum(-1).double(), space.points))


def z_of(estimate: tuple[Tensor, Tensor], exact: Tensor) -> float:
    return float(((estimate[0] - exact) / estimate[1]).abs().max())


def test_models_with_parameters() -> None:
    """Probabilities, evidences, averages: |z| < 5 each (false alarm 6e-7)."""
    posterior = model_posterior(numbers(), N, seed=1)
    exact = torch.tensor(LOG_Z, dtype=torch.float64)
    number = posterior.models[:, 0]
    assert sorted(number.tolist()) == [0, 1, 2]
    assert number.tolist() == exact.argsort(descending=True).tolist()
    assert z_of(posterior.model_probabilities(), exact.softmax(0)[number]) < 5
    some = number > 0  # the empty model is a coin with a known weight, and so is its evidence up to the coin
    found = posterior.model_evidence()
    assert z_of((found.value[some], found.stderr[some]), exact[number][some]) < 5
    assert z_of(posterior.dimension_probabilities(), exact.softmax(0)) < 5
    square = posterior.average(lambda x: x.theta.square().sum(-1))
    assert z_of(square, exact.softmax(0) @ torch.tensor([0.0, 0.5, 1.0]).double()) < 5
    assert posterior.unseen() is None
    with pytest.raises(InvalidInput, match="numbers, not sets"):
        posterior.inclusion_probabilities()
    draws = posterior.sample(4000, torch.tensor([2]), seed=2)
    assert bool((draws.model == 2).all())
    assert abs(float(draws.theta.square().mean()) - 0.5) < 0.1
    assert "dimension" in str(posterior)
    assert len(posterior.plot().axes) == 2


def test_models_without_parameters() -> None:
    """Probabilities are r / Z, so exact but for Z; items by the weights."""
    sampler = marginal()
    posterior = model_posterior(sampler, N, names=["a", "b", "c"], seed=1)
    models = sampler.target.measure.all()
    weight = sampler.target.log_density(models).softmax(0)
    log_z = sampler.target.log_density(models).logsumexp(0)
    assert posterior.log_r is not None
    probability = posterior.model_probabilities()
    torch.testing.assert_close(probability.value, (posterior.log_r - posterior.evidence.log_z).exp())
    assert z_of(probability, (posterior.log_r - log_z).exp()) < 5
    assert z_of(posterior.inclusion_probabilities(), weight @ models.double()) < 5
    unseen = posterior.unseen()
    assert unseen is not None
    assert abs(unseen) < 0.05
    assert posterior.model_evidence().stderr.tolist() == [0.0] * 8
    assert posterior.describe(0) == "a"
    assert len(posterior.plot().axes) == 3
    data = posterior.to_arviz(100, seed=0)
    assert data["posterior"]["model"].shape == (1, 100, 3)


def test_draws_of_one_model_are_of_it_alone() -> None:
    posterior = model_posterior(marginal(), N, seed=1)
    wanted = torch.tensor([True, False, True])
    assert bool((posterior.sample(50, wanted, seed=0) == wanted).all())
    few = model_posterior(marginal(), 30, seed=1)
    with pytest.warns(UnreliableEstimate, match="worth"):
        few.sample(5, few.models[-1], seed=0)
    with pytest.raises(InvalidInput, match="was not drawn"):
        replace(few, models=few.models[:1]).sample(5, few.models[1])


def test_what_is_no_posterior_over_models() -> None:
    with pytest.raises(InvalidInput, match="2 names"):
        model_posterior(marginal(), 100, names=["a", "b"])
    from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels

    space = diffusion(2, steps=2)
    target = as_target(lambda x: -x.square().sum(-1), Lebesgue(2))
    line = Sampler(GFlowNet(space, *diffusion_kernels(space, target, hidden=8)), target)
    with pytest.raises(InvalidInput, match="not models"):
        model_posterior(line, 10)
