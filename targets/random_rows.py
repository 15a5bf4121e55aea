r"""Mini-batches of data: a density that is estimated from rows drawn at random, anew at every call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.targets.joint_graphs import JointGraphs
from ctsgfn.with_parameters import Parameterised, WithParameters


@dataclass(frozen=True, eq=False)
class RandomRows:
    r"""A joint posterior of graph and parameters seen through few of its rows, to train on much data.

    .. math::
        \log \hat r(x) = \log p(x) + \frac N n \sum_{i \in S} \log p(x_i \mid x), \qquad
        E_S \log \hat r = \log r

    with S drawn evenly without replacement, for all points of a call. Where a loss is a square of residuals
    that are linear in log r (trajectory and detailed balance and their kin, ``log_partition_variance``), its
    gradient on given trajectories is linear in them, and so unbiased: no correction is needed. The loss
    itself is larger by the variance of :math:`\log \hat r` over S, which no parameter of the flow changes.
    Under another penalty of the residual, such as Huber's, the gradient is biased. Weights, evidence and
    resampling with :math:`\hat r` mean nothing: take them with the whole target, on the same measure.

    Args:
        target: on all rows.
        rows: n.

    Raises:
        InvalidInput: when n is not between 1 and the number of rows.

    References:
        Stochastic gradient Langevin dynamics (Welling and Teh, 2011), ICML (the estimate).

    Example:
        >>> target = JointGraphs(torch.randn(1000, 3))
        >>> few = RandomRows(target, 100)
        >>> x = Parameterised(torch.zeros(2, 3, 3, dtype=torch.bool), torch.zeros(2, 9))
        >>> few.measure == target.measure, bool((few.log_density(x) == few.log_density(x)).any())
        (True, False)
    """

    target: JointGraphs
    rows: int

    def __post_init__(self) -> None:
        most = len(self.target.data)
        if not 1 <= self.rows <= most:
            raise InvalidInput(f"rows must be between 1 and {most}, the rows of the data, got {self.rows}.")

    @property
    def measure(self) -> WithParameters[Tensor]:
        """That of the whole target."""
        return self.target.measure

    def log_density(self, x: Parameterised) -> Tensor:
        """An unbiased estimate of log r, [B]."""
        chosen = torch.randperm(len(self.target.data))[: self.rows].to(self.target.data.device)
        return self.target.subset(chosen).log_density(x)
