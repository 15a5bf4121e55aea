r"""Laws of the parameters of blocks that no normal law covers: mixtures, and normal laws given the rest.

The block of a node and its parents has parameters :math:`\theta = (\psi, u)`, where u has a normal law given
:math:`\psi` in closed form: output weights of a small network under normal noise, say. So

.. math::
    q(\theta) = q(\psi)\,N\bigl(u; \mu(\psi), \Lambda(\psi)^{-1}\bigr), \qquad
    \log \int r(\psi, u)\,du = \log r(\psi, \mu) + \tfrac{q}{2} \log 2\pi - \tfrac12 \log|\Lambda|

and :math:`q(\psi)` is a mixture of normals that is invariant as r is (``ctsgfn.symmetric_mixture``), fitted
to the second of these: first to particles annealed from a wide normal law, then to its own draws by
their weights. Integrating u out takes away the ridges along which output weights trade against the others.

References:
    Marginalised or collapsed sampling, see Monte Carlo Strategies in Scientific Computing (Liu, 2001),
    section 2.3; for its use in networks: Bayesian learning for neural networks (Neal, 1996), section 2.2.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ctsgfn.annealing import anneal
from ctsgfn.counted import CountedTarget
from ctsgfn.gaussian_fits import GaussianFits
from ctsgfn.laplace import Factored, hashed
from ctsgfn.measures import Lebesgue
from ctsgfn.seeding import seeded
from ctsgfn.symmetric_mixture import SymmetricMixture, fit_symmetric
from ctsgfn.target import as_target

PARTICLES = 512
"""Of the annealing from the wide normal law to a block."""


@runtime_checkable
class Nested(Factored, Protocol):
    """A target whose blocks have parameters that are normal given the others, or equal copies."""

    @property
    def inner(self) -> list[int]:
        """Parameters of a block that are normal given the others, in ascending order; there may be none."""

    @property
    def copies(self) -> tuple[Tensor, Tensor]:
        """Parameters [S, m] of a block, and signs [S, m], that leave ``log_block`` as it is: all S ways."""

    @property
    def spread(self) -> Tensor:
        """Standard deviations [m] of normal laws around 0 that cover the parameters, such as their prior."""

    def inner_law(self, block: Tensor, part: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Means [R, q] of the inner parameters given the others, and Cholesky factors of their precision."""


class Fit(NamedTuple):
    """What was found for one block."""

    axes: Tensor  # [k] long, live and not inner
    law: SymmetricMixture | None  # on them; None where there are none
    log_evidence: float
    ess: float  # effective fraction of the draws of the law


