r"""Choices that know what each would change: the discrete counterpart of a score in the drift.

With :math:`\Delta_i(s)` the change of log r when atom i is chosen, and h the hidden layer of a network,

.. math::
    q(i | s) \propto e^{\ell_i(h) + a\,\Delta_i(s)}, \qquad
    \frac{P(\text{go on} | s)}{P(\text{stop} | s)} = e^{g(h) + b \log \sum_i e^{\Delta_i(s)}}

over the live atoms, with a and b 1/2 at the start and the networks 0: a walk climbs the target from the
first step on, without haste, and what is learned is the rest.

References:
    Informed proposals for local MCMC in discrete spaces (Zanella, 2020), arXiv 1711.07424;
    Joint Bayesian inference of graphical structure and parameters with a single generative flow network
    (Deleu et al., 2023), arXiv 2305.19366, section 3 (the space it is used on).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.distributions import MaskedCategorical
from ctsgfn.kernel import Head
from ctsgfn.measures import Counting
from ctsgfn.networks import Encoder, FeatureEncoder, zero_init
from ctsgfn.states import Batch

START = 0.5
"""Gain of the changes at the start: the square root of the ratio, as in locally balanced proposals."""


@dataclass(frozen=True)
class Informed(Batch):
    """Context of a choice: a hidden layer, and what each atom would change."""

    hidden: Tensor  # [B, width]
    change: Tensor  # [B, size], -inf where the atom is not live


class InformedEncoder(Encoder):
    """A hidden layer of a state, beside the changes of log r that its atoms would make.

    Args:
        inner: the encoder of the hidden layer.
        change: states -> [B, size], the change of log r by each atom, anything where it is not live;
            evaluated once per visited state, without gradient.
        live: states -> [B, size] bool.
    """

    def __init__(
        self, inner: FeatureEncoder, change: Callable[[Any], Tensor], live: Callable[[Any], Tensor]
    ) -> None:
        super().__init__()
        self.inner, self.width = inner, inner.width
        self.change, self.live = change, live

    def observe(self, s: Any) -> Tensor:
        """The changes [B, size], -inf where not live."""
        with torch.no_grad():
            return self.change(s).to(self.inner.anchor.dtype).masked_fill(~self.live(s), -math.inf)

    def forward(self, s: Any, seen: Tensor | None) -> Informed:
        """Hidden layer and changes."""
        change = self.observe(s) if seen is None else seen
        return Informed(self.inner(s, None), change)


class InformedCategorical(Head):
    """Categorical whose logits are a linear layer on the hidden layer plus a times the changes.

    Args:
        size: number of atoms.
        width: of the hidden layer.

    Example:
        >>> head = InformedCategorical(3, width=4)
        >>> context = Informed(torch.ones(1, 4), torch.tensor([[0.0, math.log(9.0), -math.inf]]))
        >>> live = torch.tensor([[True, True, False]])
        >>> law = head(context, None, live)
        >>> [round(law.log_prob(torch.tensor([[i]])).exp().item(), 4) for i in range(3)]
        [0.25, 0.75, 0.0]
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.base = Counting(size)
        self.logits = zero_init(nn.Linear(width, size))
        self.gain = nn.Parameter(torch.full((), START))

    def forward(self, context: Any, s: Any, live: Tensor | None) -> MaskedCategorical:
        """Law of the atom, [B, 1] long."""
        del s
        finite = context.change.masked_fill(context.change == -math.inf, 0.0)  # masked again by live
        return MaskedCategorical(self.logits(context.hidden) + self.gain * finite, live)


class InformedGate(nn.Module):
    """Logits [B, 2] of going on and of stopping: the first knows how much the best changes promise.

    Args:
        width: of the hidden layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = zero_init(nn.Linear(width, 2))
        self.gain = nn.Parameter(torch.full((), START))

    def forward(self, context: Informed) -> Tensor:
        """Logits; where no atom is live the first is closed by the kernel's own mask."""
        total = context.change.logsumexp(-1)
        promise = self.gain * total.masked_fill(total == -math.inf, 0.0)
        return self.linear(context.hidden) + torch.stack([promise, torch.zeros_like(promise)], -1)
