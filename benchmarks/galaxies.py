"""How many normals made the data: mixtures of 1 to 5 beside published reversible jump and nested sampling.

Question: with the model and the priors of Richardson and Green (1997), what is the posterior of the number
of components K, given that there are at most five? ``flow`` is one flow over all numbers and parameters, the
default of ``fit``; ``nested`` is dynesty (1,000 live points, random walks of 60 steps), once for each K, on
the same model with the rate of the scales kept as a parameter: it shares no code with the flow, its errors
are large beside the flow's, and with K = 4 and 5 its walks may miss modes.

Data: velocities of 82 galaxies, and the log acidity of 155 lakes. Published for the galaxies, from
reversible jump over 1 to 30 components: 0, 0, .061, .128 and .182 (Richardson and Green, 1997, Table 1, as
the vignette of the R package sBIC cites it), that is .164, .345 and .491 of what is on at most five.

    python benchmarks/galaxies.py flow galaxies|acidity     # one more seed
    python benchmarks/galaxies.py nested galaxies|acidity   # the next K that has no result yet
    python benchmarks/galaxies.py plot
"""

from __future__ import annotations

import json
import math
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

MOST, DRAWS, LIVE, WALKS = 5, 32_768, 1000, 60
DATA = {"galaxies": galaxies, "acidity": acidity}
PUBLISHED = [0.0, 0.0, 0.061, 0.128, 0.182]
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


def nested(target: NormalMixtures, k: int) -> dict[str, Any]:
    """Evidence of mixtures of k normals by dynesty."""
    from dynesty import NestedSampler
    from scipy.special import gammaincinv, ndtri

    y = target.y.numpy()
    low, span = float(y.min()), float(np.ptp(y))

    def from_cube(u: Any) -> Any:
        """Means in increasing order, weights, precisions and their rate."""
        rank = np.cumprod(u[:k] ** (1.0 / np.arange(k, 0, -1)))[::-1]
        mean = low + 0.5 * span + span * ndtri(rank)
        weight = -np.log(u[k : 2 * k])
        rate = gammaincinv(0.2, u[2 * k]) * span**2 / 10
        tau = gammaincinv(2.0, u[2 * k + 1 :]) / max(rate, 1e-300)
        return np.concatenate([mean, weight / weight.sum(), tau, [rate]])

    def log_likelihood(theta: Any) -> float:
        mean, weight, tau = theta[:k], theta[k : 2 * k], theta[2 * k : -1]
        each = weight * np.sqrt(tau / (2 * math.pi)) * np.exp(-0.5 * tau * (y[:, None] - mean) ** 2)
        return float(np.log(each.sum(1) + 1e-300).sum())

    start = time.process_time()
    sampler = NestedSampler(
        log_likelihood, from_cube, 3 * k + 1, nlive=LIVE, sample="rwalk", walks=WALKS,
        rstate=np.random.default_rng(k),
    )  # fmt: skip
    sampler.run_nested(print_progress=False)
    result = sampler.results
    return {
        "components": k,
        "cpu_seconds": round(time.process_time() - start, 1),
        "calls": int(np.sum(result.ncall)),
        "log_z": float(result.logz[-1]) - math.log(MOST),
        "stderr": float(result.logzerr[-1]),
    }


def plot(record: dict[str, Any]) -> None:
    """Probability of each number, on both data sets."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(9.0, 3.0), layout="constrained")
    k = np.arange(1, MOST + 1)
    for ax, (name, runs) in zip(fig.subplots(1, 2), record["data"].items(), strict=True):
        if name == "galaxies":
            ax.plot(k, np.array(PUBLISHED) / sum(PUBLISHED), "s", color="#8a8a8a", ms=9, label="published")
        if len(runs["nested"]) == MOST:
            log_z = np.array([row["log_z"] for row in runs["nested"]])
            p = np.exp(log_z - log_z.max())
            ax.plot(k, p / p.sum(), "^", color="#1b4965", ms=7, mfc="none", label="dynesty, one K at a time")
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
    empty: dict[str, Any] = {"data": {name: {"flow": [], "nested": []} for name in DATA}}
    record = json.loads(OUT.read_text()) if OUT.exists() else empty
    if sys.argv[1] == "plot":
        return plot(record)
    what, name = sys.argv[1:]
    rows, target = record["data"][name][what], DATA[name](MOST)
    rows.append(flow(target, len(rows)) if what == "flow" else nested(target, len(rows) + 1))
    print(name, what, rows[-1], flush=True)
    record |= {"command": "python benchmarks/galaxies.py flow|nested galaxies|acidity", **provenance()}
    record["settings"] = {"most": MOST, "draws": DRAWS, "live_points": LIVE, "walks": WALKS}
    record["published"] = [p / sum(PUBLISHED) for p in PUBLISHED]
    again = json.loads(OUT.read_text()) if OUT.exists() else empty  # another run may have ended meanwhile
    again["data"][name][what] = rows
    OUT.write_text(json.dumps(record | {"data": again["data"]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
