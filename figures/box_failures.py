"""The three assumptions of the theory, broken one at a time on the Box.

Top: density of 200,000 samples after training, with intact charts, with the Jacobians forgotten, and with a
first step that leaves states unreachable (dashed: nothing but the arc is reached within sqrt(2) delta of the
corner). Right: walks still on their way after a number of steps, with and without the forced stop. Below
each: the checks of ``ctsgfn.check`` that fail.

    python figures/box_failures.py [--quick]
"""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Arc
from style import BLUE, INK, VERMILION, Page

TITLES = {
    "none, seed 0": "(a) nothing broken",
    "no jacobian, seed 0": "(b) Jacobians forgotten",
    "unreachable, seed 0": "(c) states unreachable",
}


def main() -> None:
    """Draw."""
    page = Page(__file__, __doc__)
    runs, arrays = page.runs("box_failures"), page.arrays("box_failures")
    figure, axes = plt.subplots(1, 4, figsize=(10.0, 3.3), layout="constrained", width_ratios=[1, 1, 1, 1])
    for ax, (key, title) in zip(axes, TITLES.items(), strict=False):
        run = runs[key]
        drawn = ax.imshow(
            arrays[f"{key}/density"].T, origin="lower", extent=(0, 1, 0, 1), vmin=0, vmax=9, cmap="cividis"
        )
        ax.set(title=title, xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        ax.set_xlabel(
            f"log Z {run['log_z']:.2f} (true {run['truth_log_z']:.2f}), JSD {run['jsd']:.3f}\n{failures(run)}"
        )
    axes[2].add_patch(Arc((0, 0), 2 * 2**0.5 * 0.25, 2 * 2**0.5 * 0.25, theta2=90, ls="--", color="w"))
    figure.colorbar(drawn, ax=list(axes[:3]), label="density", shrink=0.6)
    ax, key = axes[3], "no forced stop"
    for name, colour, style in (("forced", BLUE, "-"), ("not forced", VERMILION, "--")):
        left = arrays[f"{key}/{name}"]
        ax.plot(
            np.arange(1, len(left)), np.maximum(left[1:], 1e-9), style, color=colour, label=f"stop {name}"
        )
    ax.axvline(10, color=INK, lw=0.8, ls=":", label="horizon")
    ax.set(
        yscale="log",
        ylim=(4e-4, 1.3),
        title="(d) stopping not enforced",
        ylabel="fraction of walks under way",
    )
    ax.set_xlabel(f"steps\n{failures(runs[key])}")
    ax.set_box_aspect(1)
    ax.legend()
    page.save(figure)


def failures(run: dict) -> str:
    """The checks that fail."""
    failed = [name for name, (verdict, _) in run["checks"].items() if verdict == "FAIL"]
    text = f"check fails: {', '.join(failed)}" if failed else "check passes"
    return "\n".join(textwrap.wrap(text, 34))


if __name__ == "__main__":
    main()
