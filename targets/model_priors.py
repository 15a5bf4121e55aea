r"""Priors on how many of the items a model has, spread evenly over the models of one size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput


class SizePrior(Protocol):
    """A prior on subsets that depends on their size alone."""

    def log_prob(self, size: Tensor, items: int) -> Tensor:
        """Log-probability [..] of one subset with ``size`` [..] of the items."""
        ...


@dataclass(frozen=True)
class Bernoulli:
    r"""Each item is there with probability ``inclusion``, independently: :math:`\pi^k (1 - \pi)^{p - k}`.

    Raises:
        InvalidInput: when the probability is not strictly between 0 and 1.

    Example:
        >>> Bernoulli(0.5).log_prob(torch.tensor([0, 3]), items=3).exp().round(decimals=4).tolist()
        [0.125, 0.125]
    """

    inclusion: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.inclusion < 1:
            raise InvalidInput(f"inclusion must lie strictly between 0 and 1, got {self.inclusion}.")

    def log_prob(self, size: Tensor, items: int) -> Tensor:
        """Log-probability of one subset, float64."""
        k = size.double()
        return k * math.log(self.inclusion) + (items - k) * math.log1p(-self.inclusion)


@dataclass(frozen=True)
class BetaBinomial:
    r"""The inclusion probability is Beta(a, b) and integrated out: :math:`B(a + k, b + p - k) / B(a, b)`.

    With a = b = 1 every size is equally likely, which accounts for the many models of middle size.

    Raises:
        InvalidInput: when a or b is not positive.

    References:
        Bayes and empirical-Bayes multiplicity adjustment in the variable-selection problem (Scott and
        Berger, 2010), Annals of Statistics 38, section 2.

    Example:
        >>> prior = BetaBinomial()
        >>> prior.log_prob(torch.tensor([0, 1, 2]), items=2).exp().round(decimals=4).tolist()
        [0.3333, 0.1667, 0.3333]
    """

    a: float = 1.0
    b: float = 1.0

    def __post_init__(self) -> None:
        if not (self.a > 0 and self.b > 0):
            raise InvalidInput(f"a and b must be positive, got {self.a} and {self.b}.")

    def log_prob(self, size: Tensor, items: int) -> Tensor:
        """Log-probability of one subset, float64."""
        k = size.double()
        a, b = torch.as_tensor(self.a, dtype=k.dtype), torch.as_tensor(self.b, dtype=k.dtype)
        return _log_beta(a + k, b + (items - k)) - _log_beta(a, b)


@dataclass(frozen=True)
class PoissonSize:
    r"""The size is Poisson, and every subset of one size equally likely: :math:`e^{-l} l^k / k! / \binom pk`.

    Raises:
        InvalidInput: when the mean is not positive.

    References:
        Reversible jump Markov chain Monte Carlo computation and Bayesian model determination (Green, 1995),
        Biometrika 82, section 4 (his prior on the number of change-points).

    Example:
        >>> PoissonSize(1.0).log_prob(torch.tensor([0, 1]), items=4).round(decimals=4).tolist()
        [-1.0, -2.3863]
    """

    mean: float = 3.0

    def __post_init__(self) -> None:
        if not self.mean > 0:
            raise InvalidInput(f"the mean size must be positive, got {self.mean}.")

    def log_prob(self, size: Tensor, items: int) -> Tensor:
        """Log-probability of one subset, float64."""
        k = size.double()
        poisson = k * math.log(self.mean) - self.mean - (k + 1).lgamma()
        return poisson - log_binomial(items, k)


def log_binomial(items: int, size: Tensor) -> Tensor:
    """Log of the number of subsets of each size, float64.

    Example:
        >>> log_binomial(4, torch.tensor([0, 2])).exp().round().tolist()
        [1.0, 6.0]
    """
    k = size.double()
    return math.lgamma(items + 1) - (k + 1).lgamma() - (items - k + 1).lgamma()


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return a.lgamma() + b.lgamma() - (a + b).lgamma()
