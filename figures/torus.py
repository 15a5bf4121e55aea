"""Fig. 4 (left) of the paper: six modes on the torus.

The target and the policy, 100,000 samples each, smoothed by the same kernel (Gaussian, bandwidth 0.1,
wrapped); divergence from the exact density against trajectories, each seed a line, by 10,000 draws, and at
the end by 100,000. The kernel alone costs what the grey band says.

    python figures/torus.py [--quick]
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from style import BLUE, VERMILION, Page


def main() -> None:
    """Draw."""
    page = Page(__file__, __doc__)
    runs, arrays = page.runs("torus"), page.arrays("torus")
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.0), layout="constrained")
    densities = [normal(arrays[f"six modes, seed 0/{name}"]) for name in ("reference", "model")]
    ticks, extent = [-180, -90, 0, 90, 180], (-180, 180, -180, 180)
    for ax, density, title in zip(axes, densities, ("target", "policy"), strict=False):
        top = max(each.max() for each in densities)
        drawn = ax.imshow(density.T, origin="lower", extent=extent, cmap="cividis", vmin=0, vmax=top)
        ax.set(
            xlabel=r"$\psi$ (degrees)", ylabel=r"$\phi$ (degrees)", title=title, xticks=ticks, yticks=ticks
        )
    figure.colorbar(drawn, ax=list(axes[:2]), label="density (per radian$^2$)", shrink=0.8)
    for k, run in enumerate(runs.values()):
        x = [point["trajectories"] / 1e6 for point in run["curve"]]
        axes[2].plot(x, [point["jsd"] for point in run["curve"]], color=BLUE, label=None if k else "policy")
        axes[2].plot(x[-1], run["jsd"], "o", ms=4, color=BLUE, label=None if k else "100,000 draws of it")
    axes[2].axhline(0.063, color=VERMILION, ls="--", label="published, at the end")
    floors = [run["floor"] for run in runs.values()]
    axes[2].axhspan(0.97 * min(floors), 1.03 * max(floors), color="0.85", label="100,000 exact samples")
    axes[2].set(yscale="log", xlabel="trajectories (millions)", ylabel="Jensen-Shannon divergence (nats)")
    axes[2].set(xlim=(0, None), ylim=(5e-4, 0.1))
    axes[2].legend(loc="upper right", bbox_to_anchor=(1.0, 0.9))
    page.save(figure)


def normal(log_density: np.ndarray) -> np.ndarray:
    """Density per squared radian."""
    density = np.exp(log_density - log_density.max())
    return density / density.mean() / (2 * np.pi) ** 2


if __name__ == "__main__":
    main()
