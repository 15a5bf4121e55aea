"""How many normals made the data: mixtures of 1 to 5 beside published reversible jump and long SMC runs.

Question: with the model and the priors of Richardson and Green (1997), what is the posterior of the number
of components K, given that there are at most five? ``flow`` is one flow over all numbers and parameters, the
default of ``fit``; ``smc`` is annealed sequential Monte Carlo from the warm-up of ``fit``, three runs of
4,000 particles for each K alone, without any fitted law; their median counts, for single runs may be off by
more than a nat.

Data: velocities of 82 galaxies, and the log acidity of 155 lakes. Published, from reversible jump over 1 to
30 components (Richardson and Green, 1997, Table 1): for the galaxies 0, 0, .061, .128 and .182, as the
vignette of the R package sBIC quotes it; for the acidity 0, .082, .244, .236 and .172, quoted from memory and
not checked against the page. Divided by their sum, they are the probabilities given at most five components.

    python benchmarks/galaxies.py flow galaxies|acidity   # one more seed
    python benchmarks/galaxies.py smc galaxies|acidity    # the next K that has no result yet
    python benchmarks/galaxies.py plot
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance

import ctsgfn
from ctsgfn.targets import NormalMixtures, acidity, galaxies
from ctsgfn.warmup import warm_up

MOST, DRAWS, RUNS, PARTICLES = 5, 32_768, 3, 4000
DATA = {"galaxies": galaxies, "acidity": acidity}
PUBLISHED = {
    "galaxies": [0.0, 0.0, 0.061, 0.128, 0.182],
    "acidity": [0.0, 0.082, 0.244, 0.236, 0.172],
}
OUT = Path(__file__).parent / "results" / "galaxies.json"
FIGURE = Path(__file__).parents[1] / "figures" / "mixtures.png"


def flow(target: NormalMixtures, seed: int) -> dict[str, Any]:
    """One flow over all numbers of components."""
    start = time.process_time()
    sampler = ctsgfn.fit(target, seed=seed, progress_bar=False)
    fitted = round(time.process_time() - start, 1)
    posterior = ctsgfn.model_posterior(sampler, DRAWS, seed=seed)
    spent, number = round(time.process_time() - start, 1), posterior.models[:, 0]
    found = {
        name: torch.zeros(MOST, dtype=torch.float64).index_copy(0, number, value).tolist()
        for name, value in (
            ("found", posterior.model_probabilities().value),
            ("stderr", posterior.model_probabilities().stderr),
            ("log_z_of_each", posterior.model_evidence().value),
            ("stderr_of_each", posterior.model_evidence().stderr),
        )
    }
    evidence = posterior.evidence
    told = {k: getattr(evidence, k) for k in ("log_z", "ess", "pareto_k", "reliable")}
    return {"seed": seed, "fit_cpu_seconds": fitted, "cpu_seconds": spent, **found, **told}


def smc(target: NormalMixtures, k: int) -> dict[str, Any]:
    """Evidence of mixtures of k normals by sequential Monte Carlo."""
    start, alone, log_z = time.process_time(), ctsgfn.one_model(target, torch.tensor([k - 1])), []
    for run in range(RUNS):
        torch.manual_seed(run)
        log_z.append(warm_up(alone, 3 * k - 1, particles=PARTICLES, like=torch.zeros(0)).log_z)
    return {"components": k, "cpu_seconds": round(time.process_time() - start, 1), "log_z": log_z}


def shares(rows: list[dict[str, Any]]) -> np.ndarray:
    """Probabilities of the numbers of components, from the median evidence of the runs of each."""
    log_z = np.array([np.median(row["log_z"]) for row in rows])
    weight = np.exp(log_z - log_z.max())
    return weight / weight.sum()


def plot(record: dict[str, Any]) -> None:
    """Probability of each number, on both data sets."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(9.0, 3.0), layout="constrained")
    k = np.arange(1, MOST + 1)
    for ax, (name, runs) in zip(fig.subplots(1, 2), record["data"].items(), strict=True):
        published = np.array(PUBLISHED[name])
        ax.plot(k, published / published.sum(), "s", color="#8a8a8a", ms=9, label="published")
        if len(runs["smc"]) == MOST:
            ax.plot(
                k, shares(runs["smc"]), "^", color="#1b4965", ms=7, mfc="none", label="SMC, one K at a time"
            )
        for row in runs["flow"]:
            ax.errorbar(k, row["found"], row["stderr"], fmt="o", color="#d1495b", ms=4, lw=1)
        ax.plot([], [], "o", color="#d1495b", label="ctsgfn")
        ax.set(xlabel="components", ylabel="probability", title=name, xticks=k)
        ax.legend(frameon=False, fontsize="small", loc="upper left")
    fig.savefig(FIGURE, dpi=150)


def main() -> None:
    """Run, print and save."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ctsgfn.errors.UnreliableEstimate)  # recorded
    empty: dict[str, Any] = {"data": {name: {"flow": [], "smc": []} for name in DATA}}
    record = json.loads(OUT.read_text()) if OUT.exists() else empty
    if sys.argv[1] == "plot":
        return plot(record)
    what, name = sys.argv[1:]
    rows, target = record["data"][name][what], DATA[name](MOST)
    rows.append(flow(target, len(rows)) if what == "flow" else smc(target, len(rows) + 1))
    print(name, what, rows[-1], flush=True)
    record |= {"command": "python benchmarks/galaxies.py flow|smc galaxies|acidity", **provenance()}
    record["settings"] = {"most": MOST, "draws": DRAWS, "runs": RUNS, "particles": PARTICLES}
    record["published"] = {name: [p / sum(row) for p in row] for name, row in PUBLISHED.items()}
    again = json.loads(OUT.read_text()) if OUT.exists() else empty  # another run may have ended meanwhile
    again["data"][name][what] = rows
    OUT.write_text(json.dumps(record | {"data": again["data"]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
