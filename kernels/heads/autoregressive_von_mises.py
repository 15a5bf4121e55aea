r"""Autoregressive mixtures of von Mises laws: each angle's law is set by the angles before it.

.. math::
    q(a | s) = \prod_i \sum_c w_{ic} \frac{\exp(\kappa_{ic} \cos(a_i - m_{ic}))}{2\pi I_0(\kappa_{ic})}

where :math:`w, m, \kappa` at i are functions of s and of the cosines and sines of :math:`a_1, .., a_{i-1}`,
by a masked network and a linear map beside it. One joint mixture needs a component for every combination of
the modes of its angles; this law needs one for every mode of an angle.

References:
    MADE: masked autoencoder for distribution estimation (Germain et al., 2015), arXiv 1502.03509; Normalizing
    flows on tori and spheres (Rezende et al., 2020), arXiv 2002.02428, section 2.2 (autoregressive on tori).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ctsgfn.distributions import CoordinateLaw
from ctsgfn.errors import InvalidInput
from ctsgfn.kernels.heads.masked import MaskedHead, MaskedLinear, chosen
from ctsgfn.kernels.heads.von_mises import log_von_mises, tamed_exp, von_mises
from ctsgfn.measures import Haar, wrap
from ctsgfn.networks import zero_init


class AutoregressiveVonMisesLaw(CoordinateLaw):
    """The law for each row of a context; drawn one angle after another, scored in one pass.

    Args:
        head: the head, whose network gives the parameters as the angles become known.
        context: [B, width].
    """

    def __init__(self, head: AutoregressiveVonMises, context: Tensor) -> None:
        super().__init__(len(context), head.dim)
        self.head, self.context = head, context

    def draw(self) -> Tensor:
        """One draw per row, [B, k], in [-pi, pi)."""
        head, (batch, dim) = self.head, (len(self.context), self.head.dim)
        outputs, straight = head.unrolled(self.context), head.straight.connected.unflatten(0, (dim, -1))
        a, seen = self.context.new_empty(dim, batch), self.context.new_empty(2 * dim, batch)
        race = self.context.new_empty(dim, head.components, batch).exponential_().log_()
        for i in range(dim):
            known = seen[: 2 * i]
            loc, level = chosen(race[i], *outputs(i, known).addmm(straight[i, :, : 2 * i], known).chunk(3))
            a[i] = wrap(loc + von_mises(tamed_exp(level)))
            if head.floor > 0:
                anywhere = (2 * torch.rand_like(loc) - 1) * math.pi
                a[i] = torch.where(torch.rand_like(loc) < head.floor, anywhere, a[i])
            seen[2 * i], seen[2 * i + 1] = a[i].cos(), a[i].sin()
        return a.t()[:, head.order.argsort()]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] of angles [B, k] against arc length."""
        a = value[:, self.head.order]
        seen = torch.stack([a.cos(), a.sin()], -1).flatten(1)
        straight = (self.head.straight.connected @ seen.t()).unflatten(0, (self.head.dim, -1))
        logit, loc, level = (self.head.outputs(seen, self.context) + straight).chunk(3, 1)  # [k, C, B] each
        each = logit.log_softmax(1) + log_von_mises(a.t()[:, None] - loc, tamed_exp(level))
        of_each = each.logsumexp(1)
        if self.head.floor > 0:
            even = of_each.new_full((), math.log(self.head.floor / (2 * math.pi)))
            of_each = torch.logaddexp(of_each + math.log1p(-self.head.floor), even)
        return of_each.sum(0)


class AutoregressiveVonMises(MaskedHead):
    r"""Learned autoregressive mixture of C von Mises laws per angle, on a torus.

    The network gives each component a logit, a location and a number l; :math:`\kappa = e^l` up to l = 9, and
    its tangent beyond (``tamed_exp``). At the start the components are alike and evenly spread round each
    circle, so the law is close to uniform.

    Args:
        dim: number of circles.
        width: width of the context.
        components: C.
        hidden: width of the network.
        layers: its hidden layers.
        floor: share of the uniform law in each angle's mixture, which bounds the weights of draws between the
            modes.
        order: the angles in the order in which they are drawn; as they stand if None.

    Raises:
        InvalidInput: on sizes below 1, or an order that is no permutation.

    Example:
        >>> head = AutoregressiveVonMises(3, width=2, components=4, order=[2, 0, 1])
        >>> law = head(torch.zeros(5, 2), None, None)
        >>> tuple(law.sample().shape), tuple(law.log_prob(torch.zeros(5, 3)).shape)
        ((5, 3), (5,))
    """

    def __init__(
        self,
        dim: int,
        width: int,
        components: int = 8,
        *,
        hidden: int = 64,
        layers: int = 2,
        floor: float = 0.0,
        order: Sequence[int] | None = None,
    ) -> None:
        if components < 1:
            raise InvalidInput(f"a von Mises mixture needs at least one component, got {components}.")
        if not 0 <= floor < 1:
            raise InvalidInput(f"the floor's share must be at least 0 and below 1, got {floor}.")
        size = {"hidden": hidden, "layers": layers}
        super().__init__(Haar(dim), width, features=2, outputs=3 * components, order=order, **size)
        self.components, self.floor = components, floor
        angle = torch.arange(dim)
        later = angle.repeat_interleave(3 * components)[:, None] > angle.repeat_interleave(2)
        self.straight = MaskedLinear(later, bias=False)
        zero_init(self.straight)
        turn = 2 * math.pi * (torch.arange(components) + 0.5) / components - math.pi
        with torch.no_grad():
            self.out.bias.view(dim, 3, components)[:, 1] = turn

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> AutoregressiveVonMisesLaw:
        """Law of the angles, [B, dim].

        Raises:
            InvalidInput: when a live mask is given: an angle that is switched off has no order.
        """
        del s
        if live is not None:
            raise InvalidInput(
                "AutoregressiveVonMises has no dead axes: use VonMisesMixture or JointVonMises where there "
                "are some."
            )
        return AutoregressiveVonMisesLaw(self, context)
