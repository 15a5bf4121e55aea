"""Fig. 1b, c of the paper: divergence from the target against trajectories, on the Box.

Lines are geometric means over seeds, bands one geometric standard deviation; circles are the published
curves, read off by eye (+-5 %). (a, b) Step lengths 0.25 and 0.1, by the paper's metric with its clipped
reference; grey: what two samples of the target score by it. (c) Objectives at 0.25 with a learned p_B, by
the exact terminating density.

    python figures/box_curves.py [--quick]
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION, Page, spread

COLOURS = {"TB, uniform": SKY, "TB, learned": BLUE, "DB, uniform": ORANGE, "DB, learned": VERMILION}
OTHERS = {
    "TB, learned": BLUE,
    "DB, learned": VERMILION,
    "DB, learned, frozen flow": GREY,
    "SubTB, learned": GREEN,
    "VarGrad, learned": PURPLE,
    "modified DB, learned": INK,
}
AT = (0.5, 1.0, 1.5, 2.0, 2.4)
PUBLISHED = {
    0.25: {
        "TB, uniform": (5.3e-3, 3.4e-3, 3.1e-3, 3.0e-3, 3.1e-3),
        "TB, learned": (1.5e-3, 7.9e-4, 5.4e-4, 4.0e-4, 3.7e-4),
        "DB, uniform": (1.9e-2, 1.5e-2, 1.4e-2, 1.3e-2, 1.3e-2),
        "DB, learned": (2.1e-3, 9.8e-4, 9.3e-4, 8.5e-4, 8.7e-4),
    },
    0.1: {
        "TB, uniform": (8.9e-2, 7.8e-2, 7.5e-2, 7.3e-2, 7.5e-2),
        "TB, learned": (3.0e-3, 2.2e-3, 1.8e-3, 1.7e-3, 1.6e-3),
        "DB, uniform": (1.35e-1, 1.1e-1, 1.07e-1, 1.05e-1, 1.07e-1),
        "DB, learned": (3.4e-2, 1.2e-2, 8.4e-3, 8e-3, 8.0e-3),
    },
}
"""Read off the published curves by eye, +-5 %."""


def main() -> None:
    """Draw."""
    page = Page(__file__, __doc__)
    runs = page.runs("box_curves")
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.6), layout="constrained")
    floor = runs["floor"]["jsd_clipped"]
    for ax, delta in zip(axes, (0.25, 0.1), strict=False):
        for name, colour in COLOURS.items():
            line(ax, runs, f"delta {delta:g}, {name}", "jsd_clipped", colour)
            ax.plot(AT, PUBLISHED[delta][name], "o", ms=4, mfc="none", color=colour)
        ax.axhspan(min(floor), max(floor), color="0.85", lw=0)
        ax.set_title(f"({'a' if delta == 0.25 else 'b'}) step length {delta:g}, metric of the paper")
    for name, colour in OTHERS.items():
        line(axes[2], runs, f"delta 0.25, {name}", "jsd_exact", colour)
    axes[2].set_title("(c) step length 0.25, exact metric")
    for ax in axes:
        ax.set(xscale="log", yscale="log", xlabel="trajectories (millions)")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
    axes[0].sharey(axes[1])
    axes[0].set_ylabel("Jensen-Shannon divergence (nats)")
    kinds = [plt.Line2D([], [], color=c, label=f"{n} $p_B$") for n, c in COLOURS.items()]
    kinds.append(plt.Line2D([], [], color=GREY, marker="o", mfc="none", ls="", ms=4, label="published"))
    kinds.append(plt.Rectangle((0, 0), 1, 1, color="0.85", label="two samples of the target"))
    figure.legend(handles=kinds, ncols=6, loc="outside lower center", columnspacing=1.2)
    names = {n: n.replace(", learned", "") for n in OTHERS}
    lines = [plt.Line2D([], [], color=c, label=names[n]) for n, c in OTHERS.items() if has(runs, n)]
    axes[2].legend(handles=lines)
    page.save(figure)


def has(runs: dict, name: str) -> bool:
    """Whether there are runs of a setting at step length 0.25."""
    return any(key.startswith(f"delta 0.25, {name}, seed") for key in runs)


def line(ax: plt.Axes, runs: dict, name: str, key: str, colour: str) -> None:
    """Mean and band of the runs of one setting."""
    curves = [run["curve"] for run_name, run in runs.items() if run_name.startswith(f"{name}, seed")]
    if curves:
        x, middle, factor = spread(curves, key)
        ax.plot(x, middle, color=colour)
        ax.fill_between(x, middle / factor, middle * factor, color=colour, alpha=0.2, lw=0)


if __name__ == "__main__":
    main()
