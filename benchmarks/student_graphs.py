"""Graphs with Student-t noise of unknown scale, which no closed form covers: calibration, and prediction.

Calibration: networks of five nodes are drawn from the prior (uniform graph, standard normal weights, the
prior of the scales), 50 rows from each, and ``fit`` samples graph, weights and scales. If all is right, the
rank of a true quantity among posterior draws is uniform over repetitions: Kolmogorov-Smirnov for the number
of edges, the sum of the weights, their sum of squares and the mean log-scale (ties broken at random); and
the edges that are there are as many as the posterior expects, as a z-score.

Claim: every p-value above 0.01 / 4, |z| below 3. And on networks of five nodes with Student-t noise of 3
degrees of freedom, N = 100, the posterior predictive density of 2000 fresh rows is higher with Student-t than
with normal noise, both of unknown scale, on each data set.

    python benchmarks/student_graphs.py [n]     # at most n more of the runs that have no result yet
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from resume import Rows, resume
from scipy import stats
from torch import Tensor

import ctsgfn
from ctsgfn.errors import UnreliableEstimate
from ctsgfn.targets import JointGraphs, NormalNoise, StudentNoise

SETS, NODES, ROWS, STEPS = 24, 5, 50, 200
HELD_OUT = (0, 1, 2)
OUT = Path(__file__).parent / "results" / "student_graphs.json"


def simulate(edges: Tensor, weights: Tensor, scales: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Rows of a linear network with Student-t noise, node by node in an order of the graph."""
    d = len(edges)
    noise = StudentNoise(1.0).draw((rows, d), generator) * scales
    return noise @ torch.linalg.inv(torch.eye(d, dtype=torch.float64) - weights * edges)


def drawn(seed: int, nodes: int, rows: int) -> tuple[JointGraphs, dict[str, float], Tensor, torch.Generator]:
    """A data set from the prior of a target, and the truth."""
    generator = torch.Generator().manual_seed(seed)
    graphs = ctsgfn.Acyclic(nodes).all()
    edges = graphs[int(torch.randint(len(graphs), (1,), generator=generator))]
    weights = torch.randn(nodes, nodes, generator=generator, dtype=torch.float64) * edges
    noise = StudentNoise()
    z = torch.randn(nodes, generator=generator, dtype=torch.float64)
    data = simulate(edges, weights, (noise.log_centre + noise.log_spread * z).exp(), rows, generator)
    target = JointGraphs(data, noise=noise)
    return target, summaries(edges[None], weights[None], z[None]), edges, generator


def summaries(edges: Tensor, weights: Tensor, z: Tensor) -> Any:
    """Quantities [B] whose ranks are looked at; numbers for one network."""
    found = {
        "edges": edges.double().sum((1, 2)),
        "weights": weights.double().sum((1, 2)),
        "squares": weights.double().square().sum((1, 2)),
        "log_scale": z.double().mean(-1),
    }
    return {k: v.item() for k, v in found.items()} if len(edges) == 1 else found


def of_draws(target: JointGraphs, draws: Any) -> dict[str, Tensor]:
    """The same of posterior draws."""
    z = draws.theta.reshape(len(draws), target.blocks, -1)[:, :, -1]
    return summaries(draws.model, target.weights(draws.theta), z)


