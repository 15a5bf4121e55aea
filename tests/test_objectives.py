"""Objectives: zero at a solved flow, their gradients lead to it, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from numerics import shaken
from registry import SPACES, ladder
from torch import Tensor

from ctsgfn.balance import Balance, Wanted, balance
from ctsgfn.behaviours import epsilon_uniform, from_data, on_policy
from ctsgfn.diffuse import diffuse
from ctsgfn.divergences import (
    forward_kl,
    forward_kl_on_data,
    maximum_likelihood,
    reverse_kl,
    reverse_kl_score,
    reverse_wake_sleep,
    wake_sleep,
)
from ctsgfn.errors import InvalidInput
from ctsgfn.exact import Graph, explore
from ctsgfn.gflownet import ForwardLooking, GFlowNet
from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels
from ctsgfn.kernels.spaces.finite import finite, rewards, solved_diamond, tabular_kernels
from ctsgfn.measures import Lebesgue
from ctsgfn.objectives import (
    Objective,
    detailed_balance,
    flow_matching,
    log_partition_variance,
    modified_detailed_balance,
    objective,
    trajectory_balance,
)
from ctsgfn.penalties import huber, linex, shifted_cosh
from ctsgfn.subtrajectories import subtrajectory_balance
from ctsgfn.target import Density, as_target
from ctsgfn.training import train

BALANCE: dict[str, Objective] = {
    "trajectory balance": trajectory_balance,
    "log-partition variance": log_partition_variance,
    "detailed balance": detailed_balance,
    "detailed balance, alpha": detailed_balance.using(alpha=5.0),
    "modified detailed balance": modified_detailed_balance,
    "sub-trajectory balance": subtrajectory_balance,
    "sub-trajectory balance, 0.1": subtrajectory_balance.using(lam=0.1),
    "sub-trajectory balance, 3": subtrajectory_balance.using(lam=3.0),
    "flow matching": flow_matching,
    "trajectory balance, cosh": trajectory_balance.using(g=shifted_cosh),
    "detailed balance, linex": detailed_balance.using(g=linex),
    "trajectory balance, Huber": trajectory_balance.using(g=huber),
}
"""Zero wherever a flow balances, whoever drew the trajectories."""

DIVERGENCES: dict[str, Objective] = {
    "reverse KL, score": reverse_kl_score,
    "forward KL": forward_kl,
    "wake-sleep": wake_sleep,
    "reverse wake-sleep": reverse_wake_sleep,
}
"""Their gradients have mean zero where a flow balances; log Z is not learned."""

EVERYWHERE = [(0, 1), (0, 2), (1, 3), (2, 3), (1, 4), (3, 4), (2, 4)]
LOG_REWARD = [0.3, -1.0, 1.2, 0.5]


def everywhere() -> tuple[Graph[Any], Density[Tensor]]:
    """A graph whose vertices are terminal, but for s0."""
    graph = explore(finite(EVERYWHERE, terminal=[1, 2, 3, 4]))
    return graph, rewards(graph.space, LOG_REWARD)


def arrays(gfn: GFlowNet[Any], target: Density[Tensor], loss: Objective, n: int = 64) -> Balance:
    return balance(gfn, target, epsilon_uniform(0.5)(gfn, n), wanted=loss.wanted)


def gradient(gfn: GFlowNet[Any]) -> Tensor:
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in gfn.parameters()]
    gfn.zero_grad(set_to_none=True)
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("name", BALANCE)
def test_zero_at_a_solved_flow_and_only_there(name: str) -> None:
    graph, target = everywhere()
    loss = BALANCE[name]
    solved = tabular_kernels(graph, graph.solve(target)).double()
    value = loss(arrays(solved, target, loss))
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-11)
    assert float(gradient(solved).abs().max()) < 1e-5  # flows are stored in float32
    elsewhere = shaken(tabular_kernels(graph), 0.5)
    assert loss(arrays(elsewhere, target, loss)).item() > 1e-3


@pytest.mark.parametrize("name", [*BALANCE, *DIVERGENCES])
def test_descent_reaches_the_target(name: str) -> None:
    """A short run from a random flow, measured by the exact law of the terminal states."""
    graph, target = everywhere()
    loss = (BALANCE | DIVERGENCES)[name]
    gfn = shaken(tabular_kernels(graph), 0.5).float()
    before = graph.total_variation(gfn.forward_kernel, target)
    train(gfn, target, objective=loss, steps=300, batch_size=64, lr=0.03, seed=0, progress_bar=False)
    after = graph.total_variation(gfn.forward_kernel, target)
    assert before > 0.1
    assert after < 0.03


def test_reparameterised_divergence_reaches_the_target() -> None:
    """On R^d: the bound rises to log Z of a shifted normal."""
    space = diffusion(2, steps=4)
    target = as_target(lambda x: -(x - 1).square().sum(-1), Lebesgue(2))
    gfn = GFlowNet(space, *diffusion_kernels(space, target, hidden=16))
    history = train(gfn, target, objective=reverse_kl, steps=200, batch_size=64, lr=1e-2, seed=0,
                    progress_bar=False)  # fmt: skip
    assert history.elbo[0] < math.log(math.pi) - 1.0
    assert sum(history.elbo[-20:]) / 20 == pytest.approx(math.log(math.pi), abs=0.1)
    assert history.loss[-1] == pytest.approx(-history.elbo[-1], abs=1e-4)


def test_data_reach_the_target() -> None:
    """Maximum likelihood from exact samples, walked back."""
    graph, target = everywhere()
    data = torch.multinomial(torch.tensor(LOG_REWARD).exp(), 4000, replacement=True)[:, None]
    gfn = shaken(tabular_kernels(graph), 0.5).float()
    train(gfn, target, objective=forward_kl_on_data, behaviour=from_data(data), steps=400, batch_size=256,
          lr=0.03, seed=0, progress_bar=False)  # fmt: skip
    assert graph.total_variation(gfn.forward_kernel, target) < 0.04


def test_likelihood_of_data_learns_both_kernels() -> None:
    """On R^2, two clusters: the bound comes within 0.1 nats of the entropy, closer than with a fixed p_B."""
    space = diffusion(2, steps=3, sigma=1.5)
    data = torch.cat([torch.randn(2000, 2) * 0.3 + 1, torch.randn(2000, 2) * 0.3 - 1])
    unknown = as_target(lambda x: torch.zeros(len(x)), Lebesgue(2))
    reached = []
    for learned in (False, True):
        gfn = GFlowNet(space, *diffusion_kernels(space, hidden=32, learned_backward=learned))
        draws = from_data(data, reparameterised=True)
        history = train(
            gfn, unknown, objective=maximum_likelihood, behaviour=draws, steps=250, batch_size=128, lr=1e-2,
            seed=0, progress_bar=False,
        )  # fmt: skip
        reached.append(sum(history.loss[-50:]) / 50)
    entropy = math.log(2) + math.log(2 * math.pi * math.e * 0.3**2)
    assert entropy - 0.02 < reached[1] < reached[0]


# ------------------------------------------------------------------ what they are
def test_values_by_hand() -> None:
    """Two trajectories, three edges each way of reading them."""
    b = Balance(
        log_forward=torch.tensor([-1.0, -0.5, -2.0]),
        log_backward=torch.tensor([-0.3, 0.0, 0.0]),
        log_reward=torch.tensor([2.0, 1.0]),
        log_z=torch.tensor(3.0),
        owner=torch.tensor([0, 0, 1]),
        last=torch.tensor([False, True, True]),
        source=torch.tensor([True, False, True]),
        log_flow=torch.tensor([3.0, 1.5, 3.0]),
    )
    weight = torch.tensor([2.0 + 1.5 - 0.3, 1.0 + 2.0])
    assert b.log_weight.tolist() == pytest.approx(weight.tolist())
    assert trajectory_balance(b).item() == pytest.approx(float((3 - weight).square().mean()))
    assert log_partition_variance(b).item() == pytest.approx(0.01)
    edges = torch.tensor([3 - 1 - 1.5 + 0.3, 1.5 - 0.5 - 2, 3 - 2 - 1.0])
    assert detailed_balance(b).item() == pytest.approx(float(edges.square().mean()))
    weighted = edges.square() * torch.tensor([1.0, 2.0, 2.0])
    assert detailed_balance(b, alpha=2.0).item() == pytest.approx(float(weighted.mean()))
    whole = edges[:2].sum()
    lam = 0.5
    first = (lam * edges[:2].square().sum() + lam**2 * whole.square()) / (2 * lam + lam**2)
    expected = (first + edges[2].square()) / 2
    assert subtrajectory_balance(b, lam=lam).item() == pytest.approx(float(expected))
    assert forward_kl_on_data(b).item() == pytest.approx(float(weight.mean()))
    assert maximum_likelihood(b).item() == pytest.approx(float(weight.mean()))
    assert reverse_kl_score(b).item() == pytest.approx(-float(weight.mean()))


@pytest.mark.parametrize(
    ("penalty", "slope"), [(torch.square, 2.0), (shifted_cosh, 2.0), (linex, 1.0), (huber, 2.0)]
)
def test_penalties_are_bowls(penalty: Callable[[Tensor], Tensor], slope: float) -> None:
    """Zero and flat at zero, positive elsewhere, with the curvature they say."""
    t = torch.tensor([-2.0, -1e-3, 0.0, 1e-3, 2.0], dtype=torch.float64, requires_grad=True)
    value = penalty(t)
    (first,) = torch.autograd.grad(value.sum(), t)
    assert value[2].item() == first[2].item() == 0.0
    assert bool((value[[0, 1, 3, 4]] > 0).all())
    assert (value[1] / (0.5 * slope * 1e-6)).item() == pytest.approx(1.0, abs=1e-2)


def test_sub_trajectories_between_edges_and_whole_walks() -> None:
    graph, target = everywhere()
    gfn = shaken(tabular_kernels(graph), 0.5)
    b = arrays(gfn, target, subtrajectory_balance)
    edge = b.log_flow.roll(-1).masked_scatter(b.last, b.log_reward)
    residual = (b.log_flow + b.log_forward - edge - b.log_backward).square()
    each = b.total(residual) / torch.bincount(b.owner)
    assert subtrajectory_balance(b, lam=1e-9).item() == pytest.approx(float(each.detach().mean()), rel=1e-6)
    assert subtrajectory_balance(b, lam=1e9).item() == pytest.approx(trajectory_balance(b).item(), rel=1e-6)


def test_forward_looking_is_the_same_loss_of_a_shifted_flow() -> None:
    """log u = potential + learned: the plain loss of that sum, and no gradient through the potential."""
    graph, target = everywhere()
    gfn = shaken(tabular_kernels(graph), 0.5)
    potential = torch.nn.Parameter(torch.randn(len(graph), dtype=torch.float64))
    plain = gfn.log_flow
    assert plain is not None
    looking = ForwardLooking(lambda s: potential[s.vertex], plain)
    walk = on_policy(gfn, 50).forget()
    shifted = GFlowNet(graph.space, gfn.forward_kernel, gfn.backward_kernel, looking, gfn.log_z)
    for loss in (detailed_balance, subtrajectory_balance):
        b = balance(gfn, target, walk, wanted=Wanted(flow=True))
        shift = torch.where(b.source, 0.0, potential.detach()[walk.states.vertex])
        assert b.log_flow is not None
        by_hand = Balance(**{**vars(b), "log_flow": b.log_flow + shift})
        value = loss(balance(shifted, target, walk, wanted=loss.wanted))
        assert value.item() == pytest.approx(loss(by_hand).item())
        value.backward()
        assert potential.grad is None
        gfn.zero_grad(set_to_none=True)


def test_flow_matching_reads_no_backward_kernel() -> None:
    graph, target = everywhere()
    gfn = shaken(tabular_kernels(graph), 0.5)
    flow_matching(arrays(gfn, target, flow_matching)).backward()
    assert all(p.grad is None or not bool(p.grad.any()) for p in gfn.backward_kernel.parameters())
    assert any(p.grad is not None and bool(p.grad.any()) for p in gfn.forward_kernel.parameters())


def test_options_are_fixed_without_touching_the_original() -> None:
    twice = detailed_balance.using(alpha=3.0).using(g=huber)
    assert twice.wanted == detailed_balance.wanted
    assert twice.__name__ == "detailed_balance"
    b = Balance(*[torch.tensor([3.0])] * 2, torch.tensor([0.0]), torch.tensor(9.0), torch.tensor([0]),
                torch.tensor([True]), torch.tensor([True]), log_flow=torch.tensor([9.0]))  # fmt: skip
    assert twice(b).item() == pytest.approx(3 * (2 * 9 - 1))
    assert detailed_balance(b).item() == pytest.approx(81.0)


def test_a_loss_of_ones_own_takes_what_it_asks_for() -> None:
    @objective(stop=True)
    def stop_mass(b: Balance) -> Tensor:
        assert b.log_stop is not None
        assert b.log_flow is None
        return b.log_stop[b.last].mean()

    gfn, target = solved_diamond()
    train(gfn, target, objective=stop_mass, steps=1, batch_size=8, progress_bar=False)


# ------------------------------------------------------------------ what they refuse
def one() -> tuple[GFlowNet[Any], Density[Tensor]]:
    graph, target = everywhere()
    return tabular_kernels(graph), target


@pytest.mark.parametrize(
    "loss", [log_partition_variance, reverse_kl_score, forward_kl_on_data, reverse_wake_sleep]
)
def test_a_single_trajectory_has_no_baseline(loss: Objective) -> None:
    gfn, target = one()
    with pytest.raises(InvalidInput, match="use batch_size >= 2"):
        loss(arrays(gfn, target, loss, n=1))


@pytest.mark.parametrize("loss", [detailed_balance, subtrajectory_balance, flow_matching])
def test_flows_that_were_not_asked_for(loss: Objective) -> None:
    gfn, target = one()
    with pytest.raises(InvalidInput, match=r"ask for it with Wanted\(flow=True"):
        loss(balance(gfn, target, on_policy(gfn, 4), wanted=Wanted()))


@pytest.mark.parametrize("loss", [detailed_balance, subtrajectory_balance, flow_matching])
def test_flows_that_are_not_there(loss: Objective) -> None:
    graph, target = everywhere()
    gfn = GFlowNet(graph.space, diffuse(graph.space.kappa), diffuse(graph.space.kappa_b))
    with pytest.raises(InvalidInput, match=r"needs the flow of states: build GFlowNet\(.., log_flow="):
        train(gfn, target, objective=loss, steps=1, batch_size=4, progress_bar=False)


def test_modified_detailed_balance_needs_terminal_states() -> None:
    space = ladder()
    gfn, target = tabular_kernels(explore(space)), rewards(space, [0.0, 1.0, 2.0])
    with pytest.raises(InvalidInput, match=r"needs every state but s0 to be terminal.*use detailed_balance"):
        train(gfn, target, objective=modified_detailed_balance, steps=1, batch_size=8, progress_bar=False)
    with pytest.raises(InvalidInput, match=r"ask for them with Wanted\(stop=True, terminal=True\)"):
        modified_detailed_balance(balance(gfn, target, on_policy(gfn, 4)))


def test_flow_matching_needs_parents_that_can_be_counted() -> None:
    case = SPACES["diffusion"]
    space = case.space()
    with pytest.raises(InvalidInput, match=r"does not list them.*use detailed_balance"):
        train(case.kernels(space), case.target(space), objective=flow_matching, steps=1, batch_size=4,
              progress_bar=False)  # fmt: skip


@pytest.mark.parametrize("lam", [0.0, -1.0, math.inf, math.nan])
def test_lambda_is_positive(lam: float) -> None:
    gfn, target = one()
    with pytest.raises(InvalidInput, match="needs a finite lam > 0"):
        subtrajectory_balance(arrays(gfn, target, subtrajectory_balance), lam=lam)
