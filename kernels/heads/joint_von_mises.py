r"""Mixtures of sheared von Mises laws on a torus: one choice of component for all angles.

.. math::
    q(a | s) = \sum_c w_c \prod_j \frac{\exp(\kappa_{cj} \cos\delta_{cj})}{2\pi I_0(\kappa_{cj})}, \qquad
    \delta_{cj} = a_j - m_{cj} - \sum_{i < j} b_{cji} \sin(a_i - m_{ci}).

Within a component each angle is drawn given those before it, so the density is normalised exactly; near its
centre a component is a normal law with full covariance. With b = 0 the angles are still dependent: a mixture
of products is, a product of mixtures is not.

References:
    Probabilistic model for two dependent circular variables (Singh et al., 2002), Biometrika 89(3), 719-723
    (the sine law, of the same shape near its centre; its mass has no closed form); Mixture density networks
    (Bishop, 1994), Aston University NCRG/94/004; The unreasonable effectiveness of quasirandom sequences
    (Roberts, 2018), where components start.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.circle_clusters import Clusters
from ctsgfn.distributions import CoordinateLaw, choose
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head
from ctsgfn.kernels.heads.von_mises import STEEP, log_von_mises, tamed_exp, von_mises
from ctsgfn.measures import Haar, wrap


class JointVonMisesLaw(CoordinateLaw):
    """A mixture of sheared von Mises laws of all angles together.

    Args:
        log_weight: [B, C] normalised over the components.
        loc: [B, C, k] angles.
        concentration: [B, C, k], at least 0.
        shear: [B, C, k, k], 0 on and above the diagonal.
        live: [B, k] or [B, 1] bool, or None.

    Example:
        >>> one = torch.ones(1, 1, 2)
        >>> law = JointVonMisesLaw(torch.zeros(1, 1), 0 * one, 0 * one, torch.zeros(1, 1, 2, 2))
        >>> round(float(law.log_prob(torch.ones(1, 2)).exp() * (2 * torch.pi) ** 2), 4)
        1.0
    """

    def __init__(
        self,
        log_weight: Tensor,
        loc: Tensor,
        concentration: Tensor,
        shear: Tensor,
        live: Tensor | None = None,
    ) -> None:
        super().__init__(len(loc), loc.shape[2])
        self.log_weight, self.loc, self.concentration = log_weight, loc, concentration
        self.shear, self.live = shear, live

    def draw(self) -> Tensor:
        """All angles from one component, in [-pi, pi), 0 on dead axes."""
        rows, c = torch.arange(len(self.loc), device=self.loc.device), choose(self.log_weight)
        loc, shear = self.loc[rows, c], self.shear[rows, c]
        a = loc + von_mises(self.concentration[rows, c])
        for j in range(1, a.shape[1]):
            sines = (a[:, :j] - loc[:, :j]).sin()
            a[:, j] += (shear[:, j, :j] * sines).sum(-1)
        a = wrap(a)
        return a if self.live is None else a * self.live

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] of angles [B, k] against arc length."""
        away = value[:, None] - self.loc
        sheared = away - (self.shear @ away.sin()[..., None]).squeeze(-1)
        each = log_von_mises(sheared, self.concentration)
        if self.live is None:
            return (self.log_weight + each.sum(-1)).logsumexp(-1)
        live = self.live.expand(value.shape)
        inner = (self.log_weight + torch.where(live[:, None], each, 0.0).sum(-1)).logsumexp(-1)
        return torch.where(live.any(-1), inner, 0.0)


class JointVonMises(Head):
    r"""Learned mixture of C sheared von Mises laws of all angles together.

    A linear layer gives each component a logit, and per angle a location, a number l and shears b;
    :math:`\kappa - \kappa_{\min} = e^l` up to l = 9, and its tangent beyond (``tamed_exp``): an exponential
    could drive itself out of all bounds between two updates. At the start b is about 0 and the components are
    alike and evenly spread over the torus.

    Args:
        dim: number of circles.
        width: width of the context; 0 makes the parameters free, the same at every state.
        components: C.
        least: least concentration :math:`\kappa_{\min}`; it bounds how diffuse a component can be.

    Raises:
        InvalidInput: when components < 1 or least is negative or not finite.

    Example:
        >>> law = JointVonMises(2, width=3, components=4)(torch.zeros(5, 3), None, None)
        >>> tuple(law.sample().shape), tuple(law.log_prob(torch.zeros(5, 2)).shape)
        ((5, 2), (5,))
    """

    base: Haar
    lower: Tensor

    def __init__(self, dim: int, width: int, components: int = 16, least: float = 0.0) -> None:
        super().__init__()
        if components < 1:
            raise InvalidInput(f"a von Mises mixture needs at least one component, got {components}.")
        if not 0.0 <= least < math.inf:
            raise InvalidInput(f"the least concentration must be finite and at least 0, got {least}.")
        self.base = Haar(dim)
        self.components, self.least = components, least
        self.parts = [1, dim, dim, dim * (dim - 1) // 2]
        start = torch.zeros(components, sum(self.parts))
        start[:, 1 : 1 + dim] = spread(components, dim)
        self.free: nn.Parameter | None = None
        self.parameters_of: nn.Linear | None = None
        if width == 0:
            self.free = nn.Parameter(start.flatten())
        else:
            self.parameters_of = nn.Linear(width, start.numel())
            with torch.no_grad():
                self.parameters_of.weight.mul_(0.1)
                self.parameters_of.bias.copy_(start.flatten())
        self.register_buffer("lower", torch.tril_indices(dim, dim, -1), persistent=False)

    @classmethod
    def at(cls, start: Clusters) -> JointVonMises:
        """A law that looks at no state, one component at each cluster."""
        components, dim = start.loc.shape
        head = cls(dim, 0, components)
        assert head.free is not None
        with torch.no_grad():
            free = head.free.view(components, -1)
            free[:, 0] = start.share.log()
            free[:, 1 : 1 + dim] = start.loc
            free[:, 1 + dim : 1 + 2 * dim] = start.concentration.log().clamp(max=STEEP)
        return head

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> JointVonMisesLaw:
        """Law of the angles, [B, dim]."""
        del s
        if self.free is not None:
            parameters = self.free.view(self.components, -1).expand(len(context), -1, -1)
        else:
            assert self.parameters_of is not None
            parameters = self.parameters_of(context).unflatten(-1, (self.components, -1))
        logit, loc, level, below = parameters.split(self.parts, -1)
        shear = loc.new_zeros(*loc.shape, self.base.dim)
        shear[..., self.lower[0], self.lower[1]] = below
        return JointVonMisesLaw(
            logit.squeeze(-1).log_softmax(-1),
            loc,
            tamed_exp(level) + self.least,
            shear,
            live,
        )


def spread(n: int, dim: int) -> Tensor:
    """Angles [n, dim] that cover the torus evenly: multiples of powers of the generalised golden ratio.

    Example:
        >>> spread(2, 1).flatten().tolist() == spread(3, 1)[:2].flatten().tolist()
        True
    """
    ratio = 2.0
    for _ in range(60):
        ratio = (1 + ratio) ** (1 / (dim + 1))
    turns = torch.outer(torch.arange(n) + 1.0, ratio ** -(torch.arange(dim) + 1.0))
    return 2 * math.pi * (turns % 1) - math.pi
