r"""Balance objectives: each is its equation on the arrays of a ``Balance``.

A new objective is a function ``Balance -> 0-d tensor``, decorated with what it asks for. With
:math:`w = \log r + \sum \log p_B - \sum \log p_F` the log importance weight of a trajectory, all of
these are zero exactly where the flow is balanced. ``subtrajectory_balance`` has a module of its own,
and the Kullback-Leibler family is in ``ctsgfn.divergences``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial, update_wrapper
from typing import Any

import torch
from torch import Tensor

from ctsgfn.balance import Balance, Wanted
from ctsgfn.errors import InvalidInput

Penalty = Callable[[Tensor], Tensor]
"""A pointwise penalty g of the residual, 0 at 0: ``torch.square`` by default."""


class Objective:
    """A loss on ``Balance``, and what it asks of the flow and the trajectories.

    ``trajectory_balance.using(g=shifted_cosh)`` fixes options; calling it gives a 0-d tensor.

    Args:
        loss: ``Balance`` (and named options) -> 0-d tensor.
        wanted: the optional arrays it reads.
        reparameterised: True when it needs rollouts that carry the pathwise gradient.
        walked_back: True when it needs walks back from data that carry it.

    Example:
        >>> @objective()
        ... def absolute_balance(b: Balance) -> Tensor:
        ...     return (b.log_z - b.log_weight).abs().mean()
        >>> absolute_balance.wanted.flow
        False
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        wanted: Wanted | None = None,
        *,
        reparameterised: bool = False,
        walked_back: bool = False,
    ) -> None:
        update_wrapper(self, loss)
        self.loss = loss
        self.wanted = Wanted() if wanted is None else wanted
        self.reparameterised = reparameterised
        self.walked_back = walked_back

    def __call__(self, b: Balance, **options: Any) -> Tensor:
        """Value of the loss, 0-d."""
        return self.loss(b, **options)

    def using(self, **options: Any) -> Objective:
        """Return the same objective with options fixed."""
        return Objective(
            update_wrapper(partial(self.loss, **options), self.loss),
            self.wanted,
            reparameterised=self.reparameterised,
            walked_back=self.walked_back,
        )


def objective(
    *,
    flow: bool = False,
    stop: bool = False,
    terminal: bool = False,
    inflow: bool = False,
    reparameterised: bool = False,
    walked_back: bool = False,
) -> Callable[[Callable[..., Tensor]], Objective]:
    """Decorate a loss with what it asks for: see ``Wanted`` and ``Objective``."""

    def decorate(loss: Callable[..., Tensor]) -> Objective:
        wanted = Wanted(flow, stop, terminal, inflow)
        return Objective(loss, wanted, reparameterised=reparameterised, walked_back=walked_back)

    return decorate


@objective()
def trajectory_balance(b: Balance, g: Penalty = torch.square) -> Tensor:
    r"""Squared log-ratio of whole trajectories.

    .. math::
        \bigl(\log Z + \textstyle\sum \log p_F - \sum \log p_B - \log r\bigr)^2

    Args:
        b: the arrays.
        g: penalty of the residual.

    References:
        Trajectory balance (Malkin et al., 2022), arXiv 2201.13259, eq. 14; continuous form Lahlou et
        al., 2023, arXiv 2301.12594, Def. 7.

    Example:
        >>> from ctsgfn.balance import balance
        >>> from ctsgfn.behaviours import on_policy
        >>> from ctsgfn.kernels.spaces.finite import solved_diamond
        >>> gfn, target = solved_diamond()
        >>> b = balance(gfn, target, on_policy(gfn, 8))
        >>> round(trajectory_balance(b).item(), 6)
        0.0
    """
    return g(b.log_z - b.log_weight).mean()


@objective()
def log_partition_variance(b: Balance, g: Penalty = torch.square) -> Tensor:
    r"""Spread of the log-weights over the batch (VarGrad): zero when all of them are log Z.

    .. math::
        \frac1N \sum_i (w_i - \bar w)^2, \qquad \bar w = \frac1N \sum_i w_i

    This is trajectory balance with the batch's own best log Z; the parameter log Z is not learned.

    Args:
        b: the arrays of at least two trajectories.
        g: penalty of the residual.

    Raises:
        InvalidInput: on a single trajectory.

    References:
        VarGrad (Richter et al., 2020), arXiv 2010.10436, eq. 8; Robust scheduling with GFlowNets (Zhang
        et al., 2023), arXiv 2302.05446, eq. 6.

    Example:
        >>> from ctsgfn.balance import balance
        >>> from ctsgfn.behaviours import on_policy
        >>> from ctsgfn.kernels.spaces.finite import solved_diamond
        >>> gfn, target = solved_diamond()
        >>> b = balance(gfn, target, on_policy(gfn, 8))
        >>> round(log_partition_variance(b).item(), 6)
        0.0
    """
    if b.size < 2:
        raise InvalidInput(
            "log_partition_variance compares the trajectories of a batch and got one: use batch_size >= 2."
        )
    return g(b.log_weight - b.log_weight.mean()).mean()


