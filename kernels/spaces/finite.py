r"""Any pointed directed acyclic graph, given by its edges.

References:
    GFlowNet foundations (Bengio et al., 2023), arXiv 2111.09266, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.errors import InvalidInput
from ctsgfn.exact import ExactFlow, Graph, explore
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernel import Kernel
from ctsgfn.kernels.heads.categorical import Categorical
from ctsgfn.measures import Counting, Pushforward
from ctsgfn.networks import Encoder, StateFunction, zero_init
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.space import Space
from ctsgfn.states import Batch, S
from ctsgfn.target import Density, as_target


@dataclass(frozen=True)
class Vertex(Batch):
    """A vertex of the graph."""

    vertex: Tensor  # [B] long


class Neighbour(Branch[Vertex]):
    """Move to a neighbour, the coordinate: a child for kappa, a parent for kappa_b; counting measure."""

    def __init__(self, adjacency: Tensor) -> None:
        self.base = Counting(len(adjacency))
        self.adjacency = adjacency

    def push(self, s: Vertex, a: Tensor) -> Vertex:
        """Return the neighbour."""
        del s
        return Vertex(a[:, 0])

    def pull(self, s: Vertex, t: Vertex) -> Tensor:
        """Return the neighbour as a coordinate."""
        del s
        return t.vertex[:, None]

    def live(self, s: Vertex) -> Tensor:
        """Which vertices are neighbours, [B, n]."""
        return self.adjacency.to(s.vertex.device)[s.vertex]

    def owns(self, s: Vertex, t: Vertex) -> Tensor:
        """Which pairs are edges, [B]."""
        return self.adjacency.to(s.vertex.device)[s.vertex, t.vertex]

    def any(self, s: Vertex) -> Tensor:
        """Whether there is a neighbour at all, [B, 1]."""
        return self.live(s).any(-1, keepdim=True)


def finite(
    edges: Sequence[tuple[int, int]], terminal: Sequence[int], *, source: int = 0
) -> Space[Vertex, Tensor]:
    """Space on the vertices 0, .., n - 1 of a directed acyclic graph.

    The target sees a terminal vertex as its position [B, 1] in ``terminal``: the density of the i-th
    one listed there is the reward of i.

    Args:
        edges: pairs (parent, child).
        terminal: vertices with an edge to the sink; they may have children too.
        source: s0.

    Raises:
        InvalidInput: on a repeated edge, a cycle, a vertex that cannot be reached, or a dead end.

    Example:
        >>> space = finite([(0, 1), (0, 2), (1, 3), (2, 3)], terminal=[1, 3])
        >>> space.horizon, str(space.points), len(explore(space).trajectories())
        (3, 'counting measure on {0, .., 1}', 3)
    """
    adjacency = _adjacency(edges, terminal, source)
    depth = _depth(adjacency, source)
    sink = torch.zeros(len(adjacency), dtype=torch.bool)
    sink[torch.tensor(terminal)] = True
    dead = ~sink & ~adjacency.any(1)
    if bool(dead.any()):
        raise InvalidInput(
            f"vertex {int(dead.nonzero()[0])} is a dead end, without children and not terminal: list it in "
            "terminal, or give it a child."
        )
    order = torch.tensor(terminal)
    rank = torch.full((len(adjacency),), -1).index_put((order,), torch.arange(len(order)))
    n = len(adjacency)
    child, parent = Neighbour(adjacency), Neighbour(adjacency.T.contiguous())
    ends = not bool((sink & adjacency.any(1)).any())
    steps = depth[None, :] - depth[:, None]
    graded = bool((steps[adjacency] == 1).all()) and bool((depth[sink] == depth.max()).all())
    return Space(
        name=f"finite({n} vertices, {len(edges)} edges)",
        source=lambda k: Vertex(torch.full((k,), source)),
        nu=Pushforward(
            Counting(n),
            push=lambda a: Vertex(a[:, 0].round().long()),
            pull=lambda s: s.vertex[:, None],
            owns=lambda s: torch.ones(len(s), dtype=torch.bool, device=s.vertex.device),
        ),
        kappa=ReferenceKernel(
            (child,),
            allowed=child.any,
            sink=lambda s: sink.to(s.vertex.device)[s.vertex],
            forced=ends,
            name="kappa of the finite graph",
        ),
        kappa_b=ReferenceKernel(
            (parent,), allowed=parent.any, forced=True, name="kappa_b of the finite graph"
        ),
        progress=lambda s: depth.to(s.vertex.device)[s.vertex].to(torch.get_default_dtype()),
        horizon=int(depth.max()) + 1,
        points=Counting(len(order)),
        read=lambda s: rank.to(s.vertex.device)[s.vertex][:, None],
        write=lambda x: Vertex(order.to(x.device)[x[:, 0].round().long()]),
        features=lambda s: nn.functional.one_hot(s.vertex, n).to(torch.get_default_dtype()),
        synchronous=ends and graded,
    )


def rewards(space: Space[Any, Tensor], log_reward: Iterable[float]) -> Density[Tensor]:
    """Target of a finite space: the log-reward of its i-th terminal vertex is ``log_reward[i]``.

    Raises:
        InvalidInput: when there is not one log-reward for each terminal vertex.

    Example:
        >>> space = finite([(0, 1), (0, 2)], terminal=[1, 2])
        >>> rewards(space, [0.0, 1.0]).log_density(torch.tensor([[1]])).tolist()
        [1.0]
    """
    table = torch.as_tensor(list(log_reward), dtype=torch.get_default_dtype())
    if space.points != Counting(len(table)):
        raise InvalidInput(
            f"{space.name} has a target on {space.points}, and got {len(table)} log-rewards: give one for "
            "each terminal vertex, in their order."
        )
    return as_target(lambda x: table.to(x.device)[x[:, 0].long()], space.points)


class Rows(Encoder):
    """One-hot row of the state in a graph: linear layers on it are tables, one entry for each state."""

    anchor: Tensor

    def __init__(self, graph: Graph[Any]) -> None:
        super().__init__()
        self.graph = graph
        self.width = len(graph)
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def forward(self, s: Any, seen: Tensor | None) -> Tensor:
        """One-hot rows, [B, n]."""
        del seen
        rows = self.graph.index(s).to(self.anchor.device)
        return nn.functional.one_hot(rows, self.width).to(self.anchor.dtype)


def tabular_kernels(graph: Graph[S], flow: ExactFlow[S] | None = None) -> GFlowNet[S]:
    """Flow of tables: a logit for each state and child, parent, and stop, and a log-flow for each state.

    Args:
        graph: an explored space whose kappa and kappa_b have one branch each, with a Counting base.
        flow: a solved flow to load; None starts from even masses and log u = 0.

    Raises:
        InvalidInput: when a kernel has several branches, or another base.

    Example:
        >>> graph = explore(finite([(0, 1), (0, 2), (1, 3), (2, 3)], terminal=[1, 3]))
        >>> target = rewards(graph.space, [0.0, math.log(2.0)])
        >>> gfn = tabular_kernels(graph, graph.solve(target))
        >>> graph.terminating_law(gfn.forward_kernel).exp()[graph.terminal].numpy().round(4).tolist()
        [0.3333, 0.6667]
    """
    space = graph.space
    heads = []
    for reference in (space.kappa, space.kappa_b):
        base = reference.branches[0].base
        if len(reference.branches) != 1 or not isinstance(base, Counting):
            raise InvalidInput(
                f"{reference.name} is not one branch with a Counting base: use networks instead of tables."
            )
        heads.append(Categorical(base.size, len(graph)))
    gate = None if space.kappa.forced else zero_init(nn.Linear(len(graph), 2))
    gfn = GFlowNet(
        space,
        Kernel(space.kappa, Rows(graph), [heads[0]], gate=gate),
        Kernel(space.kappa_b, Rows(graph), [heads[1]]),
        log_flow=StateFunction(Rows(graph)),
    )
    if flow is not None:
        _load(gfn, flow, heads[0], heads[1], gate)
    return gfn


@torch.no_grad()
def _load(
    gfn: GFlowNet[Any],
    flow: ExactFlow[Any],
    forward: Categorical,
    backward: Categorical,
    gate: nn.Module | None,
) -> None:
    graph = flow.graph
    parents, children = graph.states[graph.parent], graph.states[graph.child]
    for head, branch, s, t, rows, values in (
        (forward, graph.space.kappa.branches[0], parents, children, graph.parent, flow.log_forward),
        (backward, graph.space.kappa_b.branches[0], children, parents, graph.child, flow.log_backward),
    ):
        head.logits.weight[branch.pull(s, t)[:, 0], rows] = values.to(head.logits.weight.dtype)
    if isinstance(gate, nn.Linear):
        stop = flow.log_stop.exp()
        free = (stop > 0) & (stop < 1)  # elsewhere the stop is forced or forbidden, and its logits unused
        gate.weight[0] = torch.where(free, torch.log1p(-stop), 0.0).to(gate.weight.dtype)
        gate.weight[1] = torch.where(free, flow.log_stop, 0.0).to(gate.weight.dtype)
    assert isinstance(gfn.log_flow, StateFunction)
    gfn.log_flow.output.weight[0] = flow.log_flow.to(gfn.log_z.dtype)
    gfn.log_z.copy_(flow.log_z)


def solved_diamond() -> tuple[GFlowNet[Vertex], Density[Tensor]]:
    """Smallest interesting flow, exactly solved: 0 -> {1, 2} -> 3 where all but 0 are terminal.

    Example:
        >>> gfn, target = solved_diamond()
        >>> round(gfn.log_z.exp().item(), 4)
        6.0
    """
    graph = explore(finite([(0, 1), (0, 2), (1, 3), (2, 3)], terminal=[1, 2, 3]))
    target = rewards(graph.space, [math.log(r) for r in (1.0, 2.0, 3.0)])
    return tabular_kernels(graph, graph.solve(target)), target


def _adjacency(edges: Sequence[tuple[int, int]], terminal: Sequence[int], source: int) -> Tensor:
    """Matrix [n, n] of a well-formed edge list."""
    if not edges or not terminal:
        raise InvalidInput("a finite space needs at least one edge and one terminal vertex.")
    named = [v for edge in edges for v in edge] + list(terminal) + [source]
    for v in named:
        if not isinstance(v, int) or v < 0:
            raise InvalidInput(f"vertices must be the numbers 0, 1, 2, .., got {v!r}.")
    for what, items in (("edge", list(edges)), ("terminal vertex", list(terminal))):
        twice = [item for i, item in enumerate(items) if item in items[:i]]
        if twice:
            raise InvalidInput(f"{what} {twice[0]} is listed twice: list it once.")
    adjacency = torch.zeros(max(named) + 1, max(named) + 1, dtype=torch.bool)
    adjacency[tuple(torch.tensor(edges).T)] = True
    return adjacency


def _depth(adjacency: Tensor, source: int) -> Tensor:
    """Edges of the longest path from the source to each vertex, [n] long."""
    reached = torch.zeros(len(adjacency), dtype=torch.bool)
    reached[source] = True
    for _ in range(len(adjacency)):
        reached = reached | adjacency[reached].any(0)
    if not bool(reached.all()):
        raise InvalidInput(
            f"vertex {int((~reached).nonzero()[0])} cannot be reached from the source {source}: add an edge "
            "to it, or leave it out."
        )
    depth = torch.zeros(len(adjacency), dtype=torch.long)
    waiting = adjacency.sum(0)
    done = torch.zeros(len(adjacency), dtype=torch.bool)
    while bool((ready := (waiting == 0) & ~done).any()):
        for v in ready.nonzero().squeeze(-1).tolist():
            depth[adjacency[v]] = depth[adjacency[v]].clamp(min=int(depth[v]) + 1)
            waiting = waiting - adjacency[v].long()
        done = done | ready
    if not bool(done.all()):
        raise InvalidInput(
            f"vertex {int((~done).nonzero()[0])} lies on a cycle or behind one: a flow needs a graph without "
            "cycles."
        )
    return depth
