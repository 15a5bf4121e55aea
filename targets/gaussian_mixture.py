r"""Mixtures of Gaussians with any means."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Lebesgue


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    r"""Mixture of K isotropic Gaussians of one scale; normalised, so log Z = 0.

    .. math:: r(x) = \sum_k w_k \, N(x; m_k, \sigma^2 I)

    The squares are expanded, so that the work is one matrix product of [B, d] with [d, K].

    Args:
        modes: the means [K, d].
        scale: the standard deviation sigma.
        weights: K positive numbers, made to sum to 1; equal by default.

    Raises:
        InvalidInput: when the sizes disagree, or the scale or a weight is not positive.

    Example:
        >>> target = GaussianMixture(torch.tensor([[-3.0], [3.0]]), scale=1.0)
        >>> round(float(target.log_density(torch.tensor([[3.0]]))), 4), target.log_z
        (-1.6121, 0.0)
        >>> target.score(torch.tensor([[0.0], [5.0]])).round(decimals=4).tolist()
        [[0.0], [-2.0]]
    """

    modes: Tensor  # [K, d]
    scale: float
    weights: Tensor = field(default_factory=lambda: torch.ones(()))  # [K] or []
    log_z: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.modes.ndim != 2 or not self.scale > 0:
            raise InvalidInput(
                f"GaussianMixture needs modes [K, d] and scale > 0, got {list(self.modes.shape)} and "
                f"{self.scale}."
            )
        count = len(self.modes)
        if self.weights.shape not in ((), (count,)) or not bool((self.weights > 0).all()):
            raise InvalidInput(
                f"GaussianMixture needs {count} positive weights, one a mode, got {self.weights.tolist()}."
            )
        total = self.weights.double().expand(count)
        object.__setattr__(self, "modes", self.modes.double())
        object.__setattr__(self, "weights", total / total.sum())

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on R^d."""
        return Lebesgue(self.modes.shape[1])

    def _logits(self, x: Tensor) -> Tensor:
        """Log of weight times Gaussian, up to a term that is the same for all modes: [K, B]."""
        slope = self.modes / self.scale**2
        offset = self.weights.log() - 0.5 * self.modes.square().sum(-1) / self.scale**2
        return torch.addmm(offset.unsqueeze(-1).to(x), slope.to(x), x.T)

    def log_density(self, x: Tensor) -> Tensor:
        """Log r [B] at points [B, d]."""
        constant = x.shape[-1] * math.log(self.scale * math.sqrt(2 * math.pi))
        return self._logits(x).logsumexp(0) - 0.5 * x.square().sum(-1) / self.scale**2 - constant

    def score(self, x: Tensor) -> Tensor:
        """Gradient [B, d] of log r: towards the mean of the modes under their responsibilities."""
        x = x.detach()
        return ((self.modes.to(x).T @ self._logits(x).softmax(0)).T - x) / self.scale**2

    def sample(self, n: int) -> Tensor:
        """Draw n points [n, d]."""
        modes = self.modes.to(torch.get_default_dtype())
        k = torch.multinomial(self.weights, n, replacement=True)
        return modes[k] + self.scale * torch.randn(n, modes.shape[1])


def forty_gaussians(dim: int = 2) -> GaussianMixture:
    r"""Forty Gaussians of scale softplus(1) with means uniform on [-40, 40]^dim, from torch's seed 0.

    References:
        Flow annealed importance sampling bootstrap (Midgley et al., 2023), arXiv 2208.01893, section 4.1.

    Example:
        >>> target = forty_gaussians()
        >>> tuple(target.modes.shape), round(target.scale, 4)
        ((40, 2), 1.3133)
    """
    uniform = torch.rand(40, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return GaussianMixture((uniform - 0.5) * 2 * 40, scale=math.log1p(math.e))
