"""Trajectories: the flat array, what may be done to it, and the two walks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from numerics import shaken
from registry import flow
from torch import Tensor

from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput, NotAbsorbed
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernel import Kernel
from ctsgfn.kernels.spaces.hypergrid import Cell, hypergrid, hypergrid_kernels
from ctsgfn.kernels.spaces.torus import torus, torus_kernels
from ctsgfn.reference import ReferenceKernel
from ctsgfn.space import Space
from ctsgfn.trajectories import Trajectories
from ctsgfn.walks import backtrack, rollout


def by_hand() -> Trajectories[Cell]:
    """(0,0) -> (1,0) -> stop; (0,0) -> stop; (0,0) -> (0,1) -> (1,1) -> stop."""
    cells = [[0, 0], [1, 0], [0, 0], [0, 0], [0, 1], [1, 1]]
    return Trajectories(
        Cell(torch.tensor(cells)),
        torch.tensor([0, 0, 1, 2, 2, 2]),
        torch.tensor([False, True, True, False, False, True]),
        log_forward=-torch.arange(6.0),
        seen=torch.arange(12.0).reshape(6, 2),
    )


def rows(t: Trajectories[Any], number: int) -> list[Tensor]:
    """Every column of one trajectory."""
    at = t.owner == number
    columns = [*t.states.tensors().values(), t.last, t.log_forward, t.log_backward, t.seen]
    return [c[at] for c in columns if c is not None]


def alike(a: Trajectories[Any], i: int, b: Trajectories[Any], j: int) -> None:
    for x, y in zip(rows(a, i), rows(b, j), strict=True):
        assert torch.equal(x, y)


# ------------------------------------------------------------------ the array
def test_views_of_the_array() -> None:
    t = by_hand()
    assert len(t) == 3
    assert t.lengths.tolist() == [2, 1, 3]
    assert t.source.tolist() == [True, False, True, True, False, False]
    assert t.final.cell.tolist() == [[1, 0], [0, 0], [1, 1]]
    jump = t.jumps
    assert jump.stop.tolist() == t.last.tolist()
    assert jump.target.cell[~jump.stop].tolist() == [[1, 0], [0, 1], [1, 1]]


def test_runs_of_edges_join_to_all_edges() -> None:
    t = by_hand()
    whole = t.jumps
    for cut in range(1, 6):
        first, second = t.edges(0, cut), t.edges(cut, 6)
        assert torch.equal(torch.cat([first[0].cell, second[0].cell]), t.states.cell)
        stop = torch.cat([first[1].stop, second[1].stop])
        target = torch.cat([first[1].target.cell, second[1].target.cell])
        assert torch.equal(stop, whole.stop)
        assert torch.equal(target[~stop], whole.target.cell[~stop])


def test_select_keeps_order_and_repeats() -> None:
    t = by_hand()
    chosen = t.select(torch.tensor([2, 0, 2]))
    assert len(chosen) == 3
    assert chosen.owner.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    for new, old in enumerate([2, 0, 2]):
        alike(chosen, new, t, old)
    assert len(t.select(torch.tensor([], dtype=torch.long))) == 0


def test_cat_undoes_select() -> None:
    t = by_hand()
    again = Trajectories.cat([t.select(torch.tensor([0])), t.select(torch.tensor([1, 2]))])
    assert again.owner.tolist() == t.owner.tolist()
    for i in range(3):
        alike(again, i, t, i)


def test_cat_keeps_only_what_every_part_knows() -> None:
    t = by_hand()
    both = Trajectories.cat([t, replace(t, log_forward=None)])
    assert both.log_forward is None
    assert both.seen is not None
    assert len(both) == 6


def test_forget() -> None:
    t = by_hand().forget()
    assert t.log_forward is t.log_backward is t.seen is None
    assert len(t) == 3


# ------------------------------------------------------------------ the walks
def flows() -> dict[str, GFlowNet[Any]]:
    return {
        "hypergrid": flow(hypergrid_kernels, hypergrid(3, 3), hidden=8),
        "torus": flow(torus_kernels, torus(2, steps=3), hidden=8, layers=1, components=2),
    }


@pytest.mark.parametrize("name", ["hypergrid", "torus"])
def test_rollouts_are_trajectories(name: str) -> None:
    gfn = flows()[name]
    t = rollout(gfn.space, gfn.forward_kernel, 50)
    assert len(t) == 50
    assert bool((t.owner.diff() >= 0).all())
    assert t.last.sum() == 50
    progress = gfn.space.progress(t.states)
    assert bool((progress[t.source] == 0).all())
    assert bool((progress.diff()[~t.last[:-1]] >= 1).all())
    assert t.log_forward is not None
    torch.testing.assert_close(t.log_forward, gfn.forward_kernel(t.states).log_density(t.jumps).detach())
    assert not t.log_forward.requires_grad


@pytest.mark.parametrize("name", ["hypergrid", "torus"])
def test_backtracks_end_where_they_began(name: str) -> None:
    """Trajectory i ends in terminal state i, its states in forward order, its densities on their edges."""
    gfn = flows()[name]
    finals = rollout(gfn.space, gfn.forward_kernel, 50).final
    t = backtrack(gfn.space, gfn.backward_kernel, finals)
    assert len(t) == 50
    for a, b in zip(t.final.tensors().values(), finals.tensors().values(), strict=True):
        assert torch.equal(a, b)
    progress = gfn.space.progress(t.states)
    assert torch.equal(progress == 0, t.source)
    assert bool((progress.diff()[~t.last[:-1]] >= 1).all())
    s, jump = t.edges(0, len(t.owner))
    move = ~jump.stop
    assert t.log_backward is not None
    with torch.no_grad():
        scored = gfn.backward_kernel(jump.target[move]).log_density_to(s[move])
    torch.testing.assert_close(t.log_backward[move], scored, rtol=1e-5, atol=1e-5)
    assert bool((t.log_backward[t.last] == 0).all())


def test_backtracking_from_the_source_is_a_trajectory_of_one_edge() -> None:
    space = hypergrid(2, 3)
    t = backtrack(space, diffuse(space.kappa_b), Cell(torch.tensor([[0, 0], [2, 1], [0, 0]])))
    assert t.lengths.tolist() == [1, 4, 1]
    assert t.final.cell.tolist() == [[0, 0], [2, 1], [0, 0]]


def test_walks_of_nothing_are_refused() -> None:
    space = hypergrid(2, 3)
    with pytest.raises(InvalidInput, match="at least one trajectory, got n=0"):
        rollout(space, diffuse(space.kappa), 0)
    with pytest.raises(InvalidInput, match="at least one terminal state"):
        backtrack(space, diffuse(space.kappa_b), Cell(torch.zeros(0, 2, dtype=torch.long)))


def short(space: Space[Any, Any], horizon: int) -> Space[Any, Any]:
    return replace(space, horizon=horizon)


def test_a_horizon_that_is_too_short_is_found() -> None:
    space = short(hypergrid(2, 5), 3)
    with pytest.raises(NotAbsorbed, match=r"did not reach the sink within its horizon of 3 edges.*Cell\("):
        rollout(space, diffuse(space.kappa), 200)
    with pytest.raises(NotAbsorbed, match=r"backward walks .* did not reach s0 within its horizon of 3"):
        backtrack(space, diffuse(space.kappa_b), Cell(torch.tensor([[4, 4]])))


def test_the_horizon_is_attained() -> None:
    """The longest trajectories use every edge that the horizon allows, and are not refused."""
    space = hypergrid(2, 3)
    never = ReferenceKernel(
        space.kappa.branches,
        allowed=space.kappa.allowed,
        sink=lambda s: (s.cell == 2).all(-1),
    )
    longest = replace(space, kappa=never)
    t = rollout(longest, Kernel(never, *_parts(never)), 20)
    assert bool((t.lengths == space.horizon).all())


def _parts(reference: ReferenceKernel[Any]) -> tuple[Any, Any]:
    kernel = diffuse(reference)
    return kernel.encoder, list(kernel.heads)


def test_reparameterised_rollouts_carry_the_pathwise_gradient() -> None:
    from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels

    space = diffusion(2, steps=3)
    forward, _ = diffusion_kernels(space, hidden=8)
    t = rollout(space, forward, 5, reparameterised=True)
    assert t.states.x.requires_grad
    assert t.log_forward is not None
    assert t.log_forward.requires_grad
    t.final.x.sum().backward()
    assert any(p.grad is not None and bool((p.grad != 0).any()) for p in forward.parameters())


def test_reparameterised_walks_back_carry_the_pathwise_gradient() -> None:
    """Their densities are those of the edges, and differentiate through the states."""
    from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels

    space = diffusion(2, steps=3)
    _, backward = diffusion_kernels(space, hidden=8, learned_backward=True)
    backward = shaken(backward)
    t = backtrack(space, backward, space.write(torch.ones(5, 2).double()), reparameterised=True)
    assert t.pathwise
    s, target, _ = t.moves
    again = torch.nn.functional.pad(backward(target).log_density_to(s).unflatten(0, (5, 3)), (0, 1)).flatten()
    torch.testing.assert_close(t.log_backward, again)
    (by_walk,) = torch.autograd.grad(t.log_backward.sum(), backward.heads[0].output.bias, retain_graph=True)
    (by_edge,) = torch.autograd.grad(again.sum(), backward.heads[0].output.bias)
    torch.testing.assert_close(by_walk, by_edge)
    assert bool((by_walk != 0).any())
