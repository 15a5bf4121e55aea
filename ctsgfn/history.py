"""What a training run did, step by step."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from ctsgfn.balance import Balance
from ctsgfn.plots import plot_history


@dataclass
class History:
    """What a training run did, step by step; ``plot()`` draws it.

    ``elbo`` and ``ess`` are of the part of a batch that the flow itself drew, and NaN where there is none;
    ``floored`` is the fraction of the batch at the target's floor.

    Example:
        >>> History(loss=[3.0, 1.0], log_z=[0.0, 0.2]).steps
        2
    """

    loss: list[float] = field(default_factory=list)
    log_z: list[float] = field(default_factory=list)  # the learned log Z
    elbo: list[float] = field(default_factory=list)  # mean log importance weight
    ess: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    floored: list[float] = field(default_factory=list)
    interrupted: bool = False

    @property
    def steps(self) -> int:
        """Updates made."""
        return len(self.loss)

    def record(
        self, loss: Tensor, arrays: Balance, norm: float, own: Tensor | None, floor: float | None
    ) -> None:
        """Append a step.

        Args:
            loss: of the step.
            arrays: of its batch.
            norm: of the networks' gradient.
            own: [N] bool, the trajectories that the flow itself drew; None for all of them.
            floor: least log-reward of the target, if it has one.
        """
        log_weight = arrays.log_weight
        log_weight = log_weight[:0] if own is None else log_weight[own]
        total = 2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0)
        floored = 0.0 if floor is None else float((arrays.log_reward <= floor).double().mean())
        self.loss.append(float(loss))
        self.log_z.append(float(arrays.log_z.detach()))
        self.elbo.append(float(log_weight.mean()))
        self.ess.append(float(total.exp()) / max(1, len(log_weight)))
        self.grad_norm.append(norm)
        self.floored.append(floored)

    def last(self) -> dict[str, str]:
        """The last step in short: loss, log Z, ESS, and the floored part if there is one."""
        text = {"loss": f"{self.loss[-1]:.3g}", "log Z": f"{self.log_z[-1]:.3f}"}
        if not math.isnan(self.ess[-1]):
            text["ESS"] = f"{100 * self.ess[-1]:.0f}%"
        if self.floored[-1] > 0:
            text["floored"] = f"{100 * self.floored[-1]:.0f}%"
        return text

    def plot(self) -> Any:
        """Figure of loss, log Z with the evidence bound, and ESS against the step."""
        return plot_history(asdict(self))
