r"""Counting measure on directed acyclic graphs, and what every user of such graphs needs of them.

A graph on d nodes is its adjacency [d, d], bool: entry (i, j) is the edge i -> j.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
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

    Its probe places the nodes one after another, each drawn evenly from those whose required parents are
    placed, and gives each a set of parents drawn evenly from those that it may have among the nodes placed
    before. Without constraints that is a uniform order in which each edge is kept with probability 1/2,

    .. math:: P(G) = \frac{\#\{\text{topological orders of } G\}}{d!}\, 2^{-d (d - 1) / 2}.

    Args:
        nodes: d.
        max_parents: most parents of a node; None for no bound.
        forbidden: pairs (i, j): no edge i -> j.
        required: pairs (i, j): always the edge i -> j.

    Raises:
        InvalidInput: when nodes < 1, or no graph meets the constraints; from ``probe`` and ``log_probe``
            with more than 12 nodes.

    References:
        Counting acyclic digraphs (Robinson, 1973), in New directions in the theory of graphs.

    Example:
        >>> graphs = Acyclic(3)
        >>> len(graphs.all()), graphs == Acyclic(3), str(graphs)
        (25, True, 'counting measure on acyclic graphs of 3 nodes')
        >>> x, w = graphs.probe(4096)
        >>> abs(float(w.exp().mean()) / 25 - 1) < 0.1
        True
        >>> len(Acyclic(3, max_parents=1, required=[(0, 1)]).all())
        4
    """

    nodes: int
    max_parents: int | None = None
    forbidden: Iterable[tuple[int, int]] = frozenset()
    required: Iterable[tuple[int, int]] = frozenset()

    def __post_init__(self) -> None:
        whole("Acyclic nodes", self.nodes)
        if self.max_parents is not None:
            whole("max_parents", self.max_parents)
        for name in ("forbidden", "required"):
            object.__setattr__(self, name, _pairs(name, getattr(self, name), self.nodes))
        required = self._mask(self.required)
        both = [pair for pair in self.required if pair in set(self.forbidden)]
        if both:
            raise InvalidInput(f"the edge {both[0]} is both required and forbidden: leave it out of one.")
        if bool((required & closure(required[None])[0].T).any()):
            raise InvalidInput("the required edges form a cycle, and no acyclic graph has them all.")
        most = int(required.sum(0).max())
        if self.max_parents is not None and most > self.max_parents:
            raise InvalidInput(
                f"node {int(required.sum(0).argmax())} has {most} required parents, and max_parents is "
                f"{self.max_parents}: raise it."
            )

    def __str__(self) -> str:
        parts = [f"counting measure on acyclic graphs of {self.nodes} nodes"]
        parts += [] if self.max_parents is None else [f"at most {self.max_parents} parents each"]
        parts += [f"without {sorted(self.forbidden)}"] if self.forbidden else []
        parts += [f"with {sorted(self.required)}"] if self.required else []
        return ", ".join(parts)

    @property
    def must(self) -> Tensor:
        """Required edges, [d, d] bool."""
        return self._mask(self.required)

    @property
    def may(self) -> Tensor:
        """Edges that are neither loops nor forbidden, [d, d] bool."""
        return ~(self._mask(self.forbidden) | torch.eye(self.nodes, dtype=torch.bool))

    @property
    def most(self) -> int:
        """Most parents of a node."""
        return self.nodes - 1 if self.max_parents is None else min(self.max_parents, self.nodes - 1)

    def probe(self, n: int) -> tuple[Tensor, Tensor]:
        """Place the nodes one after another, each with parents among those before it."""
        d, must, may = self.nodes, self.must, self.may
        rows, placed = torch.arange(n), torch.zeros(n, self.nodes, dtype=torch.bool)
        x = torch.zeros(n, d, d, dtype=torch.bool)
        choices = torch.tensor([[math.comb(e, m) for m in range(d)] for e in range(d)]).double()
        for _ in range(d):
            ready = ~placed & ~(must & ~placed[:, :, None]).any(1)
            node = torch.multinomial(ready.double(), 1).squeeze(-1)
            always = must.T[node]
            free = placed & may.T[node] & ~always
            room = self.most - always.sum(-1)
            law = choices[free.sum(-1)] * (torch.arange(d) <= room[:, None])
            size = torch.multinomial(law, 1)
            rank = torch.rand(n, d).masked_fill(~free, 2.0).argsort(-1).argsort(-1)
            x[rows, :, node] = always | (free & (rank < size))
            placed[rows, node] = True
        return x, -self.log_probe(x)

    def log_probe(self, x: Tensor) -> Tensor:
        """Log-probability of the probe law, [B]."""
        d = self.nodes
        if d > ORDERED:
            raise _too_many_orders(d)
        sets = torch.arange(1 << d)
        inside = (sets[:, None] >> torch.arange(d) & 1).bool()  # [2^d, d]
        missing = (self.must & ~inside[:, :, None]).any(1)  # [2^d, j]
        ready = (~inside & ~missing).sum(-1).clamp(min=1)  # of the whole set nobody asks
        free = (inside[:, :, None] & self.may & ~self.must).sum(1)
        room = self.most - self.must.sum(0)
        count = torch.tensor(
            [[sum(math.comb(e, m) for m in range(r + 1)) for r in range(d)] for e in range(d)]
        )
        weight = 1.0 / (ready[:, None] * count.double()[free, room])
        return topological_orders(x, weight.T.to(x.device)).log()

    def contains(self, x: Tensor) -> Tensor:
        """Which adjacencies have no cycle and meet the constraints, [B]."""
        edges = x.bool()
        must, may = self.must.to(x.device), self.may.to(x.device)
        good = ~(edges & closure(edges).transpose(1, 2)).flatten(1).any(-1)
        good = good & ~(edges & ~may | ~edges & must).flatten(1).any(-1)
        return good & (edges.sum(1) <= self.most).all(-1)

    def all(self) -> Tensor:
        """Every graph of the support once, [count, d, d] bool.

        Raises:
            InvalidInput: with more than 5 nodes.
        """
        d = self.nodes
        if d > LISTED:
            raise InvalidInput(
                f"acyclic graphs are listed up to {LISTED} nodes, not for {d}: there are too many."
            )
        found = torch.zeros(1, d, d, dtype=torch.bool)
        for i in range(d):
            for j in range(i):  # each pair of nodes: no edge, or one of the two directions
                grown = [found]
                for ends in ((i, j), (j, i)):
                    more = found.clone()
                    more[:, ends[0], ends[1]] = True
                    grown.append(more)
                graphs = torch.cat(grown)
                cyclic = graphs & closure(graphs).transpose(1, 2)
                found = graphs[~cyclic.flatten(1).any(-1)]
        return found[self.contains(found)]

    def _mask(self, pairs: Iterable[tuple[int, int]]) -> Tensor:
        out = torch.zeros(self.nodes, self.nodes, dtype=torch.bool)
        for i, j in pairs:
            out[i, j] = True
        return out


