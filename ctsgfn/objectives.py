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
from ctsgfn.errors import InvalidInput

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


@objective(flow=True)
def detailed_balance(b: Balance, g: Penalty = torch.square, alpha: float = 1.0) -> Tensor:
    r"""Squared log-ratio of every edge, with the reward in the place of the flow into the sink.

    .. math::
        \bigl(\log u(s) + \log p_F(s, s') - \log u(s') - \log p_B(s', s)\bigr)^2, \qquad
        \alpha\,\bigl(\log u(x) + \log p_F(x, s_f) - \log r(x)\bigr)^2

    averaged over all edges of the batch.

    Args:
        b: the arrays, with log_flow.
        g: penalty of the residual.
        alpha: weight of the reward-matching term.

    References:
        GFlowNet foundations (Bengio et al., 2023), arXiv 2111.09266, eq. 11; continuous form Lahlou et
        al., 2023, arXiv 2301.12594, Def. 5-6.
    """
    log_flow = _flow(b)
    arriving = log_flow.roll(-1).masked_scatter(b.last, b.log_reward)
    loss = g(log_flow + b.log_forward - arriving - b.log_backward)
    return torch.where(b.last, alpha * loss, loss).mean()


def _flow(b: Balance) -> Tensor:
    if b.log_flow is None:
        raise InvalidInput(
            "this objective reads the flow of states and the balance has none: build "
            "GFlowNet(.., log_flow=StateFunction(..)) and ask for it with Wanted(flow=True)."
        )
    return b.log_flow
