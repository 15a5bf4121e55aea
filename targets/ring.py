r"""A ring in the plane."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Lebesgue


@dataclass(frozen=True)
class Ring:
    r"""Gaussian in the distance from a circle about the origin of the plane.

    .. math:: \log r(x) = -\frac{(\|x\| - \rho)^2}{2 w^2}, \qquad
        Z = 2\pi \left[ w^2 e^{-\rho^2 / 2 w^2}
            + \rho w \sqrt{\pi / 2}\,\bigl(1 + \mathrm{erf}(\rho / w \sqrt 2)\bigr) \right]

    Args:
        radius: rho, at least 0.
        width: w, the standard deviation of the distance.

    Raises:
        InvalidInput: when the radius is negative or the width not positive.

    Example:
        >>> target = Ring()
        >>> target.log_density(torch.tensor([[1.7, 0.0], [0.0, -2.3]])).round(decimals=4).tolist()
        [-0.5, -0.5]
        >>> round(target.log_z, 4)
        2.246
    """

    radius: float = 2.0
    width: float = 0.3

    def __post_init__(self) -> None:
        if not (self.radius >= 0 and self.width > 0):
            raise InvalidInput(f"Ring needs radius >= 0 and width > 0, got {self.radius}, {self.width}.")

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on the plane."""
        return Lebesgue(2)

    @property
    def log_z(self) -> float:
        """Log Z."""
        ratio = self.radius / self.width
        near = math.exp(-0.5 * ratio**2)
        far = ratio * math.sqrt(math.pi / 2) * (1 + math.erf(ratio / math.sqrt(2)))
        return math.log(2 * math.pi * self.width**2 * (near + far))

    def log_density(self, x: Tensor) -> Tensor:
        """Log r [B] at points [B, 2]."""
        return -0.5 * ((torch.linalg.vector_norm(x, dim=-1) - self.radius) / self.width).square()

    def sample(self, n: int) -> Tensor:
        r"""Draw n points [n, 2]: uniform direction, distance by rejection.

        The distance has density :math:`\propto t\,e^{-(t - \rho)^2 / 2 w^2}`. With t* its mode, :math:`t
        \le t^* e^{t / t^* - 1}`, which makes N(rho + w^2 / t*, w^2) an envelope that touches at t*.
        """
        peak = 0.5 * (self.radius + math.sqrt(self.radius**2 + 4 * self.width**2))
        kept: list[Tensor] = []
        while sum(map(len, kept)) < n:
            t = self.radius + self.width**2 / peak + self.width * torch.randn(2 * n + 16)
            t = t[t > 0]
            kept.append(t[torch.rand_like(t) < t / peak * (1 - t / peak).exp()])
        distance, angle = torch.cat(kept)[:n], 2 * math.pi * torch.rand(n)
        return torch.stack([distance * angle.cos(), distance * angle.sin()], -1)
