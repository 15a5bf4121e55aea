"""Alanine dipeptide in its two torsions (Fig. 4 right): T = 10 steps of von Mises mixtures.

Target: exp(-E(phi, psi) / k_B T) at 298.15 K on a grid with periodic bilinear interpolation, on two surfaces:
``relaxed, in water`` (amber14 and GBn2, all but the two torsions minimised, 7.5 degrees; ``relaxed_grid.py``)
and ``rigid, gas phase`` (GFN2-xTB, all else fixed, 5 degrees; ``energy_grid.py``). The paper fixes all else,
and states neither engine nor temperature; its target is a regression on a grid of its own, so published
numbers and ours are of the same kind, not of the same density. On the rigid surface atoms overlap and
energies reach thousands of k_B T, on the relaxed one 28.

Metrics are those of ``torus.py``. Other than there: 16 components of both angles together (``JointVonMises``)
with concentrations above 1, a learning rate of 6e-3, trajectory balance with the Huber penalty, and half of
every batch walks back from points that were resampled from 200,000 uniform ones by their density; no draw of
the exact sampler enters the training. log Z by quadrature is that of the interpolated density, on 1440 x 1440
midpoints.

    python paper_repro/molecule.py [--quick] [--seeds N] [--device D] [--minutes M]
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment import Experiment, Record, main
from torch import Tensor
from torus import BATCH, mesh, study

from ctsgfn.behaviours import epsilon_uniform, from_data, mixed
from ctsgfn.kernels.heads.joint_von_mises import JointVonMises
from ctsgfn.kernels.spaces.torus import TorusState, torus_kernels
from ctsgfn.measures import Haar
from ctsgfn.objectives import trajectory_balance
from ctsgfn.penalties import huber
from ctsgfn.seeding import seeded
from ctsgfn.space import Space

HERE = Path(__file__).parent / "results"
KELVIN, GAS = 298.15, 0.00198720425864083
"""Temperature, and the gas constant in kcal/(mol K)."""


class TorsionEnergy:
    """Boltzmann density of a table of energies over two angles, periodic and bilinear in the energy.

    Args:
        energy: kcal/mol, [side, side], at -pi + 2 pi i / side.
        kelvin: temperature.
    """

    def __init__(self, energy: np.ndarray, kelvin: float) -> None:
        self.measure = Haar(2)
        self.table = torch.tensor(energy / (GAS * kelvin))

    def log_density(self, x: Tensor) -> Tensor:
        """Minus the energy in k_B T, [B], at angles [B, 2]."""
        side, table = len(self.table), self.table.to(x)
        at = (x + math.pi) * (side / (2 * math.pi))
        low = at.floor()
        u, v = (at - low).unbind(-1)
        i, j = (low.long() % side).unbind(-1)
        i1, j1 = (i + 1) % side, (j + 1) % side
        near = (1 - v) * table[i, j] + v * table[i, j1]
        return -((1 - u) * near + u * ((1 - v) * table[i1, j] + v * table[i1, j1]))

    def quadrature(self, side: int = 1440) -> float:
        """Log Z."""
        x = mesh(side).double()
        return float(self.log_density(x).logsumexp(0)) + 2 * math.log(2 * math.pi / side)

    def sample(self, n: int) -> Tensor:
        """Draws [n, 2] by rejection: a cell by its largest corner, then a point in it."""
        side = len(self.table)
        low = self.table
        for shift in ((1, 0), (0, 1), (1, 1)):
            low = torch.minimum(low, self.table.roll((-shift[0], -shift[1]), (0, 1)))
        bound, kept = -low.flatten(), torch.empty(0, 2)
        share = bound.softmax(0)
        while len(kept) < n:
            cell = torch.multinomial(share, 4 * n, replacement=True)
            corner = torch.stack([cell // side, cell % side], -1)
            x = ((corner + torch.rand(4 * n, 2)) * (2 * math.pi / side) - math.pi).float()
            x = x[torch.rand(4 * n).log() < self.log_density(x) - bound[cell]]
            kept = torch.cat([kept, x])
        return kept[:n]


def resampled(target: TorsionEnergy, asked: int, kept: int) -> Tensor:
    """Points [kept, 2] drawn with replacement from uniform ones, each as often as its density says.

    Args:
        target: what weighs them.
        asked: uniform points.
        kept: points.
    """
    x, _ = target.measure.probe(asked)
    share = target.log_density(x).softmax(0)
    return x[torch.multinomial(share, kept, replacement=True)].float()


def kernels(space: Space[TorusState, Tensor]) -> Any:
    """Turns whose two angles are drawn together."""
    return torus_kernels(space, components=16, least=1.0, head=JointVonMises)


SURFACES = {
    "relaxed, in water": ("relaxed_grid", "amber14"),
    "rigid, gas phase": ("energy_grid", "xtb"),
}
"""File and table of each energy."""


def body() -> None:
    """All runs."""
    lab = Experiment(__file__, __doc__, seeds=1)
    steps, draws, asked = (6, 500, 2000) if lab.quick else (4000, 100_000, 200_000)
    for seed in lab.seeds:
        for name, (file, table) in SURFACES.items():
            target = TorsionEnergy(np.load(HERE / f"{file}.npz")[table], KELVIN)

            def one(key: str, target: TorsionEnergy = target, seed: int = seed, name: str = name) -> Record:
                with seeded(7):
                    exact, ends = target.sample(draws), resampled(target, asked, asked // 4)
                about = {"surface": name, "kelvin": KELVIN, "energy_calls": asked + steps * BATCH}
                return about | study(
                    lab, key, target, target.quadrature(), exact, seed, steps, kernels,
                    objective=trajectory_balance.using(g=huber),
                    behaviour=mixed(epsilon_uniform(0.1), from_data(ends.to(lab.device)), 0.5),
                    lr=6e-3, lr_log_z=1e-2,
                )  # fmt: skip

            key = f"alanine dipeptide, {name}, seed {seed}"
            lab.run(key, lambda k=key, make=one: make(k))


if __name__ == "__main__":
    main(body)
