r"""Mixtures of products of Student-t laws: many modes with heavy tails."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Lebesgue


@dataclass(frozen=True)
class StudentMixture:
    r"""Equal mixture of products of Student-t laws of unit scale; normalised, so log Z = 0.

    .. math:: r(x) = \frac1K \sum_{k=1}^{K} \prod_{i=1}^{d} t_\nu(x_i - m_{ki}), \qquad
        m_{ki} \sim U(-10, 10) \text{ from a seed}

    Args:
        dim: number of coordinates d.
        components: number of modes K.
        degrees: degrees of freedom nu.
        seed: of the means; they are not those of the JAX benchmark, which come from its own generator.

    Raises:
        InvalidInput: when a size is below 1 or the degrees of freedom are not positive.

    References:
        Beyond ELBOs: a large-scale evaluation of variational methods for sampling (Blessing et al., 2024),
        arXiv 2406.07423.

    Example:
        >>> target = StudentMixture()
        >>> tuple(target.modes.shape), bool(target.modes.abs().max() < 10)
        ((10, 2), True)
    """

    dim: int = 2
    components: int = 10
    degrees: float = 2.0
    seed: int = 0
    modes: Tensor = field(init=False, repr=False, compare=False)  # [K, d]
    log_z: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.dim < 1 or self.components < 1 or not self.degrees > 0:
            raise InvalidInput(f"StudentMixture needs dim, components >= 1 and degrees > 0, got {self}.")
        generator = torch.Generator().manual_seed(self.seed)
        uniform = torch.rand(self.components, self.dim, generator=generator, dtype=torch.float32)
        object.__setattr__(self, "modes", (20 * uniform - 10).double())

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on R^dim."""
        return Lebesgue(self.dim)

    def _kernel(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distances [K, B, d] from the modes, and log of each component up to a constant, [K, B]."""
        away = x - self.modes.to(x).unsqueeze(1)
        return away, -0.5 * (self.degrees + 1) * (away.square() / self.degrees).log1p().sum(-1)

    def log_density(self, x: Tensor) -> Tensor:
        """Log r [B] at points [B, dim]."""
        nu = self.degrees
        constant = math.lgamma(nu / 2) - math.lgamma((nu + 1) / 2) + 0.5 * math.log(nu * math.pi)
        return self._kernel(x)[1].logsumexp(0) - self.dim * constant - math.log(self.components)

    def score(self, x: Tensor) -> Tensor:
        """Gradient [B, dim] of log r."""
        away, logits = self._kernel(x.detach())
        slope = -(self.degrees + 1) * away / (self.degrees + away.square())
        return (logits.softmax(0).unsqueeze(-1) * slope).sum(0)

    def sample(self, n: int) -> Tensor:
        """Draw n points [n, dim]."""
        k = torch.randint(self.components, (n,))
        student = torch.distributions.StudentT(torch.full((n, self.dim), self.degrees))
        return self.modes.to(torch.get_default_dtype())[k] + student.sample()
