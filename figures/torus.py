"""Fig. 4 of the paper: densities on the torus, target above and policy below.

Left: six modes. Right: alanine dipeptide, gas phase GFN2-xTB at 298.15 K; shown as free energy
-k_B T log p in kcal/mol above its lowest point, white beyond 8. Samples of the policy: 100,000, smoothed by
the same kernel (Gaussian, bandwidth 0.1) as those of the target.

    python figures/torus.py [--quick]
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from style import Page

KT = 0.00198720425864083 * 298.15


def main() -> None:
    """Draw."""
    page = Page(__file__, __doc__)
    figure, axes = plt.subplots(2, 3, figsize=(8.6, 5.4), layout="constrained")
    six, molecule = page.arrays("torus"), page.arrays("molecule")
    extent = (-180, 180, -180, 180)
    left = {name: normal(six[f"six modes, seed 0/{name}"]) for name in ("reference", "model")}
    for ax, (name, density) in zip(axes[:, 0], left.items(), strict=True):
        drawn = ax.imshow(
            density.T, origin="lower", extent=extent, cmap="cividis", vmin=0, vmax=left["reference"].max()
        )
        ax.set(xlabel=r"$\psi$ (degrees)", ylabel=r"$\phi$ (degrees)", title=f"six modes: {said(name)}")
    figure.colorbar(drawn, ax=list(axes[:, 0]), label="density (per radian$^2$)", shrink=0.6)
    right = {name: molecule[f"alanine dipeptide, seed 0/{name}"] for name in ("truth", "reference", "model")}
    panels = {axes[0, 1]: "truth", axes[0, 2]: "reference", axes[1, 2]: "model"}
    for ax, name in panels.items():
        energy = -KT * (right[name] - right[name].max())
        energy = np.where(energy < 8, energy, np.nan)
        drawn = ax.imshow(energy.T, origin="lower", extent=extent, cmap="viridis", vmin=0, vmax=8)
        ax.contour(energy.T, levels=np.arange(1, 8), extent=extent, colors="w", linewidths=0.4)
        ax.set(xlabel=r"$\phi$ (degrees)", ylabel=r"$\psi$ (degrees)", title=f"molecule: {said(name)}")
    figure.colorbar(drawn, ax=list(axes[:, 2]), label="free energy (kcal/mol)", shrink=0.6)
    curves(axes[1, 1], page)
    for ax in [*panels, *axes[:, 0]]:
        ax.set(xticks=[-180, -90, 0, 90, 180], yticks=[-180, -90, 0, 90, 180])
    page.save(figure)


def curves(ax: plt.Axes, page: Page) -> None:
    """Divergence against trajectories for both."""
    for experiment, style, label in (("torus", "-", "six modes"), ("molecule", "--", "molecule")):
        for k, run in enumerate(page.runs(experiment).values()):
            x = [point["trajectories"] / 1e6 for point in run["curve"]]
            y = [point["jsd"] for point in run["curve"]]
            ax.plot(x, y, style, color="#0072b2", lw=1, label=None if k else label)
    for value, label in ((0.063, "published, six modes"), (0.009, "published, molecule")):
        ax.axhline(value, color="#d55e00", lw=0.8, ls="-" if value > 0.01 else "--", label=label)
    ax.set(yscale="log", xlabel="trajectories (millions)", ylabel="Jensen-Shannon divergence (nats)")
    ax.legend()


def said(name: str) -> str:
    """A panel's name."""
    return {"truth": "exact", "reference": "target, smoothed", "model": "policy, smoothed"}[name]


def normal(log_density: np.ndarray) -> np.ndarray:
    """Density per squared radian."""
    density = np.exp(log_density - log_density.max())
    return density / density.mean() / (2 * np.pi) ** 2


if __name__ == "__main__":
    main()
