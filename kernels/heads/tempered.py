r"""Tempering: every choice of a kernel raised to the power 1/T and normalised anew.

Masses on branches and atoms become :math:`\pi^{1/T}`, up to a constant; a normal step keeps its mean and
gets the variance :math:`T \sigma^2`, which is the same power of its density. Above 1 it explores, below
1 it repeats what it holds likely.

References:
    GFlowNet foundations (Bengio et al., 2023), arXiv 2111.09266, section 3.5 (tempered training policies).
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution

from ctsgfn.distributions import DiagonalNormal, MaskedCategorical, Point, StandardNormal, UniformBox
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head, Kernel
from ctsgfn.kernels.heads.step_normal import StepNormal


class TemperedGate(nn.Module):
    """A gate whose logits are divided by the temperature; the gate's parameters are shared."""

    def __init__(self, gate: nn.Module, temperature: float) -> None:
        super().__init__()
        self.gate, self.temperature = gate, temperature

    def forward(self, context: Any) -> Tensor:
        """Logits, [B, K + 1]."""
        return self.gate(context) / self.temperature


class Tempered(Head):
    """The law of another head to the power 1/T; its parameters are shared.

    Args:
        head: a head whose law is normal, categorical, uniform or a point.
        temperature: T, positive.

    Raises:
        InvalidInput: when the temperature is not positive; and, when used, on another law, whose power
            has no closed form.

    Example:
        >>> import torch
        >>> from ctsgfn.kernels.heads.gaussian import GaussianStep
        >>> law = Tempered(GaussianStep(1, width=2), 4.0)(torch.zeros(1, 2), None, None)
        >>> law.log_scale.exp().tolist()
        [[2.0]]
    """

    def __init__(self, head: Head, temperature: float) -> None:
        super().__init__()
        _positive(temperature)
        self.base, self.head, self.temperature = head.base, head, temperature

    def forward(self, context: Any, s: Any, live: Tensor | None) -> Distribution:
        """Law of the coordinates."""
        law = self.head(context, s, live)
        if isinstance(law, MaskedCategorical):
            return MaskedCategorical(law.logits / self.temperature)
        if isinstance(law, UniformBox | Point):
            return law
        wider = 0.5 * math.log(self.temperature)
        if isinstance(law, StandardNormal):
            zero = law.like.new_zeros(len(law.like), law.event_shape[0])
            return DiagonalNormal(zero, zero + wider, live)
        if isinstance(law, DiagonalNormal | StepNormal):
            scale = law.loc.new_zeros(law.loc.shape) if law.log_scale is None else law.log_scale
            return DiagonalNormal(law.loc, scale + wider, live)
        raise InvalidInput(
            f"no power of {type(law).__name__} has a closed form to draw from: explore with epsilon_uniform, "
            "or with a kernel of your own in guided(..)."
        )


def tempered(kernel: Kernel[Any], temperature: float) -> Kernel[Any]:
    """The same kernel at a temperature: an exploration policy that shares all modules.

    Args:
        kernel: a kernel of normal, categorical, uniform and point heads.
        temperature: T, positive; 1 changes nothing.

    Raises:
        InvalidInput: when the temperature is not positive.

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
        >>> forward, _ = hypergrid_kernels(hypergrid(2, 4), hidden=8)
        >>> tempered(forward, 2.0)(hypergrid(2, 4).source(3)).log_stop.shape
        torch.Size([3])
    """
    _positive(temperature)
    heads: list[Head] = [Tempered(head, temperature) for head in kernel.heads]  # type: ignore[arg-type]
    gate = None if kernel.gate is None else TemperedGate(kernel.gate, temperature)
    return Kernel(kernel.reference, kernel.encoder, heads, gate).to(kernel.anchor)


def _positive(temperature: float) -> None:
    if not 0.0 < temperature < math.inf:
        raise InvalidInput(f"temperature must be a positive number, got {temperature!r}.")
