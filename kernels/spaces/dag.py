r"""Directed acyclic graphs, built edge by edge; every graph is terminal.

.. math::
    \kappa(G, \cdot) = \sum_{e\ \text{legal}} \delta_{G + e} + \delta_{s_f}, \qquad
    \kappa^b(G, \cdot) = \sum_{e \in G} \delta_{G - e}, \qquad \nu = \text{counting measure}

An edge i -> j is legal when it is not there and j does not reach i; the reflexive transitive closure of
the graph is kept with it, so that adding an edge costs one outer product per graph.

References:
    Bayesian structure learning with generative flow networks (Deleu et al., 2022), arXiv 2202.13903,
    section 3 and appendix C.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ctsgfn.acyclic import Acyclic, closure
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput, whole
from ctsgfn.kernel import Kernel
from ctsgfn.kernels.heads.categorical import Categorical
from ctsgfn.kernels.heads.informed import InformedCategorical, InformedEncoder, InformedGate
from ctsgfn.measures import Counting, Pushforward
from ctsgfn.networks import MLP, FeatureEncoder, zero_init
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.space import Space
from ctsgfn.states import Batch
from ctsgfn.target import Target


@dataclass(frozen=True)
class Dag(Batch):
    """An acyclic graph and its reflexive transitive closure."""

    edges: Tensor  # [B, d, d] bool, (i, j) is i -> j
    reach: Tensor  # [B, d, d] bool, a path leads from i to j, or i = j


class AddEdge(Branch[Dag]):
    """Add a legal edge; counting measure on the pairs (i, j), numbered i d + j."""

    def __init__(self, nodes: int) -> None:
        self.base: Counting = Counting(nodes * nodes)
        self.nodes = nodes

    def push(self, s: Dag, a: Tensor) -> Dag:
        """Add the edge; whatever reached its tail now reaches whatever its head reached."""
        rows, tail, head = torch.arange(len(a), device=a.device), a[:, 0] // self.nodes, a[:, 0] % self.nodes
        edges = s.edges.index_put((rows, tail, head), torch.ones_like(rows, dtype=torch.bool))
        return Dag(edges, s.reach | (s.reach[rows, :, tail, None] & s.reach[rows, None, head]))

    def pull(self, s: Dag, t: Dag) -> Tensor:
        """Number of the edge that is new."""
        return (t.edges & ~s.edges).flatten(1).to(torch.uint8).argmax(-1, keepdim=True)

    def live(self, s: Dag) -> Tensor:
        """Legal edges, [B, d^2]."""
        return ~(s.edges | s.reach.transpose(1, 2)).flatten(1)

    def owns(self, s: Dag, t: Dag) -> Tensor:
        """Edges of the state space along which one legal edge of the graph is added."""
        new = (t.edges & ~s.edges).flatten(1)
        gone = (s.edges & ~t.edges).flatten(1).any(-1)
        return (new.sum(-1) == 1) & ~gone & (new & self.live(s)).any(-1)


class RemoveEdge(Branch[Dag]):
    """Remove an edge; counting measure on the pairs (i, j)."""

    def __init__(self, nodes: int) -> None:
        self.base: Counting = Counting(nodes * nodes)
        self.nodes = nodes

    def push(self, s: Dag, a: Tensor) -> Dag:
        """Remove the edge."""
        rows = torch.arange(len(a), device=a.device)
        index = (rows, a[:, 0] // self.nodes, a[:, 0] % self.nodes)
        edges = s.edges.index_put(index, torch.zeros_like(rows, dtype=torch.bool))
        return Dag(edges, closure(edges))

    def pull(self, s: Dag, t: Dag) -> Tensor:
        """Number of the edge that is gone."""
        return (s.edges & ~t.edges).flatten(1).to(torch.uint8).argmax(-1, keepdim=True)

    def live(self, s: Dag) -> Tensor:
        """Edges of the graph, [B, d^2]."""
        return s.edges.flatten(1)

    def owns(self, s: Dag, t: Dag) -> Tensor:
        """Edges of the state space along which one edge of the graph is removed."""
        gone = (s.edges & ~t.edges).flatten(1)
        return (gone.sum(-1) == 1) & ~(t.edges & ~s.edges).flatten(1).any(-1)


def dag(nodes: int) -> Space[Dag, Tensor]:
    """Acyclic graphs on labelled nodes, from the empty graph by adding edges.

    Raises:
        InvalidInput: when nodes < 2.

    Example:
        >>> space = dag(3)
        >>> space.horizon, str(space.points)
        (4, 'counting measure on acyclic graphs of 3 nodes')
        >>> space.kappa.branches[0].live(space.source(1)).sum().item()
        6
    """
    whole("dag nodes", nodes, least=2)
    add, remove, points = AddEdge(nodes), RemoveEdge(nodes), Acyclic(nodes)

    def everywhere(s: Dag) -> Tensor:
        return torch.ones(len(s), dtype=torch.bool, device=s.edges.device)

    def source(n: int) -> Dag:
        none = torch.zeros(n, nodes, nodes, dtype=torch.bool)
        return Dag(none, torch.eye(nodes, dtype=torch.bool).expand(n, -1, -1).clone())

    def write(x: Tensor) -> Dag:
        return Dag(x.bool(), closure(x.bool()))

    return Space(
        name=f"dag(nodes={nodes})",
        source=source,
        nu=Pushforward(points, push=write, pull=lambda s: s.edges, owns=everywhere),
        kappa=ReferenceKernel(
            (add,),
            allowed=lambda s: add.live(s).any(-1, keepdim=True),
            sink=everywhere,
            name="kappa of the acyclic graphs",
        ),
        kappa_b=ReferenceKernel(
            (remove,),
            allowed=lambda s: s.edges.flatten(1).any(-1, keepdim=True),
            forced=True,
            name="kappa_b of the acyclic graphs",
        ),
        progress=lambda s: s.edges.flatten(1).sum(-1).to(torch.get_default_dtype()),
        horizon=nodes * (nodes - 1) // 2 + 1,
        points=points,
        read=lambda s: s.edges,
        write=write,
        features=lambda s: torch.cat([s.edges.flatten(1), s.reach.flatten(1)], -1).to(
            torch.get_default_dtype()
        ),
        width=2 * nodes * nodes,
    )


@runtime_checkable
class HasChanges(Target[Tensor], Protocol):
    """A target on acyclic graphs that knows what each edge would change."""

    def changes(self, x: Tensor) -> Tensor:
        """Log r with the edge i -> j added, less log r, [B, d, d]; anything where it cannot be added."""
        ...


def dag_kernels(
    space: Space[Dag, Any],
    target: Target[Tensor] | None = None,
    *,
    hidden: int = 128,
    layers: int = 2,
    learned_backward: bool = False,
) -> tuple[Kernel[Dag], Kernel[Dag]]:
    """A learned categorical over the legal edges with a learned stop; backwards even over the edges.

    Args:
        space: of acyclic graphs.
        target: where it has ``changes``, the kernel starts as a climb of the target by single edges.
        hidden: width of each network.
        layers: hidden layers of each network.
        learned_backward: learn which edge to remove.

    Raises:
        InvalidInput: when the space has no acyclic graphs.

    Example:
        >>> space = dag(3)
        >>> forward, backward = dag_kernels(space, hidden=8)
        >>> forward(space.source(1)).log_stop.exp().tolist(), backward.trainable
        ([0.5], False)
    """
    add = space.kappa.branches[0]
    if not isinstance(add, AddEdge):
        raise InvalidInput(f"space {space.name!r} has no acyclic graphs: build it with dag(..).")
    size = add.nodes**2

    def plain() -> FeatureEncoder:
        return FeatureEncoder(space.features, MLP(space.width, hidden, layers), hidden)

    if isinstance(target, HasChanges):
        changes = target.changes
        encoder = InformedEncoder(plain(), lambda s: changes(s.edges).flatten(1), add.live)
        forward = Kernel(space.kappa, encoder, [InformedCategorical(size, hidden)], InformedGate(hidden))
    else:
        forward = Kernel(space.kappa, plain(), [Categorical(size, hidden)], zero_init(nn.Linear(hidden, 2)))
    if not learned_backward:
        return forward, diffuse(space.kappa_b)
    return forward, Kernel(space.kappa_b, plain(), [Categorical(size, hidden)])