def _pairs(name: str, pairs: Iterable[tuple[int, int]], nodes: int) -> frozenset[tuple[int, int]]:
    """Pairs of nodes, checked."""
    found = [tuple(int(end) for end in pair) for pair in pairs]
    for pair in found:
        if len(pair) != 2 or pair[0] == pair[1] or not all(0 <= end < nodes for end in pair):
            raise InvalidInput(f"{name} holds {pair}: it takes pairs (i, j) of two nodes below {nodes}.")
    return frozenset((i, j) for i, j in found)


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


def topological_orders(edges: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Number of topological orders [B] of graphs [B, d, d], float64; 0 with a cycle.

    With weights, the sum over the orders of :math:`\prod_k w_{j_k}(\{j_1, .., j_{k - 1}\})`.

    Args:
        edges: the graphs.
        weight: [d, 2^d], of placing a node after a set of nodes, the bits of a number.

    Raises:
        InvalidInput: with more than 12 nodes.

    Example:
        >>> topological_orders(torch.zeros(1, 3, 3, dtype=torch.bool)).tolist()
        [6.0]
    """
    d = edges.shape[-1]
    if d > ORDERED:
        raise _too_many_orders(d)
    bit = 1 << torch.arange(d, device=edges.device)
    children = (edges.long() * bit).sum(-1)  # [B, d] as bits
    orders = torch.zeros(len(edges), 1 << d, dtype=torch.float64, device=edges.device)
    orders[:, 0] = 1.0
    for size in range(1, d + 1):
        sets = torch.tensor([s for s in range(1 << d) if s.bit_count() == size], device=edges.device)
        total = orders.new_zeros(len(edges), len(sets))
        for j in range(d):
            last = ((sets >> j) & 1).bool() & ((children[:, j, None] & sets) == 0)
            before = sets & ~(1 << j)
            each = orders[:, before] if weight is None else orders[:, before] * weight[j, before]
            total += torch.where(last, each, 0.0)
        orders[:, sets] = total
    return orders[:, -1]


def _too_many_orders(nodes: int) -> InvalidInput:
    return InvalidInput(
        f"topological orders are counted up to {ORDERED} nodes, not for {nodes}: check a smaller space of "
        "the same kind."
    )
