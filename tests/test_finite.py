"""Finite graphs: exact flows against brute force, and edge lists that make no sense."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from numerics import shaken
from registry import ladder
from torch import Tensor

from ctsgfn.balance import Wanted, balance
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput
from ctsgfn.exact import explore
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.box import box
from ctsgfn.kernels.spaces.finite import Vertex, finite, rewards, tabular_kernels
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.target import as_target
from ctsgfn.walks import rollout

LOG_REWARD = [0.0, 1.0, 2.0]


def paths(edges: list[tuple[int, int]], terminal: list[int]) -> list[list[int]]:
    """All ways from 0 to a terminal vertex, by plain recursion."""

    def onward(path: list[int]) -> list[list[int]]:
        here = [path] if path[-1] in terminal else []
        return here + [found for a, b in edges if a == path[-1] for found in onward([*path, b])]

    return onward([0])


EDGES = [(0, 1), (0, 2), (1, 3), (2, 3), (2, 4), (3, 5), (4, 5), (4, 6), (1, 6)]


def test_trajectories_are_those_of_plain_recursion() -> None:
    walks = explore(ladder()).trajectories()
    found = [walks.states.vertex[walks.owner == i].tolist() for i in range(len(walks))]
    assert sorted(found) == sorted(paths(EDGES, [3, 5, 6]))


def test_terminating_law_is_the_sum_over_trajectories() -> None:
    graph = explore(ladder())
    gfn = shaken(tabular_kernels(graph), 1.0)
    walks = graph.trajectories()
    with torch.no_grad():
        b = balance(gfn, rewards(graph.space, LOG_REWARD), walks)
    by_hand = torch.zeros(len(graph), dtype=torch.float64)
    ends = graph.index(walks.final)
    by_hand.index_add_(0, ends, b.total(b.log_forward).exp())
    torch.testing.assert_close(graph.terminating_law(gfn.forward_kernel).exp(), by_hand)
    assert float(by_hand.sum()) == pytest.approx(1.0)


def test_terminating_law_is_that_of_rollouts() -> None:
    """Counts of 20,000 walks: chi-squared with 2 degrees of freedom, false-alarm rate 1e-6."""
    graph = explore(ladder())
    gfn = shaken(tabular_kernels(graph), 1.0)
    law = graph.terminating_law(gfn.forward_kernel).exp()
    ends = graph.index(rollout(graph.space, gfn.forward_kernel, 20_000).final)
    counts = torch.bincount(ends, minlength=len(graph)).double()
    inside = law > 0
    expected = 20_000 * law[inside]
    assert float(counts[~inside].sum()) == 0
    assert float(((counts[inside] - expected).square() / expected).sum()) < -2 * math.log(1e-6)


@pytest.mark.parametrize("learned", [False, True])
def test_exact_flow_solves_every_condition(learned: bool) -> None:
    """Flow in = flow out, reward = flow into the sink, ends in proportion to the reward: for any p_B."""
    graph = explore(ladder())
    target = rewards(graph.space, LOG_REWARD)
    backward = shaken(tabular_kernels(graph), 1.0).backward_kernel if learned else None
    flow = graph.solve(target, backward)
    edge = (flow.log_flow[graph.parent] + flow.log_forward).exp()
    back = (flow.log_flow[graph.child] + flow.log_backward).exp()
    torch.testing.assert_close(edge, back)
    state, n = flow.log_flow.exp(), len(graph)
    stop = (flow.log_flow + flow.log_stop).exp()
    into = torch.zeros(n).double().index_add(0, graph.child, edge)
    out = torch.zeros(n).double().index_add(0, graph.parent, edge) + stop
    torch.testing.assert_close(into[1:], state[1:])
    torch.testing.assert_close(out, state)
    torch.testing.assert_close(stop[graph.terminal], graph.log_reward(target).exp()[graph.terminal])
    assert float(flow.log_z) == pytest.approx(math.log(sum(math.exp(r) for r in LOG_REWARD)))
    solved = tabular_kernels(graph, flow)
    assert graph.total_variation(solved.forward_kernel, target) < 1e-6


def test_total_variation_by_hand() -> None:
    graph = explore(finite([(0, 1), (0, 2)], terminal=[1, 2]))
    even = diffuse(graph.space.kappa)
    target = rewards(graph.space, [0.0, math.log(3.0)])
    assert graph.total_variation(even, target) == pytest.approx(0.25)


def test_exact_law_of_a_hypergrid() -> None:
    """Against the flow of a grid that can be written down: one axis, stop with probability 1/2."""
    space = hypergrid(1, 4)
    graph = explore(space)
    law = graph.terminating_law(diffuse(space.kappa)).exp()
    assert law.tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 8])


def test_flow_into_a_state_is_the_sum_over_its_parents() -> None:
    graph = explore(ladder())
    gfn = shaken(tabular_kernels(graph), 1.0)
    walks = graph.trajectories()
    with torch.no_grad():
        b = balance(gfn, rewards(graph.space, LOG_REWARD), walks, wanted=Wanted(flow=True, inflow=True))
        log_u = gfn.log_u(graph.states, graph.states.vertex == 0)
        log_forward, _ = graph.log_forward(gfn.forward_kernel)
    edge = (log_u[graph.parent].double() + log_forward).exp()
    into = torch.zeros(len(graph), dtype=torch.float64).index_add(0, graph.child, edge).log()
    assert b.log_inflow is not None
    torch.testing.assert_close(b.log_inflow.double(), into[graph.index(walks.states)])


def test_rewards_are_in_the_order_of_the_terminal_vertices() -> None:
    space = finite([(0, 2), (0, 1)], terminal=[2, 1])
    target = rewards(space, [5.0, 7.0])
    assert target.log_density(space.read(Vertex(torch.tensor([1, 2])))).tolist() == [7.0, 5.0]
    assert space.write(space.read(Vertex(torch.tensor([1, 2])))).vertex.tolist() == [1, 2]


def test_another_source() -> None:
    graph = explore(finite([(2, 0), (2, 1)], terminal=[0, 1], source=2))
    assert graph.states.vertex[0].item() == 2
    assert len(graph.trajectories()) == 2


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no edges": ({"edges": [], "terminal": [1]}, "at least one edge and one terminal"),
    "no terminal": ({"edges": [(0, 1)], "terminal": []}, "at least one edge and one terminal"),
    "negative": ({"edges": [(0, -1)], "terminal": [0]}, "must be the numbers 0, 1, 2, .., got -1"),
    "not a number": ({"edges": [(0, 1.5)], "terminal": [0]}, "got 1.5"),
    "twice": ({"edges": [(0, 1), (0, 1)], "terminal": [1]}, r"edge \(0, 1\) is listed twice"),
    "terminal twice": ({"edges": [(0, 1)], "terminal": [1, 1]}, "terminal vertex 1 is listed twice"),
    "loop": ({"edges": [(0, 1), (1, 1)], "terminal": [1]}, "vertex 1 lies on a cycle"),
    "cycle": ({"edges": [(0, 1), (1, 2), (2, 1)], "terminal": [2]}, "lies on a cycle"),
    "dead end": ({"edges": [(0, 1), (0, 2)], "terminal": [1]}, "vertex 2 is a dead end"),
    "two sources": (
        {"edges": [(0, 2), (1, 2)], "terminal": [2]},
        "vertex 1 cannot be reached from the source 0",
    ),
    "gap": ({"edges": [(0, 1), (0, 3)], "terminal": [1, 3]}, "vertex 2 cannot be reached"),
    "terminal outside": ({"edges": [(0, 1)], "terminal": [1, 2]}, "vertex 2 cannot be reached"),
    "source with parents": ({"edges": [(0, 1), (1, 0)], "terminal": [1]}, "lies on a cycle"),
    "wrong source": ({"edges": [(0, 1)], "terminal": [1], "source": 1}, "vertex 0 cannot be reached"),
}


@pytest.mark.parametrize("case", BAD)
def test_edge_lists_that_make_no_sense(case: str) -> None:
    options, message = BAD[case]
    with pytest.raises(InvalidInput, match=message):
        finite(**options)


def test_lists_that_would_be_too_long() -> None:
    with pytest.raises(InvalidInput, match="has more than 100 states: raise limit, or sample"):
        explore(hypergrid(3, 8), limit=100)
    with pytest.raises(InvalidInput, match="has more than 10 trajectories: raise limit"):
        explore(hypergrid(2, 5)).trajectories(limit=10)


def test_continuous_spaces_cannot_be_listed() -> None:
    with pytest.raises(InvalidInput, match="has states of real numbers: only integer states can be listed"):
        explore(box())


def test_states_of_another_graph() -> None:
    graph = explore(hypergrid(2, 3))
    with pytest.raises(InvalidInput):
        graph.index(hypergrid(2, 5).write(torch.tensor([[4, 4]])))


def test_wrong_number_of_rewards() -> None:
    with pytest.raises(InvalidInput, match="got 2 log-rewards: give one for each terminal vertex"):
        rewards(ladder(), [0.0, 1.0])


def test_hypergrid_reward_is_found_by_exact_flows() -> None:
    """Another space through the same door: the solved flow of a hypergrid ends in its target."""
    space = hypergrid(2, 4)
    graph = explore(space)

    def height(x: Tensor) -> Tensor:
        return 0.3 * x.sum(-1).double()

    target = as_target(height, space.points)
    gfn: GFlowNet[Any] = tabular_kernels(graph, graph.solve(target))
    assert graph.total_variation(gfn.forward_kernel, target) < 1e-6
    learned = GFlowNet(space, *hypergrid_kernels(space, hidden=8))
    assert graph.total_variation(learned.forward_kernel, target) > 0.05
