"""The waist and the two-pass gradient, on cases that can be written out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from registry import flow
from torch import Tensor

from ctsgfn.balance import Balance, Wanted, balance
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput, NonFinite
from ctsgfn.gflownet import GFlowNet
from ctsgfn.gradient import backpropagate
from ctsgfn.kernels.spaces.hypergrid import Cell, hypergrid, hypergrid_kernels
from ctsgfn.kernels.spaces.torus import torus, torus_kernels
from ctsgfn.objectives import trajectory_balance
from ctsgfn.target import Density, as_target
from ctsgfn.trajectories import Trajectories
from ctsgfn.walks import rollout

# (0,0) -> (1,0) -> stop; (0,0) -> stop; (0,0) -> (0,1) -> (1,1) -> stop
WALK = Trajectories(
    Cell(torch.tensor([[0, 0], [1, 0], [0, 0], [0, 0], [0, 1], [1, 1]])),
    torch.tensor([0, 0, 1, 2, 2, 2]),
    torch.tensor([False, True, True, False, False, True]),
)
LOG_2, LOG_3 = math.log(2.0), math.log(3.0)


def even() -> GFlowNet[Cell]:
    """Even masses on a 2 x 2 grid: every density can be read off."""
    space = hypergrid(2, 2)
    return GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b)).double()


def height(gfn: GFlowNet[Any]) -> Density[Tensor]:
    return as_target(lambda x: 10.0 + x.sum(-1).double(), gfn.space.points)


def test_arrays_by_hand() -> None:
    """Masses 1/2 to move (1 at the corner only to stop), axes even over what is not at the wall."""
    gfn = even()
    with torch.no_grad():
        b = balance(gfn, height(gfn), WALK, wanted=Wanted(stop=True, terminal=True))
    forward = [-2 * LOG_2, -LOG_2, -LOG_2, -2 * LOG_2, -LOG_2, 0.0]
    backward = [0.0, 0.0, 0.0, 0.0, -LOG_2, 0.0]
    torch.testing.assert_close(b.log_forward, torch.tensor(forward).double())
    torch.testing.assert_close(b.log_backward, torch.tensor(backward).double())
    assert b.log_reward.tolist() == [11.0, 10.0, 12.0]
    assert b.log_terminal is not None
    assert b.log_terminal.tolist() == [10.0, 11.0, 10.0, 10.0, 11.0, 12.0]
    assert b.log_stop is not None
    torch.testing.assert_close(b.log_stop, torch.tensor([-LOG_2] * 5 + [0.0]).double())
    weight = [11.0 + 3 * LOG_2, 10.0 + LOG_2, 12.0 + 3 * LOG_2 - LOG_2]
    torch.testing.assert_close(b.log_weight, torch.tensor(weight).double())
    assert b.source.tolist() == [True, False, True, True, False, False]
    assert b.log_flow is b.log_inflow is None


def test_totals_are_sums_over_trajectories() -> None:
    b = Balance(*[torch.zeros(6)] * 2, torch.zeros(3), torch.zeros(()), WALK.owner, WALK.last, WALK.source)
    assert b.total(torch.arange(6.0)).tolist() == [1.0, 2.0, 12.0]
    assert b.size == 3


@pytest.mark.parametrize("chunk", [1, 2, 5, 6, 100])
def test_chunks_change_nothing(chunk: int) -> None:
    gfn = flow(hypergrid_kernels, hypergrid(2, 2), hidden=8).double()
    wanted = Wanted(flow=True, stop=True, terminal=True)
    with torch.no_grad():
        whole = balance(gfn, height(gfn), WALK, wanted=wanted)
        parts = balance(gfn, height(gfn), WALK, wanted=wanted, chunk=chunk)
    for name in ("log_forward", "log_backward", "log_flow", "log_stop", "log_terminal", "log_reward"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_chunks_of_synchronous_spaces_hold_whole_trajectories() -> None:
    space = torus(1, steps=3)
    gfn = flow(torus_kernels, space, hidden=8, layers=1, components=2).double()
    target = as_target(lambda x: x.cos().sum(-1), space.points)
    walk = rollout(space, gfn.forward_kernel, 7).forget()
    with torch.no_grad():
        whole = balance(gfn, target, walk)
        for chunk in (1, 4, 9, 100):
            parts = balance(gfn, target, walk, chunk=chunk)
            torch.testing.assert_close(parts.log_forward, whole.log_forward)
            torch.testing.assert_close(parts.log_backward, whole.log_backward)


def test_flows_without_a_state_flow_say_so() -> None:
    gfn = even()
    with pytest.raises(InvalidInput, match="needs the flow of states"):
        balance(gfn, height(gfn), WALK, wanted=Wanted(flow=True))


def test_targets_that_are_not_finite_are_refused() -> None:
    gfn = even()
    bad = as_target(lambda x: torch.where(x[:, 1] == 1, torch.nan, 0.0).double(), gfn.space.points)
    with pytest.raises(NonFinite, match="nan at row 2"):
        balance(gfn, bad, WALK)


def test_recorded_densities_are_reused_only_without_gradient() -> None:
    """A stale record must never enter a gradient."""
    gfn = flow(hypergrid_kernels, hypergrid(2, 2), hidden=8).double()
    stale = replace(WALK, log_forward=torch.full((6,), -99.0).double())
    with torch.no_grad():
        assert balance(gfn, height(gfn), stale).log_forward.tolist() == [-99.0] * 6
    fresh = balance(gfn, height(gfn), stale)
    assert fresh.log_forward.requires_grad
    assert float(fresh.log_forward.detach().min()) > -50


# ------------------------------------------------------------------ the two-pass gradient
def test_gradients_add_to_what_is_there() -> None:
    gfn = flow(hypergrid_kernels, hypergrid(2, 2), hidden=8).double()
    backpropagate(gfn, height(gfn), WALK, trajectory_balance, chunk=2)
    once = {n: p.grad.clone() for n, p in gfn.named_parameters() if p.grad is not None}
    assert "log_z" in once
    backpropagate(gfn, height(gfn), WALK, trajectory_balance, chunk=2)
    for name, p in gfn.named_parameters():
        if name in once:
            torch.testing.assert_close(p.grad, 2 * once[name])


def test_frozen_parts_get_no_gradient() -> None:
    gfn = flow(hypergrid_kernels, hypergrid(2, 2), hidden=8).double()
    gfn.backward_kernel.requires_grad_(False)
    gfn.log_z.requires_grad_(False)
    for chunk in (2, 100):
        backpropagate(gfn, height(gfn), WALK, trajectory_balance, chunk=chunk)
        assert gfn.log_z.grad is None
        assert all(p.grad is None for p in gfn.backward_kernel.parameters())
        assert any(p.grad is not None for p in gfn.forward_kernel.parameters())


def test_a_flow_of_which_only_log_z_learns() -> None:
    """With diffuse kernels the loss is (log Z - w)^2: its gradient is 2 mean(log Z - w)."""
    gfn = even()
    with torch.no_grad():
        expected = float(-2 * balance(gfn, height(gfn), WALK).log_weight.mean())
    for chunk in (2, 100):
        gfn.zero_grad(set_to_none=True)
        backpropagate(gfn, height(gfn), WALK, trajectory_balance, chunk=chunk)
        assert gfn.log_z.grad is not None
        assert float(gfn.log_z.grad) == pytest.approx(expected)
