r"""Mixtures of von Mises laws on circles, scored and drawn safely in float32.

.. math::
    q(a | s) = \prod_j \sum_c w_{jc} \frac{\exp(\kappa_{jc} (\cos(a_j - m_{jc}) - 1))}
                                          {2\pi\, e^{-\kappa_{jc}} I_0(\kappa_{jc})}

References:
    Efficient simulation of the von Mises distribution (Best and Fisher, 1979), Applied Statistics
    28(2), 152-157.
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, app. C.4.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.distributions import CoordinateLaw, choose
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head
from ctsgfn.measures import Haar, wrap

_LOG_TWO_PI = math.log(2 * math.pi)

STEEP = 9.0
"""Logarithm of a concentration from which on it grows linearly."""


def von_mises(concentration: Tensor) -> Tensor:
    r"""Draw one angle about 0 per concentration, in [-pi, pi].

    Rejection from the best wrapped Cauchy law. With :math:`m = (1 + \sqrt{1 + 4\kappa^2}) / 2` its
    draws are :math:`2 \arctan(\sqrt{(m - \kappa) / (m + \kappa)} \tan(\pi(u - 1/2)))`, accepted with
    log-probability :math:`1 - x + \log x` where :math:`x = m - \kappa \cos\theta`. Both
    :math:`m - \kappa` and :math:`1 - \cos\theta` are computed without cancellation; at least 65 % of
    the proposals are accepted at any concentration.

    Args:
        concentration: any shape, at least 0.
    """
    kappa = concentration.flatten()
    near = 0.5 + 0.5 / ((1 + 4 * kappa.square()).sqrt() + 2 * kappa)  # m - kappa
    scale = (near / (near + 2 * kappa)).sqrt()
    out = torch.empty_like(kappa)
    left = torch.arange(len(kappa), device=kappa.device)
    while len(left):
        u, v = torch.rand(2, len(left), dtype=kappa.dtype, device=kappa.device)
        theta = 2 * (scale[left] * (math.pi * (u - 0.5)).tan()).atan()
        x = near[left] + 2 * kappa[left] * (theta / 2).sin().square()
        kept = v.log() < 1 - x + x.log()
        out[left[kept]] = theta[kept]
        left = left[~kept]
    return out.reshape(concentration.shape)


def log_von_mises(away: Tensor, concentration: Tensor) -> Tensor:
    """Log-density against arc length of angles that are so far from the centre."""
    distance = 2 * (away / 2).sin().square()  # 1 - cos
    return -concentration * distance - torch.special.i0e(concentration).log() - _LOG_TWO_PI


def tamed_exp(level: Tensor) -> Tensor:
    """The exponential up to exp(9), some 8,000, and its tangent beyond.

    Concentrations of that size are narrower than a degree; an exponential that went on would overflow.

    Example:
        >>> [round(v, 2) for v in tamed_exp(torch.tensor([-1.0, 0.0, 2.0, 10.0])).tolist()]
        [0.37, 1.0, 7.39, 16206.17]
    """
    return level.clamp(max=STEEP).exp() * (1 + (level - STEEP).clamp(min=0.0))


class VonMisesMixtureLaw(CoordinateLaw):
    """Independent mixtures of von Mises laws, one per live angle.

    Args:
        log_weight: [B, k, C] normalised over the components.
        loc: [B, k, C] angles.
        concentration: [B, k, C], at least 0.
        live: [B, k] or [B, 1] bool, or None.

    Example:
        >>> shape = (1, 1, 2)
        >>> law = VonMisesMixtureLaw(torch.full(shape, 0.5).log(), torch.zeros(shape), torch.zeros(shape))
        >>> round(float(law.log_prob(torch.ones(1, 1)).exp() * 2 * torch.pi), 4)
        1.0
    """

    def __init__(
        self, log_weight: Tensor, loc: Tensor, concentration: Tensor, live: Tensor | None = None
    ) -> None:
        super().__init__(*loc.shape[:2])
        self.log_weight, self.loc, self.concentration, self.live = log_weight, loc, concentration, live

    def draw(self) -> Tensor:
        """One angle per axis in [-pi, pi), 0 on dead axes."""
        c = choose(self.log_weight).unsqueeze(-1)
        loc = self.loc.gather(-1, c).squeeze(-1)
        a = wrap(loc + von_mises(self.concentration.gather(-1, c).squeeze(-1)))
        return a if self.live is None else a * self.live

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] of angles [B, k] against arc length."""
        away = value.unsqueeze(-1) - self.loc
        each = (self.log_weight + log_von_mises(away, self.concentration)).logsumexp(-1)
        return (each if self.live is None else torch.where(self.live, each, 0.0)).sum(-1)


class VonMisesMixture(Head):
    r"""Learned independent mixtures of C von Mises laws per angle.

    A linear layer gives each component a logit, a location and a log-concentration l;
    :math:`\kappa = e^l + \kappa_{\min}`, and beyond l = 9 linear in l (``tamed_exp``). At the start the
    components are alike and evenly spread round each circle, so the law is close to uniform.

    Args:
        dim: number of circles.
        width: width of the context.
        components: C.
        least: least concentration :math:`\kappa_{\min}`; it bounds how diffuse a component can be.

    Raises:
        InvalidInput: when components < 1 or least is negative or not finite.

    References:
        A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, section
        4.3 and app. C.4 (five components; their code has :math:`\kappa_{\min} = 4`).

    Example:
        >>> law = VonMisesMixture(2, width=3, components=4)(torch.zeros(5, 3), None, None)
        >>> tuple(law.sample().shape), tuple(law.log_prob(torch.zeros(5, 2)).shape)
        ((5, 2), (5,))
    """

    base: Haar

    def __init__(self, dim: int, width: int, components: int = 5, least: float = 0.0) -> None:
        super().__init__()
        if components < 1:
            raise InvalidInput(f"a von Mises mixture needs at least one component, got {components}.")
        if not 0.0 <= least < math.inf:
            raise InvalidInput(f"the least concentration must be finite and at least 0, got {least}.")
        self.base = Haar(dim)
        self.components, self.least = components, least
        self.parameters_of = nn.Linear(width, dim * 3 * components)
        spread = 2 * math.pi * (torch.arange(components) + 0.5) / components - math.pi
        with torch.no_grad():
            self.parameters_of.weight.mul_(0.1)
            self.parameters_of.bias.zero_().view(dim, 3, components)[:, 1] = spread

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> VonMisesMixtureLaw:
        """Law of the angles, [B, dim]."""
        del s
        shape = (-1, self.base.dim, 3, self.components)
        logit, loc, log_concentration = self.parameters_of(context).reshape(shape).unbind(2)
        return VonMisesMixtureLaw(logit.log_softmax(-1), loc, tamed_exp(log_concentration) + self.least, live)