def fitted(target: JointGraphs, seed: int, steps: int) -> tuple[Any, Any]:
    """Sampler and evidence; the warning of a poor one is in the record."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEstimate)
        sampler = ctsgfn.fit(target, steps=steps, batch_size=128, seed=seed, progress_bar=False)
        return sampler, sampler.evidence(8192, seed=seed)


def calibrate(seed: int) -> dict[str, Any]:
    """Ranks of the truth of a simulated data set."""
    target, truth, edges, generator = drawn(seed, NODES, ROWS)
    return ranked(target, truth, edges, generator, of_draws, seed, STEPS)


def ranked(
    target: JointGraphs,
    truth: dict[str, float],
    edges: Tensor,
    generator: torch.Generator,
    of_draws: Callable[[JointGraphs, Any], dict[str, Tensor]],
    seed: int,
    steps: int,
) -> dict[str, Any]:
    """Ranks of the truth among 2000 draws, in [0, 1]."""
    nodes = target.blocks
    start = time.process_time()
    sampler, evidence = fitted(target, seed, steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEstimate)
        draws = sampler.resample(2000, seed=seed)
    ranks = {}
    for name, v in of_draws(target, draws).items():
        below, same = (
            float((v < truth[name] - 1e-9).double().mean()),
            float(((v - truth[name]).abs() <= 1e-9).double().mean()),
        )
        ranks[name] = below + same * float(torch.rand(1, generator=generator))
    probability = draws.model.double().mean(0)
    off = ~torch.eye(nodes, dtype=torch.bool)
    return {
        "seed": seed,
        "cpu_seconds": round(time.process_time() - start, 1),
        "ess": evidence.ess,
        "pareto_k": evidence.pareto_k,
        "ranks": ranks,
        "edges": [float(edges.sum()), float(probability.sum())],
        "edge_variance": float(draws.model.double().sum((1, 2)).var()),
        "brier": float((probability - edges.double())[off].square().mean()),
    }


def predict(seed: int) -> dict[str, Any]:
    """Predictive log-density per fresh row with Student-t and with normal noise, and that of the truth."""
    generator = torch.Generator().manual_seed(1000 + seed)
    d = 5
    edges = (torch.rand(d, d, generator=generator) < 0.5).triu(1)
    weights = torch.randn(d, d, generator=generator, dtype=torch.float64) * edges
    scales = torch.full((d,), 0.3, dtype=torch.float64)
    data = simulate(edges, weights, scales, 2100, generator)
    train, fresh = data[:100], data[100:]
    out: dict[str, Any] = {"seed": seed}
    for name, noise in (("student", StudentNoise()), ("normal", NormalNoise())):
        target = JointGraphs(train, noise=noise)
        start = time.process_time()
        sampler, evidence = fitted(target, seed, 300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableEstimate)
            draws = sampler.resample(1000, seed=seed).like(data)
        each = torch.cat([target.log_likelihood(some, fresh) for some in (draws[:500], draws[500:])])
        out[name] = float((each.logsumexp(0) - math.log(len(each))).mean())
        out[f"{name}_log_z"], out[f"{name}_ess"] = evidence.log_z, evidence.ess
        out[f"{name}_cpu_seconds"] = round(time.process_time() - start, 1)
    truth = StudentNoise(0.3).log_prob(fresh, fresh @ (weights * edges), weights[:, :0])
    out["truth"] = float(truth.sum(-1).mean())
    return out


def uniformity(rows: Rows) -> tuple[dict[str, float], float, bool]:
    """P-values of the ranks, z-score of the edges, and whether neither is extreme."""
    names = rows[0]["ranks"] if rows else ()
    p_values = {
        name: float(stats.kstest([r["ranks"][name] for r in rows], "uniform").pvalue) for name in names
    }
    excess = sum(r["edges"][0] - r["edges"][1] for r in rows)
    z = excess / math.sqrt(sum(r["edge_variance"] for r in rows)) if rows else 0.0
    return p_values, z, all(p > 0.01 / 4 for p in p_values.values()) and abs(z) < 3


def about(held_out: Rows, rows: Rows) -> dict[str, Any]:
    """What was run, and whether the claim holds."""
    p_values, z, calibrated = uniformity(rows)
    complete = len(rows) == SETS and len(held_out) == len(HELD_OUT)
    return {
        "claim": "ranks uniform (p > 0.0025), edges as expected (|z| < 3), Student-t predicts better",
        "settings": {"sets": SETS, "nodes": NODES, "rows": ROWS, "steps": STEPS},
        "p_values": p_values,
        "edges_z": z,
        "met": complete and calibrated and all(p["student"] > p["normal"] for p in held_out),
    }


def main() -> None:
    """Run, print and save as it goes."""
    ranks = [partial(calibrate, k) for k in range(SETS)]
    resume(OUT, {"held_out": [partial(predict, k) for k in HELD_OUT], "rows": ranks}, about)


if __name__ == "__main__":
    main()
