r"""Networks on pairs of nodes: what a graph is to a kernel, whatever its nodes are called.

With :math:`z_{ij}` the hidden vector of a pair of nodes, a layer is

.. math::
    z_{ij} \leftarrow z_{ij} + W \sigma\bigl(A z_{ij} + B z_{ji} + C s_i + D s_j + b\bigr), \qquad
    s_i = \frac1d \sum_j (z_{ij}, z_{ji}),

:math:`O(d^2)` per graph. It commutes with permutations of the nodes; what tells the nodes apart are the
changes of log r, and a learned vector per node.

References:
    Deep models of interactions across sets (Hartford et al., 2018), arXiv 1803.02879; Invariant and
    equivariant graph networks (Maron et al., 2019), arXiv 1812.09902.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.distributions import MaskedCategorical
from ctsgfn.kernel import Head
from ctsgfn.kernels.heads.informed import START, Informed
from ctsgfn.measures import Counting
from ctsgfn.networks import Encoder, zero_init


@dataclass(frozen=True)
class PairContext(Informed):
    """What a choice among pairs of nodes knows: a vector of the graph, the changes, a vector of each pair."""

    pairs: Tensor  # [B, d, d, width]


class PairLayer(nn.Module):
    """One exchange between the pairs of nodes, [B, d, d, width] -> the same; the identity at the start.

    Args:
        width: of a pair's vector.

    Example:
        >>> layer = PairLayer(4)
        >>> nn.init.normal_(layer.out.weight).shape
        torch.Size([4, 4])
        >>> z, order = torch.randn(1, 3, 3, 4), [2, 0, 1]
        >>> bool(torch.allclose(layer(z)[:, order][:, :, order], layer(z[:, order][:, :, order]), atol=1e-5))
        True
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.forth = nn.Linear(width, width)
        self.back = nn.Linear(width, width, bias=False)
        self.tail = nn.Linear(2 * width, width, bias=False)
        self.head = nn.Linear(2 * width, width, bias=False)
        self.out = zero_init(nn.Linear(width, width))

    def forward(self, z: Tensor) -> Tensor:
        """The vectors after the exchange."""
        node = torch.cat([z.mean(2), z.mean(1)], -1)
        inner = self.forth(z) + self.back(z).transpose(1, 2)
        inner = inner + self.tail(node)[:, :, None] + self.head(node)[:, None]
        return z + self.out(nn.functional.gelu(inner))


class PairEncoder(Encoder):
    """A vector of each pair of nodes and one of the graph, beside the changes of log r.

    Args:
        nodes: d.
        width: of a pair's vector.
        relations: states -> [B, C, d, d], what is between two nodes.
        size: C.
        change: states -> [B, d^2], the change of log r by each pair, anything where it is not live; evaluated
            once per visited state, without gradient.
        live: states -> [B, d^2] bool.
        layers: exchanges between the pairs.
    """

    anchor: Tensor

    def __init__(
        self,
        nodes: int,
        width: int,
        relations: Callable[[Any], Tensor],
        size: int,
        change: Callable[[Any], Tensor],
        live: Callable[[Any], Tensor],
        layers: int = 2,
    ) -> None:
        super().__init__()
        self.nodes, self.width = nodes, width
        self.relations, self.change, self.live = relations, change, live
        self.first = nn.Linear(2 * (size + 1), width)
        self.names = nn.Parameter(0.1 * torch.randn(2, nodes, width))  # as tail, as head
        self.layers = nn.ModuleList(PairLayer(width) for _ in range(layers))
        self.pool = nn.Linear(width, width)
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def observe(self, s: Any) -> Tensor:
        """The changes [B, d^2], -inf where not live."""
        with torch.no_grad():
            return self.change(s).to(self.anchor.dtype).masked_fill(~self.live(s), -math.inf)

    def forward(self, s: Any, seen: Tensor | None) -> PairContext:
        """The vectors, and the changes."""
        change = self.observe(s) if seen is None else seen
        gain = change.masked_fill(change == -math.inf, 0.0).unflatten(1, (1, self.nodes, self.nodes))
        between = torch.cat([self.relations(s).to(gain.dtype), gain.asinh()], 1)
        pair = torch.cat([between, between.transpose(2, 3)], 1).permute(0, 2, 3, 1)
        z = nn.functional.gelu(self.first(pair) + self.names[0][:, None] + self.names[1])
        for layer in self.layers:
            z = layer(z)
        return PairContext(nn.functional.gelu(self.pool(z.mean((1, 2)))), change, z)


class PairCategorical(Head):
    """Categorical over the pairs of nodes: a linear layer on each pair's vector, plus a times the changes.

    Args:
        nodes: d; atom i d + j is the pair (i, j).
        width: of a pair's vector.

    Example:
        >>> head = PairCategorical(2, width=4)
        >>> change = torch.tensor([[-math.inf, math.log(9.0), 0.0, -math.inf]])
        >>> context = PairContext(torch.ones(1, 4), change, torch.ones(1, 2, 2, 4))
        >>> law = head(context, None, change > -math.inf)
        >>> [round(law.log_prob(torch.tensor([[i]])).exp().item(), 4) for i in range(4)]
        [0.0, 0.75, 0.25, 0.0]
    """

    def __init__(self, nodes: int, width: int) -> None:
        super().__init__()
        self.base = Counting(nodes * nodes)
        self.logits = zero_init(nn.Linear(width, 1, bias=False))
        self.gain = nn.Parameter(torch.full((), START))

    def forward(self, context: Any, s: Any, live: Tensor | None) -> MaskedCategorical:
        """Law of the pair, [B, 1] long."""
        del s
        finite = context.change.masked_fill(context.change == -math.inf, 0.0)  # masked again by live
        own = self.logits(context.pairs).squeeze(-1).flatten(1)
        return MaskedCategorical(own + self.gain * finite, live)
