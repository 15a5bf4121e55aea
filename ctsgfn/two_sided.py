r"""One measure seen from two sides: an identity of bounded terms that holds whatever the overlap.

Let L and R be measures with a density ratio :math:`\rho = dR/dL`. For every bounded f,

.. math::
    \int f\,\frac{\rho}{1 + \rho}\,dL = \int \frac{f}{1 + \rho}\,dR .

Both integrands are bounded by \|f\|, so means over draws of the two sides have a variance, which the
plain identity :math:`\int f \rho\,dL = \int f\,dR` need not. A wrong density on either side breaks it.
The identity is the one behind Bennett's acceptance ratio.

References:
    Efficient estimation of free energy differences from Monte Carlo data (Bennett, 1976), Journal of
    Computational Physics 22(2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

FUNCTIONS = 12
"""Random cosines beside the constant function."""

FEWEST = 100.0
"""Effective number of draws below which the normal approximation is not believed."""


@dataclass(frozen=True)
class Side:
    """Draws of one side; rows without a draw have log_ratio -inf on the left and +inf on the right."""

    log_ratio: Tensor  # [n] log dR/dL
    features: Tensor  # [n, F] the draw as numbers, 0 on rows without a draw
    groups: Tensor | None = None  # [n, G] bool: pieces to compare one by one
    log_weight: Tensor | None = None  # [n] importance weights, normalised here; None means even


@dataclass(frozen=True)
class Comparison:
    """How far the two sides are apart."""

    z: float  # largest |z| over the functions that were judged
    limit: float  # what |z| may be, Bonferroni over the functions
    functions: int
    effective: float  # effective draws behind the constant function

    @property
    def conclusive(self) -> bool:
        """Whether enough draws of both sides overlap."""
        return self.effective >= FEWEST

    @property
    def ok(self) -> bool:
        """Whether the sides agree."""
        return self.z <= self.limit

    def __str__(self) -> str:
        return f"max |z| = {self.z:.1f} over {self.functions} functions"


def z_limit(false_alarm: float, comparisons: int) -> float:
    """The |z| that ``comparisons`` standard normals exceed together with at most this probability.

    Example:
        >>> round(z_limit(1e-4, 20), 2)
        4.56
    """
    return NormalDist().inv_cdf(1 - false_alarm / (2 * comparisons))


def compare(left: Side, right: Side, false_alarm: float) -> Comparison:
    """Compare two sides on the constant, on random cosines of the features, and group by group.

    Args:
        left: draws of L.
        right: draws of R.
        false_alarm: probability that a correct pair is reported as different.

    Example:
        >>> x, y = torch.rand(2, 4000, 1, dtype=torch.float64).unbind()  # L uniform, R of density 2 y
        >>> y = y.sqrt()
        >>> compare(Side((2 * x[:, 0]).log(), x), Side((2 * y[:, 0]).log(), y), 1e-6).ok
        True
        >>> compare(Side(x[:, 0].log(), x), Side(y[:, 0].log(), y), 1e-6).ok  # a factor of 2 forgotten
        False
    """
    f_left, f_right = _functions(left, right)
    mean_left, var_left, mass_left, square_left = _moments(f_left, left.log_ratio, left.log_weight)
    mean_right, var_right, mass_right, square_right = _moments(f_right, -right.log_ratio, right.log_weight)
    rounding = 1e-9  # sides without variance (counting measure) agree to rounding
    z = (mean_left - mean_right).abs() / (var_left + var_right + rounding**2).sqrt()
    effective = (mass_left + mass_right).square() / (square_left + square_right).clamp(min=1e-300)
    judged = effective >= FEWEST
    count = max(1, int(judged.sum()))
    largest = float(z[judged].max()) if bool(judged.any()) else 0.0
    if math.isnan(largest):
        largest = math.inf
    return Comparison(largest, z_limit(false_alarm, count), count, float(effective[0]))


def _moments(f: Tensor, log_odds: Tensor, log_weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean of f sigmoid(log_odds), the variance of that mean, and sums of |terms| and their squares."""
    g = f * log_odds.sigmoid().unsqueeze(-1)
    if log_weight is None:
        v = g.new_full((len(g), 1), 1 / len(g))
    else:
        v = log_weight.softmax(0).unsqueeze(-1)
    mean = (v * g).sum(0)
    terms = v * g
    return mean, (v * (g - mean)).square().sum(0), terms.abs().sum(0), terms.square().sum(0)


def _functions(left: Side, right: Side) -> tuple[Tensor, Tensor]:
    """The constant, random cosines at several wavelengths, and the groups: [n, T] on each side."""
    pooled = torch.cat(
        [left.features[left.log_ratio > -math.inf], right.features[right.log_ratio < math.inf]]
    )
    width = pooled.shape[-1]
    centre = pooled.median(0).values if len(pooled) else pooled.new_zeros(width)
    spread = (pooled - centre).abs().mean(0) if len(pooled) else pooled.new_zeros(width)
    spread = torch.where(spread > 0, spread, 1.0)
    pace = 0.3 * 10.0 ** torch.rand(FUNCTIONS, dtype=pooled.dtype) / math.sqrt(max(1, width))
    frequency = torch.randn(width, FUNCTIONS, dtype=pooled.dtype) * pace / spread.unsqueeze(-1)
    phase = 2 * math.pi * torch.rand(FUNCTIONS, dtype=pooled.dtype)

    def on(side: Side) -> Tensor:
        waves = ((side.features - centre) @ frequency + phase).cos()
        columns = [waves.new_ones(len(waves), 1), waves]
        if side.groups is not None:
            columns.append(side.groups.to(waves.dtype))
        return torch.cat(columns, dim=-1)

    return on(left), on(right)
