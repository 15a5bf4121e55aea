r"""Independent draws of acyclic graphs that weigh a product of local scores.

The layers of a graph are unique: the nodes without parents, then those whose parents all lie before them
and one of them in the layer just before, and so on. With f(U, S) the sum over the graphs on U whose last
layer is S, and :math:`D_j(U, S) = \sum_{P \subseteq U,\, P \cap S \ne \emptyset} s_j(P)`,

.. math::
    f(U \cup S', S') = \sum_{\emptyset \ne S \subseteq U} f(U, S) \prod_{j \in S'} D_j(U, S),

:math:`4^d` terms, none of them negative. A graph is drawn from its last layer to its first.

References:
    Partition MCMC for inference on acyclic digraphs (Kuipers and Moffa, 2017), arXiv 1504.05006, section 2;
    Exact sampling of directed acyclic graphs from modular distributions (Talvitie, Vuoksenmaa and Koivisto,
    2019), UAI.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctsgfn.acyclic_sums import AcyclicSums
from ctsgfn.errors import whole


class AcyclicDraws:
    """A sampler of acyclic graphs in proportion to their weight.

    Args:
        sums: the local scores.

    Example:
        >>> draws = AcyclicDraws(AcyclicSums(torch.zeros(3, 8)))
        >>> round(draws.log_z.exp().item()), tuple(draws.sample(5).shape)
        (25, (5, 3, 3))
    """

    def __init__(self, sums: AcyclicSums) -> None:
        self.nodes, self.scores, self._below = sums.nodes, sums.scores, sums.log_below
        d = self.nodes
        bit = torch.arange(1 << d)[:, None] >> torch.arange(d) & 1
        self._ternary = (bit * 3 ** torch.arange(d)).sum(-1)  # a pair S of U: its digits are 0, 1 (U), 2 (S)
        self._table = torch.full((3**d,), -math.inf, dtype=torch.float64)
        everything = torch.arange(1, 1 << d)
        empty = _masked_sum(bit[everything].bool(), self._below[:, :1]).squeeze(-1)
        self._table[self._at(everything, everything)] = empty
        for before in sorted(range(1, (1 << d) - 1), key=int.bit_count):
            self._extend(before)

    @property
    def log_z(self) -> Tensor:
        """Log of the sum over all graphs, 0-d: the same number as ``AcyclicSums`` finds with signs."""
        return self._last((1 << self.nodes) - 1)[1].logsumexp(0)

    def sample(self, n: int) -> Tensor:
        """Draw n graphs [n, d, d] bool.

        Raises:
            InvalidInput: when n < 1.
        """
        whole("n", n)
        out = torch.zeros(n, self.nodes, self.nodes, dtype=torch.bool)
        full = (1 << self.nodes) - 1
        layers, log_p = self._last(full)
        todo = [(full, last, rows) for last, rows in _groups(layers, _draw(log_p, n), torch.arange(n))]
        while todo:
            union, last, rows = todo.pop()
            before = union & ~last
            if before == 0:
                continue
            members = [j for j in range(self.nodes) if last >> j & 1]
            layers, log_p = self._last(before)
            log_p = log_p + self._reach(before, layers, members).sum(0)
            for layer, some in _groups(layers, _draw(log_p, len(rows)), rows):
                todo.append((before, layer, some))
                sets = _subsets(before)
                sets = sets[(sets & layer) != 0]
                for j in members:
                    parents = sets[_draw(self.scores[j, sets], len(some))]
                    out[some, :, j] = (parents[:, None] >> torch.arange(self.nodes) & 1).bool()
        return out

    def _extend(self, before: int) -> None:
        """Add the terms of all layers that may follow the union ``before``."""
        layers, log_f = self._last(before)
        after = _subsets((1 << self.nodes) - 1 & ~before)
        rest = [j for j in range(self.nodes) if not before >> j & 1]
        inside = (after[:, None] >> torch.tensor(rest) & 1).bool()
        terms = _masked_sum(inside, self._reach(before, layers, rest)) + log_f
        self._table[self._at(before | after, after)] = terms.logsumexp(-1)

    def _reach(self, union: int, layers: Tensor, nodes: list[int]) -> Tensor:
        """Log D_j(U, S), [nodes, layers]."""
        every, without = self._below[nodes, union][:, None], self._below[nodes][:, union & ~layers]
        gap = torch.where(every > -math.inf, without - every, 0.0)
        return every + (-gap.clamp(max=0.0).expm1()).log()  # rounding alone can put a part above its whole

    def _last(self, union: int) -> tuple[Tensor, Tensor]:
        """The layers S that may end a graph on U, and log f(U, S)."""
        layers = _subsets(union)
        return layers, self._table[self._at(torch.full_like(layers, union), layers)]

    def _at(self, union: Tensor, layer: Tensor) -> Tensor:
        return self._ternary[union] + self._ternary[layer]


def _subsets(union: int) -> Tensor:
    """Every non-empty subset of a set, as bits."""
    places = [b for b in range(union.bit_length()) if union >> b & 1]
    part = torch.arange(1, 1 << len(places))
    return sum(((part >> k & 1) << b for k, b in enumerate(places)), torch.zeros_like(part))


def _masked_sum(inside: Tensor, values: Tensor) -> Tensor:
    """Sums [A, B] of the rows of values [J, B] that inside [A, J] selects; values may be -inf."""
    never = values == -math.inf
    out = inside.double() @ values.masked_fill(never, 0.0)
    return out.masked_fill(inside.double() @ never.double() > 0, -math.inf)


def _draw(log_p: Tensor, n: int) -> Tensor:
    """N indices in proportion to exp(log_p)."""
    return torch.multinomial((log_p - log_p.max()).exp(), n, replacement=True)


def _groups(values: Tensor, index: Tensor, rows: Tensor) -> list[tuple[int, Tensor]]:
    """The values that were drawn, each with the rows that drew it."""
    return [(int(values[k]), rows[index == k]) for k in index.unique().tolist()]
