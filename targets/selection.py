r"""Which variables belong in a regression, with their coefficients: the posterior over models and parameters.

.. math::
    \log r(m, \theta) = \sum_i \log p(y_i | \eta_i, \phi) + \sum_{j \in m} \log N(\beta_j; 0, v)
        + \log N(\alpha; 0, w) + \log p(\phi) + \log p(m), \qquad \eta = \alpha + X_m \beta_m
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.subsets import Subsets
from ctsgfn.targets.model_priors import BetaBinomial, SizePrior
from ctsgfn.with_parameters import Parameterised, WithParameters


@dataclass(frozen=True)
class Coefficients:
    """Live parameters of a set of variables: their coefficients, then ``always`` that every model has."""

    always: int

    def __call__(self, model: Tensor) -> Tensor:
        """Live mask [B, p + always]."""
        return torch.nn.functional.pad(model.bool(), (0, self.always), value=True)


@dataclass(frozen=True, eq=False)
class Selection(ABC):
    """A regression in which some of the coefficients are exactly 0; theta is (beta, alpha, phi).

    Implementing one: ``log_likelihood`` and ``working``, and ``nuisances`` and ``log_nuisance`` where the
    likelihood has parameters phi of its own, on the whole line.

    Args:
        x: [N, p] predictors, on one scale.
        y: [N] responses.
        slab: standard deviation of a coefficient that is not 0.
        intercept: standard deviation of the intercept.
        prior: on models.

    Raises:
        InvalidInput: when shapes or values make no sense.

    References:
        Approaches for Bayesian variable selection (George and McCulloch, 1997), Statistica Sinica 7.
    """

    x: Tensor
    y: Tensor
    slab: float = 1.0
    intercept: float = 5.0
    prior: SizePrior = field(default_factory=BetaBinomial)

    nuisances: ClassVar[int] = 0
    """How many parameters phi the likelihood has."""

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.y.shape != self.x.shape[:1]:
            raise InvalidInput(
                f"{type(self).__name__} needs predictors [N, p] and responses [N], got {list(self.x.shape)} "
                f"and {list(self.y.shape)}."
            )
        if not bool(self.x.isfinite().all() and self.y.isfinite().all()):
            raise InvalidInput("predictors and responses must be finite: leave incomplete rows out.")
        if not (self.slab > 0 and self.intercept > 0):
            raise InvalidInput(
                f"slab and intercept are standard deviations, got {self.slab}, {self.intercept}."
            )

    @property
    def measure(self) -> WithParameters[Tensor]:
        """Subsets of the variables, with coefficients, an intercept and what the likelihood needs."""
        p, always = self.x.shape[1], 1 + self.nuisances
        return WithParameters(Subsets(p), p + always, Coefficients(always))

    def log_density(self, x: Parameterised) -> Tensor:
        """Log p(y | m, theta) + log p(theta | m) + log p(m), [B]."""
        p, theta = self.x.shape[1], x.theta
        here = x.model.to(theta)
        beta, alpha, phi = theta[:, :p] * here, theta[:, p], theta[:, p + 1 :]
        predictor = beta @ self.x.to(theta).T + alpha[:, None]
        of_beta = (_log_normal(beta, self.slab) * here).sum(-1)
        of_theta = of_beta + _log_normal(alpha, self.intercept) + self.log_nuisance(phi)
        prior = self.prior.log_prob(here.sum(-1), p).to(theta)
        return self.log_likelihood(predictor, phi) + of_theta + prior

    @abstractmethod
    def log_likelihood(self, predictor: Tensor, phi: Tensor) -> Tensor:
        """Log p(y | eta, phi), [B], for linear predictors [B, N] and phi [B, nuisances]."""

    @abstractmethod
    def working(self, predictor: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Derivative of log p(y | eta, phi) in each eta, and a positive curvature, [B, N] both."""

    def log_nuisance(self, phi: Tensor) -> Tensor:
        """Log-prior [B] of phi."""
        return phi.sum(-1)  # of no parameters: 0

    def gains(self, x: Parameterised) -> Tensor:
        r"""Approximate log-evidence with variable j added, less that without, [B, p]; 0 where it is there.

        One Newton step in its coefficient from the mode of the others, with phi held fixed:
        :math:`g_j^2 / 2 d_j - \tfrac12 \log (v\,d_j)` with the slope :math:`g_j = x_j^\top s` of the score s
        and the curvature :math:`d_j = x_j^\top W x_j + 1 / v` less what the other coefficients explain of it.

        Args:
            x: models, and theta at its mode.
        """
        theta, data, here = x.theta, self.x.to(x.theta), x.model.to(x.theta)
        p = data.shape[1]
        score, weight = self.working((theta[:, :p] * here) @ data.T + theta[:, p, None], theta[:, p + 1 :])
        most = int(x.model.sum(-1).max()) if len(x) else 0
        axes = x.model.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices[:, :most]
        there = here.gather(1, axes)
        columns = torch.cat([data.T[axes] * there[:, :, None], torch.ones_like(score)[:, None]], 1)
        prior = torch.cat(
            [there / self.slab**2 + (1 - there), there.new_full((len(x), 1), self.intercept**-2)], 1
        )
        weighted = columns * weight[:, None]
        factor = torch.linalg.cholesky(weighted @ columns.mT + torch.diag_embed(prior))
        explained = torch.linalg.solve_triangular(factor, weighted @ data, upper=False).square().sum(1)
        curvature = weight @ data.square() + self.slab**-2 - explained
        gain = 0.5 * (score @ data).square() / curvature - 0.5 * (self.slab**2 * curvature).log()
        return ((gain + self._prior_step(x.model, 1)) * (1 - here)).double()

    def losses(self, x: Parameterised, variance: Tensor) -> Tensor:
        r"""Approximate log-evidence without variable j, less that with it, [B, p]; 0 where it is not there.

        The ratio of posterior and prior density of :math:`\beta_j = 0`, the posterior taken as a Student-t
        with as many degrees of freedom as rows: far out a normal would fall off without end.

        Args:
            x: models, and the posterior means of theta.
            variance: [B, p + always] of theta.

        References:
            The weighted likelihood ratio, linear hypotheses on normal location parameters (Dickey, 1971),
            Ann. Math. Statist. 42.
        """
        p = self.x.shape[1]
        mean, spread = x.theta[:, :p], variance[:, :p].where(x.model.bool(), 1.0)
        n = len(self.y)
        density = (
            -0.5 * (n + 1) * (mean.square() / (n * spread)).log1p() - 0.5 * (spread / self.slab**2).log()
        )
        return ((density + self._prior_step(x.model, -1)) * x.model).double()

    def _prior_step(self, model: Tensor, step: int) -> Tensor:
        """Change [B, 1] of the log-prior of models by one variable more, or one less."""
        p, size = self.x.shape[1], model.sum(-1, keepdim=True)
        return self.prior.log_prob((size + step).clamp(0, p), p) - self.prior.log_prob(size, p)


