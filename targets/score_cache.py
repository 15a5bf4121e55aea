"""Local scores of graphs that are computed when first asked for, and looked up afterwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

MOST = 200_000
"""Most sets of parents that are remembered; beyond it the memory starts anew."""
CHUNK = 4096
"""Sets of parents scored at once."""

Scorer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(nodes [R], parents [R, d] bool) -> scores [R], and their changes by each further parent [R, d]."""


class ScoreCache:
    """A memory of local scores by node and set of parents, and of what each further parent would change.

    Along a walk one node of a graph has new parents at each step, so that nearly all scores are known.

    Args:
        scorer: computes scores and changes.

    Example:
        >>> cache = ScoreCache(lambda node, parents: (node.double(), parents.double()))
        >>> score, change = cache(torch.eye(3, dtype=torch.bool)[None])
        >>> score.tolist(), tuple(change.shape), len(cache)
        ([[0.0, 1.0, 2.0]], (1, 3, 3), 3)
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._row: dict[object, int] = {}
        self._scores: Tensor | None = None

    def __len__(self) -> int:
        return len(self._row)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, d] of each node of graphs [B, d, d], and changes [B, d, d], entry (i, j) by i -> j."""
        size, d = len(x), x.shape[-1]
        parents = x.bool().transpose(1, 2).reshape(-1, d)
        found = self._find(torch.arange(d).repeat(size), parents.cpu()).view(size, d, 1 + d).to(x.device)
        return found[:, :, 0], found[:, :, 1:].transpose(1, 2)

    def losses(self, x: Tensor) -> Tensor:
        """What taking i -> j away would change [B, d, d], of graphs [B, d, d]; 0 where it is not there."""
        row, tail, head = x.bool().cpu().nonzero(as_tuple=True)
        parents = x.bool().cpu()[row, :, head]
        parents[torch.arange(len(row)), tail] = False
        gain = self._find(head, parents)[torch.arange(len(row)), 1 + tail]  # by putting it back
        return gain.new_zeros(x.shape).index_put((row, tail, head), -gain).to(x.device)

    def _find(self, node: Tensor, parents: Tensor) -> Tensor:
        """Score and changes [R, 1 + d] of nodes [R] with parents [R, d], computed where not yet known."""
        key, first, inverse = np.unique(_keys(node, parents), return_index=True, return_inverse=True)
        names = key.tolist()
        new = [k for k, name in enumerate(names) if name not in self._row]
        if len(self._row) + len(new) > MOST:
            self._row, new = {}, list(range(len(names)))
        for some in torch.tensor(new, dtype=torch.long).split(CHUNK):
            at = torch.from_numpy(first)[some]
            self._add([names[k] for k in some.tolist()], node[at], parents[at])
        rows = torch.tensor([self._row[name] for name in names], dtype=torch.long)
        return self._table(parents.shape[1])[rows[torch.from_numpy(inverse.reshape(-1))]]

    def _add(self, names: list[object], node: Tensor, parents: Tensor) -> None:
        """Score sets of parents and write them behind those that are known."""
        score, change = self.scorer(node, parents)
        start, table = len(self._row), self._table(parents.shape[1])
        if start + len(names) > len(table):
            self._scores = table = torch.cat(
                [table, torch.zeros(len(names) + len(table), table.shape[1]).double()]
            )
        table[start : start + len(names)] = torch.cat([score[:, None], change], -1)
        self._row.update(zip(names, range(start, start + len(names)), strict=True))

    def _table(self, d: int) -> Tensor:
        """Scores and changes, [rows, 1 + d]; grown by doubling."""
        if self._scores is None:
            self._scores = torch.zeros(0, 1 + d, dtype=torch.float64)
        return self._scores


def _keys(node: Tensor, parents: Tensor) -> np.ndarray:
    """A number, or a string of bytes, for each node and its parents."""
    bits = np.packbits(parents.numpy(), axis=-1)
    words = np.zeros((len(bits), -(-(bits.shape[1] + 2) // 8) * 8), dtype=np.uint8)
    words[:, : bits.shape[1]] = bits
    words[:, -2:] = node.numpy().astype(np.uint16)[:, None].view(np.uint8)
    if words.shape[1] == 8:
        return words.view(np.int64)[:, 0]
    return words.view(f"V{words.shape[1]}")[:, 0]
