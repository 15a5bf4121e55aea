"""Fig. 2 of the paper: densities on the Box, and the law of the first step (step length 0.25).

(a) the target; (b) 20,000 samples of the trained policy (kernel density), and its exact terminating density
beside; (c) the law of the first step that a uniform p_B asks for: samples of the target walked back by it;
(d) the learned law of the first step, exact; (e) samples of the target walked back by the learned p_B. In
(c-e) one colour scale; (d) and (e) agree where the policy is trained, (c) is what few Betas cannot be.

    python figures/box_densities.py [--quick]
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from style import Page


def main() -> None:
    """Draw."""
    page = Page(__file__, __doc__)
    arrays = page.arrays("box_curves")
    run = "delta 0.25, TB, learned, seed 0/"
    reward = arrays[run + "reward"] / 0.305
    sampled = np.exp(arrays[run + "sampled"])
    sampled = sampled / sampled.mean()
    figure, axes = plt.subplots(2, 3, figsize=(8.0, 5.0), layout="constrained")
    top = [reward, sampled, arrays[run + "terminating"]]
    titles = ["(a) target", "(b) policy, smoothed", "exact terminating density"]
    for ax, image, title in zip(axes[0], top, titles, strict=True):
        drawn = ax.imshow(image.T, origin="lower", extent=(0, 1, 0, 1), vmin=0, vmax=9, cmap="cividis")
        ax.set(title=title, xlabel="$x_1$", ylabel="$x_2$")
    figure.colorbar(drawn, ax=axes[0], label="density", shrink=0.85)
    bottom = [arrays[run + name] for name in ("first_needed", "first_learned", "first_pushed_back")]
    titles = [
        "(c) first step for uniform $p_B$",
        "(d) learned first step",
        "(e) first step for learned $p_B$",
    ]
    highest = np.nanquantile(bottom[1], 0.99)
    for ax, image, title in zip(axes[1], bottom, titles, strict=True):
        drawn = ax.imshow(
            image.T, origin="lower", extent=(0, 0.25, 0, 0.25), vmin=0, vmax=highest, cmap="cividis"
        )
        ax.set(title=title, xlabel="$x_1$", ylabel="$x_2$")
    figure.colorbar(drawn, ax=axes[1], label="density", shrink=0.85)
    page.save(figure)


if __name__ == "__main__":
    main()
