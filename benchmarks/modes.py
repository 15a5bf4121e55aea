"""25 modes with default settings: bounds, weights and modes after one call of ``fit``.

Claim, three seeds, at most 75 CPU seconds of one thread each: log Z - ELBO at most 0.12, ESS at least
0.6, all 25 modes, and their weights within 3 % total variation of even ones.

    python benchmarks/modes.py
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from provenance import provenance

import ctsgfn
from ctsgfn.targets import twenty_five_gaussians

DRAWS = 20_000
OUT = Path(__file__).parent / "results" / "modes.json"


def main() -> None:
    """Fit three times, print and save."""
    torch.set_num_threads(1)
    target = twenty_five_gaussians()
    centres = 5.0 * torch.cartesian_prod(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0))
    rows = []
    print(
        f"{'seed':>4} {'CPU s':>6} {'log Z - ELBO':>13} {'log Z error':>12} {'ESS':>6} {'modes':>6} {'TV':>6}"
    )
    for seed in range(3):
        start = time.process_time()
        sampler = ctsgfn.fit(target, seed=seed, progress_bar=False)
        seconds = time.process_time() - start
        evidence = sampler.evidence(DRAWS, seed=100 + seed)
        x = sampler.sample(DRAWS, seed=200 + seed)  # the policy's own draws, not reweighted
        counts = ctsgfn.diagnostics.mode_counts(x, centres, radius=2.5)
        row = {
            "seed": seed,
            "cpu_seconds": round(seconds, 2),
            "gap": target.log_z - evidence.lower_bound,
            "log_z_error": evidence.log_z - target.log_z,
            "log_z_stderr": evidence.stderr,
            "ess": evidence.ess,
            "pareto_k": evidence.pareto_k,
            "modes": int((counts > DRAWS / 250).sum()),
            "weights_total_variation": float(ctsgfn.diagnostics.mode_total_variation(x, centres)),
            "notes": list(sampler.notes),
        }
        rows.append(row)
        print(
            f"{seed:4d} {seconds:6.1f} {row['gap']:13.4f} {row['log_z_error']:12.4f} {row['ess']:6.3f} "
            f"{row['modes']:6d} {row['weights_total_variation']:6.3f}"
        )
    record = {
        "claim": "gap <= 0.12, ESS >= 0.6, 25 modes, TV of weights <= 0.03 in 75 CPU seconds",
        "draws": DRAWS,
        "runs": rows,
        **provenance(),
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")
    print(OUT)


if __name__ == "__main__":
    main()
