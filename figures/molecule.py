"""Fig. 4 (right) of the paper: alanine dipeptide in its two torsions, on two energy surfaces.

Free energy -k_B T log p in kcal/mol above its lowest point, at 298.15 K, white beyond 8; white lines each
kcal/mol. Columns: the exact density; 100,000 exact samples and 100,000 of the policy, smoothed by one kernel
(Gaussian, bandwidth 0.1, wrapped). Rows: amber14 in implicit water, everything but the two torsions relaxed;
GFN2-xTB in the gas phase, everything else fixed. Over the policy stands its Jensen-Shannon divergence from
the exact samples, the paper's metric (published: 0.009, on another surface).

    python figures/molecule.py [--quick]
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from style import Page

KT = 0.00198720425864083 * 298.15
ROWS = {"relaxed, in water": "amber14, water, relaxed", "rigid, gas phase": "GFN2-xTB, gas phase, rigid"}
COLUMNS = {"truth": "exact", "reference": "exact samples, smoothed", "model": "policy, smoothed"}


def main() -> None:
    """Draw."""
    page = Page(__file__, __doc__)
    runs, arrays = page.runs("molecule"), page.arrays("molecule")
    figure, axes = plt.subplots(2, 3, figsize=(8.4, 5.4), layout="constrained", sharex=True, sharey=True)
    ticks, extent = [-180, -90, 0, 90, 180], (-180, 180, -180, 180)
    for row, (surface, said) in zip(axes, ROWS.items(), strict=True):
        key = f"alanine dipeptide, {surface}, seed 0"
        for ax, (name, title) in zip(row, COLUMNS.items(), strict=True):
            energy = arrays[f"{key}/{name}"]
            energy = -KT * (energy - energy.max())
            energy = np.where(energy < 8, energy, np.nan)
            drawn = ax.imshow(energy.T, origin="lower", extent=extent, cmap="viridis", vmin=0, vmax=8)
            ax.contour(energy.T, levels=np.arange(1, 8), extent=extent, colors="w", linewidths=0.4)
            ax.set(xticks=ticks, yticks=ticks)
            ax.set_title(f"{title}: {runs[key]['jsd_samples']:.3f} nats" if name == "model" else title)
        row[0].set_ylabel(f"{said}\n$\\psi$ (degrees)")
    for ax in axes[-1]:
        ax.set_xlabel(r"$\phi$ (degrees)")
    figure.colorbar(drawn, ax=axes, label="free energy (kcal/mol)", shrink=0.7)
    page.save(figure)


if __name__ == "__main__":
    main()
