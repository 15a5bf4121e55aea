r"""Draws of graphs with the weights of their edges, and what is read off a graph.

With W the weights, entry (i, j) that of i -> j, a linear network has :math:`x = W^\top x + e`, and the total
effect of i on j sums the products of weights along all paths:

.. math:: T = \sum_{k \ge 1} W^k = (I - W)^{-1} - I.

References:
    Causality (Pearl, 2009), section 5.3 (total effects in linear models).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctsgfn.acyclic import closure
from ctsgfn.errors import MissingExtra


@dataclass(frozen=True)
class GraphDraws:
    """Acyclic graphs, and the weights of their edges.

    Example:
        >>> edges = torch.tensor([[[0, 1, 0], [0, 0, 1], [0, 0, 0]]]).bool()
        >>> draws = GraphDraws(edges, edges * 0.5, ("a", "b", "c"))
        >>> len(draws), draws.effects[0, 0].tolist(), draws.paths[0].int().tolist()
        (1, [0.0, 0.5, 0.25], [[0, 1, 1], [0, 0, 1], [0, 0, 0]])
        >>> sorted(draws.to_networkx()[0].edges(data="weight"))
        [('a', 'b', 0.5), ('b', 'c', 0.5)]
    """

    edges: Tensor  # [n, d, d] bool, (i, j) is i -> j
    weights: Tensor  # [n, d, d] in the units of the data, 0 where there is no edge
    names: tuple[str, ...]  # of the nodes

    def __len__(self) -> int:
        return len(self.edges)

    def __getitem__(self, rows: Any) -> GraphDraws:
        return GraphDraws(self.edges[rows], self.weights[rows], self.names)

    @property
    def paths(self) -> Tensor:
        """Whether i is an ancestor of j, [n, d, d] bool."""
        return paths(self.edges)

    @property
    def markov_blankets(self) -> Tensor:
        """Whether i is in the Markov blanket of j, [n, d, d] bool: symmetric."""
        return markov_blankets(self.edges)

    @property
    def effects(self) -> Tensor:
        """Total causal effect of i on j, [n, d, d]: what j gains when i is set one unit higher."""
        eye = torch.eye(self.weights.shape[-1], dtype=self.weights.dtype, device=self.weights.device)
        return torch.linalg.inv(eye - self.weights) - eye

    def to_networkx(self) -> list[Any]:
        """A ``networkx.DiGraph`` for each draw, its edges with a ``weight``.

        Raises:
            MissingExtra: when networkx is not installed.
        """
        try:
            import networkx
        except ImportError as error:
            raise MissingExtra("to_networkx needs networkx: pip install 'ctsgfn[graphs]'.") from error
        out = []
        for edges, weights in zip(self.edges, self.weights.tolist(), strict=True):
            graph = networkx.DiGraph()
            graph.add_nodes_from(self.names)
            for i, j in edges.nonzero().tolist():
                graph.add_edge(self.names[i], self.names[j], weight=weights[i][j])
            out.append(graph)
        return out


def paths(edges: Tensor) -> Tensor:
    """Whether i is an ancestor of j in graphs [n, d, d], bool."""
    return closure(edges) & ~torch.eye(edges.shape[-1], dtype=torch.bool, device=edges.device)


def markov_blankets(edges: Tensor) -> Tensor:
    """Whether i is a parent, a child or another parent of a child of j, [n, d, d] bool.

    Example:
        >>> collider = torch.tensor([[[0, 0, 1], [0, 0, 1], [0, 0, 0]]]).bool()
        >>> markov_blankets(collider)[0].int().tolist()
        [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    """
    step = edges.to(torch.float32)
    spouses = step @ step.transpose(1, 2) > 0
    blanket = edges | edges.transpose(1, 2) | spouses
    return blanket & ~torch.eye(edges.shape[-1], dtype=torch.bool, device=edges.device)
