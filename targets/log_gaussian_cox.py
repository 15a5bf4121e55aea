r"""A log-Gaussian Cox process: the rate of a point pattern, cell by cell."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput, NonFinite
from ctsgfn.measures import Lebesgue


@dataclass(frozen=True, eq=False)
class LogGaussianCox:
    r"""Posterior of the log-rates x of the M x M cells of the unit square, given counts n.

    .. math::
        \log r(x) = \log N(x; \mu 1, K) + \sum_i \bigl(n_i x_i - e^{x_i} / M^2\bigr), \qquad
        K_{ij} = s^2 \exp\Bigl(-\frac{\|c_i - c_j\|}{M \beta}\Bigr), \quad \mu = \log \sum_i n_i - s^2 / 2

    where c_i are the indices of cell i; the factor that depends on the counts alone is left out, as in the
    literature. Log Z is not known.

    Args:
        counts: [M, M], points in each cell.
        variance: s^2 of a log-rate.
        length: beta, the distance in the square over which log-rates are alike.

    Raises:
        InvalidInput: when counts is not a square of whole numbers >= 0 with a point in it, or a parameter is
            not positive.

    References:
        Log Gaussian Cox processes (Moller, Syversveen and Waagepetersen, 1998), Scand. J. Statist. 25;
        Controlled sequential Monte Carlo (Heng et al., 2020), arXiv 1708.08396 (the defaults, at M = 40, with
        the 126 Scots pine saplings of Penttinen et al., 1992).

    Example:
        >>> target = LogGaussianCox(torch.tensor([[3.0, 0.0], [1.0, 0.0]]))
        >>> x = torch.stack([torch.ones(4), torch.tensor([2.0, 0.0, 1.0, 0.0])])
        >>> value = target.log_density(x)
        >>> bool(value[1] > value[0]), str(target.measure)
        (True, 'Lebesgue measure on R^4')
    """

    counts: Tensor
    variance: float = 1.91
    length: float = 1 / 33
    precision: Tensor = field(init=False, repr=False)
    """[M^2, M^2] float64, the inverse of K."""
    log_norm: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n = self.counts
        if n.ndim != 2 or n.shape[0] != n.shape[1] or not bool(((n >= 0) & (n == n.round())).all()):
            raise InvalidInput(
                f"LogGaussianCox needs counts [M, M], whole numbers of points, got {list(n.shape)}: bin the "
                "points on a square grid."
            )
        if not float(n.sum()) > 0:
            raise InvalidInput("LogGaussianCox needs at least one point: the mean log-rate is theirs.")
        if not (self.variance > 0 and self.length > 0):
            raise InvalidInput(f"variance and length must be positive, got {self.variance}, {self.length}.")
        cells = torch.cartesian_prod(torch.arange(len(n)), torch.arange(len(n))).double()
        covariance = self.variance * torch.exp(-torch.cdist(cells, cells) / (len(n) * self.length))
        factor = torch.linalg.cholesky(covariance)
        object.__setattr__(self, "precision", torch.cholesky_inverse(factor))
        half_log_det = float(factor.diagonal().log().sum())
        object.__setattr__(self, "log_norm", -half_log_det - 0.5 * len(cells) * math.log(2 * math.pi))

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on the log-rates of the cells."""
        return Lebesgue(self.counts.numel())

    def log_density(self, x: Tensor) -> Tensor:
        """Log r [B] at log-rates [B, M^2], row by row of the grid."""
        n = self.counts.flatten().to(x)
        centred = x - (math.log(float(n.sum())) - 0.5 * self.variance)
        prior = self.log_norm - 0.5 * ((centred @ self.precision.to(x)) * centred).sum(-1)
        return prior + (n * x - x.exp() / len(n)).sum(-1)


def log_gaussian_cox(points: Tensor, side: int = 40) -> LogGaussianCox:
    """The posterior for points of the unit square, binned on a side x side grid.

    Args:
        points: [N, 2] in [0, 1].
        side: M.

    Raises:
        NonFinite: when a coordinate is NaN or infinite.
        InvalidInput: when a point is outside the unit square, or there is none.

    Example:
        >>> target = log_gaussian_cox(torch.tensor([[0.1, 0.9], [0.2, 0.8]]), side=2)
        >>> target.counts.int().tolist()
        [[0, 2], [0, 0]]
    """
    if points.ndim != 2 or points.shape[1] != 2 or side < 1:
        raise InvalidInput(
            f"log_gaussian_cox needs points [N, 2], side >= 1, got {list(points.shape)}, {side}."
        )
    if not bool(points.isfinite().all()):
        row = int((~points.isfinite().all(-1)).nonzero()[0])
        raise NonFinite(f"point {row} is {points[row].tolist()}: leave such points out.")
    outside = ((points < 0) | (points > 1)).any(-1)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise InvalidInput(f"point {row}, {points[row].tolist()}, is outside the unit square: rescale them.")
    cell = (points * side).long().clamp(max=side - 1)  # the far edges belong to the last cells
    counts = torch.zeros(side * side).index_add_(0, cell[:, 0] * side + cell[:, 1], torch.ones(len(points)))
    return LogGaussianCox(counts.reshape(side, side))
