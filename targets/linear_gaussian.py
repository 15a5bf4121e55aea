r"""Bayesian linear regression: a posterior and an evidence in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Lebesgue


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    r"""Joint density of data and coefficients, as a function of the coefficients.

    .. math:: r(\theta) = N(\theta; 0, \tau^2 I) \; N(y; A\theta, \sigma^2 I), \qquad
        Z = N(y; 0, \sigma^2 I + \tau^2 A A^\top)

    The posterior is Gaussian with precision :math:`\Lambda = A^\top A / \sigma^2 + I / \tau^2` and mean
    :math:`\Lambda^{-1} A^\top y / \sigma^2`.

    Args:
        design: A, [n, d].
        response: y, [n].
        noise: sigma.
        prior_scale: tau.

    Raises:
        InvalidInput: when the shapes disagree or a scale is not positive.

    References:
        Pattern recognition and machine learning (Bishop, 2006), equations 3.53, 3.54 and 3.57.

    Example:
        >>> target = LinearGaussian(torch.ones(1, 1), torch.tensor([2.0]), noise=1.0)
        >>> target.posterior.mean.tolist(), round(target.log_z, 4)
        ([1.0], -2.2655)
    """

    design: Tensor  # [n, d]
    response: Tensor  # [n]
    noise: float = 0.5
    prior_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.design.ndim != 2 or self.response.shape != self.design.shape[:1]:
            raise InvalidInput(
                f"LinearGaussian needs a design [n, d] and a response [n], got {list(self.design.shape)} "
                f"and {list(self.response.shape)}."
            )
        if not (self.noise > 0 and self.prior_scale > 0):
            raise InvalidInput(
                f"LinearGaussian needs noise > 0 and prior_scale > 0, got {self.noise}, {self.prior_scale}."
            )

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on R^d."""
        return Lebesgue(self.design.shape[1])

    def log_density(self, x: Tensor) -> Tensor:
        """Log r [B] at coefficients [B, d]."""
        residual = self.response.to(x) - x @ self.design.to(x).T
        n, d = self.design.shape
        constant = (
            0.5 * (n + d) * math.log(2 * math.pi) + n * math.log(self.noise) + d * math.log(self.prior_scale)
        )
        fit = residual.square().sum(-1) / self.noise**2 + x.square().sum(-1) / self.prior_scale**2
        return -0.5 * fit - constant

    @property
    def posterior(self) -> MultivariateNormal:
        """The exact posterior (float64)."""
        a, y = self.design.double(), self.response.double()
        prior = torch.eye(a.shape[1], dtype=a.dtype, device=a.device) / self.prior_scale**2
        precision = a.T @ a / self.noise**2 + prior
        mean = torch.linalg.solve(precision, a.T @ y / self.noise**2)
        return MultivariateNormal(mean, precision_matrix=precision)

    @property
    def log_z(self) -> float:
        """Log evidence."""
        a, y = self.design.double(), self.response.double()
        noise = self.noise**2 * torch.eye(len(y), dtype=a.dtype, device=a.device)
        marginal = MultivariateNormal(torch.zeros_like(y), noise + self.prior_scale**2 * a @ a.T)
        return float(marginal.log_prob(y))

    def sample(self, n: int) -> Tensor:
        """Draw n vectors of coefficients [n, d] from the posterior."""
        return self.posterior.sample((n,)).to(torch.get_default_dtype())


def linear_gaussian_toy(dim: int = 3, rows: int = 20, seed: int = 0) -> LinearGaussian:
    """Regression on synthetic data: standard normal design and coefficients, noise 0.5.

    Args:
        dim: number of coefficients.
        rows: number of observations.
        seed: of the data.

    Example:
        >>> linear_gaussian_toy(dim=4).measure.dim
        4
    """
    generator = torch.Generator().manual_seed(seed)
    design = torch.randn(rows, dim, generator=generator)
    noiseless = design @ torch.randn(dim, generator=generator)
    return LinearGaussian(design, noiseless + 0.5 * torch.randn(rows, generator=generator), noise=0.5)
