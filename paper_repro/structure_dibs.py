"""DiBS on the data sets of ``structure.py``, by its own package (Tables 3 and C.2).

The same linear Gaussian model (noise of variance 0.1, standard normal weights, uniform prior: an Erdos-Renyi
one whose edges have probability 1/2), 100 particles, 2,000 steps, everything else as the package has it
(Lorch et al., 2021, arXiv 2105.11839). Metrics are those of ``structure.py``, from the particles that are
acyclic; ``weighted`` are those of DiBS+, which weighs particles by their densities.

DiBS runs in an environment of its own (extra ``dibs``; the docstring of ``benchmarks/dibs_graphs.py`` says
how to make one), whose interpreter the variable DIBS_PYTHON names. Without it nothing is done.

    DIBS_PYTHON=dibs-env/bin/python python paper_repro/structure_dibs.py [--quick] [--seeds N] [--minutes M]
"""

from __future__ import annotations

import os
import subprocess
import tempfile

import numpy as np
import torch
from experiment import ROOT, Experiment, Record, main
from structure import STEPS, compared, marginals, surprise

from ctsgfn.acyclic import Acyclic
from ctsgfn.targets import linear_gaussian_network

PARTICLES, UPDATES = 100, 2000


def one(lab: Experiment, python: str, nodes: int, seed: int) -> Record:
    """One data set."""
    target = linear_gaussian_network(nodes, seed=seed)
    particles, updates = (4, 5) if lab.quick else (PARTICLES, UPDATES)
    with tempfile.TemporaryDirectory() as folder:
        given, found = f"{folder}/in.npz", f"{folder}/out.npz"
        np.savez(
            given, data=target.data.numpy(), noise_variance=target.noise_variance,
            edges_per_node=(nodes - 1) / 4, particles=particles, steps=updates, seed=seed,
        )  # fmt: skip
        subprocess.run([python, str(ROOT / "benchmarks" / "dibs_run.py"), given, found], check=True)
        out = dict(np.load(found))
    graphs, weights = torch.from_numpy(out["edges"]).bool(), torch.from_numpy(out["weights"]).double()
    acyclic = Acyclic(nodes).contains(graphs)
    graphs, weights = graphs[acyclic], weights[acyclic] * graphs[acyclic]
    every = target.measure.all()
    exact = marginals(every, target.log_density(every).softmax(0))
    even = torch.full((len(graphs),), 1 / len(graphs), dtype=torch.float64)
    plus = torch.from_numpy(out["plus"]).double()[acyclic].softmax(0)
    weighted = compared(marginals(graphs, plus), exact)
    return {
        "nodes": nodes,
        "data_set": seed,
        **compared(marginals(graphs, even), exact),
        "weighted": {name: value for name, value in weighted.items() if name.endswith("rmse")},
        "surprise": surprise(target, graphs, weights),
        "particles": particles,
        "cyclic": int((~acyclic).sum()),
        "dibs_cpu_seconds": float(out["seconds"]),
    }


def body() -> None:
    """All runs."""
    lab = Experiment(__file__, __doc__, seeds=3)
    python = os.environ.get("DIBS_PYTHON")
    if python is None:
        print("structure_dibs: DIBS_PYTHON names no interpreter, nothing to do")
        return
    for seed in lab.seeds:
        for nodes in (3,) if lab.quick else STEPS:
            lab.run(f"d = {nodes}, data set {seed}", lambda d=nodes, s=seed: one(lab, python, d, s))


if __name__ == "__main__":
    main(body)
