r"""Laws with a density in closed form that a sampler's draws lead to: where annealing starts.

A flow that reaches its points in one step has an exact density, and is such a law itself. The density of
longer walks is an integral over trajectories, so there normals are fitted to the weighted draws.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from ctsgfn.gaussian_fits import GaussianFits, cholesky
from ctsgfn.gflownet import GFlowNet
from ctsgfn.importance import Importance
from ctsgfn.mixture_fit import Mixture, fit_mixture
from ctsgfn.psis import effective_sample_size, largest, systematic

DRAWS = 4096
"""Weighted draws that normals are fitted to."""

_JITTER = 0.2
"""Standard deviation of the noise on resampled draws, in units of their spread: copies are told apart."""

_WIDER = 1.2
"""How much wider than their fit the normals are: annealing narrows, and never finds what it did not cover."""


class StartLaw(Protocol):
    """A law on R^d that can be drawn from, with a density and its score."""

    def draw(self, n: int) -> Tensor:
        """Draw n points [n, d]."""
        ...

    def log_density(self, z: Tensor) -> Tensor:
        """Log-density [B]."""
        ...

    def score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density [B] and its gradient [B, d]."""
        ...


class LearnedLaw:
    """The law of a flow on R^d that reaches its points in one step.

    Args:
        gfn: the flow, on a space where every walk is source -> point -> sink.
    """

    def __init__(self, gfn: GFlowNet[Any]) -> None:
        self.space, self.kernel = gfn.space, gfn.forward_kernel.bind()

    def draw(self, n: int) -> Tensor:
        """Draw n points [n, d]."""
        with torch.no_grad():
            return self.space.read(self.kernel(self._source(n)).draw_move()[0])

    def log_density(self, z: Tensor) -> Tensor:
        """Log-density [B]."""
        with torch.no_grad():
            return self._at(z)

    def score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density [B] and its gradient [B, d]."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            value = self._at(leaf)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), slope

    def _at(self, z: Tensor) -> Tensor:
        return self.kernel(self._source(len(z))).log_density_to(self.space.write(z))

    def _source(self, n: int) -> Any:
        return self.space.source(n).like(self.kernel.anchor)


class FittedLaw:
    """A mixture of normals.

    Args:
        mixture: the normals.
    """

    def __init__(self, mixture: Mixture) -> None:
        self.normals = GaussianFits(mixture.mean, mixture.tril, mixture.share.log())

    def draw(self, n: int) -> Tensor:
        """Draw n points [n, d]."""
        return self.normals.sample(n)[0]

    def log_density(self, z: Tensor) -> Tensor:
        """Log-density [B]."""
        return self.normals.log_prob(z)

    def score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density [B] and its gradient [B, d]."""
        return self.normals.log_prob(z), self.normals.score(z)


class EvenLaw:
    """Half of one law and half of another: it covers what either of them does.

    Args:
        one: a law.
        other: another.
    """

    def __init__(self, one: StartLaw, other: StartLaw) -> None:
        self.one, self.other = one, other

    def draw(self, n: int) -> Tensor:
        """Draw n points [n, d]."""
        both = torch.stack([self.one.draw(n), self.other.draw(n)])
        return both[torch.randint(2, (n,), device=both.device), torch.arange(n, device=both.device)]

    def log_density(self, z: Tensor) -> Tensor:
        """Log-density [B]."""
        return torch.logaddexp(self.one.log_density(z), self.other.log_density(z)) - math.log(2.0)

    def score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density [B] and its gradient [B, d]."""
        (a, slope), (b, other) = self.one.score(z), self.other.score(z)
        share = (a - b).sigmoid()[:, None]
        return torch.logaddexp(a, b) - math.log(2.0), share * slope + (1 - share) * other


def start_law(importance: Importance[Any, Any]) -> tuple[StartLaw, int]:
    """The law to start from, and the density calls it took.

    Args:
        importance: of a flow whose points lie in R^d.
    """
    space = importance.gfn.space
    if space.synchronous and space.horizon == 2:
        return LearnedLaw(importance.gfn), 0
    x, log_weight = importance.weigh(DRAWS)
    z, _ = importance.coordinates.encode(x)
    return fitted_law(z, log_weight), DRAWS


def fitted_law(z: Tensor, log_weight: Tensor) -> FittedLaw:
    """Normals fitted to draws [N, d], weighted as far as enough of them stay effective.

    Args:
        z: points.
        log_weight: [N], up to a constant.
    """
    n, dim = z.shape
    enough = min(0.5 * n, max(200.0, 10.0 * dim))
    power = largest(lambda v: effective_sample_size(v * log_weight) >= enough, 1.0, halvings=30)
    points = z[systematic((power * log_weight).log_softmax(0), n // 2)]
    location, tril = points.mean(0), cholesky(torch.cov(points.T).reshape(dim, dim))
    noise = _JITTER * torch.randn_like(points)
    white = torch.linalg.solve_triangular(tril, (points - location).T, upper=False).T + noise
    one = Mixture(z.new_ones(1), z.new_zeros(1, dim), math.sqrt(1 + _JITTER**2) * torch.eye(dim).to(z)[None])
    fitted = fit_mixture(white, one)
    return FittedLaw(Mixture(fitted.share, location + fitted.mean @ tril.T, _WIDER * tril @ fitted.tril))
