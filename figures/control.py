"""Fig. C.1 and Table C.1 of the paper as figures: stochastic control in 100 steps.

Above: 2,000 samples on the nine Gaussians after 1,500 batches, one run each, and the target's.
Below: |B| (circles) and |B_RW| (crosses) of every method, each run a symbol, smaller is better; open squares
are the published means. Values under 0.001 are drawn there. Methods below the line are not the paper's
trainings.

    python figures/control.py [--quick]
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from style import BLUE, GREY, INK, VERMILION, Page

SHOWN = (
    "off-policy TB", "on-policy TB", "off-policy reverse KL", "on-policy reverse KL",
    "off-policy forward KL", "on-policy forward KL", "PIS, with gradient",
    "off-policy TB, wider exploration",
)  # fmt: skip
PUBLISHED = {
    "off-policy TB": {"nine Gaussians": (-0.150, -0.003), "funnel": (-0.219, -0.026)},
    "off-policy reverse KL": {"nine Gaussians": (-1.706, -1.609)},
    "off-policy forward KL": {"nine Gaussians": (-0.306, -0.001), "funnel": (-2.822, -0.087)},
    "on-policy TB": {"nine Gaussians": (-1.409, -1.301), "funnel": (-0.265, -0.012)},
    "on-policy reverse KL": {"nine Gaussians": (-1.348, -1.237), "funnel": (-0.259, -0.040)},
    "on-policy forward KL": {"nine Gaussians": (-0.254, -0.007), "funnel": (-1.384, -0.034)},
    "PIS, with gradient": {"nine Gaussians": (-1.691, -1.192), "funnel": (-0.098, -0.018)},
    "SMC, no gradient": {"nine Gaussians": (None, -0.362), "funnel": (None, -0.216)},
    "AIS with HMC": {"nine Gaussians": (None, -1.876), "funnel": (None, -0.835)},
}
"""B and B_RW of Table C.1; the last two rows are copied there from Zhang and Chen (2022), as SMC and HMC."""
ROWS = (
    *SHOWN[:-1], "off-policy TB, as printed",
    "off-policy TB, wider exploration", "off-policy TB, with gradient",
    "SMC, no gradient", "SMC, with gradient", "AIS with HMC", "fit",
)  # fmt: skip


def main() -> None:
    """Draw."""
    page = Page(__file__, __doc__)
    runs, arrays = page.runs("control"), page.arrays("control")
    figure = plt.figure(figsize=(10, 6.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 2.2])
    axes = above.subplots(1, len(SHOWN) + 1, sharex=True, sharey=True)
    for ax, method in zip(axes, SHOWN, strict=False):
        key = f"nine Gaussians, {method}, seed 0"
        if f"{key}/samples" in arrays:
            scatter(ax, arrays[f"{key}/samples"].astype(float), BLUE)
            said = method.replace(", ", "\n") if "," in method else method.replace(" ", "\n", 1)
            ax.set_title(f"{said}\n{runs[key]['modes']} of 9 modes", fontsize=7)
    rng = np.random.default_rng(0)
    scatter(axes[-1], rng.integers(-1, 2, (2000, 2)) * 5 + rng.normal(0, 0.3**0.5, (2000, 2)), GREY)
    axes[-1].set_title("target", fontsize=7)
    for ax, target in zip(below.subplots(1, 2, sharey=True), ("nine Gaussians", "funnel"), strict=True):
        for k, method in enumerate(ROWS):
            mine = [r for r in runs.values() if (r["target"], r["method"]) == (target, method)]
            for j, (name, mark, colour) in enumerate((("B", "o", BLUE), ("B_RW", "x", VERMILION))):
                y = -k - 0.16 + 0.32 * j
                for run in mine:
                    if name in run:
                        ax.plot(size(run[name]), y, mark, color=colour, ms=4)
                known = PUBLISHED.get(method, {}).get(target, (None, None))[j]
                if known is not None:
                    ax.plot(size(known), y, "s", mfc="none", color=colour, ms=6, mew=0.7)
        ax.set(
            xscale="log", title=target, xlabel="error of log Z (nats; smaller ones at 0.001)", xlim=(7e-4, 10)
        )
        ax.set_yticks(-np.arange(len(ROWS)), ROWS)
        ax.grid(axis="y", lw=0.3)
        ax.axhline(-len(SHOWN) + 1.5, color=INK, lw=0.8)
    for mark, colour, face, label in (
        ("o", BLUE, BLUE, "$B$, ours"), ("x", VERMILION, VERMILION, "$B_{RW}$, ours"),
        ("s", BLUE, "none", "$B$, published"), ("s", VERMILION, "none", "$B_{RW}$, published"),
    ):  # fmt: skip
        ax.plot([], [], mark, color=colour, mfc=face, label=label)
    below.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    page.save(figure)


def scatter(ax: plt.Axes, x: np.ndarray, colour: str) -> None:
    """Samples in the square."""
    ax.plot(*x.T, ".", ms=1, color=colour, alpha=0.5)
    ax.set(xlim=(-8, 8), ylim=(-8, 8), aspect="equal", xticks=[-5, 0, 5], yticks=[-5, 0, 5])


def size(value: float) -> float:
    """Absolute value, drawn at 0.001 at least."""
    return max(abs(value), 1e-3)


if __name__ == "__main__":
    main()
