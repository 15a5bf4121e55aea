"""How many clusters 82 galaxies fall into: mixtures of 1 to 5 normals beside published reversible jump.

Question: with the model and the priors of Richardson and Green (1997), what is the posterior of the number
of components, given that there are at most five? Each number is fitted by itself (``one_model``) with the
default settings of ``fit`` and a budget of 60 s, and the evidences are put together. Published, from their
reversible jump over 1 to 30 components: 0, 0, .061, .128 and .182, that is .164, .345 and .491 of what is
on at most five.

    python benchmarks/galaxies.py          # the runs that have no result yet
    python benchmarks/galaxies.py 1        # the next one of them
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

import torch
from provenance import provenance

import ctsgfn
from ctsgfn.targets import galaxies

MOST, SEEDS, BUDGET, DRAWS = 5, 2, 60.0, 32_768
PUBLISHED = [0.0, 0.0, 0.061, 0.128, 0.182]
OUT = Path(__file__).parent / "results" / "galaxies.json"


def one(components: int, seed: int) -> dict[str, object]:
    """Fit mixtures of one number of components."""
    target = ctsgfn.one_model(galaxies(MOST), torch.tensor([components - 1]))
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sampler = ctsgfn.fit(target, budget=BUDGET, seed=seed, progress_bar=False)
        evidence = sampler.evidence(DRAWS, seed=seed)
    return {
        "components": components,
        "seed": seed,
        "cpu_seconds": round(time.process_time() - start, 1),
        "log_z": evidence.log_z,
        "stderr": evidence.stderr,
        "ess": evidence.ess,
        "pareto_k": evidence.pareto_k,
        "warned": any(issubclass(w.category, ctsgfn.errors.UnreliableEstimate) for w in caught),
    }


def main() -> None:
    """Run, print and save as it goes."""
    torch.set_num_threads(1)
    rows = json.loads(OUT.read_text())["rows"] if OUT.exists() else []
    todo = [(k, seed) for seed in range(SEEDS) for k in range(1, MOST + 1)][len(rows) :]
    for components, seed in todo[: int(sys.argv[1]) if len(sys.argv) > 1 else None]:
        rows.append(one(components, seed))
        print(rows[-1], flush=True)
        seeds = [rows[i : i + MOST] for i in range(0, len(rows) - MOST + 1, MOST)]
        found = [torch.tensor([r["log_z"] for r in some]).softmax(0).tolist() for some in seeds]
        record = {
            "command": "python benchmarks/galaxies.py",
            **provenance(),
            "settings": {"most": MOST, "budget": BUDGET, "draws": DRAWS},
            "published": [p / sum(PUBLISHED) for p in PUBLISHED],
            "found": found,
            "rows": rows,
        }
        OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
