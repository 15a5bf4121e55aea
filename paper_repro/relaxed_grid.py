"""Relaxed energy of alanine dipeptide in its two torsions, in implicit water: input of ``molecule.py``.

Ac-L-Ala-NHMe (22 atoms) with the force field amber14 and the generalised Born model GBn2, by OpenMM. At each
point of a 7.5 degree grid phi = C-N-CA-C and psi = N-CA-C-N are held by stiff harmonic restraints and all
else is minimised. The energy is that without restraints where they let the torsions rest, and to first order
the work from there to the grid point, which is twice the energy of the restraints. The surface is far flatter
than that of ``energy_grid.py``, where atoms overlap.

A point is minimised anew from each neighbour whose energy has fallen, until none falls (wavefront
propagation), from the conformers that RDKit embeds (seed 0): the result does not depend on the direction of
a scan, and each energy is the lowest that was found.

Needs the extra ``molecule``; neither torch nor ctsgfn. The result is committed, so nothing else needs it.

    python paper_repro/relaxed_grid.py [--side 48]

References:
    Driving torsion scans with wavefront propagation (Qiu et al., 2020), J. Chem. Phys. 152, 244116.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolTransforms
from tqdm import tqdm

SMILES = "CC(=O)N[C@@H](C)C(=O)NC"
RESIDUES = {"ACE": (0, 1, 2), "ALA": (3, 4, 5, 6, 7), "NME": (8, 9)}
"""Heavy atoms in the order of SMILES."""
PHI, PSI, AMIDES = (1, 3, 4, 6), (3, 4, 6, 8), ((0, 1, 3, 4), (4, 6, 8, 9))
"""In the same order, which is that of RDKit's molecule."""
FIELDS = ("amber14-all.xml", "implicit/gbn2.xml")
STIFF = 1e4  # kJ/(mol rad^2): 50 kJ/(mol rad) moves a torsion by 0.3 degrees
FALL = 0.05  # kJ/mol, what counts as lower: 0.02 k_B T
KCAL = 4.184  # kJ in a kcal
OUT = Path(__file__).parent / "results"


def residues(molecule: Chem.Mol) -> dict[str, list[int]]:
    """Atoms of each residue: its heavy ones, and their hydrogens."""
    return {
        name: [*heavy] + [n.GetIdx() for i in heavy for n in molecule.GetAtomWithIdx(i).GetNeighbors()
                          if n.GetAtomicNum() == 1]
        for name, heavy in RESIDUES.items()
    }  # fmt: skip


def topology(molecule: Chem.Mol) -> app.Topology:
    """The molecule as three residues, whose atoms follow one another."""
    made, placed = app.Topology(), {}
    chain = made.addChain()
    for name, atoms in residues(molecule).items():
        residue = made.addResidue(name, chain)
        for i in atoms:
            element = app.Element.getByAtomicNumber(molecule.GetAtomWithIdx(i).GetAtomicNum())
            placed[i] = made.addAtom(f"{element.symbol}{i}", element, residue)
    for bond in molecule.GetBonds():
        made.addBond(placed[bond.GetBeginAtomIdx()], placed[bond.GetEndAtomIdx()])
    return made


