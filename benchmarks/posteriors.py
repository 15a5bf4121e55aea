r"""Eight posteriors of posteriordb as log-densities in unconstrained coordinates u.

Constants are kept, so that the integral is the evidence; flat priors have density 1; a prior restricted
to part of the line is not renormalised. Data come as the dictionaries of posteriordb's JSON files.

References:
    posteriordb: testing, benchmarking and developing Bayesian inference algorithms (Magnusson et al.,
    2025), arXiv 2407.04967.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ctsgfn.measures import Lebesgue

Data = Mapping[str, Any]


def column(values: Any) -> Tensor:
    """Data as a float64 tensor; a density converts it to the points' own dtype."""
    return torch.tensor(values, dtype=torch.float64)


def log_normal(x: Tensor, scale: Tensor | float) -> Tensor:
    """Log of N(x; 0, scale^2)."""
    log_scale = scale.log() if isinstance(scale, Tensor) else math.log(scale)
    return -0.5 * (x / scale).square() - log_scale - 0.5 * math.log(2 * math.pi)


def log_cauchy(x: Tensor, scale: float) -> Tensor:
    """Log of the Cauchy density about 0."""
    return -(x / scale).square().log1p() - math.log(math.pi * scale)


class Posterior(ABC):
    """A target on R^d that names its parameters: fit for ``ctsgfn.fit`` and for ``summary`` by names."""

    dim: int

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on R^dim."""
        return Lebesgue(self.dim)

    @abstractmethod
    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Parameters [B] by name at points u [B, dim]."""

    @abstractmethod
    def log_density(self, u: Tensor) -> Tensor:
        """Log of likelihood, prior and Jacobian [B] at points u [B, dim]."""


@dataclass(frozen=True, eq=False)
class Regression(Posterior):
    r"""Linear regression: y ~ N(X b, s^2), u = (b, log s)."""

    design: Tensor  # [N, K]
    response: Tensor  # [N]
    log_prior: Callable[[Tensor, Tensor], Tensor]  # of coefficients [B, K] and s [B]
    names: tuple[str, ...]  # of the coefficients

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Coefficients and the noise."""
        return len(self.names) + 1

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Coefficients as they are, the noise through the exponential."""
        return {**dict(zip(self.names, u[:, :-1].unbind(-1), strict=True)), "sigma": u[:, -1].exp()}

    def log_density(self, u: Tensor) -> Tensor:
        """Log-density [B]; the last term is the Jacobian."""
        b, s = u[:, :-1], u[:, -1].exp()
        residual = self.response.to(u) - b @ self.design.to(u).T
        return log_normal(residual, s[:, None]).sum(-1) + self.log_prior(b, s) + u[:, -1]


def numbered(name: str, n: int) -> tuple[str, ...]:
    """name[1], .., name[n]."""
    return tuple(f"{name}[{i}]" for i in range(1, n + 1))


def flat(b: Tensor, s: Tensor) -> Tensor:
    """Density 1 in coefficients and noise."""
    return torch.zeros_like(s)


def kidiq(data: Data) -> Posterior:
    """Test score of a child on the IQ of the mother."""
    design = torch.stack([torch.ones(data["N"]), column(data["mom_iq"])], -1)
    return Regression(design, column(data["kid_score"]), lambda b, s: log_cauchy(s, 2.5), numbered("beta", 2))


def earnings(data: Data) -> Posterior:
    """Log earnings on standardised height, sex and their product."""
    height, male = column(data["height"]), column(data["male"])
    z = (height - height.mean()) / height.std()
    design = torch.stack([torch.ones_like(z), z, male, z * male], -1)
    return Regression(design, column(data["earn"]).log(), flat, numbered("beta", 4))


def nes(data: Data) -> Posterior:
    """Party identification on ideology, race, age, education, gender and income."""
    age = column(data["age_discrete"])
    columns = [torch.ones_like(age), column(data["real_ideo"]), column(data["race_adj"])]
    columns += [(age == k).double() for k in (2, 3, 4)]
    columns += [column(data[key]) for key in ("educ1", "gender", "income")]
    return Regression(torch.stack(columns, -1), column(data["partyid7"]), flat, numbered("beta", 9))


def blr(data: Data) -> Posterior:
    """Regression on a correlated design, with normal priors."""

    def prior(b: Tensor, s: Tensor) -> Tensor:
        return log_normal(b, 10.0).sum(-1) + log_normal(s, 10.0)

    return Regression(column(data["X"]), column(data["y"]), prior, numbered("beta", data["D"]))


def autoregression(data: Data) -> Posterior:
    """AR(K), given the first K values."""
    y, k = column(data["y"]), data["K"]
    lagged = [y[k - lag : len(y) - lag] for lag in range(1, k + 1)]

    def prior(b: Tensor, s: Tensor) -> Tensor:
        return log_normal(b, 10.0).sum(-1) + log_cauchy(s, 2.5)

    design = torch.stack([torch.ones_like(y[k:]), *lagged], -1)
    return Regression(design, y[k:], prior, ("alpha", *numbered("beta", k)))


