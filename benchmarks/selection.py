"""Which variables belong in a regression: all models against the exact list, predictors correlated in blocks.

Claim, for 10 and 14 variables (pairwise correlation 0.9 in blocks of five, conjugate slab, beta-binomial
prior; 1,024 and 16,384 models), with the default settings of ``fit`` and three data sets each, beside the
exact list of models: Jensen-Shannon divergence of the model probabilities at most 0.01 nats, inclusion
probabilities within 0.01 and posterior means of the coefficients within 2 % of their standard deviations
(root mean square), log Z within 0.03; at most 5 CPU minutes. All but ``jsd_flow``, the divergence of the
flow's own exact law without any weights, is what ``model_posterior`` reports from 16 draws per model of the
list: with fewer, the models that no draw meets (``unseen``) are most of the divergence.

    python benchmarks/selection.py         # the runs that have no result yet
    python benchmarks/selection.py 1       # the next one of them
"""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from resume import Rows, resume
from torch import Tensor

import ctsgfn
from ctsgfn.diagnostics import jensen_shannon
from ctsgfn.exact import explore
from ctsgfn.targets import SpikeAndSlab, correlated_regression

SIZES, SEEDS, ROWS, NOISE, DRAWS = (10, 14), 3, 80, 1.5, 16  # draws per model
LIMITS = {
    "jsd": 0.01,
    "inclusion_rmse": 0.01,
    "log_z_error": 0.03,
    "mean_rmse_in_sd": 0.02,
    "cpu_seconds": 300,
}
OUT = Path(__file__).parent / "results" / "selection.json"


def moments(target: SpikeAndSlab, models: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sd of the coefficients under weights on models."""
    parts = [target.coefficients(some) for some in models.split(4096)]
    mean = weight @ torch.cat([m for m, _ in parts])
    square = weight @ torch.cat([v + m.square() for m, v in parts])
    return mean, (square - mean.square()).sqrt()


def one(variables: int, seed: int) -> dict[str, float]:
    """Fit one data set and measure against the list."""
    target = correlated_regression(variables, ROWS, noise=NOISE, seed=seed)
    start = time.process_time()
    sampler = ctsgfn.fit(target, seed=seed, progress_bar=False)
    posterior = ctsgfn.model_posterior(sampler, DRAWS * 2**variables, seed=seed)
    found = posterior.model_probabilities().value
    included = posterior.inclusion_probabilities().value
    mean = posterior.average(lambda m: target.coefficients(m)[0]).value
    seconds = time.process_time() - start

    models = target.measure.all()
    exact = target.log_density(models).log_softmax(0)
    exact_mean, sd = moments(target, models, exact.exp())
    bits = 1 << torch.arange(variables)
    place = (posterior.models.long() * bits).sum(-1)
    log_found = torch.full_like(exact, -math.inf).index_copy(0, place, found.log())
    graph = explore(sampler.gfn.space)
    law = graph.terminating_law(sampler.gfn.forward_kernel)
    return {
        "variables": variables,
        "seed": seed,
        "cpu_seconds": round(seconds, 1),
        "jsd": jensen_shannon(log_found, exact),
        "jsd_flow": jensen_shannon(law, graph.log_reward(target)),
        "inclusion_rmse": float((included - target.inclusion_probabilities()).square().mean().sqrt()),
        "log_z_error": abs(posterior.evidence.log_z - target.log_z),
        "log_z_stderr": posterior.evidence.stderr,
        "mean_rmse_in_sd": float(((mean - exact_mean) / sd).square().mean().sqrt()),
        "ess": posterior.evidence.ess,
        "unseen": posterior.unseen() or 0.0,
        "effective_models": float(torch.tensor(-float((exact.exp() * exact).sum())).exp()),
    }


def about(rows: Rows) -> dict[str, Any]:
    """What was run, and whether the claim holds."""
    within = all(row[name] <= most for row in rows for name, most in LIMITS.items())
    return {
        "claim": f"on each data set, at most {LIMITS}",
        "settings": {"rows": ROWS, "noise": NOISE, "block": 5, "correlation": 0.9, "draws_per_model": DRAWS},
        "met": len(rows) == len(SIZES) * SEEDS and within,
    }


def main() -> None:
    """Run, print and save as it goes."""
    cases = [partial(one, variables, seed) for variables in SIZES for seed in range(SEEDS)]
    resume(OUT, {"rows": cases}, about)


if __name__ == "__main__":
    main()
