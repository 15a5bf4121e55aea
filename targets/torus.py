r"""Densities on the torus, against arc length on each circle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Haar


@dataclass(frozen=True)
class TorusSixModes:
    r"""Six equal modes on two circles.

    .. math:: r(\psi, \phi) = (\sin 3\psi + \cos 2\phi + 2)^3, \qquad
        Z = (2\pi)^2 \, E[(a + b + 2)^3] = 56 \pi^2

    because :math:`E[a] = E[b] = E[a^3] = 0` and :math:`E[a^2] = E[b^2] = \frac12`. At six points r = 0; it is
    computed as :math:`8 (\sin^2(\frac32 \psi + \frac\pi4) + \cos^2 \phi)^3`, which loses no digits there.

    References:
        A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, section 4.3.

    Example:
        >>> target = TorusSixModes()
        >>> target.log_density(torch.tensor([[math.pi / 6, 0.0]])).exp().round(decimals=3).tolist()
        [64.0]
        >>> round(target.log_z, 4)
        6.3148
    """

    @property
    def measure(self) -> Haar:
        """Arc length on two circles."""
        return Haar(2)

    @property
    def log_z(self) -> float:
        """Log Z."""
        return math.log(56 * math.pi**2)

    @property
    def modes(self) -> Tensor:
        """The six maxima, [6, 2]."""
        psi = torch.tensor([-math.pi / 2, math.pi / 6, 5 * math.pi / 6])
        return torch.cartesian_prod(psi, torch.tensor([-math.pi, 0.0]))

    def log_density(self, x: Tensor) -> Tensor:
        """Log r [B] at angles [B, 2]."""
        half = (1.5 * x[:, 0] + math.pi / 4).sin().square() + x[:, 1].cos().square()
        return 3 * (2 * half).log()

    def sample(self, n: int) -> Tensor:
        """Draw n pairs of angles [n, 2], by rejection from the uniform law (r is at most 64)."""
        kept: list[Tensor] = []
        while sum(map(len, kept)) < n:
            x = (2 * torch.rand(6 * n + 16, 2) - 1) * math.pi
            kept.append(x[torch.rand(len(x)).log() < self.log_density(x) - math.log(64)])
        return torch.cat(kept)[:n]


@dataclass(frozen=True)
class VonMisesProduct:
    r"""Independent von Mises laws, one for each circle.

    .. math:: \log r(x) = \sum_i \kappa_i \cos(x_i - \mu_i), \qquad \log Z = \sum_i \log 2\pi I_0(\kappa_i)

    Args:
        location: mu, one angle a circle.
        concentration: kappa, one number of at least 0 a circle.

    Raises:
        InvalidInput: when the lengths disagree or a concentration is negative.

    Example:
        >>> target = VonMisesProduct((0.0, 1.0), (2.0, 5.0))
        >>> round(target.log_z, 4), target.log_density(torch.tensor([[0.0, 1.0]])).tolist()
        (7.8044, [7.0])
    """

    location: tuple[float, ...] = (0.5, -2.0)
    concentration: tuple[float, ...] = (4.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.location) != len(self.concentration) or not min(self.concentration, default=-1.0) >= 0:
            raise InvalidInput(
                "VonMisesProduct needs one location and one concentration of at least 0 a circle, got "
                f"{self.location} and {self.concentration}."
            )

    @property
    def measure(self) -> Haar:
        """Arc length on the circles."""
        return Haar(len(self.location))

    @property
    def log_z(self) -> float:
        """Log Z."""
        kappa = torch.tensor(self.concentration, dtype=torch.float64)
        return float((math.log(2 * math.pi) + torch.special.i0e(kappa).log() + kappa).sum())

    def log_density(self, x: Tensor) -> Tensor:
        """Log r [B] at angles [B, d]."""
        return (x - x.new_tensor(self.location)).cos() @ x.new_tensor(self.concentration)

    def score(self, x: Tensor) -> Tensor:
        """Gradient [B, d] of log r with respect to the angles."""
        return -(x.detach() - x.new_tensor(self.location)).sin() * x.new_tensor(self.concentration)

    def sample(self, n: int) -> Tensor:
        """Draw n points [n, d]."""
        location, concentration = torch.tensor(self.location), torch.tensor(self.concentration)
        return torch.distributions.VonMises(location, concentration).sample((n,))
