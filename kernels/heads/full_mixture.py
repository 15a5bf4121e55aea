r"""A learned mixture of normals with full covariances, the same at every state.

.. math::
    q(a) = \sum_c w_c\, N(a; m_c, (P_c^\top P_c)^{-1})

with :math:`P_c` lower triangular: the precision's factor is learned, so that the density needs no solve.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.distributions import CoordinateLaw, choose
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head
from ctsgfn.measures import Lebesgue
from ctsgfn.mixture_fit import Mixture


class FullMixtureLaw(CoordinateLaw):
    """The same mixture of full-covariance normals for each of B rows.

    Args:
        batch: B.
        log_weight: [C], normalised.
        mean: [C, k].
        factor: [C, k, k] lower triangular, z = factor (a - mean) is standard normal.
    """

    def __init__(self, batch: int, log_weight: Tensor, mean: Tensor, factor: Tensor) -> None:
        super().__init__(batch, mean.shape[-1])
        self.log_weight, self.loc, self.factor = log_weight, mean, factor

    def draw(self) -> Tensor:
        """A component, then a normal draw, [B, k]."""
        batch, width = self.batch_shape[0], self.loc.shape[-1]
        c = choose(self.log_weight.expand(batch, -1))
        noise = torch.randn(batch, width, dtype=self.loc.dtype, device=self.loc.device)
        if batch * width * width <= 1_000_000:
            moved = torch.linalg.solve_triangular(self.factor[c], noise[:, :, None], upper=False).squeeze(-1)
            return self.loc[c] + moved
        out = torch.empty_like(noise)  # no factor is repeated where they are large
        for component in c.unique().tolist():
            rows = (c == component).nonzero().squeeze(-1)
            moved = torch.linalg.solve_triangular(self.factor[component], noise[rows].T, upper=False).T
            out[rows] = self.loc[component] + moved
        return out

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] at [B, k]."""
        count, width = self.loc.shape
        shift = (self.factor * self.loc[:, None]).sum(-1)
        z = (value @ self.factor.reshape(count * width, width).T).reshape(-1, count, width) - shift
        log_det = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * width * math.log(2 * math.pi)
        return (self.log_weight - 0.5 * z.square().sum(-1) + log_det).logsumexp(-1) - constant


class FullMixture(Head):
    """Learned mixture of full-covariance normals that does not look at the state.

    Args:
        start: where its parameters start.

    Raises:
        InvalidInput: when a share is not positive.

    Example:
        >>> one = Mixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> head = FullMixture(one)
        >>> round(head(torch.zeros(1, 0), None, None).log_prob(torch.zeros(1, 2)).item(), 4)
        -1.8379
    """

    base: Lebesgue

    def __init__(self, start: Mixture) -> None:
        super().__init__()
        if not bool((start.share > 0).all()):
            raise InvalidInput("every component of a starting mixture needs a positive share.")
        dim = start.mean.shape[-1]
        self.base = Lebesgue(dim)
        eye = torch.eye(dim, dtype=start.tril.dtype, device=start.tril.device)
        factor = torch.linalg.solve_triangular(start.tril, eye.expand_as(start.tril), upper=False)
        self.logit = nn.Parameter(start.share.log())
        self.mean = nn.Parameter(start.mean.clone())
        self.log_diagonal = nn.Parameter(factor.diagonal(dim1=-2, dim2=-1).log())
        self.below = nn.Parameter(factor.tril(-1))

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> FullMixtureLaw:
        """Law of the coordinates, [B, d].

        Raises:
            InvalidInput: when a live mask is given: a full covariance has no dead axes.
        """
        if live is not None:
            raise InvalidInput(
                "FullMixture has no dead axes: use GaussianMixture on a base with a live mask."
            )
        del s
        factor = self.below.tril(-1) + torch.diag_embed(self.log_diagonal.exp())
        return FullMixtureLaw(len(context), self.logit.log_softmax(-1), self.mean, factor)
