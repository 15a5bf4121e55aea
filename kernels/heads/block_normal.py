r"""Normal laws with full covariance, block by block: the parameters of each mechanism given the structure.

.. math::
    \theta_j \sim N\bigl(\mu_j + F_j\,\delta_j(h),\; F_j L_j(h) L_j(h)^\top F_j^\top\bigr)

for each block j, where :math:`\mu_j` and :math:`F_j F_j^\top` are a guess (0 and 1 without one), and the
shift :math:`\delta_j` and the triangular factor :math:`L_j` are learned: 0 and 1 at the start. On dead axes
theta is 0, and nothing is added to the log-density. Where the guess is not exact, a share of the mass has
twice the width.

References:
    Joint Bayesian inference of graphical structure and parameters with a single generative flow network
    (Deleu et al., 2023), arXiv 2305.19366, section 4; Weighted average importance sampling and defensive
    mixture distributions (Hesterberg, 1995), Technometrics 37.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.distributions import CoordinateLaw
from ctsgfn.kernel import Head
from ctsgfn.measures import Lebesgue
from ctsgfn.networks import zero_init
from ctsgfn.normal_fits import Normals

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)

WIDTH = 2.0
"""Of the wider law of a defensive mixture."""


class BlockNormal(CoordinateLaw):
    """Independent normal vectors with full covariances, side by side, on their live axes.

    Each may be a defensive mixture: with probability ``share`` it is drawn with twice the width, so that
    weights against a target with heavier tails stay bounded further out.

    Args:
        loc: [B, J, m].
        scale_tril: [B, J, m, m] lower triangular, whose entries in dead rows or columns are not read.
        live: [B, J m] or [B, 1] bool, or None.
        share: [B, J], or None for 0.

    Example:
        >>> law = BlockNormal(torch.zeros(2, 1, 3), torch.eye(3).expand(2, 1, 3, 3), torch.ones(2, 3) > 0)
        >>> [round(v, 4) for v in law.log_prob(torch.zeros(2, 3)).tolist()]
        [-2.7568, -2.7568]
    """

    has_rsample = True

    def __init__(
        self, loc: Tensor, scale_tril: Tensor, live: Tensor | None = None, share: Tensor | None = None
    ) -> None:
        super().__init__(len(loc), loc.shape[1] * loc.shape[2])
        self.loc, self.live = loc, _blocks(live, loc)
        self.scale_tril, self.share = on_live(scale_tril, self.live), share

    @property
    def mean(self) -> Tensor:
        """The mean [B, J m], 0 on dead axes."""
        return (self.loc * self.live).flatten(1)

    def draw(self) -> Tensor:
        """Mean plus factor times normals, standard or twice as wide, 0 on dead axes."""
        noise = torch.randn_like(self.loc)
        if self.share is not None:
            wide = torch.rand_like(self.loc[..., 0]) < self.share
            noise = noise * (1 + (WIDTH - 1) * wide.to(noise.dtype))[..., None]
        return ((self.loc + (self.scale_tril @ noise[..., None]).squeeze(-1)) * self.live).flatten(1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] at [B, J m]."""
        away = (value.reshape(self.loc.shape) - self.loc) * self.live
        z = torch.linalg.solve_triangular(self.scale_tril, away[..., None], upper=False).squeeze(-1)
        log_scale = self.scale_tril.diagonal(dim1=-2, dim2=-1).log()
        square = torch.where(self.live, z, 0.0).square().sum(-1)  # [B, J]
        level = torch.where(self.live, log_scale + _HALF_LOG_TWO_PI, 0.0).sum(-1)
        if self.share is None:
            return -(0.5 * square + level).sum(-1)
        count = self.live.sum(-1)
        wider = self.share.log() - 0.5 * square / WIDTH**2 - count * math.log(WIDTH)
        both = torch.logaddexp((-self.share).log1p() - 0.5 * square, wider) - level
        return torch.where(count > 0, both, 0.0).sum(-1)  # exactly 0, not the rounded sum of the shares


def on_live(matrix: Tensor, live: Tensor) -> Tensor:
    """Matrices [.., m, m] on live axes [.., m], the identity on the others."""
    both = live[..., :, None] & live[..., None, :]
    eye = torch.eye(live.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.where(both, matrix, eye)


def _blocks(live: Tensor | None, like: Tensor) -> Tensor:
    """A live mask of all axes as one of blocks [B, J, m]."""
    if live is None:
        return torch.ones_like(like, dtype=torch.bool)
    return live.expand(len(like), like.shape[1] * like.shape[2]).reshape(like.shape)


class BlockNormalHead(Head):
    """Learned normal law of every block, near a guess where there is one.

    Args:
        blocks: J.
        axes: m, parameters of each block.
        width: of the context, [B, width] or [B, J, width].
        guess: states -> ``Normals`` of the blocks (see ``ctsgfn.laplace``); None for standard normals.

    Example:
        >>> head = BlockNormalHead(2, 3, width=4)
        >>> live = torch.tensor([[True, False, False, True, True, False]])
        >>> law = head(torch.ones(1, 4), None, live)
        >>> round(law.log_prob(torch.zeros(1, 6)).item(), 4)  # three live axes
        -2.7568
    """

    def __init__(
        self, blocks: int, axes: int, width: int, guess: Callable[[Any], Normals] | None = None
    ) -> None:
        super().__init__()
        self.base = Lebesgue(blocks * axes)
        self.blocks, self.axes, self.guess = blocks, axes, guess
        self.moments = zero_init(nn.Linear(width, 2 * axes + axes * (axes - 1) // 2))
        self.register_buffer("lower", torch.tril_indices(axes, axes, -1), persistent=False)

    lower: Tensor

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> BlockNormal:
        """Law of theta, [B, J m]."""
        m = self.axes
        moments = self.moments(context if context.dim() == 3 else context[:, None])
        moments = moments.expand(len(context), self.blocks, -1)
        shift, log_scale, below = moments.split([m, m, m * (m - 1) // 2], -1)
        tril = torch.diag_embed(log_scale.exp())
        tril[..., self.lower[0], self.lower[1]] = below
        if self.guess is None:
            return BlockNormal(shift, tril, live)
        alive = _blocks(live, shift)
        loc, factor, _, share = (v.to(shift.dtype) for v in self.guess(s))
        factor = on_live(factor, alive)
        moved = loc + (factor @ (shift * alive)[..., None]).squeeze(-1)
        return BlockNormal(moved, factor @ on_live(tril, alive), live, share)
