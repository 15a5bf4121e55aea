"""Targets on which samplers are compared, and the priors that those with a prior are given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctsgfn.targets import Banana, ManyWell, Ring, forty_gaussians, hard_funnel, twenty_five_gaussians

DRAWN = 1_000_000
"""Exact draws from which moments are taken, where the target has them in no closed form."""


@dataclass(frozen=True)
class Case:
    """A target, and the prior that the peers are given: uniform on a box, or normal."""

    make: Callable[[], Any]
    dim: int
    box: float | None = None
    normal: tuple[float, ...] = ()
    sd: tuple[float, ...] = ()  # around zero; where draws would not settle it

    def log_prior(self, x: Tensor) -> Tensor:
        """Log-density [B] of the prior."""
        if self.box is not None:
            inside = (x.abs() <= self.box).all(-1)
            return torch.where(inside, -self.dim * math.log(2 * self.box), -math.inf)
        return torch.distributions.Normal(0.0, x.new_tensor(self.normal)).log_prob(x).sum(-1)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [dim] of the target."""
        if self.sd:
            sd = torch.tensor(self.sd, dtype=torch.float64)
            return torch.zeros_like(sd), sd
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x = self.make().sample(DRAWN).double()
        return x.mean(0), x.std(0)

    def moment_errors(self, x: Tensor, weight: Tensor | None = None) -> dict[str, float]:
        """Largest error of a mean, in standard deviations, and largest relative one of a deviation."""
        mean, sd = self.moments()
        x = x.double()
        weight = torch.full_like(x[:, 0], 1 / len(x)) if weight is None else weight.double()
        found = weight @ x
        spread = (weight @ (x - found).square()).sqrt()
        return {
            "mean_error": float(((found - mean) / sd).abs().max()),
            "sd_error": float((spread / sd - 1).abs().max()),
        }


CASES = {
    "25 modes": Case(twenty_five_gaussians, 2, box=20.0),
    "40 modes": Case(forty_gaussians, 2, box=60.0),
    "ring": Case(Ring, 2, box=10.0),
    "banana": Case(Banana, 2, normal=(20.0, 20.0)),
    "many-well 8": Case(lambda: ManyWell(8), 8, normal=(3.0,) * 8),
    "hard funnel": Case(hard_funnel, 10, normal=(5.0, *(30.0,) * 9), sd=(3.0, *(math.exp(2.25),) * 9)),
    "many-well 32": Case(lambda: ManyWell(32), 32, normal=(3.0,) * 32),
}
"""Targets whose log Z is known in closed form."""


def jax_density(name: str) -> Callable[[Any], Any]:
    """A target in JAX, of one point."""
    import jax
    from jax import numpy as np
    from jax.scipy.special import logsumexp

    jax.config.update("jax_enable_x64", True)
    modes, scale = np.asarray(forty_gaussians().modes.numpy()), forty_gaussians().scale

    def normal(z: Any, variance: Any) -> Any:
        return -0.5 * (z * z / variance + np.log(2 * np.pi * variance))

    def wells(x: Any) -> Any:
        a, b = x[0::2], x[1::2]
        return (-(a**4) + 6 * a**2 + 0.5 * a - 0.5 * b**2).sum()

    grid = 5.0 * np.arange(-2.0, 3.0)
    densities: dict[str, Callable[[Any], Any]] = {
        "25 modes": lambda x: (logsumexp(normal(x[:, None] - grid, 0.3), axis=-1) - math.log(5)).sum(),
        "40 modes": lambda x: logsumexp(normal(x - modes, scale**2).sum(-1)) - math.log(40),
        "ring": lambda x: -0.5 * ((np.sqrt((x**2).sum()) - 2.0) / 0.3) ** 2,
        "banana": lambda x: normal(x[0], 100.0) + normal(x[1] - 0.03 * (x[0] ** 2 - 100.0), 1.0),
        "many-well 8": wells,
        "hard funnel": lambda x: normal(x[0], 9.0) + normal(x[1:], np.exp(x[0])).sum(),
        "many-well 32": wells,
    }
    density, case = densities[name], CASES[name]
    probe = torch.randn(8, case.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    written = np.stack([density(np.asarray(row)) for row in probe.numpy()])
    assert np.allclose(written, np.asarray(case.make().log_density(probe).numpy())), name
    return density
