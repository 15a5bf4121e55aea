r"""Mixtures of normals that are invariant under signed permutations of the axes, fitted to a density.

.. math::
    q(x) = (1 - \alpha) \frac1S \sum_{g} q_0(g x) + \alpha\,N(x; 0, D^2),
    \qquad (g x)_i = \epsilon_{gi}\, x_{\pi_g(i)}

where :math:`q_0` is a mixture of normals, the sum is over the S elements of a group, and a wide normal keeps
weights bounded. A density that is invariant too, as that of a network's weights is under the order and the
signs of its hidden units, is covered as well as :math:`q_0` covers one of its copies, whether the copies are
apart or run into each other.

References:
    Adaptive importance sampling in general mixture classes (Cappe et al., 2008), Stat. Comput. 18: weighted
    EM on draws of the mixture before; Weighted average importance sampling and defensive mixture
    distributions (Hesterberg, 1995), Technometrics 37.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ctsgfn.mixture_fit import Mixture, expectation_maximisation, fit_mixture
from ctsgfn.psis import effective_sample_size, largest

SHARE, LITTLE = 0.02, 1e-5
"""Of the wide normal: while a mixture is fitted, and in the end, for draws where r is nothing cost bounds."""

WIDTH = 2.0
"""Of the copies of the components that the mixture has in the end, in the place of so wide a law."""

COMPONENTS = 8
"""Most of q_0."""

DRAWS, ROUNDS, KEPT = 2048, 10, 4
"""Draws of a round, most rounds, and the last rounds whose draws are fitted to."""

GOOD = 0.8
"""Effective fraction of the draws from which a mixture is left as it is."""

LEAST = 0.05
"""Where the effective fraction is less, weights are flattened until it is this much."""

SWEEPS = 4
"""Of expectation maximisation, in a round."""


@dataclass(frozen=True)
class SymmetricMixture:
    """The law q.

    Args:
        mixture: q_0, on R^d.
        index: pi_g, [S, d] long.
        sign: epsilon_g, [S, d], 1 or -1; the S pairs are a group.
        wide: D, [d].
        share: alpha.

    Example:
        >>> one = Mixture(torch.ones(1), torch.tensor([[3.0]]), torch.ones(1, 1, 1))
        >>> index, sign = torch.zeros(2, 1, dtype=torch.long), torch.tensor([[1.0], [-1.0]])
        >>> law = SymmetricMixture(one, index, sign, torch.tensor([5.0]))
        >>> bool(torch.isclose(*law.log_prob(torch.tensor([[3.0], [-3.0]]))))
        True
    """

    mixture: Mixture
    index: Tensor
    sign: Tensor
    wide: Tensor
    share: float = SHARE

    def images(self, x: Tensor) -> Tensor:
        """All copies [S, B, d] of points [B, d]."""
        return (x[:, self.index] * self.sign).transpose(0, 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log q, [B]."""
        of_mixture = self._of_images(self.images(x)).logsumexp(0) - math.log(len(self.index))
        z = x / self.wide
        of_wide = -(0.5 * z.square() + self.wide.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
        return torch.logaddexp(math.log1p(-self.share) + of_mixture, math.log(self.share) + of_wide)

    def draw(self, n: int) -> Tensor:
        """Draw points [n, d]."""
        of, like = self.mixture, self.wide
        k = torch.multinomial(of.share, n, replacement=True)
        noise = torch.randn(n, len(like)).to(like)
        x = of.mean[k] + (of.tril[k] @ noise[..., None]).squeeze(-1)
        x = torch.where(torch.rand(n, 1).to(like) < self.share, self.wide * noise, x)
        g = torch.randint(len(self.index), (n,)).to(self.index)
        return x.gather(1, self.index[g]) * self.sign[g]

    def folded(self, x: Tensor) -> Tensor:
        """One copy [B, d] of each point, drawn as q_0 has them."""
        images = self.images(x)
        g = torch.multinomial(self._of_images(images).T.softmax(-1), 1).squeeze(-1)
        return images[g, torch.arange(len(x), device=x.device)]

    def _of_images(self, images: Tensor) -> Tensor:
        """Log q_0, [S, B]."""
        return self.mixture.log_prob(images.flatten(0, 1)).reshape(images.shape[:2])


class Adapted(NamedTuple):
    """A mixture, the integral of the density that it was fitted to, and how well it fits."""

    law: SymmetricMixture
    log_z: float
    ess: float  # effective fraction of draws, at the last look


def fit_symmetric(
    log_density: Callable[[Tensor], Tensor], points: Tensor, index: Tensor, sign: Tensor, wide: Tensor
) -> Adapted:
    r"""Fit a mixture to an invariant density on R^d, from points that are about distributed by it.

    Rounds of draws from the mixture, with weights r / q, are what it is fitted to again. The integral is the
    mean of the weights of all rounds, each counted by its effective number of draws.

    Args:
        log_density: log r, points [n, d] -> [n].
        points: [N, d].
        index: see ``SymmetricMixture``.
        sign: likewise.
        wide: likewise; where r has mass, N(0, D^2) should have some.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> def pair(x):  # two normals, at -3 and 3
        ...     return torch.logaddexp(-0.5 * (x - 3).square(), -0.5 * (x + 3).square())[:, 0]
        >>> points = torch.cat([torch.randn(100, 1) - 3, torch.randn(100, 1) + 3]).double()
        >>> index, sign = torch.zeros(2, 1, dtype=torch.long), torch.tensor([[1.0], [-1.0]]).double()
        >>> found = fit_symmetric(pair, points, index, sign, torch.tensor([3.0]).double())
        >>> abs(found.log_z - math.log(2 * math.sqrt(2 * math.pi))) < 0.02, found.ess > 0.9
        (True, True)
    """
    dim = points.shape[1]
    one = Mixture(points.new_ones(1), points[:1], torch.eye(dim).to(points)[None])
    law = SymmetricMixture(one, index, sign, wide)
    for _ in range(SWEEPS):  # one copy of each point, near the others
        near = law.folded(points)
        law = replace(law, mixture=replace(one, mean=near.mean(0, keepdim=True), tril=_spread(near)[None]))
    found = fit_mixture(law.folded(points), law.mixture, most=COMPONENTS).split(COMPONENTS)
    law = replace(law, mixture=found)
    kept: list[tuple[Tensor, Tensor]] = []
    looks = points.new_zeros(ROUNDS, 2).double()  # log mean weight, and effective number
    for k in range(ROUNDS):
        x = law.draw(DRAWS)
        weight = log_density(x) - law.log_prob(x)
        ess = effective_sample_size(weight) / DRAWS
        looks[k, 0], looks[k, 1] = weight.logsumexp(0) - math.log(DRAWS), DRAWS * ess
        if ess > GOOD or k == ROUNDS - 1:
            break
        kept = [*kept, (law.folded(x), _flattened(weight))][-KEPT:]
        together, weights = (torch.cat(part) for part in zip(*kept, strict=True))
        law = replace(law, mixture=expectation_maximisation(together, law.mixture, SWEEPS, weights))
    looks = looks[: k + 1]
    log_z = float((looks[:, 0] + looks[:, 1].log()).logsumexp(0) - looks[:, 1].sum().log())
    return Adapted(replace(law, mixture=_defended(law.mixture), share=LITTLE), log_z, ess)


def _defended(mixture: Mixture) -> Mixture:
    """The mixture, and a small share of its components twice as wide."""
    share = torch.cat([(1 - SHARE) * mixture.share, SHARE * mixture.share])
    return Mixture(share, mixture.mean.repeat(2, 1), torch.cat([mixture.tril, WIDTH * mixture.tril]))


def _flattened(log_weight: Tensor) -> Tensor:
    """Weights [n] that sum to their effective number, flattened where that is small."""

    def effective(power: float) -> bool:
        return effective_sample_size(power * log_weight) >= LEAST * len(log_weight)

    weight = (largest(effective, 1.0, halvings=30) * log_weight).softmax(0)
    return weight / weight.square().sum()


def _spread(x: Tensor) -> Tensor:
    """Cholesky factor of the covariance of points [N, d], made a little rounder."""
    covariance = torch.cov(x.T).reshape(x.shape[1], x.shape[1])
    return torch.linalg.cholesky(
        covariance + 1e-3 * covariance.diagonal().mean() * torch.eye(x.shape[1]).to(x)
    )
