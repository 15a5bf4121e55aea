r"""Mixtures of normals with an unknown number of components, in coordinates on the whole line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot, pad, softplus

from ctsgfn.errors import InvalidInput, whole
from ctsgfn.measures import Counting
from ctsgfn.with_parameters import Parameterised, WithParameters

BEND = 5.0
"""How sharply the coordinate of a gap between means bends off before the gap is 0."""


class Components(NamedTuple):
    """A mixture of K normals, means in increasing order."""

    log_weight: Tensor  # [B, K]
    mean: Tensor  # [B, K]
    log_sd: Tensor  # [B, K]

    @property
    def weight(self) -> Tensor:
        """Weights, [B, K]."""
        return self.log_weight.exp()

    @property
    def sd(self) -> Tensor:
        """Standard deviations, [B, K]."""
        return self.log_sd.exp()


@dataclass(frozen=True)
class MixtureParameters:
    """Live parameters of mixtures of m + 1 normals: 3 m + 2 of them."""

    most: int

    def __call__(self, model: Tensor) -> Tensor:
        """Live mask [B, 3 most - 1]: first mean and gaps, scales, sticks."""
        place = torch.arange(self.most, device=model.device)
        component, stick = place <= model, place[:-1] < model
        return torch.cat([component, component, stick], -1)


@dataclass(frozen=True, eq=False)
class NormalMixtures:
    r"""How many normals made the numbers y, and which: the posterior over K = 1 .. most and all parameters.

    .. math::
        y_i \sim \sum_{k=1}^K w_k N(\mu_k, \sigma_k^2), \quad \mu_1 < \dots < \mu_K, \quad
        w \sim \mathrm{Dirichlet}(1), \quad \mu_k \sim N(\xi, R^2), \quad
        \sigma_k^{-2} \sim \mathrm{Gamma}(2, \beta), \quad \beta \sim \mathrm{Gamma}(0.2, 10 / R^2)

    with :math:`\xi` the midpoint and R the range of the data, and every K as likely as another; the order of
    the means multiplies their density by K!. The rate is integrated out: with :math:`h = 10 / R^2`,

    .. math::
        p(\tau_1, .., \tau_K) = \frac{\Gamma(2 K + 0.2)}{\Gamma(0.2)}
            \frac{h^{0.2} \prod_k \tau_k}{(h + \sum_k \tau_k)^{2 K + 0.2}}, \qquad \tau_k = \sigma_k^{-2} .

    The coordinates are: the first mean; u for each gap :math:`\tfrac{R}{5 K} \log(1 + e^{5 (u + 1)})` between
    means, about linear, so that gaps that are sure are about normal; the logs of the :math:`\sigma_k`; and
    sticks that are broken into w.

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
        >>> x = Parameterised(torch.tensor([[1], [0]]), torch.zeros(2, 8))
        >>> str(target.measure), target.log_density(x).shape
        ('counting measure on {0, .., 2} with up to 8 parameters', torch.Size([2]))
        >>> [round(v, 3) for v in target.components(1, x.theta[:1]).mean[0].tolist()]
        [-0.475, 0.576]
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
        """Numbers of components, with a mean, a scale and a weight each, less one."""
        return WithParameters(Counting(self.most), 3 * self.most - 1, MixtureParameters(self.most))

    def log_density(self, x: Parameterised) -> Tensor:
        """Log p(y | theta) + log p(theta | K) - log most, [B] float64."""
        theta = x.theta.double()  # far out, scales leave the range of single precision
        out = theta.new_zeros(len(x))
        for m in x.model[:, 0].unique().tolist():
            rows = (x.model[:, 0] == m).nonzero().squeeze(-1)
            out = out.index_add(0, rows, self._log_density(m, theta[rows]))
        return out - math.log(self.most)

    def chain(self, x: Parameterised) -> Parameterised:
        """One Gibbs sweep over labels, weights, means, scales and the rate, at every point, K as it is."""
        theta = torch.zeros_like(x.theta)
        for m in x.model[:, 0].unique().tolist():
            rows = (x.model[:, 0] == m).nonzero().squeeze(-1)
            theta[rows] = self._encode(self._swept(self.components(m, x.theta[rows].double()))).to(theta)
        return Parameterised(x.model, theta)

    def components(self, m: int, theta: Tensor) -> Components:
        """The mixture at parameters [B, 3 most - 1] of model m."""
        return self._decode(m, theta)[0]

    def predictive(self, m: int, theta: Tensor, at: Tensor) -> Tensor:
        """Density [B, G] of a new number, at points [G]."""
        mixture = self.components(m, theta)
        each = _log_normal(at.to(theta), mixture.mean[..., None], mixture.log_sd[..., None])
        return (mixture.log_weight[..., None] + each).logsumexp(1).exp()

    def _decode(self, m: int, theta: Tensor) -> tuple[Components, Tensor]:
        """The mixture, and log |det| [B] of the map from the coordinates to it."""
        k, low, span = m + 1, float(self.y.min()), float(self.y.max() - self.y.min())
        place, scale, stick = theta.split([self.most, self.most, self.most - 1], -1)
        bent, log_scale = BEND * (place[:, 1:k] + 1), scale[:, :k]
        first, gap = low + span * (0.5 / k + place[:, :1]), span / k / BEND * softplus(bent)
        log_sd = log_scale + math.log(0.5 * span / k)
        even = torch.arange(m, 0, -1).to(theta).log()  # a stick of 0 breaks off an equal share
        broken, left = logsigmoid(stick[:, :m] - even), logsigmoid(even - stick[:, :m])
        before = pad(left.cumsum(-1), (1, 0))  # log of what is left
        log_weight = torch.cat([broken + before[:, :m], before[:, m:]], -1)
        log_det = (
            logsigmoid(bent).sum(-1) + log_sd.sum(-1) + (broken + left + before[:, :m]).sum(-1)
            + math.log(span) + m * math.log(span / k)
        )  # fmt: skip
        mean = torch.cat([first, gap], -1).cumsum(-1)  # of determinant 1
        return Components(log_weight, mean, log_sd), log_det

    def _encode(self, mixture: Components) -> Tensor:
        """Coordinates [B, 3 most - 1] of mixtures: the inverse of ``components``."""
        mean, log_weight, k = mixture.mean, mixture.log_weight, mixture.mean.shape[1]
        low, span = float(self.y.min()), float(self.y.max() - self.y.min())
        bent = mean.diff(dim=-1) * (BEND * k / span)
        place = torch.cat(
            [(mean[:, :1] - low) / span - 0.5 / k, (bent + (-(-bent).expm1()).log()) / BEND - 1], -1
        )
        left = log_weight.flip(-1).logcumsumexp(-1).flip(-1)  # log of what is left before each stick
        stick = log_weight[:, :-1] - left[:, 1:] + torch.arange(k - 1, 0, -1).to(mean).log()
        scale, dead = mixture.log_sd - math.log(0.5 * span / k), self.most - k
        return torch.cat([pad(part, (0, dead)) for part in (place, scale, stick)], -1)

    def _swept(self, mixture: Components) -> Components:
        """One Gibbs sweep (Richardson and Green, 1997, section 3.2), the means put in order after it."""
        y, (batch, k) = self.y.to(mixture.mean), mixture.mean.shape
        middle, span = 0.5 * (y.max() + y.min()), y.max() - y.min()
        each = mixture.log_weight[:, None] + _log_normal(
            y[:, None], mixture.mean[:, None], mixture.log_sd[:, None]
        )
        label = torch.multinomial(each.softmax(-1).flatten(0, 1), 1).reshape(batch, -1)
        of, tau = one_hot(label, k).to(y), (-2 * mixture.log_sd).exp()
        count = of.sum(1)
        log_weight = torch._standard_gamma(1 + count).log().log_softmax(-1)
        precision = count * tau + span**-2
        centre = (tau * (of * y[:, None]).sum(1) + middle / span**2) / precision
        mean = centre + torch.randn_like(centre) / precision.sqrt()
        rate = torch._standard_gamma(tau.new_full((batch, 1), 0.2 + 2 * k)) / (
            10 / span**2 + tau.sum(-1, True)
        )
        squares = (of * (y[:, None] - mean[:, None]).square()).sum(1)
        log_sd = -0.5 * (torch._standard_gamma(2 + 0.5 * count) / (rate + 0.5 * squares)).log()
        order = mean.argsort(-1)
        return Components(*(part.gather(1, order) for part in (log_weight, mean, log_sd)))

    def _log_density(self, m: int, theta: Tensor) -> Tensor:
        mixture, log_det = self._decode(m, theta)
        low, high = float(self.y.min()), float(self.y.max())
        span, log_sd = high - low, mixture.log_sd
        each = _log_normal(self.y.to(theta)[:, None], mixture.mean[:, None], log_sd[:, None])
        likelihood = (mixture.log_weight[:, None] + each).logsumexp(-1).sum(-1)
        middle, width = (torch.as_tensor(v).to(theta) for v in (0.5 * (low + high), math.log(span)))
        of_mean = _log_normal(mixture.mean, middle, width).sum(-1) + math.lgamma(m + 2)
        log_h = math.log(10 / span**2)
        total = pad(-2 * log_sd, (0, 1), value=log_h).logsumexp(-1)  # of h and all tau
        of_tau = math.lgamma(2 * m + 2.2) - math.lgamma(0.2) + 0.2 * log_h - (2 * m + 2.2) * total
        of_sd = of_tau + (math.log(2.0) - 5 * log_sd).sum(-1)  # tau is sd^-2, and |d tau / d sd| 2 sd^-3
        return likelihood + of_mean + of_sd + math.lgamma(m + 1) + log_det


