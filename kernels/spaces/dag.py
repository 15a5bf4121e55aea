r"""Directed acyclic graphs, built edge by edge; every graph is terminal.

.. math::
    \kappa(G, \cdot) = \sum_{e\ \text{legal}} \delta_{G + e} + \delta_{s_f}, \qquad
    \kappa^b(G, \cdot) = \sum_{e \in G} \delta_{G - e}, \qquad \nu = \text{counting measure}

An edge i -> j is legal when it is not there, j does not reach i, and no constraint forbids it; the reflexive
transitive closure of the graph is kept with it, so that adding an edge costs one outer product per graph.
Required edges are there from the source on and cannot be removed.

References:
    Bayesian structure learning with generative flow networks (Deleu et al., 2022), arXiv 2202.13903,
    section 3 and appendix C.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.acyclic import Acyclic, closure
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput, whole
from ctsgfn.kernel import Kernel
from ctsgfn.kernels.heads.categorical import Categorical
from ctsgfn.kernels.heads.informed import InformedGate, informed_backward, informed_kernel
from ctsgfn.kernels.heads.pairs import PairCategorical, PairEncoder
from ctsgfn.measures import Counting, Pushforward
from ctsgfn.networks import MLP, FeatureEncoder, zero_init
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.space import Space
from ctsgfn.states import Batch
from ctsgfn.target import HasChanges, HasLosses, Target


@dataclass(frozen=True)
class Dag(Batch):
    """An acyclic graph, and what follows from it."""

    edges: Tensor  # [B, d, d] bool, (i, j) is i -> j
    reach: Tensor  # [B, d, d] bool, a path leads from i to j, or i = j
    legal: Tensor  # [B, d, d] bool, i -> j can be added


class AddEdge(Branch[Dag]):
    """Add a legal edge; counting measure on the pairs (i, j), numbered i d + j.

    Args:
        points: the graphs to build.
    """

    def __init__(self, points: Acyclic) -> None:
        self.nodes, self.points = points.nodes, points
        self.base: Counting = Counting(self.nodes**2)
        self._may = points.may

    def state(self, edges: Tensor, reach: Tensor) -> Dag:
        """A graph, its closure, and the edges that close no cycle and meet the constraints."""
        legal = self._may.to(edges.device) & ~(edges | reach.transpose(1, 2))
        if self.points.most < self.nodes - 1:
            legal = legal & (edges.sum(1, keepdim=True) < self.points.most)
        return Dag(edges, reach, legal)

    def push(self, s: Dag, a: Tensor) -> Dag:
        """Add the edge; whatever reached its tail now reaches whatever its head reached."""
        rows, tail, head = torch.arange(len(a), device=a.device), a[:, 0] // self.nodes, a[:, 0] % self.nodes
        edges = s.edges.index_put((rows, tail, head), torch.ones_like(rows, dtype=torch.bool))
        return self.state(edges, s.reach | (s.reach[rows, :, tail, None] & s.reach[rows, None, head]))

    def pull(self, s: Dag, t: Dag) -> Tensor:
        """Number of the edge that is new."""
        return (t.edges & ~s.edges).flatten(1).to(torch.uint8).argmax(-1, keepdim=True)

    def live(self, s: Dag) -> Tensor:
        """Legal edges, [B, d^2]."""
        return s.legal.flatten(1)

    def owns(self, s: Dag, t: Dag) -> Tensor:
        """Edges of the state space along which one legal edge of the graph is added."""
        new = t.edges & ~s.edges
        gone = (s.edges & ~t.edges).flatten(1).any(-1)
        return (new.flatten(1).sum(-1) == 1) & ~gone & (new & s.legal).flatten(1).any(-1)


class RemoveEdge(Branch[Dag]):
    """Remove an edge that is not required; counting measure on the pairs (i, j).

    Args:
        add: the branch that adds edges.
    """

    def __init__(self, add: AddEdge) -> None:
        self.nodes, self.add = add.nodes, add
        self.base: Counting = Counting(self.nodes**2)
        self._free = ~add.points.must

    def push(self, s: Dag, a: Tensor) -> Dag:
        """Remove the edge."""
        rows = torch.arange(len(a), device=a.device)
        index = (rows, a[:, 0] // self.nodes, a[:, 0] % self.nodes)
        edges = s.edges.index_put(index, torch.zeros_like(rows, dtype=torch.bool))
        return self.add.state(edges, closure(edges))

    def pull(self, s: Dag, t: Dag) -> Tensor:
        """Number of the edge that is gone."""
        return (s.edges & ~t.edges).flatten(1).to(torch.uint8).argmax(-1, keepdim=True)

    def live(self, s: Dag) -> Tensor:
        """Edges of the graph that may go, [B, d^2]."""
        return (s.edges & self._free.to(s.edges.device)).flatten(1)

    def owns(self, s: Dag, t: Dag) -> Tensor:
        """Edges of the state space along which one edge of the graph is removed."""
        gone = (s.edges & ~t.edges).flatten(1)
        return (gone.sum(-1) == 1) & ~(t.edges & ~s.edges).flatten(1).any(-1) & (gone & self.live(s)).any(-1)


def dag(
    nodes: int,
    *,
    max_parents: int | None = None,
    forbidden: Iterable[tuple[int, int]] = (),
    required: Iterable[tuple[int, int]] = (),
) -> Space[Dag, Tensor]:
    """Acyclic graphs on labelled nodes, from the graph of the required edges by adding edges.

    Args:
        nodes: number of nodes.
        max_parents: most parents of a node; None for no bound.
        forbidden: pairs (i, j): no edge i -> j.
        required: pairs (i, j): always the edge i -> j.

    Raises:
        InvalidInput: when nodes < 2, or fewer than two graphs meet the constraints.

    Example:
        >>> space = dag(3)
        >>> space.horizon, str(space.points)
        (4, 'counting measure on acyclic graphs of 3 nodes')
        >>> space.kappa.branches[0].live(space.source(1)).sum().item()
        6
    """
    whole("dag nodes", nodes, least=2)
    points = Acyclic(nodes, max_parents, forbidden, required)
    add = AddEdge(points)
    remove = RemoveEdge(add)
    must = points.must

    def source(n: int) -> Dag:
        return write(must.expand(n, -1, -1).clone())

    def write(x: Tensor) -> Dag:
        return add.state(x.bool(), closure(x.bool()))

    if not bool(source(1).legal.any()):
        raise InvalidInput(f"{points} is one graph: the constraints leave nothing to sample.")
    most = sum(min(k, points.most) for k in range(nodes))
    return Space(
        name=f"dag(nodes={nodes})",
        source=source,
        nu=Pushforward(points, push=write, pull=lambda s: s.edges, owns=_everywhere),
        kappa=ReferenceKernel(
            (add,),
            allowed=lambda s: s.legal.flatten(1).any(-1, keepdim=True),
            sink=_everywhere,
            name="kappa of the acyclic graphs",
        ),
        kappa_b=ReferenceKernel(
            (remove,),
            allowed=lambda s: remove.live(s).any(-1, keepdim=True),
            forced=True,
            name="kappa_b of the acyclic graphs",
        ),
        progress=lambda s: remove.live(s).sum(-1).to(torch.get_default_dtype()),
        horizon=most - int(must.sum()) + 1,
        points=points,
        read=lambda s: s.edges,
        write=write,
        features=lambda s: torch.cat([s.edges.flatten(1), s.reach.flatten(1)], -1).to(
            torch.get_default_dtype()
        ),
    )


def _everywhere(s: Dag) -> Tensor:
    """Every graph is terminal."""
    return torch.ones(len(s), dtype=torch.bool, device=s.edges.device)


def dag_kernels(
    space: Space[Dag, Any],
    target: Target[Tensor] | None = None,
    *,
    hidden: int = 128,
    layers: int = 2,
    learned_backward: bool = False,
    pairs: bool = False,
) -> tuple[Kernel[Dag], Kernel[Dag]]:
    """A learned categorical over the legal edges with a learned stop; backwards even over the edges.

    Args:
        space: of acyclic graphs.
        target: where it has ``changes``, the kernel starts as a climb of the target by single edges; where
            it has ``losses``, the backward kernel learns too, and starts by removing what is missed least.
        hidden: width of each network.
        layers: hidden layers of each network.
        learned_backward: learn which edge to remove, whatever the target.
        pairs: networks on pairs of nodes, equivariant to permutations of them, instead of one network on all
            entries of the adjacency; ``hidden`` is then the width of each pair's vector.

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

    change = _flat(target.changes) if isinstance(target, HasChanges) else None
    loss = _flat(target.losses) if isinstance(target, HasLosses) else None
    if pairs:
        return _on_pairs(space, add, change, loss, hidden, layers, learned_backward)
    sizes = {"hidden": hidden, "layers": layers}
    if change is not None:
        forward = informed_kernel(space, change, **sizes)
    else:
        forward = Kernel(space.kappa, plain(), [Categorical(size, hidden)], zero_init(nn.Linear(hidden, 2)))
    if loss is not None:
        return forward, informed_backward(space, loss, **sizes)
    if not learned_backward:
        return forward, diffuse(space.kappa_b)
    return forward, Kernel(space.kappa_b, plain(), [Categorical(size, hidden)])


