"""A law on many atoms that is the same at every state: a table of masses, never copied for a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.distributions import CoordinateLaw
from ctsgfn.kernel import Head
from ctsgfn.measures import Counting


class TableLaw(CoordinateLaw):
    """One table of log-masses [size] for B rows; draws [B, 1] long.

    Example:
        >>> law = TableLaw(torch.tensor([0.0, -torch.inf, 0.0]), batch=2)
        >>> [round(float(law.log_prob(torch.tensor([[i]]))), 4) for i in range(2)]
        [-0.6931, -inf]
    """

    def __init__(self, logits: Tensor, batch: int) -> None:
        super().__init__(batch, 1)
        self.batch, self.log_mass = batch, logits.log_softmax(-1)

    def draw(self) -> Tensor:
        """One atom per row, by inversion in float64; never one of mass 0."""
        ends = self.log_mass.detach().double().exp().cumsum(0)
        u = torch.rand(self.batch, dtype=torch.float64, device=ends.device) * ends[-1]
        return torch.searchsorted(ends, u, right=True).clamp(max=len(ends) - 1)[:, None]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability [B] of atoms [B, 1]."""
        return self.log_mass[value[..., 0].long()]


class Table(Head):
    r"""Table of masses: :math:`q(i) \propto e^{\ell_i}`, the same at every state.

    Args:
        size: number of atoms.

    Example:
        >>> law = Table(4)(torch.zeros(3, 0), None, None)
        >>> tuple(law.sample().shape), law.log_prob(torch.tensor([[2]])).exp().tolist()
        ((3, 1), [0.25])
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.base = Counting(size)
        self.logits = nn.Parameter(torch.zeros(size))

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> TableLaw:
        """Law of the atom, [B, 1] long."""
        del s, live
        return TableLaw(self.logits, len(context))
