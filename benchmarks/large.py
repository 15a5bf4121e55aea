"""Many dimensions: many-well 64 and 128, and a Cox process of 1,600 cells, beside published bars.

What is measured, CPU seconds of one thread:
- many-well, three seeds, ``fit(target, kernel="autoregressive", steps=3000)``: error of log Z, ESS and gap
  (log Z less its lower bound). Published (SGDS, as cited in the README of ``benchmarks``): EUBO - ELBO 16.3
  (d = 64) and 70.4 (d = 128) after 20 million calls;
- many-well 32, 64, 128, 256: cost of an update of that kernel, which is to grow no faster than d;
- the Cox process, ``fit(target)``: lower bound and log Z with error. Published lower bounds: 471.6 (DDS),
  486.8 (SCLD), 497.9 (SMC with an effective-sample-size rule); values of log Z in use: 501.8 and 512.6. The
  places of the 126 saplings are not part of this package: --pines names a csv file of them, in two columns
  scaled to the unit square; without it this part is left out, and says so.

    python benchmarks/large.py --pines pines.csv      # the runs that are missing
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from counting import counted
from provenance import provenance

import ctsgfn
from ctsgfn.gflownet import GFlowNet
from ctsgfn.gradient import backpropagate
from ctsgfn.kernel import Kernel
from ctsgfn.kernels.heads.autoregressive import AutoregressiveMixture
from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels
from ctsgfn.networks import NoContext
from ctsgfn.objectives import trajectory_balance
from ctsgfn.targets import ManyWell, log_gaussian_cox
from ctsgfn.walks import rollout

OUT = Path(__file__).parent / "results" / "large.json"
DRAWS, SEEDS, SIZES, BATCH = 20_000, (0, 1, 2), (32, 64, 128, 256), 300


def measured(target: Any, seed: int, **settings: Any) -> dict[str, Any]:
    """One fit and its evidence."""
    hidden = counted(target)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.process_time()
        sampler = ctsgfn.fit(hidden, seed=seed, progress_bar=False, **settings)
        seconds = time.process_time() - start
        evidence = sampler.evidence(DRAWS, seed=100 + seed)
    return {
        "dim": target.measure.dim,
        "seed": seed,
        "settings": settings,
        "cpu_seconds": round(seconds, 1),
        "density_calls": hidden.density_calls,
        "gradient_calls": hidden.gradient_calls,
        "log_z": evidence.log_z,
        "stderr": evidence.stderr,
        "lower_bound": evidence.lower_bound,
        "ess": evidence.ess,
        "pareto_k": evidence.pareto_k,
        "notes": list(sampler.notes),
        "warned": [str(w.message) for w in caught],
    }


def wells(dim: int, seed: int) -> dict[str, Any]:
    """One run of many-well."""
    target = ManyWell(dim)
    row = measured(target, seed, kernel="autoregressive", steps=3000)
    error, gap = row["log_z"] - target.log_z, target.log_z - row["lower_bound"]
    return {"target": f"many-well {dim}", "error": error, "gap": gap, **row}


def update_ms(dim: int, repeats: int = 15) -> float:
    """Median CPU milliseconds of a trajectory-balance update of the autoregressive kernel."""
    space, target = diffusion(dim, 1), ManyWell(dim)
    _, backward = diffusion_kernels(space, target, hidden=64, langevin=False)
    gfn = GFlowNet(space, Kernel(space.kappa, NoContext(), [AutoregressiveMixture(dim, 0)]), backward)
    spent = []
    for _ in range(repeats + 2):
        start = time.process_time()
        gfn.zero_grad()
        backpropagate(gfn, target, rollout(space, gfn.forward_kernel, BATCH), trajectory_balance)
        spent.append(1e3 * (time.process_time() - start))
    return statistics.median(spent[2:])


def saved() -> dict[str, Any]:
    """What was measured before."""
    return json.loads(OUT.read_text()) if OUT.exists() else {"wells": [], "cox": [], "update_ms": {}}


def keep(record: dict[str, Any]) -> None:
    """Save after each run."""
    OUT.write_text(json.dumps(record | provenance(), indent=1) + "\n")


def show(row: dict[str, Any]) -> None:
    """Print one run."""
    print(
        f"{row['target']:14} seed {row['seed']} {row['cpu_seconds']:6.0f} CPU s, log Z {row['log_z']:.3f} +- "
        f"{row['stderr']:.3f}, lower bound {row['lower_bound']:.3f}, ESS {row['ess']:.3f}, k "
        f"{row['pareto_k']:.2f}{', warned' if row['warned'] else ''}",
        flush=True,
    )


def main() -> None:
    """Make the runs that are missing, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pines", type=Path, help="csv file with a line of names, then x,y in [0, 1]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = saved()
    if not record["update_ms"]:
        record["update_ms"] = {str(dim): update_ms(dim) for dim in SIZES}
        keep(record)
    print("update, ms:", {dim: round(ms, 1) for dim, ms in record["update_ms"].items()})
    if options.pines is None:
        print("Cox process: left out, --pines names no file")
    for seed in SEEDS:
        if options.pines is not None and seed not in [row["seed"] for row in record["cox"]]:
            points = torch.from_numpy(np.loadtxt(options.pines, delimiter=",", skiprows=1)).float()
            row = {"target": "Cox process", **measured(log_gaussian_cox(points), seed)}
            record["cox"].append(row)
            keep(record)
        for dim in (64, 128):
            if (dim, seed) not in [(row["dim"], row["seed"]) for row in record["wells"]]:
                record["wells"].append(wells(dim, seed))
                keep(record)
    for row in record["wells"] + record["cox"]:
        show(row)
    print(OUT)


if __name__ == "__main__":
    main()
