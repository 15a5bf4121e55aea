"""Cost of a Pyro model's log-density and score, against the same density written by hand.

Question: what does ``from_pyro`` cost on eight schools at batch 300? The answer is in
results/pyro_density.json. "hand" is the shortest formula in torch, its score by autograd through
``ctsgfn.target.score``; "distributions" is the same model written with torch.distributions; "first
calls" is ``from_pyro`` before its operations are recorded, which the first calls of a size cost.

Times are process CPU times of one thread, variants interleaved, medians [min, max] in milliseconds.

    python benchmarks/pyro_density.py --write
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from provenance import provenance
from torch import Tensor

from ctsgfn.from_pyro import from_pyro
from ctsgfn.measures import Lebesgue
from ctsgfn.target import as_target, score
from ctsgfn.traced import PATIENCE

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
BATCH, CALLS = 300, 100
CONSTANT = (
    math.log(2 / (25 * math.pi * math.sqrt(2 * math.pi)))
    - 8 * math.log(2 * math.pi)
    - float(ERRORS.log().sum())
)


def model() -> None:
    """Rubin (1981), non-centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, ERRORS), obs=EFFECTS)


def hand(u: Tensor) -> Tensor:
    """Log joint at (mu, log tau, eta)."""
    mu, log_tau, eta = u[:, 0], u[:, 1], u[:, 2:]
    tau = log_tau.exp()
    residual = (EFFECTS - mu[:, None] - tau[:, None] * eta) / ERRORS
    scale = (tau / 5).square().log1p() - log_tau
    return CONSTANT - mu.square() / 50 - scale - 0.5 * (eta.square() + residual.square()).sum(-1)


def distributions(u: Tensor) -> Tensor:
    """The same with torch.distributions."""
    normal, mu, log_tau, eta = torch.distributions.Normal, u[:, 0], u[:, 1], u[:, 2:]
    tau = log_tau.exp()
    prior = normal(0.0, 5.0).log_prob(mu) + torch.distributions.HalfCauchy(5.0).log_prob(tau) + log_tau
    data = normal(mu[:, None] + tau[:, None] * eta, ERRORS).log_prob(EFFECTS)
    return prior + (normal(0.0, 1.0).log_prob(eta) + data).sum(-1)


def milliseconds(fn: Callable[[], Tensor]) -> float:
    """Process CPU time of one call."""
    start = time.process_time()
    for _ in range(CALLS):
        fn()
    return 1e3 * (time.process_time() - start) / CALLS


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="write results/pyro_density.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    u = 0.5 * torch.randn(BATCH, 10)
    target, by_hand = from_pyro(model), as_target(hand, Lebesgue(10))
    by_torch = as_target(distributions, Lebesgue(10))
    torch.testing.assert_close(target.log_density(u), hand(u), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(by_torch.log_density(u), hand(u), rtol=1e-5, atol=1e-4)
    for _ in range(PATIENCE):
        target.log_density(u)
        target.score(u)
    runs: dict[str, Callable[[], Tensor]] = {
        "density, hand": lambda: by_hand.log_density(u),
        "density, distributions": lambda: by_torch.log_density(u),
        "density, from_pyro": lambda: target.log_density(u),
        "density, first calls": lambda: target._value.fn(u),
        "score, hand": lambda: score(by_hand, u),
        "score, distributions": lambda: score(by_torch, u),
        "score, from_pyro": lambda: score(target, u),
        "score, first calls": lambda: target._slope.fn(u),
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for _ in range(options.repeats):
            for name, fn in runs.items():
                found[name].append(milliseconds(fn))
    results = {}
    for name, times in found.items():
        median = statistics.median(times)
        ratio = median / statistics.median(found[name.split(",")[0] + ", hand"])
        results[name] = {
            "ms": [round(v, 4) for v in (median, min(times), max(times))],
            "ratio": round(ratio, 2),
        }
        print(f"{name:26}{median:8.3f} ms [{min(times):.3f}, {max(times):.3f}]  {ratio:5.2f} x hand")
    record = {
        "question": "cost of from_pyro on eight schools, batch 300, in units of a hand-written density",
        "command": f"python benchmarks/pyro_density.py --repeats {options.repeats} --write",
        **provenance(),
        "results": results,
    }
    if options.write:
        path = Path(__file__).parent / "results" / "pyro_density.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
