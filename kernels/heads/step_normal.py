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
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ctsgfn.distributions import CoordinateLaw

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class _LogDensity(torch.autograd.Function):
    """Log-density [B] of the law at value [B, d]; gradients for value, output and drift.

    Every tensor takes the layout of ``output``, row by row or coordinate by coordinate: both are right,
    and with few coordinates the second is several times faster.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, output: Tensor, drift: Tensor | None, pace: Tensor, bound: float
    ) -> Tensor:
        dim = value.shape[-1]
        mu, share = output.narrow(1, 0, dim), _share(output, dim)
        log_scale = (share - 0.5).mul_(bound)
        inverse = log_scale.neg().exp()
        mean = mu * pace if drift is None else (mu + drift).mul_(pace)
        z = (value - mean if value.stride() == mean.stride() else mean.sub_(value).neg_()).mul_(inverse)
        ctx.save_for_backward(z, inverse, share, pace)
        ctx.bound, ctx.drifted, ctx.by_row = bound, drift is not None, output.stride(1) == 1
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
        for_output = z.new_empty(len(z), 2 * dim) if ctx.by_row else z.new_empty(2 * dim, len(z)).t()
        torch.mul(for_mean, pace, out=for_output.narrow(1, 0, dim))
        torch.mul(for_scale, slope, out=for_output.narrow(1, dim, dim))
        return for_value, for_output, for_output.narrow(1, 0, dim) if ctx.drifted else None, None, None


def _share(output: Tensor, dim: int) -> Tensor:
    """Logistic function of rho, [B, d]."""
    return output.narrow(1, dim, dim).sigmoid()


def _rows(parts: Sequence[Tensor]) -> Tensor:
    """Stack [B, d] parts along the rows, in the layout that they have."""
    if parts[0].stride(0) == 1:
        return torch.cat([part.t() for part in parts], dim=1).t()
    return torch.cat(list(parts))


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
        batch, dim = self.output.shape[0], self.event_shape[0]
        mu, rho = self.output.split(dim, dim=1)
        by_row = self.output.stride(1) == 1
        noise = self.output.new_empty((batch, dim) if by_row else (dim, batch))
        noise.normal_(0.0, math.exp(-0.5 * self.bound))  # the scale is this times e^(bound share)
        if not by_row:
            noise = noise.t()  # drawn while contiguous: several times faster
        share = rho.sigmoid() if self.bound == 1.0 else rho.sigmoid() * self.bound
        self.drawn = share, noise
        mean = mu * self.pace if self.drift is None else (mu + self.drift) * self.pace
        return mean.addcmul(share.exp(), noise)

    @classmethod
    def score(cls, laws: Sequence[StepNormal], draws: Sequence[Tensor]) -> Tensor:
        """Log-densities [sum of B] of the last draw of each law: the noise gives them without the means."""
        del draws
        bound, (shares, noises) = laws[0].bound, zip(*[law.drawn for law in laws], strict=True)
        return _closed(_rows(shares) - 0.5 * bound, _rows(noises) * math.exp(0.5 * bound))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] at [B, d]."""
        return _LogDensity.apply(  # type: ignore[no-untyped-call]
            value, self.output, self.drift, self.pace, self.bound
        )