class Held:
    """The molecule with its two torsions held.

    Args:
        molecule: with hydrogens.
    """

    def __init__(self, molecule: Chem.Mol) -> None:
        system = app.ForceField(*FIELDS).createSystem(topology(molecule), nonbondedMethod=app.NoCutoff)
        self.order = [i for atoms in residues(molecule).values() for i in atoms]
        self.torsions = [[self.order.index(i) for i in atoms] for atoms in (PHI, PSI)]
        self.restraint = openmm.CustomTorsionForce(
            f"{STIFF / 2}*away^2; away=min(gap, {2 * math.pi}-gap); gap=abs(theta-held)"
        )
        self.restraint.addPerTorsionParameter("held")
        for atoms in self.torsions:
            self.restraint.addTorsion(*atoms, [0.0])
        self.restraint.setForceGroup(1)
        system.addForce(self.restraint)
        platform = openmm.Platform.getPlatformByName("CPU")
        self.context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform, {"Threads": "1"})

    def relax(self, start: np.ndarray, phi: float, psi: float) -> tuple[float, np.ndarray]:
        """Energy in kJ/mol and coordinates in nanometres, minimised from a start; torsions in radians."""
        for k, (atoms, angle) in enumerate(zip(self.torsions, (phi, psi), strict=True)):
            self.restraint.setTorsionParameters(k, *atoms, [angle])
        self.restraint.updateParametersInContext(self.context)
        self.context.setPositions(start)
        openmm.LocalEnergyMinimizer.minimize(self.context, tolerance=0.5)
        own, held = (
            self.context.getState(getEnergy=True, groups={group}).getPotentialEnergy() for group in (0, 1)
        )
        place = self.context.getState(getPositions=True).getPositions(asNumpy=True)
        energy = (own + 2 * held).value_in_unit(unit.kilojoule_per_mole)
        return float(energy), np.asarray(place.value_in_unit(unit.nanometer))


def conformers() -> tuple[Chem.Mol, list[tuple[float, float, np.ndarray]]]:
    """The molecule, and torsions in degrees with coordinates of what RDKit embeds, amides trans."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(SMILES))
    AllChem.EmbedMultipleConfs(molecule, 50, randomSeed=0)
    found = []
    for conformer in molecule.GetConformers():
        amides = [rdMolTransforms.GetDihedralDeg(conformer, *a) for a in AMIDES]
        if min(abs(a) for a in amides) > 150:
            phi, psi = (rdMolTransforms.GetDihedralDeg(conformer, *a) for a in (PHI, PSI))
            found.append((phi, psi, conformer.GetPositions() / 10))
    return molecule, found


def scan(side: int) -> tuple[np.ndarray, int]:
    """Energies [side, side] in kJ/mol, and how many minimisations they took."""
    molecule, starts = conformers()
    held, step = Held(molecule), 2 * math.pi / side
    energy = np.full((side, side), math.inf)
    place: dict[tuple[int, int], np.ndarray] = {}
    front: list[tuple[tuple[int, int], np.ndarray]] = []
    for phi, psi, x in starts:
        i, j = (round((math.radians(a) + math.pi) / step) % side for a in (phi, psi))
        front.append(((i, j), x[held.order]))
    made = 0
    with tqdm(disable=None, unit="minimisation") as bar:
        while front:
            lowered = set()
            for (i, j), x in front:
                value, relaxed = held.relax(x, i * step - math.pi, j * step - math.pi)
                made += 1
                bar.update()
                if value < energy[i, j] - FALL:
                    energy[i, j], place[i, j] = value, relaxed
                    lowered.add((i, j))
            front = [
                (((i + a) % side, (j + b) % side), place[i, j])
                for i, j in sorted(lowered)
                for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1))
            ]
            bar.set_postfix(reached=len(place), front=len(front))
    return energy, made


def main() -> None:
    """Every point of the grid."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=48, help="points along each torsion (48)")
    side, begun = parser.parse_args().side, time.process_time()
    energy, made = scan(side)
    table = (energy - energy.min()) / KCAL
    np.savez_compressed(OUT / "relaxed_grid.npz", angles=-180 + 360 * np.arange(side) / side, amber14=table)
    record = {
        "smiles": SMILES,
        "force_field": FIELDS,
        "units": "kcal/mol above the lowest point of the grid; rows phi, columns psi, degrees",
        "lowest": float(energy.min()) / KCAL,
        "highest": float(table.max()),
        "minimisations": made,
        "cpu_seconds": round(time.process_time() - begun, 1),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("rdkit", "openmm", "numpy")},
    }
    (OUT / "relaxed_grid.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