class NestedFits:
    """Laws of theta given the model, found once for each block and what it depends on.

    Args:
        target: see ``serves``.

    Example:
        >>> from ctsgfn.targets import HiddenLayer, JointGraphs, NormalNoise
        >>> fits = NestedFits(JointGraphs(torch.randn(9, 2), HiddenLayer(1), NormalNoise(0.5)))
        >>> node, parents = torch.tensor([1]), torch.tensor([[True, False]])
        >>> theta = fits.draw(node, parents)  # two weights, of which one is live; a, v and b
        >>> theta.shape[1], bool(fits.log_prob(node, parents, theta).isfinite())
        (5, True)
    """

    def __init__(self, target: Nested) -> None:
        self.target, self.measure = target, target.measure  # type: ignore[attr-defined]
        self.blocks, self.width = target.blocks, target.copies[0].shape[1]
        self.inner = target.inner
        self._number: dict[int, int] = {}
        self.fits: list[Fit] = []

    @staticmethod
    def serves(target: Any) -> bool:
        """Whether a target says enough, and has blocks of several equal copies: not near any normal law."""
        return isinstance(target, Nested) and len(target.copies[0]) > 1

    def log_evidence(self, model: Any) -> Tensor:
        """Log-evidence of models, estimated, [B] float64."""
        block, part = self.nodes(model)
        return self.log_evidence_of(block, part).reshape(len(model), self.blocks).sum(-1)

    def log_evidence_of(self, block: Tensor, part: Tensor) -> Tensor:
        """Log-evidence [R] of blocks with parts [R, w]."""
        number = self.numbers(block, part)
        found = torch.tensor([fit.log_evidence for fit in self.fits], dtype=torch.float64)
        return found.to(block.device)[number]

    def nodes(self, model: Any) -> tuple[Tensor, Tensor]:
        """Numbers [B J] and parts [B J, w] of the blocks of models."""
        part = self.target.parts(model).flatten(0, 1)
        return torch.arange(self.blocks, device=part.device).repeat(len(model)), part

    def draw(self, block: Tensor, part: Tensor) -> Tensor:
        """One draw [R, m] of the parameters of each block, in float64, 0 where they are dead."""
        theta = torch.zeros(len(block), self.width, dtype=torch.float64, device=block.device)
        for fit, rows in self._groups(block, part):
            if fit.law is not None:
                theta[rows[:, None], fit.axes] = fit.law.draw(len(rows))
        inner = self.inner
        if inner:
            mean, factor = self.target.inner_law(block, part, theta)
            noise = torch.randn(*mean.shape, 1).to(mean)
            away = torch.linalg.solve_triangular(factor.transpose(1, 2), noise, upper=True)
            theta[:, inner] = mean + away.squeeze(-1)
        return theta * self.target.block_live(part)

    def log_prob(self, block: Tensor, part: Tensor, theta: Tensor) -> Tensor:
        """Log-density [R] at parameters [R, m]."""
        out = theta.new_zeros(len(theta), dtype=torch.float64)
        theta = theta.double()
        for fit, rows in self._groups(block, part):
            if fit.law is not None:
                out[rows] = fit.law.log_prob(theta[rows[:, None], fit.axes])
        inner = self.inner
        if not inner:
            return out
        mean, factor = self.target.inner_law(block, part, theta)
        live = self.target.block_live(part)[:, inner]
        away = (theta[:, inner] - mean) * live
        z = (factor.transpose(1, 2) @ away[..., None]).squeeze(-1)
        return out - 0.5 * z.square().sum(-1) - _log_normaliser(factor, live)

    def log_outer(self, block: Tensor, part: Tensor, theta: Tensor) -> Tensor:
        """Log of r [R] with the inner parameters integrated out; those of theta are not read."""
        inner = self.inner
        if not inner:
            return self.target.log_block(block, part, theta)
        mean, factor = self.target.inner_law(block, part, theta)
        live = self.target.block_live(part)
        place = torch.tensor(inner, device=theta.device).expand(len(theta), -1)
        top = theta.scatter(1, place, mean * live[:, inner])
        return self.target.log_block(block, part, top) + _log_normaliser(factor, live[:, inner])

    def _groups(self, block: Tensor, part: Tensor) -> list[tuple[Fit, Tensor]]:
        """The fits of the rows, each with its rows."""
        self.numbers(block, part)
        key, order = hashed(block, part).sort(stable=True)  # in whatever order they were met
        found, count = key.unique_consecutive(return_counts=True)
        fits = (self.fits[self._number[k]] for k in found.tolist())
        return list(zip(fits, order.split(count.tolist()), strict=True))

    def numbers(self, block: Tensor, part: Tensor) -> Tensor:
        """Number of the fit of each row, [R], after those that are new were found."""
        key, inverse = hashed(block, part).unique(return_inverse=True)
        row = torch.empty_like(key).scatter(0, inverse, torch.arange(len(block), device=key.device))
        for k, i in zip(key.tolist(), row.tolist(), strict=True):
            if k not in self._number:
                with seeded(0), torch.no_grad():  # the same whenever a block is met
                    self.fits.append(self._fit(block[i : i + 1], part[i : i + 1]))
                self._number[k] = len(self.fits) - 1
        found = [self._number[k] for k in key.tolist()]
        return torch.tensor(found, dtype=torch.long, device=key.device)[inverse]

    def _fit(self, block: Tensor, part: Tensor) -> Fit:
        """The law of one block."""
        target = self.target
        outer = target.block_live(part)[0].clone()
        outer[self.inner] = False
        axes = outer.nonzero().squeeze(-1)

        def density(x: Tensor) -> Tensor:
            theta = x.new_zeros(len(x), self.width).index_copy(1, axes, x)
            return self.log_outer(block.expand(len(x)), part.expand(len(x), -1), theta)

        wide = target.spread.to(block.device)[axes]
        if not len(axes):
            return Fit(axes, None, float(density(wide[None])), 1.0)
        broad = GaussianFits(torch.zeros_like(wide)[None], torch.diag(wide)[None], wide.new_zeros(1))
        counted = CountedTarget(as_target(density, Lebesgue(len(axes))))
        points, _ = anneal(counted, broad, PARTICLES, True)
        place = torch.cumsum(outer, 0) - 1
        index, sign = (v.to(block.device)[:, axes] for v in target.copies)
        different = torch.cat([place[index], sign], 1).unique(dim=0)  # a block may lack what is exchanged
        index, sign = different.split(len(axes), 1)
        law, log_z, ess = fit_symmetric(density, points, index, sign.to(wide), wide)
        return Fit(axes, law, log_z, ess)


def _log_normaliser(factor: Tensor, live: Tensor) -> Tensor:
    """Log of the integral [R] of exp(-|L^T u|^2 / 2) over live u, of factors L."""
    log_scale = factor.diagonal(dim1=-2, dim2=-1).log()
    return ((0.5 * math.log(2 * math.pi) - log_scale) * live).sum(-1)
