r"""Mixtures of normals with an unknown number of components, in coordinates on the whole line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions.transforms import ExpTransform, StickBreakingTransform

from ctsgfn.errors import InvalidInput, whole
from ctsgfn.measures import Counting
from ctsgfn.with_parameters import Parameterised, WithParameters


class Components(NamedTuple):
    """A mixture of K normals, means in increasing order."""

    weight: Tensor  # [B, K]
    mean: Tensor  # [B, K]
    sd: Tensor  # [B, K]
    rate: Tensor  # [B], of the prior on 1 / sd^2


@dataclass(frozen=True)
class MixtureParameters:
    """Live parameters of mixtures of m + 1 normals: 3 (m + 1) of them."""

    most: int

    def __call__(self, model: Tensor) -> Tensor:
        """Live mask [B, 3 most]: first mean and gaps, log sds, weights, log rate."""
        place = torch.arange(self.most, device=model.device)
        component, stick = place <= model, place[:-1] < model
        return torch.cat([component, component, stick, torch.ones_like(model, dtype=torch.bool)], -1)


@dataclass(frozen=True, eq=False)
class NormalMixtures:
    r"""How many normals made the numbers y, and which: the posterior over K = 1 .. most and all parameters.

    .. math::
        y_i \sim \sum_{k=1}^K w_k N(\mu_k, \sigma_k^2), \quad \mu_1 < \dots < \mu_K, \quad
        w \sim \mathrm{Dirichlet}(1), \quad \mu_k \sim N(\xi, R^2), \quad
        \sigma_k^{-2} \sim \mathrm{Gamma}(2, \beta), \quad \beta \sim \mathrm{Gamma}(0.2, 10 / R^2)

    with :math:`\xi` the midpoint and R the range of the data, and every K as likely as another; the order of
    the means multiplies their density by K!. The coordinates are, in units of R and R / K: the first mean,
    the logs of the gaps between means, the logs of the :math:`\sigma_k`, sticks that are broken into w, and
    the log of :math:`\beta R^2`; the Jacobians are those of torch's transforms.

    Model m of ``Counting(most)`` has m + 1 components.

    Args:
        y: [N].
        most: most components.

    Raises:
        InvalidInput: with fewer than 2 numbers, or numbers that are not finite or all the same.

    References:
        On Bayesian analysis of mixtures with an unknown number of components (Richardson and Green, 1997),
        Journal of the Royal Statistical Society B 59, section 2.

    Example:
        >>> target = NormalMixtures(torch.tensor([-1.0, -0.9, 1.0, 1.1, 0.8]), most=3)
        >>> x = Parameterised(torch.tensor([[1], [0]]), torch.zeros(2, 9))
        >>> str(target.measure), target.log_density(x).shape
        ('counting measure on {0, .., 2} with up to 9 parameters', torch.Size([2]))
        >>> [round(v, 3) for v in target.components(1, x.theta[:1]).mean[0].tolist()]
        [-0.475, 0.575]
    """

    y: Tensor
    most: int = 5

    def __post_init__(self) -> None:
        whole("most", self.most)
        if self.y.ndim != 1 or len(self.y) < 2 or not bool(self.y.isfinite().all()):
            raise InvalidInput(
                f"NormalMixtures needs at least 2 finite numbers [N], got {list(self.y.shape)}."
            )
        if not float(self.y.max()) > float(self.y.min()):
            raise InvalidInput("the numbers are all the same: there is nothing to mix.")

    @property
    def measure(self) -> WithParameters[Tensor]:
        """Numbers of components, with three parameters each."""
        return WithParameters(Counting(self.most), 3 * self.most, MixtureParameters(self.most))

    def log_density(self, x: Parameterised) -> Tensor:
        """Log p(y | theta) + log p(theta | K) - log most, [B] float64."""
        theta = x.theta.double()  # far out, scales leave the range of single precision
        out = theta.new_zeros(len(x))
        for m in x.model[:, 0].unique().tolist():
            rows = (x.model[:, 0] == m).nonzero().squeeze(-1)
            out = out.index_add(0, rows, self._log_density(m, theta[rows]))
        return out - math.log(self.most)

    def components(self, m: int, theta: Tensor) -> Components:
        """The mixture at parameters [B, 3 most] of model m."""
        return self._decode(m, theta)[0]

    def predictive(self, m: int, theta: Tensor, at: Tensor) -> Tensor:
        """Density [B, G] of a new number, at points [G]."""
        mixture = self.components(m, theta)
        each = _log_normal(at.to(theta), mixture.mean[..., None], mixture.sd.log()[..., None])
        return (mixture.weight.log()[..., None] + each).logsumexp(1).exp()

    def _decode(self, m: int, theta: Tensor) -> tuple[Components, Tensor]:
        """The mixture, and log |det| [B] of the map from the coordinates to it."""
        k, low, span = m + 1, float(self.y.min()), float(self.y.max() - self.y.min())
        exp, sticks = ExpTransform(), StickBreakingTransform()
        place, scale, stick, rate = theta.split([self.most, self.most, self.most - 1, 1], -1)
        first, log_gap, log_sd = low + span * (0.5 / k + place[:, :1]), place[:, 1:k], scale[:, :k]
        unit = span / k
        gap, sd, beta = exp(log_gap) * unit, exp(log_sd) * (0.5 * unit), exp(rate[:, 0]) / span**2
        weight = sticks(stick[:, :m]) if m else torch.ones_like(first)
        log_det = (
            exp.log_abs_det_jacobian(log_gap, gap).sum(-1)
            + exp.log_abs_det_jacobian(log_sd, sd).sum(-1)
            + exp.log_abs_det_jacobian(rate, beta).sum(-1)
            + math.log(span) + m * math.log(unit) + k * math.log(0.5 * unit) - 2 * math.log(span)
        )  # fmt: skip
        if m:
            log_det = log_det + sticks.log_abs_det_jacobian(stick[:, :m], weight)
        mean = torch.cat([first, gap], -1).cumsum(-1)  # of determinant 1
        return Components(weight, mean, sd, beta), log_det

    def _log_density(self, m: int, theta: Tensor) -> Tensor:
        mixture, log_det = self._decode(m, theta)
        low, high = float(self.y.min()), float(self.y.max())
        span, log_sd = high - low, mixture.sd.log()
        each = _log_normal(self.y.to(theta)[:, None], mixture.mean[:, None], log_sd[:, None])
        likelihood = (mixture.weight.log()[:, None] + each).logsumexp(-1).sum(-1)
        middle, width = (torch.as_tensor(v).to(theta) for v in (0.5 * (low + high), math.log(span)))
        of_mean = _log_normal(mixture.mean, middle, width).sum(-1) + math.lgamma(m + 2)
        of_precision = _log_gamma((-2 * log_sd).exp(), 2.0, mixture.rate[:, None])
        of_sd = (of_precision + math.log(2.0) - 3 * log_sd).sum(-1)
        of_rate = _log_gamma(mixture.rate, 0.2, torch.as_tensor(10 / span**2).to(theta))
        return likelihood + of_mean + of_sd + of_rate + math.lgamma(m + 1) + log_det


def _log_normal(value: Tensor, mean: Tensor, log_sd: Tensor) -> Tensor:
    return -0.5 * ((value - mean) * (-log_sd).exp()).square() - log_sd - 0.5 * math.log(2 * math.pi)


def _log_gamma(value: Tensor, shape: float, rate: Tensor) -> Tensor:
    return shape * rate.log() - math.lgamma(shape) + (shape - 1) * value.log() - rate * value


GALAXIES = (
    9172, 9350, 9483, 9558, 9775, 10227, 10406, 16084, 16170, 18419, 18552, 18600, 18927, 19052, 19070,
    19330, 19343, 19349, 19440, 19473, 19529, 19541, 19547, 19663, 19846, 19856, 19863, 19914, 19918, 19973,
    19989, 20166, 20175, 20179, 20196, 20215, 20221, 20415, 20629, 20795, 20821, 20846, 20875, 20986, 21137,
    21492, 21701, 21814, 21921, 21960, 22185, 22209, 22242, 22249, 22314, 22374, 22495, 22746, 22747, 22888,
    22914, 23206, 23241, 23263, 23484, 23538, 23542, 23666, 23706, 23711, 24129, 24285, 24289, 24366, 24717,
    24990, 25633, 26960, 26995, 32065, 32789, 34279,
)  # fmt: skip
"""Velocities in km/s of 82 galaxies in six separated conic sections of Corona Borealis."""


def galaxies(most: int = 5) -> NormalMixtures:
    """How many clusters the velocities of 82 galaxies (1,000 km/s) fall into.

    References:
        Density estimation with confidence sets exemplified by superclusters and voids in the galaxies
        (Roeder, 1990), JASA 85 (the data); On Bayesian analysis of mixtures with an unknown number of
        components (Richardson and Green, 1997), JRSS B 59, section 4 (the same model of them).

    Example:
        >>> len(galaxies().y)
        82
    """
    return NormalMixtures(torch.tensor(GALAXIES, dtype=torch.float64) / 1000, most)
