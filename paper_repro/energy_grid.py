"""Energy of alanine dipeptide in its two torsions, from a real engine, on a grid: input of ``molecule.py``.

Ac-L-Ala-NHMe (22 atoms), gas phase. Start: the lowest of 50 conformers that RDKit embeds (seed 0) and
optimises with MMFF94. As in the paper, phi = C-N-CA-C and psi = N-CA-C-N are then turned rigidly, all other
coordinates staying as they are; energies are single points by GFN2-xTB (tblite) and by MMFF94. The paper
names neither engine, offset nor temperature.

Needs the extra ``molecule``; neither torch nor ctsgfn. The result is committed, so nothing else needs it.

    python paper_repro/energy_grid.py [--side 48]
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolTransforms
from tblite.interface import Calculator
from tqdm import tqdm

SMILES = "CC(=O)N[C@@H](C)C(=O)NC"
PHI, PSI = (1, 3, 4, 6), (3, 4, 6, 8)
KCAL = 627.5094740631  # kcal/mol in a hartree
BOHR = 1.8897261246  # bohr in an angstrom
OUT = Path(__file__).parent / "results"


def start() -> Chem.Mol:
    """The optimised molecule, with one conformer."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(SMILES))
    AllChem.EmbedMultipleConfs(molecule, 50, randomSeed=0)
    energies = [energy for _, energy in AllChem.MMFFOptimizeMoleculeConfs(molecule, maxIters=2000)]
    lowest = Chem.Mol(molecule, False, int(np.argmin(energies)))
    return lowest


def xtb(molecule: Chem.Mol) -> float:
    """GFN2-xTB energy in kcal/mol."""
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    calculator = Calculator("GFN2-xTB", numbers, molecule.GetConformer().GetPositions() * BOHR)
    calculator.set("verbosity", 0)
    return float(calculator.singlepoint().get("energy")) * KCAL


def mmff(molecule: Chem.Mol) -> float:
    """MMFF94 energy in kcal/mol."""
    field = AllChem.MMFFGetMoleculeForceField(molecule, AllChem.MMFFGetMoleculeProperties(molecule))
    return float(field.CalcEnergy())


def main() -> None:
    """Every point of the grid by both engines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=48, help="points along each torsion (48)")
    side = parser.parse_args().side
    molecule, begun = start(), time.process_time()
    conformer = molecule.GetConformer()
    angles = -180 + 360 * np.arange(side) / side
    energies = {"xtb": np.empty((side, side)), "mmff": np.empty((side, side))}
    for i, phi in enumerate(tqdm(angles, disable=None)):
        rdMolTransforms.SetDihedralDeg(conformer, *PHI, phi)
        for j, psi in enumerate(angles):
            rdMolTransforms.SetDihedralDeg(conformer, *PSI, psi)
            energies["xtb"][i, j], energies["mmff"][i, j] = xtb(molecule), mmff(molecule)
    lowest = {name: float(table.min()) for name, table in energies.items()}
    shifted = {name: table - lowest[name] for name, table in energies.items()}
    np.savez_compressed(OUT / "energy_grid.npz", angles=angles, **shifted)
    record = {
        "smiles": SMILES,
        "units": "kcal/mol above the lowest point of the grid; rows phi, columns psi, degrees",
        "lowest": lowest,
        "highest": {name: float(table.max()) for name, table in shifted.items()},
        "cpu_seconds": round(time.process_time() - begun, 1),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("rdkit", "tblite", "numpy")},
    }
    (OUT / "energy_grid.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
