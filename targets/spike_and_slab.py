r"""Which variables belong in a linear regression: the posterior over all subsets, in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.subsets import Subsets
from ctsgfn.targets.model_priors import BetaBinomial, SizePrior

LISTED = 16
"""Most variables for which all models are listed, 65,536 of them."""


class Slab(Protocol):
    r"""Law of the coefficients of the variables that are there: :math:`N(0, \sigma^2 P_m^{-1})`."""

    def precision(self, gram: Tensor) -> Tensor:
        """P [p, p], of which P_m are the rows and columns of m."""
        ...

    def log_volume(self, log_det: Tensor, size: Tensor) -> Tensor:
        """Log |G_m + P_m| - log |P_m|, from log |G_m + P_m| and the size of m."""
        ...


@dataclass(frozen=True)
class NormalSlab:
    r"""Independent coefficients, :math:`\beta_j \sim N(0, \sigma^2 v)`.

    Raises:
        InvalidInput: when the variance is not positive.

    Example:
        >>> NormalSlab(4.0).precision(torch.ones(2, 2)).tolist()
        [[0.25, 0.0], [0.0, 0.25]]
    """

    variance: float = 1.0

    def __post_init__(self) -> None:
        if not self.variance > 0:
            raise InvalidInput(f"the variance of the slab must be positive, got {self.variance}.")

    def precision(self, gram: Tensor) -> Tensor:
        """Identity over v."""
        return torch.eye(len(gram), dtype=gram.dtype) / self.variance

    def log_volume(self, log_det: Tensor, size: Tensor) -> Tensor:
        """Log |G_m + P_m| + |m| log v."""
        return log_det + size * math.log(self.variance)


@dataclass(frozen=True)
class GPrior:
    r"""Zellner's g-prior, :math:`\beta_m \sim N(0, \sigma^2 g\,(X_m^\top X_m)^{-1})`.

    Raises:
        InvalidInput: when g is not positive.

    References:
        Mixtures of g priors for Bayesian variable selection (Liang et al., 2008), JASA 103, section 2.

    Example:
        >>> GPrior(4.0).precision(torch.ones(2, 2)).tolist()
        [[0.25, 0.25], [0.25, 0.25]]
    """

    g: float

    def __post_init__(self) -> None:
        if not self.g > 0:
            raise InvalidInput(f"g must be positive, got {self.g}.")

    def precision(self, gram: Tensor) -> Tensor:
        """X'X over g."""
        return gram / self.g

    def log_volume(self, log_det: Tensor, size: Tensor) -> Tensor:
        """|m| log(1 + g)."""
        del log_det
        return size * math.log1p(self.g)


class _Solved(NamedTuple):
    """What the normal equations of some models say."""

    factor: Tensor  # [B, p, p] Cholesky factor of G_m + P_m, identity where a variable is absent
    mean: Tensor  # [B, p] posterior mean of the coefficients, 0 where absent
    rest: Tensor  # [B] y'y less what is explained


