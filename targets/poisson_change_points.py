"""Counts whose rate changes at unknown times, such as the disasters in British coal mines."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.targets.change_points import ChangePoints


@dataclass(frozen=True, eq=False)
class PoissonChangePoints(ChangePoints):
    r"""Poisson counts, each segment with a rate of its own: :math:`\lambda \sim \mathrm{Gamma}(s, r)`.

    .. math::
        S_{ab} = s \log r - \log \Gamma(s) + \log \Gamma(s + Y) - (s + Y) \log(r + b - a)
            - \sum_{a \le t < b} \log y_t!, \qquad Y = \sum_{a \le t < b} y_t

    Args:
        y: [N] counts.
        most: see ``ChangePoints``.
        prior: see ``ChangePoints``.
        shape: s.
        rate: r.

    Raises:
        InvalidInput: when a count is no whole number of at least 0, or s or r is not positive.

    Example:
        >>> target = PoissonChangePoints(torch.tensor([0, 1, 0, 1, 9, 7, 8, 9]), most=3)
        >>> probability = target.inclusion_probabilities()
        >>> int(probability.argmax()), bool(probability.max() > 0.9)
        (3, True)
    """

    shape: float = 1.0
    rate: float = 1.0

    def __post_init__(self) -> None:
        if not (self.shape > 0 and self.rate > 0):
            raise InvalidInput(f"shape and rate must be positive, got {self.shape} and {self.rate}.")
        if not bool(((self.y >= 0) & (self.y == self.y.round())).all()):
            raise InvalidInput("the counts must be whole numbers of at least 0.")
        super().__post_init__()

    def segments(self) -> Tensor:
        """Of a Gamma prior and Poisson counts."""
        y = self.y.double()
        total = torch.cat([y.new_zeros(1), y.cumsum(0)])
        constant = torch.cat([y.new_zeros(1), (y + 1).lgamma().cumsum(0)])
        place = torch.arange(len(y) + 1, dtype=torch.float64)
        count, span, rest = (t - t[:, None] for t in (total, place, constant))
        shape = self.shape + count.clamp(min=0)
        prior = self.shape * math.log(self.rate) - math.lgamma(self.shape)
        return prior + shape.lgamma() - shape * (self.rate + span.clamp(min=0)).log() - rest

    def levels(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sd of the Gamma posterior of the rate."""
        y = self.y.double().to(a.device)
        total = torch.cat([y.new_zeros(1), y.cumsum(0)])
        shape, rate = self.shape + total[b] - total[a], self.rate + (b - a)
        return shape / rate, shape.sqrt() / rate


COAL = (
    4, 5, 4, 1, 0, 4, 3, 4, 0, 6, 3, 3, 4, 0, 2, 6, 3, 3, 5, 4, 5, 3, 1, 4, 4, 1, 5, 5, 3, 4, 2, 5, 2, 2,
    3, 4, 2, 1, 3, 2, 2, 1, 1, 1, 1, 3, 0, 0, 1, 0, 1, 1, 0, 0, 3, 1, 0, 3, 2, 2, 0, 1, 1, 1, 0, 1, 0, 1,
    0, 0, 0, 2, 1, 0, 0, 0, 1, 1, 0, 2, 3, 3, 1, 1, 2, 1, 1, 1, 1, 2, 3, 3, 0, 0, 0, 1, 4, 0, 0, 0, 1, 0,
    0, 0, 0, 0, 1, 0, 0, 1, 0, 1,
)  # fmt: skip
"""Disasters with ten or more men killed in British coal mines, 1851 to 1962, one number per year."""


def coal_mining(most: int = 10) -> PoissonChangePoints:
    """Change-points of the 191 disasters in British coal mines from 1851 to 1962, by year.

    The rate of a segment is Gamma(1, 1/2) a priori, 2 a year in the mean; the number of change-points is
    Poisson(3), cut off at ``most``.

    References:
        A note on the intervals between coal-mining disasters (Jarrett, 1979), Biometrika 66 (the data);
        Reversible jump Markov chain Monte Carlo computation and Bayesian model determination (Green, 1995),
        Biometrika 82, section 4.

    Example:
        >>> target = coal_mining()
        >>> int(target.y.sum()), [round(p, 2) for p in target.number_probabilities()[:5].tolist()]
        (191, [0.0, 0.05, 0.24, 0.28, 0.22])
    """
    return PoissonChangePoints(torch.tensor(COAL), most, shape=1.0, rate=0.5)
