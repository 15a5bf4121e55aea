"""Gaussian steps: normals in chart coordinates whose mean and variance are read off the context."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import linear

from ctsgfn.distributions import DiagonalNormal
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head, Kernel
from ctsgfn.kernels.heads.step_normal import StepNormal
from ctsgfn.measures import Lebesgue
from ctsgfn.networks import zero_init
from ctsgfn.trajectories import NARROW

Pace = Callable[[Any], Tensor]
"""States -> [B, 1], the size of a step's drift in chart coordinates (the root of its duration)."""

NormalLaw = DiagonalNormal | StepNormal
"""Independent normals: ``loc`` and ``log_scale``."""


class GaussianStep(Head):
    r"""Normal step near the reference process, which it is at the start.

    .. math::
        a \sim N\bigl(\epsilon(s)\, \mu(c),\; \mathrm{diag}\, e^{\beta \tanh(\rho(c) / 2)}\bigr)

    Both :math:`\mu` and :math:`\rho` are linear in the context c and 0 at the start.

    Args:
        dim: d.
        width: width of the context.
        pace: states -> epsilon [B, 1]; None for 1.
        log_variance_bound: beta, how far the log-variance can leave 0; None keeps it at 0.

    Raises:
        InvalidInput: when the bound is not positive.

    Example:
        >>> import torch
        >>> head = GaussianStep(2, width=4)
        >>> round(head(torch.ones(1, 4), None, None).log_prob(torch.zeros(1, 2)).item(), 4)
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

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> NormalLaw:
        """Law of the coordinates, [B, d]."""
        return self.near()(context, None, s, live)

    def bind(self) -> Callable[[Tensor, Any, Tensor | None], NormalLaw]:
        """``forward`` for many calls."""
        near = self.near()
        return lambda context, s, live: near(context, None, s, live)

    def near(self) -> Callable[[Tensor, Tensor | None, Any, Tensor | None], NormalLaw]:
        """Context, drift [B, d] added to mu, states and live mask -> law."""
        weight, bias, bound, pace = self.output.weight, self.output.bias, self.bound, self.pace
        everywhere = bias.new_ones(1, 1)

        def near(context: Tensor, drift: Tensor | None, s: Any, live: Tensor | None) -> NormalLaw:
            if self.dim > NARROW:
                output = linear(context, weight, bias)
            else:  # coordinate by coordinate: with few of them the density is then several times cheaper
                output = torch.addmm(bias[:, None], weight, context.t()).t()
            size = everywhere if pace is None else pace(s)
            if bound is None:
                return DiagonalNormal((output if drift is None else output + drift) * size, None, live)
            law = StepNormal(output, drift, size, bound)
            return law if live is None else DiagonalNormal(law.loc, law.log_scale, live)

        return near


class LangevinStep(Head):
    """A Gaussian step whose context has a drift [B, d] that is added to mu.

    Args:
        step: a Gaussian step on the hidden layer of the context.

    Example:
        >>> import torch
        >>> from ctsgfn.kernels.heads.encoders import Steered
        >>> head = LangevinStep(GaussianStep(2, width=4))
        >>> head(Steered(torch.ones(1, 4), torch.tensor([[3.0, 4.0]])), None, None).mean.tolist()
        [[3.0, 4.0]]
    """

    def __init__(self, step: GaussianStep) -> None:
        super().__init__()
        self.base, self.step = step.base, step

    def forward(self, context: Any, s: Any, live: Tensor | None) -> NormalLaw:
        """Law of the coordinates, [B, d], given a ``Steered`` context."""
        return self.bind()(context, s, live)

    def bind(self) -> Callable[[Any, Any, Tensor | None], NormalLaw]:
        """``forward`` for many calls."""
        near = self.step.near()
        return lambda context, s, live: near(context.hidden, context.drift, s, live)


class Widened(Head):
    """The normal of another head, with its standard deviations multiplied by ``factor``.

    Args:
        head: a head whose law is normal; its parameters are shared.
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
        if not isinstance(law, DiagonalNormal | StepNormal):
            raise InvalidInput(f"Widened needs a head with a normal law, got {type(law).__name__}.")
        wider = law.loc.new_full((1, law.loc.shape[-1]), math.log(self.factor))
        return DiagonalNormal(law.loc, wider if law.log_scale is None else law.log_scale + wider, live)


def widened(kernel: Kernel[Any], factor: float) -> Kernel[Any]:
    """The same kernel with its normal steps widened: an exploration policy that shares all modules."""
    heads: list[Head] = [Widened(head, factor) for head in kernel.heads]  # type: ignore[arg-type]
    return Kernel(kernel.reference, kernel.encoder, heads, kernel.gate).to(kernel.anchor)
