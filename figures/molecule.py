"""Fig. 4 (right) of the paper: alanine dipeptide in its two torsions.

Free energy -k_B T log p in kcal/mol above its lowest point, white beyond 8: of the exact density (gas phase
GFN2-xTB, 298.15 K), and of 100,000 samples of the target and of the policy smoothed by the same kernel
(Gaussian, bandwidth 0.1, wrapped). White lines: each kcal/mol.

    python figures/molecule.py [--quick]
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from style import Page

KT = 0.00198720425864083 * 298.15
TITLES = {"truth": "exact", "reference": "target, smoothed", "model": "policy, smoothed"}


def main() -> None:
    """Draw."""
    page = Page(__file__, __doc__)
    arrays = page.arrays("molecule")
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.1), layout="constrained")
    ticks, extent = [-180, -90, 0, 90, 180], (-180, 180, -180, 180)
    for ax, (name, title) in zip(axes, TITLES.items(), strict=True):
        table = arrays[f"alanine dipeptide, seed 0/{name}"]
        energy = -KT * (table - table.max())
        energy = np.where(energy < 8, energy, np.nan)
        drawn = ax.imshow(energy.T, origin="lower", extent=extent, cmap="viridis", vmin=0, vmax=8)
        ax.contour(energy.T, levels=np.arange(1, 8), extent=extent, colors="w", linewidths=0.4)
        ax.set(title=title, xlabel=r"$\phi$ (degrees)", ylabel=r"$\psi$ (degrees)")
        ax.set(xticks=ticks, yticks=ticks)
    figure.colorbar(drawn, ax=list(axes), label="free energy (kcal/mol)", shrink=0.8)
    page.save(figure)


if __name__ == "__main__":
    main()
