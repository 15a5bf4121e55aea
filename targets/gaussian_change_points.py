"""Measurements whose mean and variance change at unknown times."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.targets.change_points import ChangePoints


@dataclass(frozen=True, eq=False)
class GaussianChangePoints(ChangePoints):
    r"""Normal measurements, each segment with a mean and a variance of its own.

    .. math::
        \mu | \sigma^2 \sim N(m, \sigma^2 / c), \qquad \sigma^2 \sim \mathrm{InvGamma}(s, r)

    With n rows of mean :math:`\bar y` and squared deviations D in a segment,
    :math:`r' = r + \tfrac12 D + \tfrac{c n}{2 (c + n)} (\bar y - m)^2`,

    .. math::
        S_{ab} = \log \frac{\Gamma(s + n/2)}{\Gamma(s)} + s \log r - (s + \tfrac n2) \log r'
            + \tfrac12 \log \frac{c}{c + n} - \tfrac n2 \log 2 \pi .

    Args:
        y: [N] measurements.
        most: see ``ChangePoints``.
        prior: see ``ChangePoints``.
        mean: m.
        strength: c.
        shape: s.
        rate: r.

    Raises:
        InvalidInput: when c, s or r is not positive.

    References:
        Conjugate Bayesian analysis of the Gaussian distribution (Murphy, 2007), section 6.

    Example:
        >>> y = torch.tensor([0.1, -0.2, 0.0, 0.1, 5.2, 4.9, 5.0, 5.1])
        >>> target = GaussianChangePoints(y, most=3, rate=0.1)
        >>> level, sd = target.levels(torch.tensor(4), torch.tensor(8))
        >>> int(target.inclusion_probabilities().argmax()), round(float(level), 2)
        (3, 4.95)
    """

    mean: float = 0.0
    strength: float = 0.08
    shape: float = 1.0
    rate: float = 1.0

    def __post_init__(self) -> None:
        if not (self.strength > 0 and self.shape > 0 and self.rate > 0):
            raise InvalidInput(
                f"strength, shape and rate must be positive, got {self.strength}, {self.shape}, {self.rate}."
            )
        super().__post_init__()

    def segments(self) -> Tensor:
        """Of a normal-inverse-gamma prior and normal measurements."""
        place = torch.arange(len(self.y) + 1)
        n, strength, _, shape, rate = self._posterior(place[:, None], place)
        constant = self.shape * math.log(self.rate) - math.lgamma(self.shape)
        volume = 0.5 * (math.log(self.strength) - strength.log()) - 0.5 * n * math.log(2 * math.pi)
        return constant + volume + shape.lgamma() - shape * rate.log()

    def levels(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sd of the Student-t posterior of the mean (sd infinite with too few rows)."""
        _, strength, mean, shape, rate = self._posterior(a, b)
        variance = torch.where(shape > 1, rate / (strength * (shape - 1).clamp(min=1e-9)), math.inf)
        return mean, variance.sqrt()

    def _posterior(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Rows, and the posterior's c, m, s and r, of segments from row a to b - 1; empty if b < a."""
        y = self.y.double().to(a.device) - self.mean
        total = torch.cat([y.new_zeros(1), y.cumsum(0)])
        square = torch.cat([y.new_zeros(1), y.square().cumsum(0)])
        n = (b - a).clamp(min=0).double()
        there = n > 0
        sum_, squares = (total[b] - total[a]) * there, (square[b] - square[a]) * there
        strength = self.strength + n
        rate = self.rate + 0.5 * (squares - sum_.square() / strength)
        return n, strength, self.mean + sum_ / strength, self.shape + 0.5 * n, rate
