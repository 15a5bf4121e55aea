r"""Sums over all acyclic graphs of products of local scores, without listing the graphs.

A graph weighs :math:`\prod_j s_j(\mathrm{Pa}_j)`. With :math:`A_j(U) = \sum_{P \subseteq U} s_j(P)`, the
sum Z(V) over the graphs on a set V of nodes follows from the sets T of nodes without children in V,

.. math::
    Z(V) = \sum_{\emptyset \ne T \subseteq V} (-1)^{|T| + 1}
        Z(V \setminus T) \prod_{j \in T} A_j(V \setminus T),

:math:`3^d` terms in all. The terms of one V add up, in absolute value, to at most :math:`2^{|V|} Z(V)`,
so that signs cost no more than |V| bits of the mantissa at each of the d levels; everything is kept as
logarithms, so that no size of the data leaves the range of floating point.

References:
    Exact Bayesian structure discovery in Bayesian networks (Koivisto and Sood, 2004), JMLR 5;
    Computing posterior probabilities of structural features in Bayesian networks (Tian and He, 2009),
    arXiv 1205.2612; Counting acyclic digraphs (Robinson, 1973).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput

MOST = 14
"""Most nodes: 3^14 terms take about a second."""


class AcyclicSums:
    """Log of the sum over acyclic graphs, and the probability of each edge.

    Args:
        scores: [d, 2^d] log local scores of each node with each set of parents, the bits of a number; -inf
            rules a set out. Sets that hold the node itself are not read.

    Raises:
        InvalidInput: when the table has another shape, more than 14 nodes, or holds NaN or +inf; or when the
            scores rule every graph out.

    Example:
        >>> even = AcyclicSums(torch.zeros(3, 8))  # every graph weighs 1
        >>> round(even.log_z.exp().item()), round(even.edge_probabilities()[0, 1].item(), 9)
        (25, 0.32)
    """

    def __init__(self, scores: Tensor) -> None:
        d = len(scores)
        if scores.ndim != 2 or not 1 <= d <= MOST or scores.shape[1] != 1 << d:
            raise InvalidInput(
                f"sums over acyclic graphs need log-scores [d, 2^d], d at most {MOST}, got "
                f"{list(scores.shape)}."
            )
        own = (torch.arange(1 << d) >> torch.arange(d)[:, None]) & 1 == 1
        scores = scores.double().cpu().masked_fill(own, -math.inf)
        if bool((scores.isnan() | (scores == math.inf)).any()):
            node = int((scores.isnan() | (scores == math.inf)).any(-1).nonzero()[0])
            raise InvalidInput(f"a local score of node {node} is NaN or +inf: scores are logarithms.")
        self.nodes, self.scores = d, scores
        if float(self.log_z) == -math.inf:
            raise InvalidInput("the local scores rule out every acyclic graph: each weighs 0.")

    @property
    def log_z(self) -> Tensor:
        """Log of the sum over all graphs, 0-d."""
        return self.log_sums[-1]

    @cached_property
    def log_below(self) -> Tensor:
        """Log A_j(U), [d, 2^d]: the sum over all sets of parents within U."""
        below = self.scores.clone()
        for b in range(self.nodes):
            halves = below.view(self.nodes, -1, 2, 1 << b)
            halves[:, :, 1] = torch.logaddexp(halves[:, :, 1], halves[:, :, 0])
        return below

    @cached_property
    def log_sums(self) -> Tensor:
        """Log Z(V), [2^d]."""
        log_z = torch.full((1 << self.nodes,), -math.inf, dtype=torch.float64)
        log_z[0] = 0.0
        for level in self._levels():
            term = level.terms(log_z, self.log_below)
            top = term.amax(-1)
            possible = (top > -math.inf).nonzero().squeeze(-1)
            signed = level.sign * (term[possible] - top[possible, None]).exp()
            log_z[level.whole[possible]] = signed.sum(-1).log() + top[possible]
        return log_z

    def edge_probabilities(self) -> Tensor:
        r"""P(i -> j), [d, d] float64, by one pass back through the sums.

        With :math:`m_j(U) = \partial \log Z / \partial \log A_j(U)`,

        .. math:: P(i \to j) = \sum_{U \ni i} m_j(U)\, \bigl(1 - A_j(U \setminus i) / A_j(U)\bigr).
        """
        d, below, log_z = self.nodes, self.log_below, self.log_sums
        flow, share_of = torch.zeros(1 << d, dtype=torch.float64), torch.zeros_like(below)
        flow[-1] = 1.0
        for level in reversed(list(self._levels())):
            here = log_z[level.whole]
            possible = (here > -math.inf).nonzero().squeeze(-1)
            term = level.terms(log_z, below)[possible] - here[possible, None]
            share = level.sign * term.exp() * flow[level.whole[possible], None]
            rest = level.rest[possible]
            flow.index_add_(0, rest.flatten(), share.flatten())
            for b in range(level.place.shape[1]):
                node = level.place[possible, b, None].expand_as(rest)
                share_of.index_put_((node, rest), share * level.bits[b], accumulate=True)
        edges = torch.zeros(d, d, dtype=torch.float64)
        for i in range(d):
            has = ((torch.arange(1 << d) >> i) & 1).nonzero().squeeze(-1)
            live = below[:, has] > -math.inf
            without = torch.where(live, below[:, has ^ (1 << i)] - below[:, has], 0.0)
            edges[i] = (share_of[:, has] * -without.expm1()).sum(-1)
        return edges

    def _levels(self) -> Iterator[_Level]:
        sets = torch.arange(1 << self.nodes)
        size = ((sets[:, None] >> torch.arange(self.nodes)) & 1).sum(-1)
        for k in range(1, self.nodes + 1):
            yield _Level(sets[size == k], k, self.nodes)


class _Level:
    """All sets of k nodes, and all ways to split each into nodes without children and the rest."""

    def __init__(self, whole: Tensor, k: int, nodes: int) -> None:
        self.whole = whole  # [V] sets as bits
        member = ((whole[:, None] >> torch.arange(nodes)) & 1).bool()
        self.place = member.nonzero()[:, 1].view(-1, k)  # [V, k] the nodes of each set
        part = torch.arange(1, 1 << k)
        self.bits = ((part >> torch.arange(k)[:, None]) & 1).double()  # [k, 2^k - 1] which of them are in T
        self.sign = 1 - 2 * ((self.bits.sum(0) + 1) % 2)
        last = (self.bits.long()[None] << self.place[:, :, None]).sum(1)
        self.rest = whole[:, None] - last  # [V, 2^k - 1] the others

    def terms(self, log_z: Tensor, below: Tensor) -> Tensor:
        """Log Z of the rest, plus the log A_j(rest) of the nodes without children: [V, 2^k - 1]."""
        out = log_z[self.rest]
        for b, inside in enumerate(self.bits):
            out = out + torch.where(inside > 0, below[self.place[:, b, None], self.rest], 0.0)
        return out
