"""The targets of the panel: twelve of different kinds, forty modes, and three made to defeat ``fit``.

Where log Z has no closed form it comes from a quadrature or a long reference run, see ``LONG``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from posteriors import Posterior, eight_schools
from scipy.integrate import quad
from scipy.stats import cauchy, multivariate_normal
from torch import Tensor
from torch.nn.functional import logsigmoid

from ctsgfn.diagnostics import mode_counts
from ctsgfn.measures import Lebesgue
from ctsgfn.targets import (
    Banana,
    GaussianMixture,
    ManyWell,
    Ring,
    forty_gaussians,
    hard_funnel,
    nine_gaussians,
    twenty_five_gaussians,
)

SCHOOLS = {"y": [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], "sigma": [15.0, 10, 16, 11, 9, 11, 10, 18]}


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal density; normalised, so log Z = 0."""

    mean: Tensor  # [d]
    precision: Tensor  # [d, d]
    log_z: float = 0.0

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on R^d."""
        return Lebesgue(len(self.mean))

    def log_density(self, x: Tensor) -> Tensor:
        """Log-density [B]."""
        away = x - self.mean.to(x)
        half = torch.linalg.slogdet(self.precision).logabsdet - len(self.mean) * math.log(2 * math.pi)
        return 0.5 * (half.to(x) - ((away @ self.precision.to(x)) * away).sum(-1))


def shift() -> Gaussian:
    """Far from the origin, and scales of 0.01 and 100."""
    return Gaussian(torch.full((2,), 50.0).double(), torch.tensor([1e4, 1e-4]).double().diag())


def rotated(dim: int = 20, condition: float = 1e4) -> Gaussian:
    """Variances from 1 to ``condition``, evenly in the logarithm, along random axes."""
    noise = torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    axes = torch.linalg.qr(noise)[0]
    variances = torch.logspace(0, math.log10(condition), dim, dtype=torch.float64)
    return Gaussian(torch.zeros(dim).double(), axes @ variances.reciprocal().diag() @ axes.T)


def two_apart() -> GaussianMixture:
    """Two normals 40 standard deviations from each other, in ten dimensions."""
    centre = torch.full((1, 10), 20.0 / math.sqrt(10.0))
    return GaussianMixture(torch.cat([-centre, centre]), scale=1.0)


@dataclass(frozen=True, eq=False)
class Logistic:
    """Logistic regression with coefficients N(0, 2.5^2): the joint density of labels and coefficients."""

    design: Tensor  # [N, d]
    labels: Tensor  # [N], -1 or 1

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on R^d."""
        return Lebesgue(self.design.shape[1])

    def log_density(self, x: Tensor) -> Tensor:
        """Log-density [B]."""
        fit = logsigmoid(x @ (self.labels[:, None] * self.design).to(x).T).sum(-1)
        constant = x.shape[-1] * math.log(2.5 * math.sqrt(2 * math.pi))
        return fit - 0.5 * (x / 2.5).square().sum(-1) - constant


def logistic(dim: int = 20, rows: int = 500) -> Logistic:
    """Standard normal design and coefficients, from a seed."""
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    chance = (design @ torch.randn(dim, generator=generator, dtype=torch.float64)).sigmoid()
    labels = 2.0 * (torch.rand(rows, generator=generator, dtype=torch.float64) < chance) - 1.0
    return Logistic(design, labels)


def schools() -> Posterior:
    """Eight schools, non-centred."""
    return eight_schools(SCHOOLS)


def schools_log_z() -> tuple[float, float]:
    """Log Z and its error, by quadrature over tau: all else integrates out in closed form."""
    y, sigma = torch.tensor(SCHOOLS["y"]).numpy(), torch.tensor(SCHOOLS["sigma"]).numpy()

    def joint(u: float) -> float:
        tau = math.exp(u)
        covariance = torch.eye(8).double().numpy() * (sigma**2 + tau**2) + 25.0
        density = multivariate_normal.logpdf(y, [0.0] * 8, covariance) + cauchy.logpdf(tau, scale=5.0)
        return math.exp(density + u + 32.0)

    value, error = quad(joint, -25.0, 12.0, epsabs=0.0, epsrel=1e-9, limit=200)
    return math.log(value) - 32.0, error / value


