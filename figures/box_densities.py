"""Fig. 2 of the paper: densities on the Box, and the law of the first step (step length 0.25).

(a) the target; (b) 20,000 samples of the trained policy (kernel density, on a scale of its own), and its
exact terminating density beside; (c) the law of the first step that a uniform p_B asks for: samples of the
target walked back by it; (d) the learned law of the first step, exact; (e) samples of the target walked back
by the learned p_B. (c-e) One logarithmic colour scale; (c) and (e) are smoothed (bandwidth 0.01), (d) is
not. (d) and (e) agree where the policy is trained, (c) is what few Betas cannot be.

    python figures/box_densities.py [--quick]
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from style import Page


def main() -> None:
    """Draw."""
    page = Page(__file__, __doc__)
    arrays = page.arrays("box_curves")
    run = "delta 0.25, TB, learned, seed 0/"
    reward = arrays[run + "reward"] / 0.305
    sampled = np.exp(arrays[run + "sampled"])
    sampled = sampled / sampled.mean()
    figure, axes = plt.subplots(2, 3, figsize=(9.5, 5.2), layout="constrained")
    top = [reward, sampled, arrays[run + "terminating"]]
    titles = ["(a) target", "(b) policy, smoothed", "exact terminating density"]
    for ax, image, title, highest in zip(axes[0], top, titles, (9, sampled.max(), 9), strict=True):
        drawn = ax.imshow(image.T, origin="lower", extent=(0, 1, 0, 1), vmin=0, vmax=highest, cmap="cividis")
        ax.set(title=title, xlabel="$x_1$", ylabel="$x_2$")
        figure.colorbar(drawn, ax=ax, label="density", shrink=0.75)
    bottom = [arrays[run + name] for name in ("first_needed", "first_learned", "first_pushed_back")]
    titles = [
        "(c) first step for uniform $p_B$",
        "(d) learned first step",
        "(e) first step for learned $p_B$",
    ]
    highest = np.nanquantile(bottom[1], 0.99)
    scale = LogNorm(2.0, highest)
    for ax, image, title in zip(axes[1], bottom, titles, strict=True):
        shown = np.maximum(image, 2.0)  # nan outside the disc
        drawn = ax.imshow(shown.T, origin="lower", extent=(0, 0.25, 0, 0.25), norm=scale, cmap="cividis")
        ax.set(title=title, xlabel="$x_1$", ylabel="$x_2$")
        bar = figure.colorbar(drawn, ax=ax, label="density", shrink=0.75, ticks=[2, 5, 10, 20, 50])
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.minorticks_off()
    page.save(figure)


if __name__ == "__main__":
    main()
