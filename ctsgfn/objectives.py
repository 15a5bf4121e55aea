r"""Objectives: each is its equation on the arrays of a ``Balance``.

A new objective is a function ``Balance -> 0-d tensor``, decorated with what it asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

import torch
from torch import Tensor

from ctsgfn.balance import Balance, Wanted

Penalty = Callable[[Tensor], Tensor]
"""A pointwise penalty g of the residual; ``torch.square`` by default."""


class Objective:
    """A loss on ``Balance``, and what it asks of the flow and the trajectories.

    ``trajectory_balance.using(g=huber)`` fixes options; calling it gives a 0-d tensor.

    Args:
        loss: ``Balance`` (and named options) -> 0-d tensor.
        wanted: the optional arrays it reads.
        reparameterised: True when it needs trajectories that carry the pathwise gradient.
    """

    def __init__(
        self, loss: Callable[..., Tensor], wanted: Wanted | None = None, *, reparameterised: bool = False
    ) -> None:
        update_wrapper(self, loss)
        self.loss = loss
        self.wanted = Wanted() if wanted is None else wanted
        self.reparameterised = reparameterised

    def __call__(self, b: Balance, **options: Any) -> Tensor:
        """Value of the loss, 0-d."""
        return self.loss(b, **options)

    def using(self, **options: Any) -> Objective:
        """Return the same objective with options fixed."""
        return Objective(
            update_wrapper(partial(self.loss, **options), self.loss),
            self.wanted,
            reparameterised=self.reparameterised,
        )


def objective(
    *, flow: bool = False, stop: bool = False, terminal: bool = False, reparameterised: bool = False
) -> Callable[[Callable[..., Tensor]], Objective]:
    """Decorate a loss with what it asks for: see ``Wanted`` and ``Objective``."""

    def decorate(loss: Callable[..., Tensor]) -> Objective:
        return Objective(loss, Wanted(flow, stop, terminal), reparameterised=reparameterised)

    return decorate


@objective()
def trajectory_balance(b: Balance, g: Penalty = torch.square) -> Tensor:
    r"""Squared log-ratio of whole trajectories.

    .. math::
        \bigl(\log Z + \textstyle\sum \log p_F - \sum \log p_B - \log r\bigr)^2

    References:
        Trajectory balance (Malkin et al., 2022), arXiv 2201.13259, eq. 14; continuous form Lahlou et
        al., 2023, arXiv 2301.12594, Def. 7.
    """
    return g(b.log_z - b.log_weight).mean()
