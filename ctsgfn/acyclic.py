r"""Counting measure on directed acyclic graphs, and what every user of such graphs needs of them.

A graph on d nodes is its adjacency [d, d], bool: entry (i, j) is the edge i -> j.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput, whole

ORDERED = 12
"""Most nodes for which the topological orders of a graph are counted: a sum over subsets of the nodes."""

LISTED = 5
"""Most nodes for which all acyclic graphs are listed (29,281 of them)."""


@dataclass(frozen=True)
class Acyclic:
    r"""Counting measure on the directed acyclic graphs on ``nodes`` labelled nodes; points [B, d, d] bool.

    Its probe draws a uniform order of the nodes and keeps each edge that follows it with probability
    1/2, so that

    .. math:: P(G) = \frac{\#\{\text{topological orders of } G\}}{d!}\, 2^{-d (d - 1) / 2}.

    Raises:
        InvalidInput: when nodes < 1; from ``probe`` and ``log_probe`` with more than 12 nodes.

    References:
        Counting acyclic digraphs (Robinson, 1973), in New directions in the theory of graphs.

    Example:
        >>> graphs = Acyclic(3)
        >>> len(graphs.all()), graphs == Acyclic(3), str(graphs)
        (25, True, 'counting measure on acyclic graphs of 3 nodes')
        >>> x, w = graphs.probe(4096)
        >>> abs(float(w.exp().mean()) / 25 - 1) < 0.1
        True
    """

    nodes: int

    def __post_init__(self) -> None:
        whole("Acyclic nodes", self.nodes)

    def __str__(self) -> str:
        return f"counting measure on acyclic graphs of {self.nodes} nodes"

    def probe(self, n: int) -> tuple[Tensor, Tensor]:
        """Order the nodes at random, and keep each edge along the order with probability 1/2."""
        place = torch.rand(n, self.nodes).argsort(-1)
        along = place[:, :, None] < place[:, None, :]
        x = along & (torch.rand(n, self.nodes, self.nodes) < 0.5)
        return x, -self.log_probe(x)

    def log_probe(self, x: Tensor) -> Tensor:
        """Log-probability of the probe law, [B]."""
        d = self.nodes
        constant = math.lgamma(d + 1) + 0.5 * d * (d - 1) * math.log(2.0)
        return topological_orders(x).log() - constant

    def contains(self, x: Tensor) -> Tensor:
        """Which adjacencies have no cycle, [B]."""
        edges = x.bool()
        path = closure(edges)
        return ~(edges & path.transpose(1, 2)).flatten(1).any(-1)

    def all(self) -> Tensor:
        """Every acyclic graph once, [count, d, d] bool.

        Raises:
            InvalidInput: with more than 5 nodes.
        """
        d = self.nodes
        if d > LISTED:
            raise InvalidInput(
                f"acyclic graphs are listed up to {LISTED} nodes, not for {d}: there are too many."
            )
        found = [torch.zeros(1, d, d, dtype=torch.bool)]
        pairs = [(i, j) for i in range(d) for j in range(d) if i < j]
        for i, j in pairs:  # each pair of nodes: no edge, or one of the two directions
            grown = []
            for ends in ((i, j), (j, i)):
                more = found[0].clone()
                more[:, ends[0], ends[1]] = True
                grown.append(more)
            graphs = torch.cat([found[0], *grown])
            found[0] = graphs[self.contains(graphs)]
        return found[0]


@dataclass(frozen=True)
class EdgeWeights:
    """Which weights a graph has: one for each edge, numbered i d + j. For ``WithParameters``.

    Args:
        nodes: d; weights are [B, d^2].

    Example:
        >>> EdgeWeights(2)(torch.tensor([[[False, True], [False, False]]])).tolist()
        [[False, True, False, False]]
    """

    nodes: int

    def __call__(self, x: Tensor) -> Tensor:
        """Live weights [B, d^2] of adjacencies [B, d, d]."""
        return x.bool().flatten(1)


def closure(edges: Tensor) -> Tensor:
    """Reflexive transitive closure [B, d, d] bool: whether a path leads from i to j, or i = j.

    Example:
        >>> chain = torch.tensor([[[False, True, False], [False, False, True], [False, False, False]]])
        >>> closure(chain)[0].int().tolist()
        [[1, 1, 1], [0, 1, 1], [0, 0, 1]]
    """
    d = edges.shape[-1]
    reach = edges | torch.eye(d, dtype=torch.bool, device=edges.device)
    for _ in range(max(1, math.ceil(math.log2(max(2, d))))):
        steps = reach.to(torch.float32)
        reach = steps @ steps > 0
    return reach


def topological_orders(edges: Tensor) -> Tensor:
    """Number of topological orders [B] of graphs [B, d, d], float64; 0 with a cycle.

    The orders of a set of nodes are counted by the last of them, which must have no child in the set.

    Raises:
        InvalidInput: with more than 12 nodes.

    Example:
        >>> topological_orders(torch.zeros(1, 3, 3, dtype=torch.bool)).tolist()
        [6.0]
    """
    d = edges.shape[-1]
    if d > ORDERED:
        raise InvalidInput(
            f"topological orders are counted up to {ORDERED} nodes, not for {d}: check a smaller space of "
            "the same kind."
        )
    bit = 1 << torch.arange(d, device=edges.device)
    children = (edges.long() * bit).sum(-1)  # [B, d] as bits
    orders = torch.zeros(len(edges), 1 << d, dtype=torch.float64, device=edges.device)
    orders[:, 0] = 1.0
    for size in range(1, d + 1):
        sets = torch.tensor([s for s in range(1 << d) if s.bit_count() == size], device=edges.device)
        total = orders.new_zeros(len(edges), len(sets))
        for j in range(d):
            last = ((sets >> j) & 1).bool() & ((children[:, j, None] & sets) == 0)
            total += torch.where(last, orders[:, sets & ~(1 << j)], 0.0)
        orders[:, sets] = total
    return orders[:, -1]
