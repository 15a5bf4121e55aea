"""Table 4 and Fig. C.3 of the paper, scaled down: MLE-GFN beside DDPM on digits of 8 x 8 pixels.

(a) Bits a pixel of held-out images, smaller is better: the evidence bound (circles) and importance weighting
(crosses), each run a mark; dashed: independent histograms of the pixels, no flow at all. (b) Squared Frechet
distance of 5,000 draws from the held-out images, in pixels; dashed: of the training images. Below: held-out
images, and the first draws of one run of each method, none chosen.

    python figures/digits.py [--quick]
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from style import BLUE, GREY, INK, VERMILION, Page

METHODS = ("MLE-GFN", "p_B fixed", "DDPM, weighted", "DDPM, simple")
ROWS, COLUMNS = 6, 6


def main() -> None:
    """Draw."""
    page = Page(__file__, __doc__)
    runs, arrays = page.runs("digits"), page.arrays("digits")
    figure = plt.figure(figsize=(9.5, 4.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 0.9])
    left, right = above.subplots(1, 2, sharey=True)
    for k, method in enumerate(METHODS):
        for run in runs.values():
            if run.get("method") == method:
                left.plot(run["test_bound"], -k - 0.12, "o", ms=4, color=BLUE, mfc="none")
                left.plot(run["test_weighted"], -k + 0.12, "x", ms=4, color=VERMILION)
                right.plot(run["frechet"], -k, "o", ms=4, color=BLUE, mfc="none")
    left.axvline(runs["data"]["histograms"], color=GREY, ls="--", lw=0.8)
    right.axvline(runs["data"]["frechet_floor"], color=GREY, ls="--", lw=0.8)
    left.set(title="(a) likelihood of held-out images", xlabel="bits a pixel")
    right.set(title="(b) draws", xlabel="squared Fréchet distance (pixels in [0, 1])")
    left.set_yticks(-np.arange(len(METHODS)), [name.replace("p_B", "$p_B$") for name in METHODS])
    left.set_ylim(0.5 - len(METHODS), 0.5)
    for ax in (left, right):
        ax.grid(axis="y", lw=0.3)
    for mark, colour, label in (("o", BLUE, "evidence bound"), ("x", VERMILION, "importance-weighted")):
        left.plot([], [], mark, ms=4, mfc="none", color=colour, label=label)
    left.plot(
        [], [], color=GREY, ls="--", lw=0.8, label="histograms of single pixels (a), training images (b)"
    )
    above.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    shown = {"held-out images": "data"} | {name: f"{name}, seed 0" for name in METHODS}
    axes = below.subplots(1, len(shown))
    for ax, (title, key) in zip(axes, shown.items(), strict=True):
        tiles = arrays[f"{key}/samples"][: ROWS * COLUMNS].reshape(ROWS, COLUMNS, 8, 8)
        framed = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=8)
        image = framed.transpose(0, 2, 1, 3).reshape(9 * ROWS, 9 * COLUMNS)
        ax.imshow(image[:-1, :-1], cmap="gray_r", vmin=0, vmax=16, interpolation="nearest")
        ax.set_title(title.replace("p_B", "$p_B$"), color=INK)
        ax.axis("off")
    page.save(figure)


if __name__ == "__main__":
    main()
