"""What is special to the cube: segments with a least increment, faces, and its terminating density."""

from __future__ import annotations

import math

import pytest
import torch
from numerics import shaken, z_scores
from torch import Tensor

from ctsgfn.balance import balance
from ctsgfn.behaviours import mixed, on_policy, walk_back
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput, NoSuchEdge
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.cube import cube, cube_kernels
from ctsgfn.kernels.spaces.spots import Spot
from ctsgfn.states import Jump
from ctsgfn.target import as_target
from ctsgfn.training import train
from ctsgfn.trajectories import Trajectories
from ctsgfn.walks import backtrack, rollout


def learned(dim: int, least: float = 0.25) -> GFlowNet[Spot]:
    space = cube(dim, least)
    return shaken(
        GFlowNet(space, *cube_kernels(space, hidden=16, layers=1, components=2, first_components=3))
    )


def log_terminating(gfn: GFlowNet[Spot], x: Tensor) -> Tensor:
    """Log p_F / p_B of one backward walk from each point: its exponential has mean p(x)."""
    flat = as_target(lambda x: x.new_zeros(len(x)), gfn.space.points)
    walks = backtrack(gfn.space, gfn.backward_kernel, gfn.space.write(x))
    with torch.no_grad():
        return -balance(gfn, flat, walks.forget()).log_weight


@pytest.mark.parametrize(("dim", "least"), [(1, 0.5), (2, 0.25), (2, 0.1), (5, 0.3)])
def test_horizon_bounds_walks_that_only_stop_when_they_must(dim: int, least: float) -> None:
    """The longest: enter at the origin, then least increments along every axis."""
    space = cube(dim, least)
    s = space.write(torch.full((1, dim), 1e-12, dtype=torch.float64))
    edges = 1
    while bool((is_open := space.kappa.allowed(s)[0, 1:]).any()):
        branch = space.kappa.branches[1 + int(is_open.nonzero()[0])]
        s = branch.push(s, torch.ones(1, 1, dtype=torch.float64))
        edges += 1
    assert bool((s.x > 1 - least - 1e-9).all())
    assert edges + 1 <= space.horizon


def test_increments_are_at_least_the_least_and_along_one_axis() -> None:
    gfn = learned(3)
    walk = rollout(gfn.space, gfn.forward_kernel, 500)
    inner = (~walk.last & ~walk.source).nonzero().squeeze(-1)
    step = walk.states.x[inner + 1] - walk.states.x[inner]
    assert len(inner) > 100
    assert bool(((step != 0).sum(-1) == 1).all())
    assert float(step.amax(-1).min()) >= 0.25 - 1e-6


def test_a_step_short_of_the_least_is_no_edge() -> None:
    space = cube(2, 0.25)
    s, t = (space.write(torch.tensor([[0.2, x]], dtype=torch.float64)) for x in (0.3, 0.5))
    with pytest.raises(NoSuchEdge, match="0 branches of kappa of the cube lead"):
        diffuse(space.kappa)(s).log_density(Jump(t, torch.tensor([False])))
    with pytest.raises(NoSuchEdge, match="0 branches of kappa_b of the cube lead"):
        diffuse(space.kappa_b)(t).log_density_to(s)


