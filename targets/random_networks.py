r"""Linear networks drawn at random, and rows of data that they make: what simulations start from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomNetwork:
    r"""A network :math:`x = W^\top x + e` with normal noise, and data from it.

    Example:
        >>> network = random_network(3, 5)
        >>> tuple(network.data.shape), bool(((network.weights != 0) == network.edges).all())
        ((5, 3), True)
    """

    edges: Tensor  # [d, d] bool, (i, j) is i -> j
    weights: Tensor  # [d, d] float64, 0 where there is no edge
    data: Tensor  # [N, d] float64


def random_network(
    nodes: int, rows: int, *, edges_per_node: float = 1.0, noise_variance: float = 0.1, seed: int = 0
) -> RandomNetwork:
    """Draw an Erdos-Renyi graph in a random order of the nodes, standard normal weights, and rows.

    Args:
        nodes: d.
        rows: N.
        edges_per_node: expected edges per node of the graph.
        noise_variance: of each node.
        seed: of the graph, the weights and the data.

    Example:
        >>> network = random_network(4, 10_000, seed=1)
        >>> rest = network.data @ (torch.eye(4) - network.weights)
        >>> [round(v, 2) for v in rest.var(0).tolist()]
        [0.1, 0.1, 0.1, 0.1]
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(nodes, generator=generator)
    p = min(1.0, 2 * edges_per_node / (nodes - 1))
    there = (torch.rand(nodes, nodes, generator=generator) < p).triu(1)
    weight = torch.randn(nodes, nodes, generator=generator, dtype=torch.float64) * there
    x = torch.zeros(rows, nodes, dtype=torch.float64)
    for k in range(nodes):
        noise = torch.randn(rows, generator=generator, dtype=torch.float64) * math.sqrt(noise_variance)
        x[:, order[k]] = x[:, order] @ weight[:, k] + noise
    edges, weights = torch.zeros_like(there), torch.zeros_like(weight)
    pair = order[:, None].expand(nodes, nodes), order.expand(nodes, nodes)
    return RandomNetwork(edges.index_put(pair, there), weights.index_put(pair, weight), x)
