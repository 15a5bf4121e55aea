"""Sub-trajectory balance: detailed and trajectory balance, and everything between."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctsgfn.balance import Balance
from ctsgfn.errors import InvalidInput
from ctsgfn.objectives import Penalty, objective, require_flow


@objective(flow=True)
def subtrajectory_balance(b: Balance, lam: float = 0.9, g: Penalty = torch.square) -> Tensor:
    r"""Squared log-ratio of all sub-trajectories, weighted by lambda to the power of their length.

    .. math::
        \frac{\sum_{i < j} \lambda^{j - i}\, \bigl(\log u(s_i) + \sum_{i \le k < j} (\log p_F - \log p_B)
            - \log u(s_j)\bigr)^2}{\sum_{i < j} \lambda^{j - i}}

    over the nodes s_0, .., s_n and the sink, where log u is replaced by log r; then averaged over
    trajectories. Towards lambda = 0 only edges are left (detailed balance, each trajectory averaged
    over its own edges), towards infinity only whole trajectories.

    Args:
        b: the arrays, with log_flow.
        lam: lambda > 0.
        g: penalty of the residual.

    Raises:
        InvalidInput: without log_flow, or when lam is not positive.

    References:
        Learning GFlowNets from partial episodes for improved convergence and stability (Madan et al.,
        2023), arXiv 2209.12782, eq. 13; forward-looking Pan et al., 2023, arXiv 2302.01687, eq. 9.

    Example:
        >>> from ctsgfn.balance import balance
        >>> from ctsgfn.behaviours import on_policy
        >>> from ctsgfn.kernels.spaces.finite import solved_diamond
        >>> gfn, target = solved_diamond()
        >>> b = balance(gfn, target, on_policy(gfn, 8), wanted=subtrajectory_balance.wanted)
        >>> round(subtrajectory_balance(b).item(), 6)
        0.0
    """
    if not 0 < lam < math.inf:
        raise InvalidInput(f"subtrajectory_balance needs a finite lam > 0, got {lam!r}.")
    log_flow = require_flow(b)
    lengths = torch.bincount(b.owner)
    nodes = int(lengths.max()) + 1
    sink = torch.arange(b.size, device=b.owner.device)
    step = torch.arange(len(b.owner), device=b.owner.device) - (lengths.cumsum(0) - lengths)[b.owner]

    def grid(shift: int, v: Tensor) -> Tensor:
        return v.new_zeros(b.size, nodes).index_put((b.owner, step + shift), v)

    # the residual of (i, j) is height_i - height_j: the flow less the log-ratio of the way so far
    ratio = grid(1, b.log_forward - b.log_backward).cumsum(1)
    height = grid(0, log_flow).index_put((sink, lengths), b.log_reward) - ratio
    node = torch.arange(nodes, device=b.owner.device)
    span = node - node[:, None]
    inside = (span > 0) & (node <= lengths[:, None, None])
    log_weight = (span * math.log(lam)).to(height.dtype).expand(inside.shape).masked_fill(~inside, -math.inf)
    weight = log_weight.flatten(1).softmax(-1).view_as(log_weight)
    residual = (height[:, :, None] - height[:, None, :]).masked_fill(~inside, 0.0)
    return (weight * g(residual)).sum() / b.size
