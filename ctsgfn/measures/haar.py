"""Arc length on circles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import whole


@dataclass(frozen=True)
class Haar:
    """Arc length on ``dim`` circles, angles [B, dim] in radians on [-pi, pi); mass (2 pi)^dim.

    This is the translation-invariant (Haar) measure of the torus, normalised as arc length so that
    a density agrees with the Lebesgue density of its angles.

    Raises:
        InvalidInput: when dim < 1.

    Example:
        >>> x, w = Haar(1).probe(4)
        >>> round(float(w.exp().mean()), 4)
        6.2832
    """

    dim: int

    def __post_init__(self) -> None:
        whole("Haar dim", self.dim)

    def __str__(self) -> str:
        return f"arc length on {self.dim} circle{'s' if self.dim > 1 else ''}"

    def probe(self, n: int) -> tuple[Tensor, Tensor]:
        """Uniform angles."""
        x = (2 * torch.rand(n, self.dim, dtype=torch.float64) - 1) * math.pi
        return x, -self.log_probe(x)

    def log_probe(self, x: Tensor) -> Tensor:
        """Log-density of the probe law, [B]."""
        return x.new_full((len(x),), -self.dim * math.log(2 * math.pi))

    def contains(self, x: Tensor) -> Tensor:
        """Which rows are angles in [-pi, pi], [B]."""
        return (torch.isfinite(x) & (x.abs() <= math.pi + 1e-6)).all(-1)


def wrap(angle: Tensor) -> Tensor:
    """Bring angles into [-pi, pi); small angles are returned exactly.

    Example:
        >>> [round(a, 4) for a in wrap(torch.tensor([0.1, 4.0, -4.0])).tolist()]
        [0.1, -2.2832, 2.2832]
    """
    turn = 2 * math.pi
    near = angle - turn * (angle / turn).round()
    near = torch.where(near >= math.pi, near - turn, near)  # where rounding left it at the seam
    return torch.where(near < -math.pi, near + turn, near)