def _log_normal(value: Tensor, mean: Tensor, log_sd: Tensor) -> Tensor:
    return -0.5 * ((value - mean) * (-log_sd).exp()).square() - log_sd - 0.5 * math.log(2 * math.pi)


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


ACIDITY = (
    2.928524, 3.910021, 3.732896, 3.688879, 3.822098, 3.735286, 4.143135, 4.276666, 3.931826, 4.077537,
    4.779123, 4.234107, 4.276666, 4.543295, 6.467388, 4.127134, 3.977811, 4.264087, 4.007333, 3.921973,
    5.384495, 4.912655, 4.046554, 4.043051, 4.406719, 4.505350, 3.931826, 6.752270, 6.928538, 5.994460,
    4.248495, 4.060443, 4.727388, 6.047372, 4.082609, 4.244200, 4.890349, 4.416428, 5.743003, 4.127134,
    5.489764, 4.778283, 5.249652, 4.855929, 4.128746, 4.442651, 4.025352, 4.290459, 4.593098, 4.652054,
    4.178992, 4.382027, 5.569489, 5.049856, 4.188138, 6.629363, 4.647271, 4.784989, 4.348987, 5.361292,
    4.574711, 4.442651, 6.120297, 4.060443, 4.143135, 4.510860, 6.049733, 4.510860, 4.406719, 6.343880,
    4.430817, 5.929589, 5.973301, 4.481872, 4.301359, 6.452680, 4.204693, 4.143135, 6.603944, 4.644391,
    5.863631, 4.025352, 5.717028, 5.308268, 6.267201, 4.060443, 5.017280, 4.510860, 5.834811, 4.330733,
    4.007333, 6.806829, 5.257495, 4.624973, 4.781641, 4.099332, 7.044382, 3.914021, 4.330733, 4.016383,
    5.572154, 4.043051, 4.843399, 4.110874, 4.454347, 4.356709, 6.154858, 6.284321, 6.978214, 4.301359,
    5.929855, 4.465908, 6.035481, 6.726473, 7.105130, 6.014937, 4.882802, 7.032095, 4.518522, 6.476665,
    6.125558, 4.189655, 5.323498, 4.938065, 6.313548, 5.853925, 6.278146, 7.020191, 5.023881, 4.262680,
    6.725634, 6.489205, 5.743003, 6.739337, 6.466145, 6.855409, 5.120983, 5.913773, 6.516932, 4.058717,
    6.213608, 6.554218, 6.155707, 4.314818, 6.662494, 6.749931, 6.100319, 4.112512, 6.946014, 4.131961,
    6.234411, 6.595781, 6.683861, 6.957973, 4.497585,
)  # fmt: skip
"""Log of an acidity index of 155 lakes in Wisconsin."""


def acidity(most: int = 5) -> NormalMixtures:
    """How many groups the acidity of 155 lakes, on the log scale, falls into.

    References:
        Modeling lake-chemistry distributions: approximate Bayesian methods for estimating a finite-mixture
        model (Crawford, DeGroot, Kadane and Small, 1992), Technometrics 34 (the data); On Bayesian analysis
        of mixtures with an unknown number of components (Richardson and Green, 1997), JRSS B 59, section 4
        (the same model of them).

    Example:
        >>> len(acidity().y)
        155
    """
    return NormalMixtures(torch.tensor(ACIDITY, dtype=torch.float64), most)
