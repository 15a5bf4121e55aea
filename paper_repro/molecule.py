"""Alanine dipeptide in its two torsions (Fig. 4 right): T = 10 steps of von Mises mixtures.

Target: exp(-E(phi, psi) / k_B T) at 298.15 K, with E the GFN2-xTB energy of ``energy_grid.py`` (gas phase,
all but two torsions fixed), on a 5 degree grid with periodic bilinear interpolation. The paper states
neither engine nor temperature; its target is a regression on a grid of its own, so published numbers and
ours are of the same kind, not of the same density. Networks and metrics are those of ``torus.py``. Energies
reach thousands of k_B T where atoms overlap, so trajectory balance has the Huber penalty, and the inverse
temperature rises from a fiftieth to 1 over the first 60 % of the updates; all batches are on-policy.

log Z by quadrature is that of the interpolated density, on 1440 x 1440 midpoints.

    python paper_repro/molecule.py [--quick] [--seeds N] [--device D] [--minutes M]
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment import Experiment, Record, main
from torch import Tensor
from torus import mesh, study

from ctsgfn.balance import Balance
from ctsgfn.behaviours import on_policy
from ctsgfn.gflownet import GFlowNet
from ctsgfn.measures import Haar
from ctsgfn.objectives import trajectory_balance
from ctsgfn.penalties import huber
from ctsgfn.seeding import seeded
from ctsgfn.trajectories import Trajectories

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


class Cooling:
    """On-policy, and the target's log-density times an inverse temperature that rises batch by batch.

    One object is the behaviour, which counts the batches, and the target that is learned.

    Args:
        inner: the target.
        batches: until the inverse temperature is 1.
        first: where it starts.
    """

    def __init__(self, inner: TorsionEnergy, batches: float, first: float = 0.02) -> None:
        self.inner, self.measure, self.batches, self.first, self.made = (
            inner,
            inner.measure,
            batches,
            first,
            0,
        )

    def log_density(self, x: Tensor) -> Tensor:
        """Log-density at the present temperature, [B]."""
        return self.first ** max(0.0, 1 - self.made / self.batches) * self.inner.log_density(x)

    def __call__(self, gfn: GFlowNet[Any], n: int) -> Trajectories[Any]:
        """Draw n trajectories."""
        self.made += 1
        return on_policy(gfn, n)

    def remember(self, gfn: GFlowNet[Any], trajectories: Trajectories[Any], arrays: Balance) -> None:
        """Nothing but the count."""

    def state_dict(self) -> dict[str, Any]:
        """Batches made."""
        return {"made": self.made}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.made = state["made"]


def body() -> None:
    """All runs."""
    lab = Experiment(__file__, __doc__, seeds=3)
    made = json.loads((HERE / "energy_grid.json").read_text())
    target = TorsionEnergy(np.load(HERE / "energy_grid.npz")["xtb"], KELVIN)
    log_z, steps = target.quadrature(), 6 if lab.quick else 5000
    with seeded(7):
        exact = target.sample(500 if lab.quick else 100_000)
    objective = trajectory_balance.using(g=huber)

    def one(key: str, seed: int) -> Record:
        about = {"engine": f"GFN2-xTB, tblite {made['versions']['tblite']}", "kelvin": KELVIN}
        cooling = Cooling(target, 0.6 * steps)
        options = {"objective": objective, "behaviour": cooling, "lr_log_z": 5e-2}
        return about | study(lab, key, target, log_z, exact, seed, steps, cooling, **options)

    for seed in lab.seeds:
        key = f"alanine dipeptide, seed {seed}"
        lab.run(key, lambda k=key, s=seed: one(k, s))


if __name__ == "__main__":
    main(body)
