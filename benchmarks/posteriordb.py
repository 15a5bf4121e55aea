"""Eight posteriors of posteriordb by one call of ``fit`` each, against reference draws and exact answers.

Claim, three seeds with default settings: every posterior mean is within 3 combined Monte-Carlo errors of
10,000 reference draws, every sd within 5 % of its exact value, and the log evidence within 0.05 of it.

The data and draws are not part of this repository; where they are absent the script says so. What is exact
(closed forms and quadratures, see posteriors.py for the conventions) stands in posteriordb_stated.json,
with a point at which each density is compared before it is used. 100,000 weighted draws are taken from
each sampler, so that most of a combined error is that of the reference draws; these are off by up to 2.7
of their own errors from the exact means. The means are also compared with the exact ones: of the 174
means of three seeds 0.5 are expected beyond 3 errors by chance.

    python benchmarks/posteriordb.py --data FOLDER         # posteriors that have no result yet
    python benchmarks/posteriordb.py --table               # the table of the results there are
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from counting import counted
from posteriors import POSTERIORS, Posterior
from provenance import provenance
from pyro.ops.stats import effective_sample_size

import ctsgfn

CLAIM = {"mean_errors": 3.0, "sd_error": 0.05, "log_evidence_error": 0.05}
DRAWS, CHAINS, SEEDS = 100_000, 10, (0, 1, 2)
OUT = Path(__file__).parent / "results" / "posteriordb"
STATED = json.loads((Path(__file__).parent / "posteriordb_stated.json").read_text())


def reference(posterior: Posterior, path: Path) -> dict[str, tuple[float, float]]:
    """Mean and its Monte-Carlo error of every parameter over the reference draws."""
    with np.load(path) as file:
        u = torch.tensor(file["unconstrained"], dtype=torch.float64)
        given = {str(name): column for name, column in zip(file["names"], file["draws"].T, strict=True)}
    found = {}
    for name, values in posterior.constrain(u).items():
        if name in given:
            np.testing.assert_allclose(values, given[name], rtol=1e-4, atol=1e-4, err_msg=name)
        size = effective_sample_size(values.reshape(CHAINS, -1), chain_dim=0, sample_dim=1)
        found[name] = float(values.mean()), float(values.std() / size.sqrt())
    return found


def compare_at_point(posterior: Posterior, stated: dict[str, Any], path: Path) -> None:
    """The density at the stated point, reached from the nearest draw by Newton's method on the map."""
    with np.load(path) as file:
        u = torch.tensor(file["unconstrained"][:1], dtype=torch.float64)
    wanted = torch.tensor(list(stated["point"].values()), dtype=torch.float64)

    def read(v: torch.Tensor) -> torch.Tensor:
        values = posterior.constrain(v[None])
        return torch.stack([values[name][0] for name in stated["point"]])

    v = u[0]
    for _ in range(50):
        jacobian = torch.autograd.functional.jacobian(read, v)
        v = v + torch.linalg.solve(jacobian, wanted - read(v)).clamp(-1.0, 1.0)
    value = float(posterior.log_density(v[None]))
    if not abs(value - stated["unconstrained_at_point"]) < 2e-6:
        raise AssertionError(
            f"log-density {value} at the stated point, not {stated['unconstrained_at_point']}"
        )


