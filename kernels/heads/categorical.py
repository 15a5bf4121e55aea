"""A learned law on finitely many atoms.

References:
    Flow network based generative models (Bengio et al., 2021), arXiv 2106.04399, section 4.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ctsgfn.distributions import MaskedCategorical
from ctsgfn.kernel import Head
from ctsgfn.measures import Counting
from ctsgfn.networks import zero_init


class Categorical(Head):
    r"""Masked categorical: :math:`q(i | s) \propto e^{\ell_i(s)}` over the live atoms i.

    The logits are a linear layer on the context, 0 at the start: even over the live atoms.

    Args:
        size: number of atoms.
        width: width of the context.

    Raises:
        InvalidInput: when size < 1.

    Example:
        >>> import torch
        >>> head = Categorical(3, width=4)
        >>> law = head(torch.ones(1, 4), None, torch.tensor([[True, False, True]]))
        >>> [round(law.log_prob(torch.tensor([[i]])).exp().item(), 4) for i in range(3)]
        [0.5, 0.0, 0.5]
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.base = Counting(size)
        self.logits = zero_init(nn.Linear(width, size))

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> MaskedCategorical:
        """Law of the atom, [B, 1] long."""
        del s
        return MaskedCategorical(self.logits(context), live)
