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

FUNCTIONS = 24
"""Random cosines beside the constant function: half of all the features, half of about three of them."""

SAMPLE = 2000
"""Draws of each side that the scales of the cosines are taken from."""

REACH = 30.0
"""Largest log-factor that is looked for."""

FEWEST = 400.0
"""Effective number of draws below which the normal approximation is not believed."""


@dataclass(frozen=True)
class Side:
    """Draws of one side; rows without a draw have log_ratio -inf on the left and +inf on the right."""

    log_ratio: Tensor  # [n] log dR/dL
    features: Tensor  # [n, F] the draw as numbers, 0 on rows without a draw
    cell: Tensor | None = None  # [n, C] long: pieces that it lies in, -1 none; on both sides or neither
    log_weight: Tensor | None = None  # [n] importance weights, normalised here; None means even

    @property
    def share(self) -> Tensor:
        """Normalised weight of each draw, [n]."""
        n = len(self.log_ratio)
        return self.log_ratio.new_full((n,), 1 / n) if self.log_weight is None else self.log_weight.softmax(0)


@dataclass(frozen=True)
class Comparison:
    """How far the two sides are apart."""

    z: float  # largest |z| over the functions that were judged
    limit: float  # what |z| may be, Bonferroni over the functions
    functions: int
    effective: float  # effective draws behind the constant function
    cells: Tensor  # [G] |z| of each piece, NaN where too few draws meet

    @property
    def conclusive(self) -> bool:
        """Whether enough draws of both sides overlap."""
        return self.effective >= FEWEST

    @property
    def ok(self) -> bool:
        """Whether the sides agree."""
        return self.z <= self.limit

    @property
    def worst_cell(self) -> int | None:
        """The piece with the largest |z|; None where there is none with enough draws."""
        judged = (~self.cells.isnan()).nonzero().squeeze(-1)
        return int(judged[self.cells[judged].argmax()]) if len(judged) else None

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
    """Compare two sides on the constant, on random cosines of the features, and piece by piece.

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
    cells = [side.cell for side in (left, right) if side.cell is not None and side.cell.numel()]
    count = 1 + max([-1, *[int(cell.max()) for cell in cells]])
    mean_left, var_left, mass_left, square_left = _moments(f_left, left, left.log_ratio, count)
    mean_right, var_right, mass_right, square_right = _moments(f_right, right, -right.log_ratio, count)
    rounding = 1e-9  # sides without variance (counting measure) agree to rounding
    z = (mean_left - mean_right).abs() / (var_left + var_right + rounding**2).sqrt()
    z = torch.where(z.isnan(), math.inf, z)
    effective = (mass_left + mass_right).square() / (square_left + square_right).clamp(min=1e-300)
    judged = ~(effective < FEWEST)  # NaN is judged, and is a difference
    number = max(1, int(judged.sum()))
    largest = float(z[judged].max()) if bool(judged.any()) else 0.0
    pieces = torch.where(judged, z, math.nan)[len(z) - count :]
    return Comparison(largest, z_limit(false_alarm, number), number, float(effective[0]), pieces)


def log_factor(left: Side, right: Side, cell: int | None = None) -> float:
    r"""What the log-ratio lacks: the c for which :math:`e^c \rho` satisfies the identity with f = 1.

    Bennett's estimate of a ratio of normalisers, by bisection: one side rises with c, the other falls.

    Args:
        left: draws of L.
        right: draws of R.
        cell: the piece to look at; None for all.

    Example:
        >>> x, y = torch.rand(2, 20_000, 1, dtype=torch.float64).unbind()  # L uniform, R of density 2 y
        >>> y = y.sqrt()
        >>> c = log_factor(Side(x[:, 0].log(), x), Side(y[:, 0].log(), y))
        >>> abs(math.exp(c) - 2) < 0.1
        True
    """
    shares = []
    for side in (left, right):
        inside = 1.0 if cell is None or side.cell is None else (side.cell == cell).any(-1)
        shares.append(side.share * inside)
    low, high = -REACH, REACH
    while high - low > 1e-5:
        c = 0.5 * (low + high)
        of_left = (shares[0] * (left.log_ratio + c).sigmoid()).sum()
        of_right = (shares[1] * (-right.log_ratio - c).sigmoid()).sum()
        low, high = (c, high) if bool(of_left < of_right) else (low, c)
    return 0.5 * (low + high)


def _moments(f: Tensor, side: Side, log_odds: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean of f sigmoid(log_odds), the variance of that mean, and sums of |terms| and their squares.

    Columns: those of f, then the indicators of the cells.
    """
    v, odds = side.share, log_odds.sigmoid()
    w = v * odds
    mean, mass, square = w @ f, w @ f.abs(), w.square() @ f.square()
    variance = square - 2 * mean * ((v * w) @ f) + mean.square() * v.square().sum()
    if cells and side.cell is not None:
        row, column = (side.cell >= 0).nonzero(as_tuple=True)
        cell, weight, term = side.cell[row, column], v[row], w[row]

        def per_cell(values: Tensor) -> Tensor:
            return v.new_zeros(cells).index_add(0, cell, values)

        part, part_square = per_cell(term), per_cell(term.square())
        spread = part_square - 2 * part * per_cell(weight * term) + part.square() * v.square().sum()
        mean, variance = torch.cat([mean, part]), torch.cat([variance, spread])
        mass, square = torch.cat([mass, part]), torch.cat([square, part_square])
    return mean, variance.clamp(min=0.0), mass, square


def _functions(left: Side, right: Side) -> tuple[Tensor, Tensor]:
    """The constant, and random cosines at several wavelengths: [n, 1 + FUNCTIONS] on each side."""
    drawn = (left.log_ratio > -math.inf, right.log_ratio < math.inf)
    pooled = torch.cat(
        [side.features[rows][:SAMPLE] for side, rows in zip((left, right), drawn, strict=True)]
    )
    width = pooled.shape[-1]
    centre = pooled.median(0).values if len(pooled) else pooled.new_zeros(width)
    spread = (pooled - centre).abs().mean(0) if len(pooled) else pooled.new_zeros(width)
    spread = torch.where(spread > 0, spread, 1.0)
    kept = torch.rand(width, FUNCTIONS) < 3 / max(3, width)
    kept[:, : FUNCTIONS // 2] = True
    pace = 0.3 * 10.0 ** torch.rand(FUNCTIONS, dtype=pooled.dtype) / kept.sum(0).clamp(min=1).sqrt()
    frequency = torch.randn(width, FUNCTIONS, dtype=pooled.dtype) * kept * pace / spread.unsqueeze(-1)
    phase = 2 * math.pi * torch.rand(FUNCTIONS, dtype=pooled.dtype)
    frequency = torch.cat([frequency.new_zeros(width, 1), frequency], dim=-1)  # cos(0) is the constant
    phase = torch.cat([phase.new_zeros(1), phase]) - centre @ frequency

    def on(side: Side) -> Tensor:
        return torch.addmm(phase, side.features, frequency).cos_()

    return on(left), on(right)