def test_the_stop_is_forced_only_where_no_increment_fits() -> None:
    gfn = learned(2)
    x = torch.tensor([[0.76, 0.76], [0.76, 0.74], [0.1, 0.9], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    log_stop = gfn.forward_kernel(gfn.space.write(x)).log_stop
    assert (log_stop == 0).tolist() == [True, False, False, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_density_up_to_the_faces(dim: int, dtype: torch.dtype) -> None:
    """Corners, faces, points an ulp from them, and points at rounding distance from the least increment."""
    gfn = learned(dim).to(dtype)
    eps = torch.finfo(dtype).eps
    special = torch.tensor([0.0, eps, 0.25 - eps, 0.25, 0.25 + eps, 0.5, 0.75 - eps, 0.75, 1 - eps, 1.0])
    x = special.to(dtype)[torch.randint(len(special), (5000, dim))]
    x[0], x[1] = 0.0, 1.0
    log_density = log_terminating(gfn, x)
    assert log_density.dtype == dtype
    assert bool(torch.isfinite(log_density).all())


def test_every_point_is_entered_at_once() -> None:
    """s0 -> x -> sink has a density everywhere: 1 times the mass of the stop for the diffuse kernel."""
    space = cube(3)
    x = torch.rand(200, 3, dtype=torch.float64)
    states = Spot(
        torch.stack([torch.zeros_like(x), x], 1).flatten(0, 1), torch.tensor([False, True]).repeat(200)
    )
    walk = Trajectories(states, torch.arange(200).repeat_interleave(2), states.started)
    gfn = GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b)).double()
    arrays = balance(gfn, as_target(lambda x: x.new_zeros(len(x)), space.points), walk)
    options = 1 + (x < 0.75).sum(-1)
    torch.testing.assert_close(arrays.total(arrays.log_forward), -options.double().log())


def test_terminating_density_in_closed_form() -> None:
    """d = 1, m = 1/2, diffuse: p = 1/2 below 1/2 and 1 - log(2 - 2x) / 2 above; |z| < 5 (rate 6e-7 each)."""
    space = cube(1, 0.5)
    gfn = GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b)).double()
    for x in (0.1, 0.45, 0.55, 0.7, 0.95):
        expected = 0.5 if x < 0.5 else 1 - 0.5 * math.log(2 - 2 * x)
        p = log_terminating(gfn, torch.full((20_000, 1), x, dtype=torch.float64)).exp()
        assert float(p.mean()) == pytest.approx(expected, abs=1e-12 if x < 0.5 else 0.05)
        if x > 0.5:
            assert float(z_scores(p, expected).abs()) < 5.0


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_terminating_density_integrates_to_one(dim: int) -> None:
    """Backward walks from uniform points, kernels at random parameters; |z| < 5 (rate 6e-7)."""
    p = log_terminating(learned(dim), torch.rand(40_000, dim, dtype=torch.float64)).exp()
    assert float(p.std()) / math.sqrt(len(p)) < 0.05, "too heavy-tailed to see an error"
    assert float(z_scores(p, 1.0).abs()) < 5.0


def test_a_fixed_backward_kernel_has_no_parameters() -> None:
    _, backward = cube_kernels(cube(2), hidden=8, learned_backward=False)
    assert not backward.trainable


@pytest.mark.parametrize("least", [0.0, 0.6, -0.1, math.nan])
def test_bad_least_increment(least: float) -> None:
    with pytest.raises(InvalidInput, match=r"least increment in \(0, 1/2\]"):
        cube(2, least)


def test_bad_dimension() -> None:
    with pytest.raises(InvalidInput, match="Lebesgue dim"):
        cube(0)


@pytest.mark.slow
def test_nine_modes_are_learned() -> None:
    """1000 updates, half of each batch from uniform points: ESS and log Z of nine normals, sd 0.04."""
    space = cube(2)
    means = torch.cartesian_prod(*[torch.tensor([0.2, 0.5, 0.8])] * 2)
    level = 2 * math.log(0.04) + math.log(2 * math.pi * 9)
    target = as_target(
        lambda x: (-0.5 * ((x[:, None] - means) / 0.04).square().sum(-1)).logsumexp(-1) - level, space.points
    )
    gfn = GFlowNet(space, *cube_kernels(space, hidden=64))
    everywhere = mixed(on_policy, lambda gfn, n: walk_back(gfn, torch.rand(n, 2)), 0.5)
    train(gfn, target, steps=1000, batch_size=300, behaviour=everywhere, lr=1e-2, seed=0, progress_bar=False)
    with torch.no_grad():
        log_w = balance(gfn, target, rollout(space, gfn.forward_kernel, 20_000)).log_weight.double()
    w = log_w.exp()
    assert float(w.sum() ** 2 / w.square().sum()) / len(w) > 0.6
    assert float(log_w.mean()) > -0.2
    assert float(w.mean().log()) == pytest.approx(0.0, abs=0.03)
