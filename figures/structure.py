"""Tables 3 and C.2 of the paper: errors of marginal probabilities of linear Gaussian networks.

Root mean square error over all ordered pairs of nodes, against the exact posterior, for edges, paths and
Markov blankets; 10,000 plain draws of the policy, 100 particles of DiBS (and DiBS+, which weighs them), each
data set a mark; squares: published means, on other data. Dashed: the error that 10,000 exact draws have at
most.

    python figures/structure.py [--quick]
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from style import BLUE, GREY, ORANGE, SKY, VERMILION, Page

PUBLISHED = {
    "edges": {"GFlowNet": (1.50e-2, 1.61e-2, 1.80e-2), "DiBS": (3.28e-1, 2.95e-1, 3.15e-1)},
    "paths": {"GFlowNet": (3.39e-3, 1.07e-2, 1.99e-2), "DiBS": (3.50e-1, 3.35e-1, 3.48e-1)},
    "blankets": {"GFlowNet": (2.14e-2, 2.38e-2, 2.83e-2), "DiBS": (3.88e-1, 3.80e-1, 4.45e-1)},
}
TITLES = {"edges": "(a) edges", "paths": "(b) paths", "blankets": "(c) Markov blankets"}
LEAST = 1e-5
"""Smaller errors are drawn here."""


def main() -> None:
    """Draw."""
    page = Page(__file__, __doc__)
    flow = list(page.runs("structure").values())
    path = page.results / "structure_dibs.json"
    particles = list(page.runs("structure_dibs").values()) if path.exists() else []
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.2), layout="constrained", sharey=True)
    for ax, (name, title) in zip(axes, TITLES.items(), strict=True):
        for run in flow:
            ax.plot(run["nodes"] - 0.12, max(LEAST, run[f"{name}_rmse"]), "o", ms=4, color=BLUE, mfc="none")
        for run in particles:
            ax.plot(
                run["nodes"] + 0.12, max(LEAST, run[f"{name}_rmse"]), "^", ms=4, color=VERMILION, mfc="none"
            )
            plus = max(LEAST, run["weighted"][f"{name}_rmse"])
            ax.plot(run["nodes"] + 0.24, plus, "v", ms=4, color=ORANGE, mfc="none")
        for shift, (method, colour) in zip((-0.24, 0.0), (("GFlowNet", SKY), ("DiBS", GREY)), strict=True):
            ax.plot([d + shift for d in (3, 4, 5)], PUBLISHED[name][method], "s", ms=4, color=colour)
        ax.axhline(0.5 / 10_000**0.5, color=GREY, ls="--", lw=0.8)
        ax.set(yscale="log", xticks=[3, 4, 5], xlim=(2.5, 5.5), xlabel="nodes", title=title)
    axes[0].set_ylabel("root mean square error (smaller ones at 1e-5)")
    marks = (
        ("o", BLUE, "none", "flow, ours"), ("s", SKY, SKY, "GFlowNet, published"),
        ("^", VERMILION, "none", "DiBS, our run"), ("v", ORANGE, "none", "DiBS+, our run"),
        ("s", GREY, GREY, "DiBS, published"),
    )  # fmt: skip
    for mark, colour, face, label in marks:
        axes[0].plot([], [], mark, ms=4, color=colour, mfc=face, label=label)
    axes[0].plot([], [], color=GREY, ls="--", lw=0.8, label="10,000 exact draws, at most")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    page.save(figure)


if __name__ == "__main__":
    main()
