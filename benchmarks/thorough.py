"""``fit`` with the options of ``ctsgfn.THOROUGH``: three targets, closer than the defaults come.

Claims, three seeds, at most 300 CPU seconds of one thread each:
- 25 modes: log Z - ELBO at most 0.05, ESS at least 0.8;
- hard funnel (10 dimensions): log Z - ELBO at most 0.1, standard deviation of v within 5 % of 3;
- many-well 32: EUBO - ELBO at most 1.5, error of log Z at most 0.1, right-hand wells' mass 0.844 +- 0.01.

Targets are given as densities and scores alone; exact samples serve the upper bound afterwards. Standard
deviation and mass are of the sampler's own draws, not reweighted.

    python benchmarks/thorough.py       # the runs that are missing
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from counting import counted
from provenance import provenance
from torch import Tensor

import ctsgfn
from ctsgfn.targets import ManyWell, hard_funnel, twenty_five_gaussians

OUT = Path(__file__).parent / "results" / "thorough.json"
DRAWS, SEEDS, SECONDS = 20_000, 3, 300


@dataclass(frozen=True)
class Case:
    """A target, one more number of its draws, and what is claimed."""

    make: Callable[[], Any]
    name: str
    of: Callable[[Tensor], float]
    met: Callable[[dict[str, Any]], bool]


CASES = {
    "25 modes": Case(
        twenty_five_gaussians,
        "mean of |x|",
        lambda x: float(x.abs().mean()),
        lambda r: r["gap"] <= 0.05 and r["ess"] >= 0.8,
    ),
    "hard funnel": Case(
        hard_funnel,
        "sd of v",
        lambda x: float(x[:, 0].std()),
        lambda r: r["gap"] <= 0.1 and abs(r["sd of v"] / 3 - 1) <= 0.05,
    ),
    "many-well 32": Case(
        lambda: ManyWell(32),
        "mass of right-hand wells",
        lambda x: float((x[:, 0::2] > 0).double().mean()),
        lambda r: (
            r["between_bounds"] <= 1.5
            and abs(r["error"]) <= 0.1
            and abs(r["mass of right-hand wells"] - 0.844) <= 0.01
        ),
    ),
}


def one_run(name: str, seed: int) -> dict[str, Any]:
    """One fit, its evidence and its draws."""
    case = CASES[name]
    exact = case.make()
    target = counted(exact)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.process_time()
        sampler = ctsgfn.fit(target, **ctsgfn.THOROUGH, seed=seed, progress_bar=False)
        seconds = time.process_time() - start
        torch.manual_seed(300 + seed)
        evidence = sampler.evidence(DRAWS, seed=100 + seed, samples=exact.sample(DRAWS))
    assert evidence.upper_bound is not None
    row = {
        "target": name,
        "seed": seed,
        "cpu_seconds": round(seconds, 1),
        "density_calls": target.density_calls,
        "gradient_calls": target.gradient_calls,
        "error": evidence.log_z - float(exact.log_z),
        "stderr": evidence.stderr,
        "gap": float(exact.log_z) - evidence.lower_bound,
        "between_bounds": evidence.upper_bound - evidence.lower_bound,
        "ess": evidence.ess,
        "pareto_k": evidence.pareto_k,
        case.name: case.of(sampler.sample(DRAWS, seed=200 + seed)),
        "notes": list(sampler.notes),
        "warned": [str(w.message) for w in caught],
    }
    return {**row, "met": case.met(row) and seconds <= SECONDS}


def main() -> None:
    """Make the runs that are missing, print and save."""
    torch.set_num_threads(1)
    runs = json.loads(OUT.read_text())["runs"] if OUT.exists() else []
    made = {(row["target"], row["seed"]) for row in runs}
    for name, seed in ((n, s) for s in range(SEEDS) for n in CASES):
        if (name, seed) in made:
            continue
        runs.append(row := one_run(name, seed))
        print(
            f"{name:14} {seed} {row['cpu_seconds']:6.1f} s, gap {row['gap']:.4f}, bounds "
            f"{row['between_bounds']:.4f} apart, error {row['error']:+.4f}, ESS {row['ess']:.3f}, "
            f"{CASES[name].name} {row[CASES[name].name]:.4f}: {'met' if row['met'] else 'NOT met'}",
            flush=True,
        )
        record = {"options": dict(ctsgfn.THOROUGH), "draws": DRAWS, "runs": runs, **provenance()}
        OUT.write_text(json.dumps(record, indent=1) + "\n")
    print(OUT)


if __name__ == "__main__":
    main()
