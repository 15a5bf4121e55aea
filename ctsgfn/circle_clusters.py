r"""Clusters of angles: where a mixture of von Mises laws starts.

References:
    k-means++ (Arthur and Vassilvitskii, 2007), SODA; Clustering on the unit hypersphere using von
    Mises-Fisher distributions (Banerjee et al., 2005), JMLR 6, eq. 4.4: concentration from mean length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput

_ROUNDS = 10
"""Of assigning points to the nearest centre, and centres to the mean direction of their points."""

_PRIOR = 0.1
"""Points of the spread of all that every cluster has besides its own: one of a single point has no spread."""

_LONGEST = 1 - 1e-6
"""Mean length of the directions of a cluster at most, where all points are the same."""


@dataclass(frozen=True)
class Clusters:
    """C clusters of points on a torus."""

    share: Tensor  # [C] positive, sums to 1
    loc: Tensor  # [C, d] mean directions
    concentration: Tensor  # [C, d] of von Mises laws of their spread

    @classmethod
    def of(cls, x: Tensor, components: int) -> Clusters:
        """Cluster angles [N, d].

        Raises:
            InvalidInput: when there are fewer points than clusters.

        Example:
            >>> x = torch.cat([torch.full((30, 1), -3.0), torch.full((10, 1), 1.0)])
            >>> found = Clusters.of(x, 2)
            >>> found.loc[found.share.argsort()].round().tolist()
            [[1.0], [-3.0]]
        """
        if not 1 <= components <= len(x):
            raise InvalidInput(f"{components} clusters need as many points at least, got {len(x)}.")
        way = torch.stack([x.cos(), x.sin()], -1)  # [N, d, 2]
        flat = way.flatten(1)
        centre = [int(torch.randint(len(x), ()))]
        gap = (flat - flat[centre[0]]).square().sum(-1)
        for _ in range(components - 1):
            centre.append(int(torch.multinomial(gap.clamp(min=1e-30), 1)))
            gap = torch.minimum(gap, (flat - flat[centre[-1]]).square().sum(-1))
        mean, overall = way[centre], way.mean(0)
        for _ in range(_ROUNDS):
            towards = mean / mean.norm(dim=-1, keepdim=True).clamp(min=1e-6)
            owner = (flat @ towards.flatten(1).T).argmax(-1)
            count = torch.bincount(owner, minlength=components).to(x)[:, None, None]
            total = torch.zeros_like(mean).index_add(0, owner, way)
            mean = torch.where(count > 0, total / count.clamp(min=1), towards)
        length = (total.norm(dim=-1) + _PRIOR * overall.norm(dim=-1)) / (count[..., 0] + _PRIOR)
        length = length.clamp(max=_LONGEST)
        concentration = length * (2 - length.square()) / (1 - length.square())
        share = (count.flatten() + 0.5) / (len(x) + 0.5 * components)
        return cls(share, torch.atan2(mean[..., 1], mean[..., 0]), concentration)
