"""How edge probabilities compare with a graph."""

from __future__ import annotations

import torch
from torch import Tensor


def auroc(p: Tensor, there: Tensor, among: Tensor) -> float:
    """Probability that an edge of the graph is held more probable than a pair without one, ties half.

    Args:
        p: probabilities [d, d].
        there: the graph, [d, d] bool.
        among: the pairs that count, [d, d] bool.
    """
    yes, no = p[among & there][:, None], p[among & ~there][None]
    return float((yes > no).double().mean() + 0.5 * (yes == no).double().mean())


def expected_distance(p: Tensor, there: Tensor) -> float:
    """Expected number of pairs of nodes that the graph and a draw join differently (Hamming distance).

    Args:
        p: probabilities [d, d] of the edges of acyclic draws: i -> j and j -> i exclude each other.
        there: the graph, [d, d] bool; both directions of a pair at most where the graph has a cycle.
    """
    away = torch.where(there, 1 - p, torch.where(there.T, 1 - p.T, p + p.T))
    return float(away.triu(1).sum())
