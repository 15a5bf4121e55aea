r"""The density on the unit square with which continuous GFlowNets were introduced."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Lebesgue


@dataclass(frozen=True)
class FourSquares:
    r"""Three levels on the unit square: a floor, four corner squares, four small squares inside them.

    .. math::
        r(x) = r_0 + r_1 \prod_i 1\{|x_i - \tfrac12| > 0.25\} + r_2 \prod_i 1\{0.3 < |x_i - \tfrac12| < 0.4\}

    With the defaults the levels are 0.1, 0.6 and 2.6, and :math:`Z = 0.1 + 0.5^2 \cdot 0.5 + 0.2^2 \cdot 2 =
    0.305`. A density against Lebesgue measure on [0, 1]^2; it is piecewise constant, so it has no score.

    Args:
        r0: level everywhere.
        r1: added on the four corner squares, of side 1/4.
        r2: added on the four small squares, of side 1/10.

    References:
        A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, section 4.1.

    Example:
        >>> target = FourSquares()
        >>> x = torch.tensor([[0.5, 0.5], [0.05, 0.95], [0.15, 0.85]])
        >>> [round(r, 4) for r in target.log_density(x).exp().tolist()], round(target.log_z, 4)
        ([0.1, 0.6, 2.6], -1.1874)
    """

    r0: float = 0.1
    r1: float = 0.5
    r2: float = 2.0

    def __post_init__(self) -> None:
        if not (self.r0 > 0 and self.r1 >= 0 and self.r2 >= 0):
            raise InvalidInput(
                f"FourSquares needs r0 > 0, r1 >= 0 and r2 >= 0, got {self.r0}, {self.r1}, {self.r2}."
            )

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on the unit square."""
        return Lebesgue(2, 0.0, 1.0)

    def log_density(self, x: Tensor) -> Tensor:
        """Log r [B] at points [B, 2]."""
        off = (x - 0.5).abs()
        corner = (off > 0.25).all(-1)
        inner = ((off > 0.3) & (off < 0.4)).all(-1)
        return (self.r0 + self.r1 * corner.to(x.dtype) + self.r2 * inner.to(x.dtype)).log()

    @property
    def pieces(self) -> tuple[float, float, float]:
        """Mass of the floor, of the corner squares and of the small squares."""
        return self.r0, self.r1 * 0.5**2, self.r2 * 0.2**2

    @property
    def log_z(self) -> float:
        """Log Z."""
        return math.log(sum(self.pieces))

    def sample(self, n: int) -> Tensor:
        """Draw n points [n, 2]: the density is a mixture of three uniform ones."""
        piece = torch.multinomial(torch.tensor(self.pieces), n, replacement=True)[:, None]
        u, side = torch.rand(n, 2), torch.randint(2, (n, 2))
        corner = 0.25 * u + 0.75 * side  # [0, 0.25] or [0.75, 1]
        inner = 0.1 + 0.1 * u + 0.7 * side  # [0.1, 0.2] or [0.8, 0.9]
        return torch.where(piece == 0, u, torch.where(piece == 1, corner, inner))
