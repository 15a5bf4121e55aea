"""Figures of training runs and of samples; matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, ACCENT = "#1b4965", "#d1495b"


def figure(width: float, height: float) -> Figure:
    """An empty figure that no global state knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plot_history(history: Mapping[str, Any]) -> Figure:
    """Loss, log Z with the evidence bound, and ESS against the step.

    Args:
        history: the fields of a ``History`` by name.

    Example:
        >>> fig = plot_history({"loss": [2.0, 1.0], "log_z": [0.0, 0.1], "elbo": [-1.0, 0.0], "ess": [0.2, 0.5]})
        >>> [ax.get_ylabel() for ax in fig.axes]
        ['loss', 'log Z', 'ESS / batch']
    """
    fig = figure(9.0, 2.8)
    panels = fig.subplots(1, 3)
    loss: Sequence[float] = history["loss"]
    panels[0].plot(loss, color=INK, lw=0.8)
    if loss and min(loss) > 0:
        panels[0].set_yscale("log")
    panels[1].plot(history["elbo"], color=ACCENT, lw=0.5, alpha=0.7, label="lower bound")
    panels[1].plot(history["log_z"], color=INK, lw=1.2, label="learned log Z")
    settled = [
        v for v in history["log_z"][len(loss) // 5 :] + history["elbo"][len(loss) // 5 :] if math.isfinite(v)
    ]
    if settled:  # the first steps would flatten the rest
        middle, spread = sorted(settled)[len(settled) // 2], max(settled) - min(settled)
        panels[1].set_ylim(middle - max(spread, 1e-3), middle + max(spread, 1e-3))
    panels[1].legend(frameon=False, fontsize="small")
    panels[2].plot(history["ess"], color=INK, lw=0.8)
    panels[2].set_ylim(0, 1.02)
    for ax, label in zip(panels, ("loss", "log Z", "ESS / batch"), strict=True):
        ax.set_xlabel("step")
        ax.set_ylabel(label)
    return fig
