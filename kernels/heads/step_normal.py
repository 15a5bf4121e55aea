r"""The law of a learned diffusion step, with its gradient in closed form.

.. math::
    a \sim N\bigl(\epsilon\,(\mu + f),\; \mathrm{diag}\, e^{2 l}\bigr), \qquad
    l = \beta\,\bigl(\sigma(\rho) - \tfrac12\bigr)

with :math:`(\mu, \rho)` a network's output, f a drift known before it, :math:`\epsilon` the pace of the
step and :math:`\sigma` the logistic function. As a graph of tensor operations the density of so short a
formula costs as much as a small network; here it is one node of the graph.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ctsgfn.distributions import CoordinateLaw

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class _LogDensity(torch.autograd.Function):
    """Log-density [B] of the law at value [B, d]; gradients for value, output and drift."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, output: Tensor, drift: Tensor | None, pace: Tensor, bound: float
    ) -> Tensor:
        dim = value.shape[-1]
        mu, share = output.narrow(1, 0, dim), _share(output, dim)
        log_scale = (share - 0.5).mul_(bound)
        inverse = log_scale.neg().exp_()
        mean = mu if drift is None else mu + drift
        z = torch.addcmul(value, mean, pace, value=-1.0).mul_(inverse)
        ctx.save_for_backward(z, inverse, share, pace)
        ctx.bound, ctx.drifted = bound, drift is not None
        return _closed(log_scale, z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, inverse, share, pace = ctx.saved_tensors
        column, dim = gradient[:, None], z.shape[-1]
        pulled = z * column
        for_scale = torch.addcmul(-column, pulled, z)  # gradient times (z^2 - 1)
        for_mean = pulled.mul_(inverse)
        for_value = -for_mean if ctx.needs_input_grad[0] else None
        slope = torch.addcmul(share, share, share, value=-1.0).mul_(ctx.bound)  # dl / d rho
        for_output = z.new_empty(len(z), 2 * dim)
        torch.mul(for_mean, pace, out=for_output.narrow(1, 0, dim))
        torch.mul(for_scale, slope, out=for_output.narrow(1, dim, dim))
        return for_value, for_output, for_output.narrow(1, 0, dim) if ctx.drifted else None, None, None


def _share(output: Tensor, dim: int) -> Tensor:
    """Logistic function of rho, [B, d]; taken of the whole output, in one run through memory."""
    return output.sigmoid().narrow(1, dim, dim)


def _closed(log_scale: Tensor, z: Tensor) -> Tensor:
    """Log-density [B] at standardised coordinates z."""
    total = torch.addcmul(log_scale, z, z, value=0.5).sum(-1)
    return torch.rsub(total, -z.shape[-1] * _HALF_LOG_TWO_PI)


class StepNormal(CoordinateLaw):
    """Normal step with pace, drift and bounded log-variance, all axes live.

    Args:
        output: mu and rho side by side, [B, 2 d].
        drift: f, [B, d], or None for 0.
        pace: epsilon, [B, 1] or [1, 1].
        bound: beta, the most that the log-variance can leave 0.

    Example:
        >>> law = StepNormal(torch.zeros(1, 4), torch.ones(1, 2), torch.full((1, 1), 0.5), 1.0)
        >>> law.loc.tolist(), round(law.log_prob(law.loc).item(), 4)
        ([[0.5, 0.5]], -1.8379)
    """

    has_rsample = True

    def __init__(self, output: Tensor, drift: Tensor | None, pace: Tensor, bound: float) -> None:
        super().__init__(output.shape[0], output.shape[1] // 2)
        self.output, self.drift, self.pace, self.bound = output, drift, pace, bound

    @cached_property
    def loc(self) -> Tensor:
        """The mean, [B, d]."""
        mu = self.output.narrow(1, 0, self.event_shape[0])
        return (mu if self.drift is None else mu + self.drift) * self.pace

    @cached_property
    def log_scale(self) -> Tensor:
        """Logarithm of the standard deviations, [B, d]."""
        return (_share(self.output, self.event_shape[0]) - 0.5) * self.bound

    @property
    def mean(self) -> Tensor:
        """The mean, [B, d]."""
        return self.loc

    def draw(self) -> Tensor:
        """Return mean + scale * standard normal."""
        return self.loc.addcmul(self.log_scale.exp(), torch.randn_like(self.loc))

    def sample_scored(self) -> tuple[Tensor, Tensor]:
        """Draw without gradient; the noise gives the log-density without the mean."""
        dim = self.event_shape[0]
        mu = self.output.narrow(1, 0, dim)
        mean = mu * self.pace if self.drift is None else (mu + self.drift).mul_(self.pace)
        log_scale = (_share(self.output, dim) - 0.5).mul_(self.bound)
        noise = torch.randn_like(mean)
        return mean.addcmul_(log_scale.exp(), noise), _closed(log_scale, noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] at [B, d]."""
        return _LogDensity.apply(  # type: ignore[no-untyped-call]
            value, self.output, self.drift, self.pace, self.bound
        )
