"""How many normals made the data: mixtures of 1 to 5 beside Gibbs sampling and published reversible jump.

Question: with the model and the priors of Richardson and Green (1997), what is the posterior of the number
of components K, given that there are at most five? ``flow`` is one flow over all numbers and parameters, the
default of ``fit``; ``gibbs`` runs 100 chains at each K and ties neighbours by how often a component is empty
(see ``mixture_gibbs.py``), a reference that shares no code with the flow.

Data: velocities of 82 galaxies, and the log acidity of 155 lakes. Published, from reversible jump over 1 to
30 components (Richardson and Green, 1997, Table 1): for the galaxies 0, 0, .061, .128 and .182, as the
vignette of the R package sBIC quotes it; for the acidity 0, .082, .244, .236 and .172, quoted from memory and
not checked against the page. Divided by their sum, they are the probabilities given at most five components.

    python benchmarks/galaxies.py flow galaxies|acidity    # one more seed
    python benchmarks/galaxies.py gibbs galaxies|acidity   # the reference
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
from mixture_gibbs import evidence_ratio
from provenance import commit, provenance

import ctsgfn
from ctsgfn.targets import NormalMixtures, acidity, galaxies

MOST, DRAWS, CHAINS, SWEEPS, BURN = 5, 32_768, 100, 20_000, 2000
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


def gibbs(target: NormalMixtures) -> dict[str, Any]:
    """Probability of each number, from the ratios of evidence of neighbours, and its standard error."""
    start, y = time.process_time(), target.y.numpy()
    size = {"chains": CHAINS, "sweeps": SWEEPS, "burn": BURN}
    ratio, stderr = np.array([evidence_ratio(y, k, **size) for k in range(2, MOST + 1)]).T
    log_p = np.append(np.log(ratio[::-1]).cumsum()[::-1], 0.0)
    p = np.exp(log_p) / np.exp(log_p).sum()
    # d log p_k / d log ratio_j = [k <= j] - P(K <= j)
    slope = np.tri(MOST, MOST - 1, -1) < 0.5
    error = p * np.sqrt((((slope - p.cumsum()[:-1]) * stderr / ratio) ** 2).sum(-1))
    seconds = round(time.process_time() - start, 1)
    ratios = {"ratio": ratio.tolist(), "ratio_stderr": stderr.tolist()}
    return {"found": p.tolist(), "stderr": error.tolist(), "cpu_seconds": seconds, **ratios}


def plot(record: dict[str, Any]) -> None:
    """Probability of each number, on both data sets."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(9.0, 3.0), layout="constrained")
    k = np.arange(1, MOST + 1)
    for ax, (name, runs) in zip(fig.subplots(1, 2), record["data"].items(), strict=True):
        published = np.array(PUBLISHED[name])
        ax.plot(k, published / published.sum(), "s", color="#8a8a8a", ms=9, label="published")
        for row in runs["gibbs"]:
            ax.errorbar(k, row["found"], row["stderr"], fmt="^", color="#1b4965", ms=7, mfc="none", lw=1)
        ax.plot([], [], "^", color="#1b4965", ms=7, mfc="none", label="Gibbs, and how often one is empty")
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
    empty: dict[str, Any] = {"data": {name: {"flow": [], "gibbs": []} for name in DATA}}
    record = json.loads(OUT.read_text()) if OUT.exists() else empty
    if sys.argv[1] == "plot":
        return plot(record)
    what, name = sys.argv[1:]
    rows, target = record["data"][name][what], DATA[name](MOST)
    rows.append(flow(target, len(rows)) if what == "flow" else gibbs(target))
    rows[-1]["commit"] = commit()
    print(name, what, rows[-1], flush=True)
    record |= {"command": "python benchmarks/galaxies.py flow|gibbs galaxies|acidity", **provenance()}
    record["settings"] = {"most": MOST, "draws": DRAWS, "chains": CHAINS, "sweeps": SWEEPS, "burn": BURN}
    record["published"] = {name: [p / sum(row) for p in row] for name, row in PUBLISHED.items()}
    again = json.loads(OUT.read_text()) if OUT.exists() else empty  # another run may have ended meanwhile
    again["data"][name][what] = rows
    OUT.write_text(json.dumps(record | {"data": again["data"]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