@dataclass(frozen=True, eq=False)
class EightSchools(Posterior):
    """Eight schools, non-centred: u = (eta, mu, log tau)."""

    effects: Tensor  # [J]
    errors: Tensor  # [J]

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Effects, their mean and their scale."""
        return len(self.effects) + 2

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Standardised effects, their mean and scale, and the effects themselves."""
        j = len(self.effects)
        eta, mu, tau = u[:, :j], u[:, j], u[:, j + 1].exp()
        theta = mu[:, None] + tau[:, None] * eta
        return {
            **dict(zip(numbered("theta_trans", j), eta.unbind(-1), strict=True)),
            "mu": mu,
            "tau": tau,
            **dict(zip(numbered("theta", j), theta.unbind(-1), strict=True)),
        }

    def log_density(self, u: Tensor) -> Tensor:
        """Log-density [B]; the last term is the Jacobian."""
        j = len(self.effects)
        eta, mu, tau = u[:, :j], u[:, j], u[:, j + 1].exp()
        residual = self.effects.to(u) - mu[:, None] - tau[:, None] * eta
        likelihood = log_normal(residual, self.errors.to(u)).sum(-1)
        prior = log_normal(eta, 1.0).sum(-1) + log_normal(mu, 5.0) + log_cauchy(tau, 5.0)
        return likelihood + prior + u[:, j + 1]


def eight_schools(data: Data) -> Posterior:
    """Rubin (1981)."""
    return EightSchools(column(data["y"]), column(data["sigma"]))


@dataclass(frozen=True, eq=False)
class Garch(Posterior):
    r"""GARCH(1, 1): u = (mu, log a_0, logit a_1, logit(b_1 / (1 - a_1))).

    .. math:: y_t \sim N(\mu, s_t^2), \qquad s_t^2 = a_0 + a_1 (y_{t-1} - \mu)^2 + b_1 s_{t-1}^2
    """

    series: Tensor  # [T]
    first: float  # s_1
    dim = 4

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Mean and the coefficients of the variance, whose sum of a_1 and b_1 stays below 1."""
        mu, log_a0, a, b = u.unbind(-1)
        return {
            "mu": mu,
            "alpha0": log_a0.exp(),
            "alpha1": a.sigmoid(),
            "beta1": (-a).sigmoid() * b.sigmoid(),
        }

    def log_density(self, u: Tensor) -> Tensor:
        """Log-density [B]; flat priors, so all but the likelihood is the Jacobian."""
        mu, a0, a1, b1 = self.constrain(u).values()
        residual = self.series.to(u)[:, None] - mu  # [T, B]
        variance = torch.full_like(mu, self.first**2)
        variances = [variance]
        for square in residual[:-1].square():
            variance = a0 + a1 * square + b1 * variance
            variances.append(variance)
        likelihood = log_normal(residual, torch.stack(variances).sqrt()).sum(0)
        a, b = u[:, 2], u[:, 3]
        return likelihood + u[:, 1] + logsigmoid(a) + 2 * logsigmoid(-a) + logsigmoid(b) + logsigmoid(-b)


def garch(data: Data) -> Posterior:
    """A series with a known first scale."""
    return Garch(column(data["y"]), data["sigma1"])


@dataclass(frozen=True, eq=False)
class TwoNormals(Posterior):
    r"""Mixture of two normals: u = (m_1, log(m_2 - m_1), log s_1, log s_2, logit w)."""

    values: Tensor  # [N]
    dim = 5

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Ordered means, scales, and the weight of the first."""
        m, gap, s1, s2, w = u.unbind(-1)
        return {
            "mu[1]": m,
            "mu[2]": m + gap.exp(),
            "sigma[1]": s1.exp(),
            "sigma[2]": s2.exp(),
            "theta": w.sigmoid(),
        }

    def log_density(self, u: Tensor) -> Tensor:
        """Log-density [B]; the last lines are the prior Beta(5, 5) of the weight and the Jacobian."""
        m1, m2, s1, s2, _ = self.constrain(u).values()
        y, w = self.values.to(u)[:, None], u[:, 4]
        first = logsigmoid(w) + log_normal(y - m1, s1)
        second = logsigmoid(-w) + log_normal(y - m2, s2)
        scales = log_normal(torch.stack([m1, m2, s1, s2]), 2.0).sum(0)
        weight = 4 * (logsigmoid(w) + logsigmoid(-w)) + math.lgamma(10) - 2 * math.lgamma(5)
        jacobian = u[:, 1:4].sum(-1) + logsigmoid(w) + logsigmoid(-w)
        return torch.logaddexp(first, second).sum(0) + scales + weight + jacobian


def two_normals(data: Data) -> Posterior:
    """A sample of two overlapping groups."""
    return TwoNormals(column(data["y"]))


POSTERIORS: dict[str, Callable[[Data], Posterior]] = {
    "eight_schools-eight_schools_noncentered": eight_schools,
    "kidiq-kidscore_momiq": kidiq,
    "earnings-logearn_interaction_z": earnings,
    "garch-garch11": garch,
    "arK-arK": autoregression,
    "low_dim_gauss_mix-low_dim_gauss_mix": two_normals,
    "sblrc-blr": blr,
    "nes1980-nes": nes,
}
"""By posteriordb's name, from its data."""
