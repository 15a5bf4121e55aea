r"""The reward of the hypergrid: high in the corners, higher on a thin shell inside them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Counting, Product


@dataclass(frozen=True)
class HypergridReward:
    r"""Three levels on the cells {0, .., H - 1}^d, against counting measure.

    .. math::
        r(c) = r_0 + r_1 \prod_i 1\{|\tfrac{c_i}{H - 1} - \tfrac12| > 0.25\}
            + r_2 \prod_i 1\{0.3 < |\tfrac{c_i}{H - 1} - \tfrac12| < 0.4\}

    Each term factorises, so with a and b the numbers of cells along an axis that meet the two conditions
    :math:`Z = r_0 H^d + r_1 a^d + r_2 b^d`. The conditions are decided in whole numbers.

    Args:
        dim: number of axes d.
        side: cells along each axis, H, at least 2.
        r0: level everywhere; 0.1, 0.01 and 0.001 are in use, the smaller the harder.
        r1: added in the corners.
        r2: added on the shells.

    Raises:
        InvalidInput: when a size or a level is out of range.

    References:
        Flow network based generative models (Bengio et al., 2021), arXiv 2106.04399, section 4.1.
        Trajectory balance (Malkin et al., 2022), arXiv 2201.13259, section 5.1.

    Example:
        >>> target = HypergridReward(dim=2, side=8)
        >>> cells = torch.tensor([[4, 4], [0, 7], [1, 6]])
        >>> [round(r, 4) for r in target.log_density(cells).exp().tolist()], round(math.exp(target.log_z), 4)
        ([0.1, 0.6, 2.6], 22.4)
        >>> target.probabilities().shape, round(float(target.probabilities().sum()), 6)
        (torch.Size([8, 8]), 1.0)
    """

    dim: int = 2
    side: int = 8
    r0: float = 0.1
    r1: float = 0.5
    r2: float = 2.0

    def __post_init__(self) -> None:
        if self.dim < 1 or self.side < 2 or not (self.r0 > 0 and self.r1 >= 0 and self.r2 >= 0):
            raise InvalidInput(
                f"HypergridReward needs dim >= 1, side >= 2, r0 > 0, r1 >= 0 and r2 >= 0, got {self}."
            )

    @property
    def measure(self) -> Product:
        """Counting measure on the cells."""
        return Product((Counting(self.side),) * self.dim)

    def _conditions(self, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Which coordinates are in the outer part, and which on the shell."""
        span = self.side - 1
        off = (2 * cell - span).abs()  # 2 (H - 1) times the distance from the middle
        return 2 * off > span, (5 * off > 3 * span) & (5 * off < 4 * span)

    def log_density(self, x: Tensor) -> Tensor:
        """Log r [B] at cells [B, dim], long or whole-numbered floats."""
        corner, shell = (c.all(-1) for c in self._conditions(x))
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        return (self.r0 + self.r1 * corner.to(dtype) + self.r2 * shell.to(dtype)).log()

    @property
    def pieces(self) -> tuple[float, float, float]:
        """Mass of the floor, of the corners and of the shells."""
        a, b = (int(c.sum()) for c in self._conditions(torch.arange(self.side)))
        return self.r0 * self.side**self.dim, self.r1 * a**self.dim, self.r2 * b**self.dim

    @property
    def log_z(self) -> float:
        """Log Z."""
        return math.log(sum(self.pieces))

    def probabilities(self) -> Tensor:
        """Exact probability of every cell, [side, .., side] (float64), by enumeration."""
        axis = torch.arange(self.side, dtype=torch.float64)
        cells = torch.cartesian_prod(*[axis] * self.dim).reshape(-1, self.dim)
        return (self.log_density(cells) - self.log_z).exp().reshape((self.side,) * self.dim)

    def sample(self, n: int) -> Tensor:
        """Draw n cells [n, dim]: the law is a mixture of three uniform ones."""
        piece = torch.multinomial(torch.tensor(self.pieces), n, replacement=True)
        out = torch.randint(self.side, (n, self.dim))
        for i, condition in enumerate(self._conditions(torch.arange(self.side)), start=1):
            rows, cells = (piece == i).nonzero().squeeze(-1), condition.nonzero().squeeze(-1)
            if len(rows):
                out[rows] = cells[torch.randint(len(cells), (len(rows), self.dim))]
        return out
