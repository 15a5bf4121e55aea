"""Robust selection among 60 variables with a sparse truth: are the inclusion probabilities calibrated?

Question: 50 data sets are drawn from the model itself (each of 60 variables there with probability 0.05,
coefficients N(0, 1), intercept N(0, 25), Student-t noise with 4 degrees of freedom and log scale N(0, 1); 100
rows, predictors correlated 0.5 in blocks of five), and each is fitted in 30 updates of 150 trajectories. If
the posterior is right, of all variables that get a probability near q, a share q is truly there. Reported:
the z-score of the number of true variables given all probabilities, the same in bins of q, and the Brier
score beside what it should be in expectation, E[q (1 - q)].

    python benchmarks/calibration.py       # the data sets that have no result yet
    python benchmarks/calibration.py 1     # the next one of them
    python benchmarks/calibration.py plot
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from torch import Tensor

import ctsgfn
from ctsgfn.targets import Bernoulli, RobustSelection

ITEMS, ROWS, SETS, BLOCK, CORRELATION, INCLUSION = 60, 100, 50, 5, 0.5, 0.05
STEPS, BATCH, DRAWS = 30, 150, 4096
EDGES = (0.0, 0.02, 0.05, 0.1, 0.3, 0.7, 0.95, 1.0)
OUT = Path(__file__).parent / "results" / "calibration.json"
FIGURE = Path(__file__).parents[1] / "figures" / "calibration.png"


def simulate(seed: int) -> tuple[RobustSelection, Tensor]:
    """A posterior, and which variables are truly there, both drawn from the model."""
    g = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    shared = normal(ROWS, ITEMS // BLOCK).repeat_interleave(BLOCK, 1)
    x = math.sqrt(CORRELATION) * shared + math.sqrt(1 - CORRELATION) * normal(ROWS, ITEMS)
    true = torch.rand(ITEMS, generator=g) < INCLUSION
    beta, alpha, scale = normal(ITEMS) * true, 5 * normal(1), normal(1).exp()
    noise = normal(ROWS) / normal(ROWS, 4).square().mean(1).sqrt()
    return RobustSelection(x, x @ beta + alpha + scale * noise, prior=Bernoulli(INCLUSION)), true


def one(seed: int) -> dict[str, Any]:
    """Fit one data set."""
    target, true = simulate(seed)
    start = time.process_time()
    sampler = ctsgfn.fit(target, steps=STEPS, batch_size=BATCH, seed=seed, progress_bar=False)
    posterior = ctsgfn.model_posterior(sampler, DRAWS, seed=seed)
    return {
        "seed": seed,
        "cpu_seconds": round(time.process_time() - start, 1),
        "ess": posterior.evidence.ess,
        "reliable": posterior.evidence.reliable,
        "there": true.nonzero().squeeze(-1).tolist(),
        "probability": [round(p, 5) for p in posterior.inclusion_probabilities().value.tolist()],
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Calibration over all variables of all data sets."""
    q = torch.tensor([row["probability"] for row in rows], dtype=torch.float64).flatten()
    truth = torch.zeros(len(rows), ITEMS, dtype=torch.float64)
    for k, row in enumerate(rows):
        truth[k, row["there"]] = 1.0
    truth = truth.flatten()

    def z(some: Tensor) -> float:
        return float((truth - q)[some].sum() / (q * (1 - q))[some].sum().clamp(min=1e-12).sqrt())

    bins = []
    for low, high in itertools.pairwise(EDGES):
        some = (q >= low) & ((q < high) | (high == EDGES[-1]))
        if bool(some.any()):
            bins.append(
                {
                    "from": low,
                    "to": high,
                    "variables": int(some.sum()),
                    "mean_probability": float(q[some].mean()),
                    "share_there": float(truth[some].mean()),
                    "stderr": float((q * (1 - q))[some].sum().sqrt() / some.sum()),
                    "z": z(some),
                }
            )
    spread = (q * (1 - q) * (1 - 2 * q).square()).sum().sqrt() / len(
        q
    )  # sd of the Brier score, if calibrated
    brier, expected = float((truth - q).square().mean()), float((q * (1 - q)).mean())
    return {
        "there": int(truth.sum()),
        "expected_there": float(q.sum()),
        "z": z(torch.ones_like(q, dtype=torch.bool)),
        "brier": brier,
        "expected_brier": expected,
        "brier_z": (brier - expected) / float(spread),
        "bins": bins,
    }


def plot(record: dict[str, Any]) -> None:
    """Share of true variables against the probability that was given to them."""
    from matplotlib.figure import Figure

    bins, q = record["summary"]["bins"], [p for row in record["rows"] for p in row["probability"]]
    fig = Figure(figsize=(8.0, 3.4), layout="constrained")
    ax, sizes = fig.subplots(1, 2)
    ax.plot([0, 1], [0, 1], color="#8a8a8a", lw=1)
    given, found, error = ([b[k] for b in bins] for k in ("mean_probability", "share_there", "stderr"))
    ax.errorbar(given, found, [2 * e for e in error], fmt="o", color="#d1495b", ms=5, lw=1)
    ax.set(xlabel="probability given", ylabel="share truly there", ylim=(-0.05, 1.05))
    sizes.hist(q, 40, color="#1b4965", log=True)
    sizes.set(xlabel="probability given", ylabel="variables")
    fig.savefig(FIGURE, dpi=150)


def main() -> None:
    """Run, print and save as it goes."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ctsgfn.errors.UnreliableEstimate)  # recorded
    rows = json.loads(OUT.read_text())["rows"] if OUT.exists() else []
    if sys.argv[1:] == ["plot"]:
        return plot(json.loads(OUT.read_text()))
    todo = list(range(len(rows), SETS))
    for seed in todo[: int(sys.argv[1]) if len(sys.argv) > 1 else None]:
        rows.append(one(seed))
        print({k: v for k, v in rows[-1].items() if k != "probability"}, flush=True)
        record = {
            "command": "python benchmarks/calibration.py",
            **provenance(),
            "settings": {"items": ITEMS, "rows": ROWS, "steps": STEPS, "batch": BATCH, "draws": DRAWS},
            "data_sets": len(rows),
            "summary": summary(rows),
            "rows": rows,
        }
        OUT.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
