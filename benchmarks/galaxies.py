"""How many clusters 82 galaxies fall into: mixtures of 1 to 5 normals beside published reversible jump.

Question: with the model and the priors of Richardson and Green (1997), what is the posterior of the number
of components, given that there are at most five? ``flow`` is one flow over all numbers and parameters, the
default of ``fit``, whose parameters are drawn near one mode for each number; ``alone`` fits each number by
itself (``one_model``, a budget of 60 s) and puts the evidences together. Published, from reversible jump
over 1 to 30 components: 0, 0, .061, .128 and .182, that is .164, .345 and .491 of what is on at most five.

    python benchmarks/galaxies.py flow     # one more seed
    python benchmarks/galaxies.py alone    # the numbers of components that have no result yet
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

import ctsgfn
from ctsgfn.targets import galaxies

MOST, BUDGET, DRAWS = 5, 60.0, 32_768
PUBLISHED = [0.0, 0.0, 0.061, 0.128, 0.182]
OUT = Path(__file__).parent / "results" / "galaxies.json"


def told(evidence: ctsgfn.Evidence) -> dict[str, Any]:
    """What an evidence says of itself."""
    kept = {k: getattr(evidence, k) for k in ("log_z", "stderr", "ess", "pareto_k", "reliable")}
    return kept | {"reasons": list(evidence.reasons)}


def flow(seed: int) -> dict[str, Any]:
    """One flow over all numbers of components."""
    start = time.process_time()
    sampler = ctsgfn.fit(galaxies(MOST), seed=seed, progress_bar=False)
    posterior = ctsgfn.model_posterior(sampler, DRAWS, seed=seed)
    probability = torch.zeros(MOST, dtype=torch.float64)
    probability[posterior.models[:, 0]] = posterior.model_probabilities().value
    spent = round(time.process_time() - start, 1)
    return {"seed": seed, "cpu_seconds": spent, "found": probability.tolist(), **told(posterior.evidence)}


def alone(components: int) -> dict[str, Any]:
    """Fit mixtures of one number of components."""
    start = time.process_time()
    target = ctsgfn.one_model(galaxies(MOST), torch.tensor([components - 1]))
    sampler = ctsgfn.fit(target, budget=BUDGET, seed=0, progress_bar=False)
    evidence = sampler.evidence(DRAWS, seed=0)
    spent = round(time.process_time() - start, 1)
    return {"components": components, "cpu_seconds": spent, **told(evidence)}


def main() -> None:
    """Run, print and save as it goes."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ctsgfn.errors.UnreliableEstimate)  # recorded as reasons
    record = json.loads(OUT.read_text()) if OUT.exists() else {"flow": [], "alone": []}
    what = sys.argv[1]
    for number in [len(record[what])] if what == "flow" else range(len(record[what]), MOST):
        record[what].append(flow(number) if what == "flow" else alone(number + 1))
        print(what, record[what][-1], flush=True)
        record |= {"command": "python benchmarks/galaxies.py flow|alone", **provenance()}
        record["settings"] = {"most": MOST, "budget": BUDGET, "draws": DRAWS}
        record["published"] = [p / sum(PUBLISHED) for p in PUBLISHED]
        if len(record["alone"]) == MOST:
            evidences = torch.tensor([row["log_z"] for row in record["alone"]])
            record["found_alone"] = evidences.softmax(0).tolist()
        OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
