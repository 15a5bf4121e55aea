"""What a training run did, step by step."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from ctsgfn.balance import Balance
from ctsgfn.plots import plot_history

WINDOW = 100
"""Steps that bounds are averaged over before they are compared."""


@dataclass
class History:
    """What a training run did, step by step; ``plot()`` draws it.

    ``elbo`` and ``ess`` are of the part of a batch that the flow itself drew, and NaN where there is none;
    ``eubo`` is of the rest, an upper bound where it walks back from draws of the target; ``floored`` is the
    fraction of the batch at the target's floor.

    Example:
        >>> History(loss=[3.0, 1.0], log_z=[0.0, 0.2]).steps
        2
    """

    loss: list[float] = field(default_factory=list)
    log_z: list[float] = field(default_factory=list)  # the learned log Z
    elbo: list[float] = field(default_factory=list)  # mean log importance weight
    eubo: list[float] = field(default_factory=list)  # mean log-weight of what others drew
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
        both = arrays.log_weight
        log_weight, others = (both[:0], both) if own is None else (both[own], both[~own])
        total = 2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0)
        floored = 0.0 if floor is None else float((arrays.log_reward <= floor).double().mean())
        self.loss.append(float(loss))
        self.log_z.append(float(arrays.log_z.detach()))
        self.elbo.append(float(log_weight.mean()))
        self.eubo.append(float(others.mean()) if len(others) else math.nan)  # one NaN: lists compare
        self.ess.append(float(total.exp()) / max(1, len(log_weight)))
        self.grad_norm.append(norm)
        self.floored.append(floored)

    def tight(self, gap: float) -> bool:
        """Whether the bounds of the last 100 steps are on average no further apart than ``gap``.

        Points that the upper bound is taken at may be inexact. So the ESS is asked too: for small gaps it
        falls short of all draws by the same number.

        Example:
            >>> History([0.0] * 100, elbo=[1.0] * 100, eubo=[1.001] * 100, ess=[0.999] * 100).tight(0.002)
            True
        """
        if self.steps < WINDOW:
            return False
        apart = [b - a for a, b in zip(self.elbo[-WINDOW:], self.eubo[-WINDOW:], strict=True)]
        missing = 1 - sum(self.ess[-WINDOW:]) / WINDOW
        return abs(sum(apart) / WINDOW) <= gap and missing <= gap  # False where one is NaN

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
