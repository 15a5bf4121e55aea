"""GFlowNets beside variational inference on a 16 x 16 hypergrid.

(a, b) Exact total variation between the terminating law and the target, on- and off-policy
(geometric mean of the seeds, bands one geometric standard deviation). (c) Variance of estimators of one
gradient, that of D(P_F | P_B), over its squared norm, along a run of trajectory balance.

    python figures/vi.py [--quick]
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from style import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, VERMILION, Page, spread

COLOURS = {
    "TB": BLUE,
    "reverse KL": VERMILION,
    "forward KL": GREEN,
    "wake-sleep": ORANGE,
    "reverse wake-sleep": PURPLE,
}
ESTIMATORS = {
    "TB, learned log Z": (BLUE, "o-"),
    "VarGrad": (SKY, "s-"),
    "score, leave-one-out": (VERMILION, "^--"),
    "score, no baseline": (INK, "v-"),
}


def main() -> None:
    """Draw."""
    page = Page(__file__, __doc__)
    runs = page.runs("vi")
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.0), layout="constrained")
    for ax, policy in zip(axes, ("on-policy", "off-policy"), strict=False):
        for name, colour in COLOURS.items():
            curves = [
                r["curve"] for r in runs.values() if (r.get("algorithm"), r.get("policy")) == (name, policy)
            ]
            if curves:
                x, middle, factor = spread(curves, "tv")
                ax.plot(x, middle, color=colour, label=name)
                ax.fill_between(x, middle / factor, middle * factor, color=colour, alpha=0.2, lw=0)
        ax.set(
            yscale="log",
            xlabel="trajectories (millions)",
            title=f"({'a' if policy == 'on-policy' else 'b'}) {policy}",
        )
    axes[0].sharey(axes[1])
    axes[0].set_ylabel("total variation to the target, exact")
    axes[0].legend()
    curves = [run["curve"] for key, run in runs.items() if key.startswith("gradients")]
    for name, (colour, style) in ESTIMATORS.items():
        x = [point["updates"] for point in curves[0]]
        logs = np.log([[point["noise"][name] for point in curve] for curve in curves])
        axes[2].plot(x, np.exp(logs.mean(0)), style, ms=4, color=colour, label=name)
    axes[2].set(
        yscale="log", xlabel="updates of trajectory balance", ylabel="variance / squared mean gradient",
        title="(c) noise of a gradient, batch of 64",
    )  # fmt: skip
    axes[2].legend()
    page.save(figure)


if __name__ == "__main__":
    main()
