"""Lebesgue measure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput, whole


@dataclass(frozen=True)
class Lebesgue:
    """Lebesgue measure on the box (low, high)^dim, by default all of R^dim; coordinates [B, dim].

    Raises:
        InvalidInput: when dim < 1 or low >= high.

    Example:
        >>> square = Lebesgue(2, 0.0, 1.0)
        >>> x, w = square.probe(1000)
        >>> tuple(x.shape), float(w.exp().mean())
        ((1000, 2), 1.0)
        >>> square == Lebesgue(2, 0.0, 1.0), square == Lebesgue(2)
        (True, False)
    """

    dim: int
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        whole("Lebesgue dim", self.dim)
        bounds: tuple[object, object] = (self.low, self.high)
        if not all(isinstance(bound, Real) for bound in bounds):
            raise InvalidInput(
                f"Lebesgue has one number as low and one as high, the same on every axis, got {bounds}: "
                "where axes differ, shift and scale the coordinates of the density to a common box."
            )
        if not self.low < self.high:
            raise InvalidInput(f"Lebesgue needs low < high, got low={self.low}, high={self.high}.")

    def __str__(self) -> str:
        if self.is_finite:
            return f"Lebesgue measure on [{self.low:g}, {self.high:g}]^{self.dim}"
        if self.low == -math.inf and self.high == math.inf:
            return f"Lebesgue measure on R^{self.dim}"
        return f"Lebesgue measure on ({self.low:g}, {self.high:g})^{self.dim}"

    @property
    def is_finite(self) -> bool:
        """Whether the total mass is finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def probe(self, n: int) -> tuple[Tensor, Tensor]:
        """Uniform on a bounded box; Student-t with 3 degrees of freedom, folded on a half-line."""
        if self.is_finite:
            x = self.low + (self.high - self.low) * torch.rand(n, self.dim, dtype=torch.float64)
        else:
            t = torch.distributions.StudentT(3.0 * torch.ones(n, self.dim, dtype=torch.float64))
            x = t.sample()
            if math.isfinite(self.low):
                x = self.low + x.abs()
            elif math.isfinite(self.high):
                x = self.high - x.abs()
        return x, -self.log_probe(x)

    def log_probe(self, x: Tensor) -> Tensor:
        """Log-density of the probe law, [B]."""
        if self.is_finite:
            return x.new_full((len(x),), -self.dim * math.log(self.high - self.low))
        t = torch.distributions.StudentT(3.0 * torch.ones((), dtype=x.dtype, device=x.device))
        if math.isfinite(self.low):
            return (t.log_prob(x - self.low) + math.log(2.0)).sum(-1)
        if math.isfinite(self.high):
            return (t.log_prob(self.high - x) + math.log(2.0)).sum(-1)
        return t.log_prob(x).sum(-1)

    def interior(self, x: Tensor) -> Tensor:
        """Round points of the closed box to the nearest ones that the dtype tells from its walls.

        A chart or a sampler that works in the open box calls it on what it computed: the true
        coordinate lies inside, and rounding alone can have put it on a wall or just beyond.
        """
        walls = [abs(wall) for wall in (self.low, self.high) if math.isfinite(wall)]
        width = self.high - self.low if self.is_finite else 1.0
        margin = torch.finfo(x.dtype).eps * max(width, *walls, 0.0)
        return x.clamp(self.low + margin, self.high - margin)

    def contains(self, x: Tensor) -> Tensor:
        """Which rows lie in the closed box and are finite, [B]."""
        return (torch.isfinite(x) & (x >= self.low) & (x <= self.high)).all(-1)