@dataclass(frozen=True, eq=False)
class RobustSelection(Selection):
    r"""Student-t noise, which outliers do not move: :math:`y_i = \eta_i + s\,t_\nu`, phi = log s ~ N(0, 1).

    Args:
        x: see ``Selection``, as for the rest.
        y: see there.
        slab: see there.
        intercept: see there.
        prior: see there.
        degrees: nu.

    Raises:
        InvalidInput: when nu is not positive.

    Example:
        >>> x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
        >>> target = RobustSelection(x, x[:, 0])
        >>> point = Parameterised(torch.tensor([[True, False, False]]), torch.tensor([[1.0, 0, 0, 0, -1]]))
        >>> str(target.measure), target.log_density(point).shape
        ('counting measure on subsets of 3 items with up to 5 parameters', torch.Size([1]))
    """

    degrees: float = 4.0
    nuisances: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.degrees > 0:
            raise InvalidInput(f"degrees of freedom must be positive, got {self.degrees}.")

    def log_likelihood(self, predictor: Tensor, phi: Tensor) -> Tensor:
        """Sum of Student-t log-densities."""
        nu, y = self.degrees, self.y.to(predictor)
        z = (y - predictor) * (-phi).exp()
        constant = math.lgamma(0.5 * (nu + 1)) - math.lgamma(0.5 * nu) - 0.5 * math.log(nu * math.pi)
        return (constant - 0.5 * (nu + 1) * (z.square() / nu).log1p() - phi).sum(-1)

    def working(self, predictor: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Score, and the weights of iteratively reweighted least squares."""
        residual, nu = self.y.to(predictor) - predictor, self.degrees
        weight = (nu + 1) / (nu * (2 * phi).exp() + residual.square())
        return weight * residual, weight

    def log_nuisance(self, phi: Tensor) -> Tensor:
        """Standard normal in log s."""
        return _log_normal(phi, 1.0).sum(-1)


@dataclass(frozen=True, eq=False)
class LogisticSelection(Selection):
    r"""Binary responses: :math:`P(y_i = 1) = 1 / (1 + e^{-\eta_i})`.

    Raises:
        InvalidInput: when a response is not 0 or 1.

    Example:
        >>> x = torch.tensor([[1.0], [-1.0]])
        >>> target = LogisticSelection(x, torch.tensor([1.0, 0.0]))
        >>> none = Parameterised(torch.tensor([[False]]), torch.zeros(1, 2))
        >>> round(float(target.log_density(none) - target.prior.log_prob(torch.tensor(0), 1)), 3)
        -3.915
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not bool(((self.y == 0) | (self.y == 1)).all()):
            raise InvalidInput("the responses of a logistic regression must be 0 or 1.")

    def log_likelihood(self, predictor: Tensor, phi: Tensor) -> Tensor:
        """Sum of y eta - log(1 + e^eta)."""
        del phi
        return (self.y.to(predictor) * predictor - torch.nn.functional.softplus(predictor)).sum(-1)

    def working(self, predictor: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Score y - P, and P (1 - P)."""
        del phi
        chance = predictor.sigmoid()
        return self.y.to(predictor) - chance, chance * (1 - chance)


@dataclass(frozen=True, eq=False)
class PoissonSelection(Selection):
    r"""Counts: :math:`y_i \sim \mathrm{Poisson}(e^{\eta_i})`.

    Raises:
        InvalidInput: when a response is no whole number of at least 0.

    Example:
        >>> target = PoissonSelection(torch.tensor([[1.0], [-1.0]]), torch.tensor([3.0, 0.0]))
        >>> none = Parameterised(torch.tensor([[False]]), torch.zeros(1, 2))
        >>> round(float(target.log_density(none) - target.prior.log_prob(torch.tensor(0), 1)), 3)
        -6.32
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not bool(((self.y >= 0) & (self.y == self.y.round())).all()):
            raise InvalidInput("the responses of a Poisson regression must be whole numbers of at least 0.")

    def log_likelihood(self, predictor: Tensor, phi: Tensor) -> Tensor:
        """Sum of y eta - e^eta - log y!."""
        del phi
        y = self.y.to(predictor)
        return (y * predictor - predictor.exp() - (y + 1).lgamma()).sum(-1)

    def working(self, predictor: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Score y - e^eta, and e^eta."""
        del phi
        return self.y.to(predictor) - predictor.exp(), predictor.exp()


def _log_normal(value: Tensor, sd: float) -> Tensor:
    return -0.5 * (value / sd).square() - math.log(sd) - 0.5 * math.log(2 * math.pi)
