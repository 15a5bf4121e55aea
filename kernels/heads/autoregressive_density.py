r"""Log-density of an autoregressive mixture, with its gradient in closed form.

With :math:`u = (a - m) e^{-s}`, :math:`z_c = (u - \mu_c) e^{-l_c}` and

.. math::
    \log q(a) = \log\Bigl(f\, e^{-u^2 / 2}
        + (1 - f) \sum_c w_c\, e^{-z_c^2 / 2 - l_c}\Bigr) - s - \tfrac12 \log 2 \pi

at each coordinate, the shares :math:`r_c` of the terms in the density give every derivative: :math:`\partial
\mu_c = r_c z_c e^{-l_c}`, :math:`\partial l_c = r_c (z_c^2 - 1)`, :math:`\partial \log w_c = r_c`. As a graph
of tensor operations so long a formula costs twice its network; here it is one node of the graph.

Everything is laid out coordinate by coordinate with the batch last: sums over a few components then run over
long rows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

WIDTH = 3.0
"""Of the wide law of a defensive mixture."""

LARGEST = 2.0
"""Bound of a log-scale beside the wide law."""

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def bounded(log_scale: Tensor) -> Tensor:
    """Log-scales that never exceed 2, smoothly: 2 - softplus(2 - log_scale)."""
    return LARGEST - torch.nn.functional.softplus(LARGEST - log_scale)


class LogDensity(torch.autograd.Function):
    """Log-density [B] at coordinates [k, B].

    Args:
        a: the coordinates, [k, B].
        outputs: m, log sigma, then the logits, means and log-scales of C components, [k, 2 + 3 C, B].
        mean: added to m, [k, B].
        log_scale: added to log sigma, [k, B].
        floor: share of a fixed component N(0, 1) in units of u; see ``AutoregressiveMixture``.
        share: of the wide law N(0, 3^2) beside everything.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, outputs: Tensor, mean: Tensor, log_scale: Tensor, floor: float, share: float
    ) -> Tensor:
        """Log-density, [B]."""
        logit, centre, log_width = outputs[:, 2:].chunk(3, 1)
        scale = outputs[:, 1] + log_scale
        log_sigma = scale if share == 0 else bounded(scale)
        inverse = log_sigma.neg().exp_()
        u = (a - outputs[:, 0]).sub_(mean).mul_(inverse)
        log_weight = logit.log_softmax(1)
        narrow = log_width.neg().exp_()
        z = (u[:, None] - centre).mul_(narrow)
        each = torch.addcmul(log_weight - log_width, z, z, value=-0.5)  # [k, C, B]
        among = each.logsumexp(1)
        if floor > 0:
            fixed = torch.addcmul(u.new_full((), math.log(floor)), u, u, value=-0.5)
            among = torch.logaddexp(among + math.log1p(-floor), fixed)
        of_each = among - log_sigma
        whole = of_each
        if share > 0:
            wide = torch.addcmul(a.new_full((), math.log(share / WIDTH)), a, a, value=-0.5 / WIDTH**2)
            whole = torch.logaddexp(of_each + math.log1p(-share), wide)
        ctx.save_for_backward(a, scale, inverse, u, log_weight, narrow, z, each, among, of_each, whole)
        ctx.floor, ctx.share = floor, share
        return whole.sum(0).sub_(len(a) * _HALF_LOG_TWO_PI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for a, outputs, mean and log_scale."""
        a, scale, inverse, u, log_weight, narrow, z, each, among, of_each, whole = ctx.saved_tensors
        floor, share = ctx.floor, ctx.share
        column = gradient.expand_as(u)
        if share > 0:  # what of the density is not the wide law
            column = (of_each - whole + math.log1p(-share)).exp_().mul_(gradient)
        weight = (each - among[:, None]).exp_()  # r_c, up to the upstream gradient
        weight.mul_(column[:, None] if floor == 0 else (column * (1 - floor))[:, None])
        out = torch.empty(z.shape[0], 2 + 3 * z.shape[1], z.shape[2], dtype=z.dtype, device=z.device)
        for_logit, for_centre, for_width = out[:, 2:].chunk(3, 1)
        learned = weight.sum(1)
        torch.addcmul(weight, log_weight.exp(), learned[:, None], value=-1.0, out=for_logit)
        pulled = weight * z
        torch.mul(pulled, narrow, out=for_centre)
        torch.addcmul(-weight, pulled, z, out=for_width)
        for_u = for_centre.sum(1).neg_()
        if floor > 0:
            for_u.sub_((column - learned).mul_(u))
        for_a = for_u * inverse
        for_mean = torch.neg(for_a, out=out[:, 0])
        for_scale = torch.addcmul(column, u, for_u).neg_()
        if share > 0:
            for_scale.mul_((LARGEST - scale).sigmoid_())
        out[:, 1] = for_scale
        if share > 0 and ctx.needs_input_grad[0]:
            for_a.addcmul_(column - gradient, a, value=1 / WIDTH**2)
        return for_a, out, for_mean, for_scale, None, None
