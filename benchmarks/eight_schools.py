"""Eight schools as a Pyro model, against a long NUTS run and a quadrature.

Claim, three seeds with default settings: the posterior mean of every site is within 3 combined
Monte-Carlo errors of a NUTS run of 100,000 draws, and the log evidence within 0.02 of quadrature.

The NUTS reference, four chains of 25,000, takes minutes of CPU time; it is kept in
results/eight_schools_nuts_*.json.

    python benchmarks/eight_schools.py             # --chain 1 .. 4 runs a chain of the reference again
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from provenance import provenance
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size
from scipy.integrate import quad
from scipy.stats import halfcauchy, multivariate_normal

import ctsgfn

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
SITES = ["mu", "tau", *[f"eta[{i}]" for i in range(8)]]
DRAWS, LENGTH, CHAINS = 100_000, 25_000, (1, 2, 3, 4)
HERE = Path(__file__).parent / "results"


def model() -> None:
    """Rubin (1981), non-centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    eta = pyro.sample("eta", dist.Normal(torch.zeros(8), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(mu + tau * eta, ERRORS).to_event(1), obs=EFFECTS)


def quadrature() -> float:
    """Log evidence: given tau all else integrates out in closed form."""
    y, sigma = EFFECTS.double().numpy(), ERRORS.double().numpy()

    def joint(tau: float) -> float:
        covariance = np.diag(sigma**2 + tau**2) + 25.0
        return float(halfcauchy.pdf(tau, scale=5.0) * multivariate_normal.pdf(y, np.zeros(8), covariance))

    return math.log(quad(joint, 0.0, np.inf, epsabs=0.0, epsrel=1e-10)[0])


def run_chain(seed: int) -> None:
    """One NUTS chain: mean and Monte-Carlo error of every site, saved."""
    pyro.set_rng_seed(seed)
    kernel = NUTS(model, target_accept_prob=0.9, jit_compile=True, ignore_jit_warnings=True)
    start = time.process_time()
    chain = MCMC(kernel, num_samples=LENGTH, warmup_steps=1_000, disable_progbar=True)
    chain.run()
    found = {}
    for site, values in chain.get_samples().items():
        for i, column in enumerate(values.reshape(len(values), -1).double().unbind(-1)):
            name = f"{site}[{i}]" if values.dim() > 1 else site
            size = effective_sample_size(column[None], sample_dim=1).item()
            found[name] = [column.mean().item(), column.std().item() / math.sqrt(size)]
    record = {"draws": LENGTH, "cpu_seconds": time.process_time() - start, "sites": found}
    (HERE / f"eight_schools_nuts_{seed}.json").write_text(json.dumps(record, indent=1) + "\n")


def reference() -> dict[str, tuple[float, float]]:
    """Mean and Monte-Carlo error of every site over all chains."""
    chains = [json.loads((HERE / f"eight_schools_nuts_{seed}.json").read_text())["sites"] for seed in CHAINS]
    return {
        site: (
            statistics.fmean(chain[site][0] for chain in chains),
            math.sqrt(sum(chain[site][1] ** 2 for chain in chains)) / len(chains),
        )
        for site in SITES
    }


def main() -> None:
    """Fit three times against the reference, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--chain", type=int, choices=CHAINS, help="run one chain of the reference again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.chain is not None:
        run_chain(arguments.chain)
        return
    nuts, truth, rows = reference(), quadrature(), []
    print(f"{'seed':>4} {'CPU s':>6} {'worst mean, errors':>19} {'log evidence - quadrature':>26} {'ESS':>6}")
    for seed in range(3):
        start = time.process_time()
        sampler = ctsgfn.fit(ctsgfn.from_pyro(model), seed=seed, progress_bar=False)
        seconds = time.process_time() - start
        table = sampler.summary(DRAWS, seed=100 + seed)
        apart = {
            site: (table[site].mean - nuts[site][0]) / math.hypot(table[site].mcse, nuts[site][1])
            for site in SITES
        }
        worst = max(apart, key=lambda site: abs(apart[site]))
        error = table.evidence.log_z - truth
        rows.append(
            {
                "seed": seed,
                "cpu_seconds": round(seconds, 2),
                "means_apart_in_errors": apart,
                "log_evidence_error": error,
                "log_evidence_stderr": table.evidence.stderr,
                "ess": table.evidence.ess,
                "pareto_k": table.evidence.pareto_k,
                "notes": list(sampler.notes),
            }
        )
        print(
            f"{seed:4d} {seconds:6.1f} {worst:>9} {apart[worst]:9.2f} {error:26.4f} {table.evidence.ess:6.3f}"
        )
    record = {
        "claim": "means within 3 combined errors of NUTS; log evidence within 0.02 of quadrature",
        "draws": DRAWS,
        "quadrature": truth,
        "runs": rows,
        **provenance(),
    }
    out = HERE / "eight_schools.json"
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
