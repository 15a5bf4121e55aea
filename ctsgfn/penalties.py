"""Penalties g of a residual (log of the flow's side less the target's), 0 at 0: options of objectives."""

from __future__ import annotations

import torch
from torch import Tensor


def shifted_cosh(residual: Tensor) -> Tensor:
    r"""Penalty :math:`2 \cosh(t) - 2 = e^t + e^{-t} - 2`, exponential on both sides.

    References:
        Beyond squared error: exploring loss design for enhanced training of generative flow networks (Hu
        et al., 2025), arXiv 2410.02596.

    Example:
        >>> [round(g, 4) for g in shifted_cosh(torch.tensor([0.0, 1.0])).tolist()]
        [0.0, 1.0862]
    """
    return 2 * residual.cosh() - 2


def linex(residual: Tensor) -> Tensor:
    r"""Penalty :math:`e^t - t - 1`, exponential where the flow carries too much, linear where too little.

    References:
        Beyond squared error: exploring loss design for enhanced training of generative flow networks (Hu
        et al., 2025), arXiv 2410.02596.

    Example:
        >>> [round(g, 4) for g in linex(torch.tensor([0.0, 1.0])).tolist()]
        [0.0, 0.7183]
    """
    return residual.expm1() - residual


def huber(residual: Tensor) -> Tensor:
    r"""Penalty :math:`t^2` up to :math:`|t| = 1` and :math:`2|t| - 1` beyond: no outlier dominates.

    References:
        Robust estimation of a location parameter (Huber, 1964), Ann. Math. Statist. 35(1).

    Example:
        >>> huber(torch.tensor([0.5, 3.0])).tolist()
        [0.25, 5.0]
    """
    return torch.where(residual.abs() <= 1, residual.square(), 2 * residual.abs() - 1)
