"""Annealed moves: exact where theory says so, near it beside, better when learned, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import ctsgfn
from ctsgfn.errors import InvalidInput
from ctsgfn.gflownet import GFlowNet
from ctsgfn.importance import Importance
from ctsgfn.kernels.heads.full_mixture import FullMixture
from ctsgfn.kernels.spaces.annealed import annealed, annealed_kernels
from ctsgfn.kernels.spaces.diffusion import diffusion
from ctsgfn.kernels.spaces.hypergrid import hypergrid
from ctsgfn.measures import Lebesgue
from ctsgfn.mixture_fit import Mixture
from ctsgfn.objectives import log_partition_variance
from ctsgfn.target import Target, as_target
from ctsgfn.training import train


def normal(dim: int, scale: float = 1.0) -> Target[Tensor]:
    return as_target(lambda x: -0.5 * (x / scale).square().sum(-1), Lebesgue(dim))


def log_weights(gfn: GFlowNet[Any], target: Target[Tensor], n: int = 2000) -> Tensor:
    torch.manual_seed(0)
    return Importance(gfn, target).weigh(n)[1]


@pytest.mark.parametrize("time", [0.2, 1.3, 5.0])
def test_every_weight_of_a_whitened_normal_is_its_normaliser(time: float) -> None:
    space, target = annealed(3, 4, time), normal(3)
    gfn = GFlowNet(space, *annealed_kernels(space, target, hidden=8))
    expected = torch.full((50,), 1.5 * math.log(2 * math.pi), dtype=torch.float64)
    torch.testing.assert_close(log_weights(gfn, target, 50), expected, atol=1e-5, rtol=0)


def test_untrained_moves_lead_towards_the_target() -> None:
    """A normal of another width: the more of the same moves, the nearer the bound to log Z."""
    target, exact = normal(4, 0.6), 4 * math.log(0.6) + 2 * math.log(2 * math.pi)
    gaps = []
    for moves in (1, 4, 16):
        space = annealed(4, moves, 0.2 * moves)
        gfn = GFlowNet(space, *annealed_kernels(space, target, hidden=8))
        gaps.append(exact - float(log_weights(gfn, target).mean()))
    assert gaps[0] > gaps[1] > gaps[2] > 0


@pytest.mark.parametrize("networks", [True, False])
def test_learning_brings_the_bound_nearer(networks: bool) -> None:
    target, space = normal(4, 0.6), annealed(4, 4, 0.8)
    torch.manual_seed(1)
    gfn = GFlowNet(space, *annealed_kernels(space, target, hidden=8, networks=networks))
    before = log_weights(gfn, target).mean()
    train(
        gfn,
        target,
        steps=60,
        batch_size=64,
        lr=1e-2,
        seed=0,
        objective=log_partition_variance,
        progress_bar=False,
    )
    exact = 4 * math.log(0.6) + 2 * math.log(2 * math.pi)
    assert exact - float(log_weights(gfn, target).mean()) < 0.7 * (exact - float(before))


def test_one_score_per_state_serves_both_kernels() -> None:
    """K + 1 scores per trajectory, s0's among them, and the same weights as with a score for each kernel."""
    asked: list[int] = []

    class Counting:
        measure = Lebesgue(2)

        def log_density(self, x: Tensor) -> Tensor:
            return -0.5 * (x - 0.5).square().sum(-1)

        def score(self, x: Tensor) -> Tensor:
            asked.append(len(x))
            return 0.5 - x

    target = Counting()
    space = annealed(2, 3)
    forward, backward = annealed_kernels(space, target, hidden=8)
    shared = log_weights(GFlowNet(space, forward, backward), target, 10)
    assert sum(asked) == 10 * (3 + 1 + 1)
    backward.encoder.target = Counting()  # type: ignore[assignment]
    torch.testing.assert_close(log_weights(GFlowNet(space, forward, backward), target, 10), shared)
    assert sum(asked) == 10 * (3 + 1 + 1) + 10 * (3 + 1 + 4)


def test_without_networks_the_gains_alone_are_learned() -> None:
    space, target = annealed(2, 3), normal(2)
    forward, _ = annealed_kernels(space, target, hidden=8, networks=False)
    assert {name.split(".")[2] for name, p in forward.named_parameters() if p.requires_grad} == {"time"}


def test_the_first_step_may_be_any_law_of_points() -> None:
    mixture = Mixture(torch.full((2,), 0.5), torch.tensor([[-2.0], [2.0]]), 0.5 * torch.ones(2, 1, 1))
    target = as_target(
        lambda x: torch.logaddexp(-2 * (x[:, 0] - 2) ** 2, -2 * (x[:, 0] + 2) ** 2), Lebesgue(1)
    )
    space = annealed(1, 2, 0.01)
    gfn = GFlowNet(space, *annealed_kernels(space, target, first=FullMixture(mixture), hidden=8))
    assert float(log_weights(gfn, target).exp().mean().log()) == pytest.approx(
        0.5 * math.log(2 * math.pi), abs=0.05
    )


def test_fit_takes_it_by_name_and_reads_it_back(tmp_path: Any) -> None:
    well: Any = lambda x: -0.5 * (x[:, 0] ** 2 - 1) ** 2 - 0.5 * x[:, 1] ** 2  # noqa: E731
    sampler = ctsgfn.fit(well, 2, kernel="annealed", steps=20, slices=3, hidden=8, seed=0, progress_bar=False)
    assert sampler.gfn.space.horizon == 5
    sampler.save(tmp_path / "well.pt")
    twin = ctsgfn.load(tmp_path / "well.pt", well)
    assert torch.equal(twin.sample(5, seed=1), sampler.sample(5, seed=1))


def test_spaces_without_moves_are_refused() -> None:
    for space in (diffusion(2, steps=1), hypergrid(2, 3)):
        with pytest.raises(InvalidInput, match=r"has no moves to anneal along: build it with annealed"):
            annealed_kernels(space, normal(2))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"need a positive time, got 0\.0"):
        annealed(2, 3, 0.0)
