"""Gaussian steps: normals in chart coordinates whose mean and variance are read off the context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ctsgfn.distributions import DiagonalNormal
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head, Kernel
from ctsgfn.measures import Lebesgue
from ctsgfn.networks import zero_init

Pace = Callable[[Any], Tensor]
"""States -> [B, 1], the size of a step's drift in chart coordinates (the root of its duration)."""


class GaussianStep(Head):
    r"""Normal step near the reference process, which it is at the start.

    .. math::
        a \sim N\bigl(\epsilon(s)\, \mu(c),\; \mathrm{diag}\, e^{\beta \tanh \rho(c)}\bigr)

    Both :math:`\mu` and :math:`\rho` are linear in the context c and 0 at the start.

    Args:
        dim: d.
        width: width of the context.
        pace: states -> epsilon [B, 1]; None for 1.
        log_variance_bound: beta, how far the log-variance can leave 0; None keeps it at 0.

    Raises:
        InvalidInput: when the bound is not positive.

    Example:
        >>> head = GaussianStep(2, width=4)
        >>> round(float(head(torch.ones(1, 4), None, None).log_prob(torch.zeros(1, 2))), 4)
        -1.8379
    """

    def __init__(
        self, dim: int, width: int, *, pace: Pace | None = None, log_variance_bound: float | None = 1.0
    ) -> None:
        super().__init__()
        if log_variance_bound is not None and log_variance_bound <= 0:
            raise InvalidInput(
                "log_variance_bound must be positive, or None to keep the variance, got "
                f"{log_variance_bound!r}."
            )
        self.dim, self.base = dim, Lebesgue(dim)
        self.pace, self.bound = pace, log_variance_bound
        self.output = zero_init(nn.Linear(width, dim if log_variance_bound is None else 2 * dim))

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> DiagonalNormal:
        """Law of the coordinates, [B, d]."""
        return self.step(self.output(context), None, s, live)

    def step(self, output: Tensor, drift: Tensor | None, s: Any, live: Tensor | None) -> DiagonalNormal:
        """Normal from the linear layer's output [B, d or 2 d] and a drift to add to the mean."""
        dim = self.dim
        mean, scale = output, None
        if self.bound is not None:
            mean, raw = output.split(dim, dim=-1)
            scale = (raw.tanh() * (0.5 * self.bound)).exp()
        if drift is not None:
            mean = mean + drift
        if self.pace is not None:
            mean = mean * self.pace(s)
        return DiagonalNormal(mean, scale, live)


class LangevinStep(GaussianStep):
    """A Gaussian step whose context ends with a drift [B, d] that is added to its mean.

    Args:
        dim: d.
        width: width of the context, the drift included.
        pace: states -> [B, 1]; None for 1.
        log_variance_bound: how far the log-variance can leave 0; None keeps it at 0.
    """

    def __init__(
        self, dim: int, width: int, *, pace: Pace | None = None, log_variance_bound: float | None = 1.0
    ) -> None:
        super().__init__(dim, width - dim, pace=pace, log_variance_bound=log_variance_bound)

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> DiagonalNormal:
        """Law of the coordinates, [B, d]."""
        hidden, drift = context.split([context.shape[-1] - self.dim, self.dim], dim=-1)
        return self.step(self.output(hidden), drift, s, live)


class Widened(Head):
    """The normal of another head, with its standard deviations multiplied by ``factor``.

    Args:
        head: a head that returns ``DiagonalNormal``; its parameters are shared.
        factor: positive; may be changed later.

    Raises:
        InvalidInput: when the factor is not positive, or the head's law is no normal.
    """

    def __init__(self, head: Head, factor: float) -> None:
        super().__init__()
        if factor <= 0:
            raise InvalidInput(f"factor must be positive, got {factor!r}.")
        self.base, self.head, self.factor = head.base, head, factor

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> Distribution:
        """Law of the coordinates, [B, d]."""
        law = self.head(context, s, live)
        if not isinstance(law, DiagonalNormal):
            raise InvalidInput(f"Widened needs a head with a normal law, got {type(law).__name__}.")
        scale = torch.full_like(law.loc[:1], self.factor) if law.scale is None else law.scale * self.factor
        return DiagonalNormal(law.loc, scale, law.live)


def widened(kernel: Kernel[Any], factor: float) -> Kernel[Any]:
    """The same kernel with its normal steps widened: an exploration policy that shares all modules."""
    heads: list[Head] = [Widened(head, factor) for head in kernel.heads]  # type: ignore[arg-type]
    return Kernel(kernel.reference, kernel.encoder, heads, kernel.gate).to(kernel.anchor)