def one_run(posterior: Posterior, seed: int, drawn: dict[str, Any], stated: dict[str, Any]) -> dict[str, Any]:
    """Fit once and compare."""
    target = counted(posterior)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.process_time()
        sampler = ctsgfn.fit(target, seed=seed, progress_bar=False)
        seconds = time.process_time() - start
        calls = target.density_calls, target.gradient_calls
        table = sampler.summary(DRAWS, seed=100 + seed)
    moments = {}
    for name, (mean, sd) in stated["moments"].items():
        row, (other, error) = table[name], drawn[name]
        moments[name] = {
            "mean": row.mean,
            "mcse": row.mcse,
            "sd": row.sd,
            "errors_from_draws": (row.mean - other) / math.hypot(row.mcse, error),
            "errors_from_exact": (row.mean - mean) / row.mcse,
            "sd_error": row.sd / sd - 1,
        }
    return {
        "seed": seed,
        "cpu_seconds": round(seconds, 2),
        "density_calls": calls[0],
        "gradient_calls": calls[1],
        "log_evidence_error": table.evidence.log_z - stated["log_evidence"],
        "log_evidence_stderr": table.evidence.stderr,
        "log_evidence_minus_elbo": table.evidence.log_z - table.evidence.lower_bound,
        "ess": table.evidence.ess,
        "pareto_k": table.evidence.pareto_k,
        **{key: max((m[key] for m in moments.values()), key=abs) for key in ERRORS},
        "warned": [str(w.message) for w in caught],
        "notes": list(sampler.notes),
        "moments": moments,
    }


ERRORS = ("errors_from_draws", "errors_from_exact", "sd_error")
"""Of these the largest over parameters is kept for each run."""


def short(run: dict[str, Any]) -> list[str]:
    """What of the claim a run does not meet."""
    bounds = {
        "errors_from_draws": CLAIM["mean_errors"],
        "sd_error": CLAIM["sd_error"],
        "log_evidence_error": CLAIM["log_evidence_error"],
    }
    return [key for key, most in bounds.items() if not abs(run[key]) <= most]


def show(name: str, runs: list[dict[str, Any]]) -> None:
    """Print one line per seed."""
    for run in runs:
        print(
            f"{name[:24]:24} {run['seed']:4d} {run['cpu_seconds']:6.1f} {run['density_calls']:8d} "
            f"{run['errors_from_draws']:+6.2f} {run['errors_from_exact']:+6.2f} {run['sd_error']:+8.2%} "
            f"{run['log_evidence_error']:+8.4f} +- {run['log_evidence_stderr']:.4f} {run['ess']:6.3f} "
            f"{run['pareto_k']:6.2f}  {'; '.join(short(run)) or 'met'}{', warned' if run['warned'] else ''}",
            flush=True,
        )


def main() -> None:
    """Fit each posterior three times, save as they end, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("POSTERIORDB", "data/posteriordb")),
        help="folder of NAME.json and NAME.draws.npz (default: $POSTERIORDB, or data/posteriordb)",
    )
    parser.add_argument("--only", nargs="*", choices=POSTERIORS, default=list(POSTERIORS))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=OUT, help="where results go")
    parser.add_argument("--table", action="store_true", help="no new runs")
    options = parser.parse_args()
    if not options.table and not all((options.data / f"{name}.json").exists() for name in options.only):
        print(f"the posteriordb data are not in {options.data}: nothing was run (--data names their folder)")
        return
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    print(
        f"{'posterior':24} seed  CPU s    calls  means, errors from  largest       log evidence"
        f"             ESS      k\n{'':45} draws  exact  sd error    - stated"
    )
    for name in options.only:
        path = options.out / f"{name}.json"
        if not path.exists() and not options.table:
            posterior = POSTERIORS[name](json.loads((options.data / f"{name}.json").read_text()))
            draws = options.data / f"{name}.draws.npz"
            compare_at_point(posterior, STATED[name], draws)
            drawn = reference(posterior, draws)
            runs = [one_run(posterior, seed, drawn, STATED[name]) for seed in options.seeds]
            record = {
                "posterior": name,
                "dim": posterior.dim,
                "claim": CLAIM,
                "met": not any(short(run) for run in runs),
                "draws": DRAWS,
                "log_evidence": STATED[name]["log_evidence"],
                "runs": runs,
                **provenance(),
            }
            path.write_text(json.dumps(record, indent=1) + "\n")
        if path.exists():
            show(name, json.loads(path.read_text())["runs"])


if __name__ == "__main__":
    main()