@dataclass(frozen=True, eq=False)
class SpikeAndSlab:
    r"""Evidence of a linear regression times a prior on the set m of its variables; all else integrated out.

    .. math::
        y = \alpha + X_m \beta_m + \epsilon, \quad \epsilon_i \sim N(0, \sigma^2), \quad
        \beta_m \sim N(0, \sigma^2 P_m^{-1}), \quad p(\alpha, \sigma^2) \propto \sigma^{-2}

    With X and y centred, :math:`A_m = X_m^\top X_m + P_m` and :math:`b_m = X_m^\top y`,

    .. math::
        \log p(y | m) = \mathrm{const} - \tfrac12 \log \frac{|A_m|}{|P_m|}
            - \tfrac{N - 1}{2} \log (y^\top y - b_m^\top A_m^{-1} b_m),

    where the constant, :math:`\log \Gamma(\tfrac{N-1}2) - \tfrac{N-1}2 \log \pi - \tfrac12 \log N`, is
    included, so that log Z is the evidence of the whole model under that (improper) prior.

    Args:
        x: [N, p] predictors; put them on one scale, as the slab is the same for all.
        y: [N] responses.
        slab: ``NormalSlab(variance)`` or ``GPrior(g)``.
        prior: on models: ``BetaBinomial(a, b)`` or ``Bernoulli(inclusion)``.

    Raises:
        InvalidInput: when shapes or values make no sense; under a g-prior, when X has not full column rank.

    References:
        Bayesian variable selection in linear regression (Mitchell and Beauchamp, 1988), JASA 83; Mixtures
        of g priors for Bayesian variable selection (Liang et al., 2008), JASA 103, eq. 2-6.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(50, 3, generator=g)
        >>> target = SpikeAndSlab(x, 2 * x[:, 1] + torch.randn(50, generator=g))
        >>> [round(p, 2) for p in target.inclusion_probabilities().tolist()]
        [0.21, 1.0, 0.37]
    """

    x: Tensor
    y: Tensor
    slab: Slab = field(default_factory=NormalSlab)
    prior: SizePrior = field(default_factory=BetaBinomial)
    _gram: Tensor = field(init=False, repr=False)  # [p, p] X'X + P
    _moment: Tensor = field(init=False, repr=False)  # [p] X'y
    _square: Tensor = field(init=False, repr=False)  # [] y'y

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.y.shape != self.x.shape[:1] or len(self.y) < 3:
            raise InvalidInput(
                f"SpikeAndSlab needs predictors [N, p] and responses [N], N at least 3, got "
                f"{list(self.x.shape)} and {list(self.y.shape)}."
            )
        x, y = self.x.double(), self.y.double()
        if not bool(x.isfinite().all() and y.isfinite().all()):
            raise InvalidInput("predictors and responses must be finite: leave incomplete rows out.")
        x, y = x - x.mean(0), y - y.mean()
        gram = x.T @ x
        whole = gram + self.slab.precision(gram)
        if bool(torch.linalg.cholesky_ex(whole).info != 0):
            raise InvalidInput(
                "the predictors are linearly dependent, so the g-prior is not defined: use NormalSlab(..), "
                "or leave some of them out."
            )
        object.__setattr__(self, "_gram", whole)
        object.__setattr__(self, "_moment", x.T @ y)
        object.__setattr__(self, "_square", y @ y)

    @property
    def measure(self) -> Subsets:
        """Counting measure on the subsets of the variables."""
        return Subsets(self.x.shape[1])

    def log_density(self, x: Tensor) -> Tensor:
        """Log p(y | m) + log p(m), [B] float64, of models [B, p]."""
        here = x.double()
        solved, size = self._solve(here), here.sum(-1)
        log_det = 2 * solved.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self._score(log_det, solved.rest, size)

    def changes(self, x: Tensor) -> Tensor:
        r"""Log r with variable j added, less log r, [B, p] float64; 0 where it is there already.

        By the Schur complement: with :math:`d_j = A_{jj} - A_{jm} A_m^{-1} A_{mj}`, adding j multiplies
        :math:`|A_m|` by d_j and explains :math:`(b_j - A_{jm} A_m^{-1} b_m)^2 / d_j` more.
        """
        here = x.double()
        solved, size = self._solve(here), here.sum(-1)
        log_det = 2 * solved.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        gram, moment = self._gram.to(here), self._moment.to(here)
        cross = here[:, :, None] * gram  # [B, p, p] A_mj, 0 on the rows of absent variables
        half = torch.linalg.solve_triangular(solved.factor, cross, upper=False)
        fresh = (gram.diagonal() - half.square().sum(1)).where(~x.bool(), 1.0)
        slope = (moment - (solved.mean[:, None] @ cross).squeeze(1)) * (1 - here)
        more = self._score(
            log_det[:, None] + fresh.log(), solved.rest[:, None] - slope.square() / fresh, size[:, None] + 1
        )
        return (more - self._score(log_det, solved.rest, size)[:, None]).masked_fill(x.bool(), 0.0)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Exact mean and variance of the coefficients given models [B, p]: [B, p] each, 0 where absent."""
        here = x.double()
        solved = self._solve(here)
        spread = torch.cholesky_inverse(solved.factor).diagonal(dim1=-2, dim2=-1) * here
        return solved.mean, spread * (solved.rest / (len(self.y) - 3))[:, None]  # of a Student-t

    def sample_coefficients(self, x: Tensor) -> Tensor:
        """Draw the coefficients [B, p] given models [B, p]: with models of the posterior, joint draws."""
        here = x.double()
        solved = self._solve(here)
        gamma = torch.distributions.Gamma(0.5 * (len(self.y) - 1), 0.5 * solved.rest)  # of 1 / sigma^2
        noise = torch.randn_like(here)[:, :, None]
        step = torch.linalg.solve_triangular(solved.factor.mT, noise, upper=True).squeeze(-1)
        return (solved.mean + step * gamma.sample().rsqrt()[:, None]) * here

    # ---------------------------------------------------------------- exact answers, by listing all models
    @property
    def log_z(self) -> float:
        """Log-evidence of all models together (at most 16 variables)."""
        return float(self._listed()[1].logsumexp(0))

    def sample(self, n: int) -> Tensor:
        """Draw n models [n, p] of the posterior (at most 16 variables)."""
        models, log_density = self._listed()
        return models[torch.multinomial(log_density.softmax(0), n, replacement=True)]

    def inclusion_probabilities(self) -> Tensor:
        """Exact P(j in m | y), [p] float64 (at most 16 variables)."""
        return self._average(lambda models: models.double())

    def posterior_mean(self) -> Tensor:
        """Exact E[beta | y] over all models, [p] float64 (at most 16 variables)."""
        return self._average(lambda models: self.coefficients(models)[0])

    def _average(self, of: Callable[[Tensor], Tensor]) -> Tensor:
        models, log_density = self._listed()
        probability = log_density.softmax(0)
        rows = zip(models.split(4096), probability.split(4096), strict=True)
        return torch.stack([weight @ of(some) for some, weight in rows]).sum(0)

    def _listed(self) -> tuple[Tensor, Tensor]:
        if self.x.shape[1] > LISTED:
            raise InvalidInput(
                f"models are listed up to {LISTED} variables, not for {self.x.shape[1]}: there are too many."
            )
        models = self.measure.all()
        return models, torch.cat([self.log_density(some) for some in models.split(4096)])

    # ---------------------------------------------------------------- inside
    def _solve(self, here: Tensor) -> _Solved:
        """Normal equations of models [B, p] of 0 and 1."""
        gram, moment = self._gram.to(here), self._moment.to(here)
        system = gram * here[:, :, None] * here[:, None] + torch.diag_embed(1 - here)
        factor = torch.linalg.cholesky(system)
        mean = torch.cholesky_solve((moment * here)[:, :, None], factor).squeeze(-1)
        return _Solved(factor, mean, self._square.to(here) - (mean * moment).sum(-1))

    def _score(self, log_det: Tensor, rest: Tensor, size: Tensor) -> Tensor:
        n = len(self.y) - 1
        constant = math.lgamma(0.5 * n) - 0.5 * n * math.log(math.pi) - 0.5 * math.log(n + 1)
        evidence = constant - 0.5 * self.slab.log_volume(log_det, size) - 0.5 * n * rest.log()
        return evidence + self.prior.log_prob(size, self.x.shape[1])


def correlated_regression(
    variables: int = 10,
    rows: int = 100,
    *,
    block: int = 5,
    correlation: float = 0.9,
    noise: float = 1.0,
    seed: int = 0,
) -> SpikeAndSlab:
    """A simulated regression whose predictors are correlated in blocks, the first two of each being true.

    Args:
        variables: p.
        rows: N.
        block: predictors per block.
        correlation: of two predictors of one block.
        noise: sd of the noise; the true coefficients are 1 and -1/2.
        seed: of predictors and noise.

    Example:
        >>> target = correlated_regression(6, 40, block=3)
        >>> tuple(target.x.shape), float(target.inclusion_probabilities().max()) > 0.5
        ((40, 6), True)
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = -(-variables // block)
    shared = torch.randn(rows, blocks, generator=generator, dtype=torch.float64).repeat_interleave(block, 1)
    own = torch.randn(rows, variables, generator=generator, dtype=torch.float64)
    x = math.sqrt(correlation) * shared[:, :variables] + math.sqrt(1 - correlation) * own
    place = torch.arange(variables) % block
    beta = torch.where(place == 0, 1.0, torch.where(place == 1, -0.5, 0.0)).double()
    y = x @ beta + noise * torch.randn(rows, generator=generator, dtype=torch.float64)
    return SpikeAndSlab(x, y)