def _flat(change: Callable[[Tensor], Tensor]) -> Callable[[Dag], Tensor]:
    """What each edge changes, [B, d^2] by states, of a function [B, d, d] of adjacencies."""
    return lambda s: change(s.edges).flatten(1)


def _on_pairs(
    space: Space[Dag, Any],
    add: AddEdge,
    change: Callable[[Dag], Tensor] | None,
    loss: Callable[[Dag], Tensor] | None,
    hidden: int,
    layers: int,
    learned_backward: bool,
) -> tuple[Kernel[Dag], Kernel[Dag]]:
    """Kernels whose networks work on pairs of nodes."""
    remove = space.kappa_b.branches[0]
    assert isinstance(remove, RemoveEdge)

    def relations(s: Dag) -> Tensor:
        return torch.stack([s.edges, s.reach, s.legal], 1)

    def unknown(s: Dag) -> Tensor:
        return torch.zeros(len(s), add.nodes**2, device=s.edges.device)

    def encoder(change: Callable[[Dag], Tensor] | None, live: Callable[[Dag], Tensor]) -> PairEncoder:
        return PairEncoder(add.nodes, hidden, relations, 3, change or unknown, live, layers)

    head = PairCategorical(add.nodes, hidden)
    forward = Kernel(space.kappa, encoder(change, add.live), [head], InformedGate(hidden))
    if loss is None and not learned_backward:
        return forward, diffuse(space.kappa_b)
    back = PairCategorical(add.nodes, hidden)
    return forward, Kernel(space.kappa_b, encoder(loss, remove.live), [back])
