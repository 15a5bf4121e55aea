r"""Many short Markov chains over acyclic graphs: where the mass is that a flow should learn to reach.

Each step of a chain picks two nodes and adds, removes or reverses the edge between them, and is accepted
with probability

.. math:: \min\bigl(1, (r(G') / r(G))^\beta\bigr),

where :math:`\beta` rises from 0 to 1 while the chains find their way: they start from graphs that are
spread evenly, and end in modes.

References:
    Bayesian graphical models for discrete data (Madigan and York, 1995), International Statistical Review 63;
    Improving Markov chain Monte Carlo model search (Giudici and Castelo, 2003), Machine Learning 50.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctsgfn.acyclic import Acyclic
from ctsgfn.errors import whole
from ctsgfn.target import Target, evaluate

KEPT = 8
"""States kept of each chain."""


def graph_chains(target: Target[Any], chains: int = 256, steps: int | None = None) -> Tensor:
    """States of chains over the graphs of a target, 8 of each: [8 chains, d, d] bool, in random order.

    Half of the steps raise the power of the density from 0 to 1, the rest run at 1.

    Args:
        target: on ``Acyclic`` graphs.
        chains: how many.
        steps: of each; by default 30 for each pair of nodes, at most 6000.

    Raises:
        InvalidInput: when a size is not a whole number of at least 1.

    Example:
        >>> from ctsgfn.targets import linear_gaussian_network
        >>> target = linear_gaussian_network(3)
        >>> x = graph_chains(target, chains=64, steps=200)
        >>> error = x.double().mean(0) - target.edge_probabilities()
        >>> tuple(x.shape), bool(error.abs().max() < 0.15)
        ((512, 3, 3), True)
    """
    whole("chains", chains)
    points = target.measure
    assert isinstance(points, Acyclic)
    d = points.nodes
    steps = min(6000, 30 * d * d) if steps is None else steps
    whole("steps", steps, least=2 * KEPT)
    may, must = points.may, points.must
    edges = must.expand(chains, -1, -1).clone()
    value = evaluate(target, edges).double().cpu()
    row, kept = torch.arange(chains), []
    keep = {steps - 1 - k * (steps // (2 * KEPT)) for k in range(KEPT)}
    for step in range(steps):
        tail = torch.randint(d, (chains,))
        head = (tail + torch.randint(1, d, (chains,))) % d
        there = edges[row, tail, head]
        turn = torch.rand(chains) < 0.5  # reverse the edge, where there is one; else add or remove it
        new = edges.clone()
        new[row, tail, head] = ~there & ~turn
        new[row, head, tail] |= there & turn
        good = (there | ~turn) & ~_cyclic(new, torch.where(turn, head, tail))
        good &= ~(new & ~may | ~new & must).flatten(1).any(-1) & (new.sum(1) <= points.most).all(-1)
        power = min(1.0, 2.0 * (step + 1) / steps)
        tried = good.nonzero().squeeze(-1)
        if len(tried):
            fresh = evaluate(target, new[tried]).double().cpu()
            accept = torch.rand(len(tried)).log() < power * (fresh - value[tried])
            moved = tried[accept]
            edges[moved], value[moved] = new[moved], fresh[accept]
        if step in keep:
            kept.append(edges.clone())
    states = torch.cat(kept)
    return states[torch.randperm(len(states))]


def _cyclic(edges: Tensor, start: Tensor) -> Tensor:
    """Whether a path leads from a node of each graph [C, d, d] back to it, [C]."""
    rows = torch.arange(len(edges))
    matrix = edges.to(torch.float32)
    reached = matrix[rows, start]
    for _ in range(edges.shape[-1]):
        more = torch.maximum(reached, ((reached[:, None] @ matrix).squeeze(1) > 0).to(reached.dtype))
        if torch.equal(more, reached):
            break
        reached = more
    return reached[rows, start] > 0