def logistic_log_z(draws: int = 2_000_000) -> tuple[float, float]:
    """Log Z and its standard error, by importance sampling from a Student law about the mode, in float64."""
    target = logistic()
    x = torch.zeros(1, target.measure.dim, dtype=torch.float64)
    for _ in range(50):
        hessian = torch.autograd.functional.hessian(lambda v: target.log_density(v[None])[0], x[0])
        slope = torch.autograd.functional.jacobian(lambda v: target.log_density(v[None])[0], x[0])
        x = x - torch.linalg.solve(hessian, slope)
    tril = torch.linalg.cholesky(torch.linalg.inv(-hessian))
    generator, degrees, total = torch.Generator().manual_seed(1), 10.0, []
    for _ in range(draws // 10_000):
        normal = torch.randn(10_000, len(tril), generator=generator, dtype=torch.float64)
        gamma = torch.randn(10_000, int(degrees), generator=generator, dtype=torch.float64).square().sum(-1)
        z = normal / (gamma / degrees).sqrt()[:, None]
        log_q = (
            math.lgamma((degrees + len(tril)) / 2)
            - math.lgamma(degrees / 2)
            - 0.5 * len(tril) * math.log(degrees * math.pi)
            - 0.5 * (degrees + len(tril)) * (z.square().sum(-1) / degrees).log1p()
            - tril.diagonal().log().sum()
        )
        total.append(target.log_density(x + z @ tril.T) - log_q)
    w = torch.cat(total)
    log_z = float(w.logsumexp(0)) - math.log(len(w))
    return log_z, float((w - log_z).exp().std()) / math.sqrt(len(w))


LONG: dict[str, Callable[[], tuple[float, float]]] = {
    "eight schools": schools_log_z,
    "logistic": logistic_log_z,
}
"""Log Z and its error where there is no closed form."""


@dataclass(frozen=True)
class Defeating:
    """A density made to defeat a sampler that trusts its own draws."""

    measure: Lebesgue
    log_density: Callable[[Tensor], Tensor]
    log_z: float


def needle(scale: float) -> Defeating:
    """Half the mass in a needle, which stands in the other half, a standard normal of the plane."""

    def log_density(x: Tensor) -> Tensor:
        broad = -0.5 * x.square().sum(-1)
        thin = -0.5 * ((x - 1.0) / scale).square().sum(-1) - 2 * math.log(scale)
        return torch.logaddexp(broad, thin) - math.log(4 * math.pi)

    return Defeating(Lebesgue(2), log_density, 0.0)


def heavy(dim: int = 5) -> Defeating:
    """Independent Cauchy coordinates."""
    constant = dim * math.log(math.pi)
    return Defeating(Lebesgue(dim), lambda x: -x.square().log1p().sum(-1) - constant, 0.0)


def endless() -> Defeating:
    """1 / (1 + |x|^2) in the plane: inside radius R the integral is pi log(1 + R^2), which has no limit."""
    return Defeating(Lebesgue(2), lambda x: -x.square().sum(-1).log1p(), math.inf)


Modes = Callable[[Tensor], tuple[int, int]]
"""How many modes draws [N, d] have, of how many there are."""


def near(make: Callable[[], Any], radius: float) -> Modes:
    """Modes with at least a tenth of their share of the draws within a radius."""

    def found(x: Tensor) -> tuple[int, int]:
        centres = make().modes.to(x)
        counts = mode_counts(x, centres, radius=radius)
        return int((counts > len(x) / (10 * len(centres))).sum()), len(centres)

    return found


def wells(x: Tensor) -> tuple[int, int]:
    """Patterns of left and right wells among the draws; above 2^8 the wells of each pair alone."""
    right = (x[:, 0::2] > 0).long()
    pairs = right.shape[1]
    if pairs <= 8:
        return len((right * 2 ** torch.arange(pairs)).sum(-1).unique()), 2**pairs
    share = right.double().mean(0)
    return int(((share > 0.1) & (share < 0.99)).sum()), pairs


@dataclass(frozen=True)
class Entry:
    """A target of the panel, and the CPU seconds it may take."""

    make: Callable[[], Any]
    seconds: float = 120.0
    modes: Modes | None = None


PANEL = {
    "shift": Entry(shift),
    "rotated 20": Entry(rotated),
    "banana": Entry(Banana),
    "ring": Entry(Ring),
    "9 modes": Entry(nine_gaussians, modes=near(nine_gaussians, 2.5)),
    "25 modes": Entry(twenty_five_gaussians, modes=near(twenty_five_gaussians, 2.5)),
    "40 modes": Entry(forty_gaussians, modes=near(forty_gaussians, 4.0)),
    "two 40 sd apart": Entry(two_apart, modes=near(two_apart, 10.0)),
    "eight schools": Entry(schools),
    "logistic": Entry(logistic),
    "many-well 8": Entry(lambda: ManyWell(8), modes=wells),
    "many-well 32": Entry(lambda: ManyWell(32), seconds=300.0, modes=wells),
    "hard funnel": Entry(hard_funnel, seconds=300.0),
}

DEFEATING = {
    "needle 0.03": Entry(lambda: needle(0.03)),
    "needle 0.01": Entry(lambda: needle(0.01)),
    "needle 0.001": Entry(lambda: needle(0.001)),
    "Cauchy tails": Entry(heavy),
    "no integral": Entry(endless),
}
"""On these a warning or a refusal is asked for, where there is no right answer.

The thinnest needle is beyond what evaluations at points can see: 20,000 draws of the broad half come
near enough to feel it with probability 0.03. It stands here to show that a silent result is no proof.
"""