@objective(flow=True)
def detailed_balance(b: Balance, g: Penalty = torch.square, alpha: float = 1.0) -> Tensor:
    r"""Squared log-ratio of every edge, with the reward in the place of the flow into the sink.

    .. math::
        \bigl(\log u(s) + \log p_F(s, s') - \log u(s') - \log p_B(s', s)\bigr)^2, \qquad
        \alpha\,\bigl(\log u(x) + \log p_F(x, s_f) - \log r(x)\bigr)^2

    averaged over all edges of the batch. Its forward-looking variant is the same loss of a flow whose
    ``log_flow`` is a ``ForwardLooking``.

    Args:
        b: the arrays, with log_flow.
        g: penalty of the residual.
        alpha: weight of the reward-matching term.

    Raises:
        InvalidInput: without log_flow.

    References:
        GFlowNet foundations (Bengio et al., 2023), arXiv 2111.09266, eq. 11; continuous form Lahlou et
        al., 2023, arXiv 2301.12594, Def. 5-6; forward-looking Pan et al., 2023, arXiv 2302.01687, eq. 8.

    Example:
        >>> from ctsgfn.balance import balance
        >>> from ctsgfn.behaviours import on_policy
        >>> from ctsgfn.kernels.spaces.finite import solved_diamond
        >>> gfn, target = solved_diamond()
        >>> b = balance(gfn, target, on_policy(gfn, 8), wanted=detailed_balance.wanted)
        >>> round(detailed_balance(b).item(), 6)
        0.0
    """
    log_flow = require_flow(b)
    arriving = log_flow.roll(-1).masked_scatter(b.last, b.log_reward)
    loss = g(log_flow + b.log_forward - arriving - b.log_backward)
    return torch.where(b.last, alpha * loss, loss).mean()


@objective(stop=True, terminal=True)
def modified_detailed_balance(b: Balance, g: Penalty = torch.square) -> Tensor:
    r"""Detailed balance without a flow network, where every state but s0 is terminal.

    The terminal equation gives the flow, :math:`u(s) = r(s) / p_F(s, s_f)`, and edges keep

    .. math::
        \bigl(\log r(s) - \log p_F(s, s_f) + \log p_F(s, s')
            - \log r(s') + \log p_F(s', s_f) - \log p_B(s', s)\bigr)^2

    with :math:`u(s_0) = Z`. The reward is evaluated at every visited state.

    Args:
        b: the arrays, with log_stop and log_terminal.
        g: penalty of the residual.

    Raises:
        InvalidInput: when a visited state other than s0 is not terminal.

    References:
        Bayesian structure learning with generative flow networks (Deleu et al., 2022), arXiv 2202.13903,
        eq. 8; continuous form Lahlou et al., 2023, arXiv 2301.12594, appendix.

    Example:
        >>> from ctsgfn.balance import balance
        >>> from ctsgfn.behaviours import on_policy
        >>> from ctsgfn.kernels.spaces.finite import solved_diamond
        >>> gfn, target = solved_diamond()
        >>> b = balance(gfn, target, on_policy(gfn, 8), wanted=modified_detailed_balance.wanted)
        >>> round(modified_detailed_balance(b).item(), 6)
        0.0
    """
    if b.log_stop is None or b.log_terminal is None:
        raise InvalidInput(
            "modified_detailed_balance reads the stop mass and the reward of every state, and the balance "
            "has none: ask for them with Wanted(stop=True, terminal=True)."
        )
    inner = (b.log_terminal == -math.inf) & ~b.source
    if bool(inner.any()):
        raise InvalidInput(
            f"row {int(inner.nonzero()[0])}: modified_detailed_balance needs every state but s0 to be "
            "terminal, and this one is not: use detailed_balance on this space."
        )
    log_flow = torch.where(b.source, b.log_z, b.log_terminal - b.log_stop)
    return detailed_balance(replace(b, log_flow=log_flow), g=g)


@objective(flow=True, inflow=True)
def flow_matching(b: Balance, g: Penalty = torch.square, alpha: float = 1.0) -> Tensor:
    r"""Squared log-ratio of the flow into a state and its flow, where parents can be counted.

    .. math::
        \Bigl(\log \sum_{s \to s'} u(s)\, p_F(s, s') - \log u(s')\Bigr)^2, \qquad
        \alpha\,\bigl(\log u(x) + \log p_F(x, s_f) - \log r(x)\bigr)^2

    at every visited state but s0, and at the edges to the sink. No backward kernel is read.

    Args:
        b: the arrays, with log_flow and log_inflow.
        g: penalty of the residual.
        alpha: weight of the reward-matching term.

    Raises:
        InvalidInput: without log_flow or log_inflow.

    References:
        Flow network based generative models (Bengio et al., 2021), arXiv 2106.04399, eq. 12.

    Example:
        >>> from ctsgfn.balance import balance
        >>> from ctsgfn.behaviours import on_policy
        >>> from ctsgfn.kernels.spaces.finite import solved_diamond
        >>> gfn, target = solved_diamond()
        >>> b = balance(gfn, target, on_policy(gfn, 8), wanted=flow_matching.wanted)
        >>> round(flow_matching(b).item(), 6)
        0.0
    """
    if b.log_inflow is None:
        raise InvalidInput(
            "flow_matching reads the flow into every state and the balance has none: ask for it with "
            "Wanted(flow=True, inflow=True)."
        )
    log_flow = require_flow(b)
    matched = g(torch.where(b.source, 0.0, b.log_inflow - log_flow))
    reward = g(log_flow[b.last] + b.log_forward[b.last] - b.log_reward)
    return (matched.sum() + alpha * reward.sum()) / len(b.owner)


def require_flow(b: Balance) -> Tensor:
    """Log-flow [M] of a balance that has one.

    Raises:
        InvalidInput: where it has none.
    """
    if b.log_flow is None:
        raise InvalidInput(
            "this objective reads the flow of states and the balance has none: build "
            "GFlowNet(.., log_flow=StateFunction(..)) and ask for it with Wanted(flow=True)."
        )
    return b.log_flow
