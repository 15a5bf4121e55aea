"""Regressions of nodes on sets of parents, from matrices of cross products."""

from __future__ import annotations

import torch
from torch import Tensor


class GramRegression:
    """Nodes on their parents, R at once: the parents stand in the first k of K places.

    Args:
        grams: [d, d, d], the matrix M of each node, without the ridge.
        rows: [d], rows of data behind each.
        ridge: what is added to the diagonal of M for every node but the one that is explained.
        node: [R] which nodes are explained.
        parents: [R, d] bool, by which others.

    Example:
        >>> gram = torch.tensor([[4.0, 2.0], [2.0, 9.0]]).double().expand(2, 2, 2)
        >>> parents = torch.tensor([[False, False], [True, False]])
        >>> fit = GramRegression(gram, torch.full((2,), 5.0), 0.0, torch.tensor([0, 1]), parents)
        >>> fit.rest.tolist(), fit.spread(fit.mean).tolist()
        ([4.0, 8.0], [[[0.0, 0.5], [0.0, 0.0]]])
    """

    def __init__(self, grams: Tensor, rows: Tensor, ridge: float, node: Tensor, parents: Tensor) -> None:
        self.nodes, self.rows, self.k = parents.shape[1], rows[node], parents.sum(-1).double()
        widest = int(self.k.max()) if len(node) else 0
        self.place = parents.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[
            :, :widest
        ]  # [R, K]
        self.live = parents.gather(1, self.place)
        across = grams[node[:, None], self.place] * self.live[:, :, None]  # [R, K, d]
        inner = across.gather(2, self.place[:, None].expand(-1, widest, -1)) * self.live[:, None]
        inner = inner + torch.diag_embed(torch.where(self.live, grams.new_tensor(ridge), 1.0))
        self.factor = torch.linalg.cholesky(inner)
        half = torch.linalg.solve_triangular(self.factor, across, upper=False)
        self.log_det = 2 * self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # 1 in the empty places
        own = half.gather(2, node[:, None, None].expand(-1, widest, 1))
        self.own = grams.diagonal(dim1=1, dim2=2)[node] + ridge - half.square().sum(1)  # [R, d] M_ii|P
        self.cross = grams[node, node] - (half * own).sum(1)  # [R, d] M_ij|P
        self.rest = self.cross.gather(1, node[:, None]).squeeze(-1)  # [R] M_jj|P
        self.mean = (
            torch.linalg.solve_triangular(self.factor.transpose(1, 2), own, upper=True).squeeze(-1)
            * self.live
        )

    def spread(self, values: Tensor) -> Tensor:
        """Values [R, K] of the parents as matrices [B, d, d], 0 off the edges."""
        out = values.new_zeros(len(values), self.nodes)
        out = out.scatter_add(1, self.place, values * self.live)
        return out.view(-1, self.nodes, self.nodes).transpose(1, 2)
