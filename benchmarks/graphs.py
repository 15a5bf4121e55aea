"""Posterior over all 29,281 acyclic graphs of five nodes: a flow against the exact list.

Claim, for each of five simulated linear Gaussian data sets (N = 100, one expected edge per node, weights
integrated out): Jensen-Shannon divergence between the exact terminating law of the flow (no sampling) and
the posterior at most 0.005 nats, edge probabilities within 0.005 (root mean square). The first half of the
updates explores, as in ``fit``.

    python benchmarks/graphs.py            # the runs that have no result yet
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from resume import Rows, resume

from ctsgfn.behaviours import epsilon_uniform, mixed, on_policy
from ctsgfn.diagnostics import jensen_shannon
from ctsgfn.exact import explore
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.dag import dag, dag_kernels
from ctsgfn.objectives import log_partition_variance
from ctsgfn.targets import linear_gaussian_network
from ctsgfn.training import train

NODES, ROWS, SETS, STEPS, BATCH, HIDDEN, RATE = 5, 100, 5, 5000, 128, 128, 3e-3
MOST = 0.005
OUT = Path(__file__).parent / "results" / "graphs.json"


def one(seed: int) -> dict[str, float]:
    """Train on one data set and measure against the list."""
    target = linear_gaussian_network(NODES, ROWS, seed=seed)
    space = dag(NODES)
    torch.manual_seed(seed)
    gfn = GFlowNet(space, *dag_kernels(space, target, hidden=HIDDEN))
    start = time.process_time()
    for steps, behaviour in (
        (STEPS // 2, mixed(on_policy, epsilon_uniform(0.3), 0.5)),
        (STEPS // 2, on_policy),
    ):
        train(
            gfn, target, steps=steps, objective=log_partition_variance, batch_size=BATCH, lr=RATE, seed=seed,
            behaviour=behaviour, progress_bar=False,
        )  # fmt: skip
    seconds = time.process_time() - start
    graph = explore(space)
    found, wanted = graph.terminating_law(gfn.forward_kernel), graph.log_reward(target).log_softmax(0)
    edges = [torch.einsum("g,gij->ij", v.exp(), graph.states.edges.double()) for v in (found, wanted)]
    off = ~torch.eye(NODES, dtype=torch.bool)
    entropy = -float((wanted.exp() * wanted).sum())
    return {
        "data set": seed,
        "cpu_seconds": round(seconds, 1),
        "jsd": jensen_shannon(found, wanted),
        "total_variation": 0.5 * float((found.exp() - wanted.exp()).abs().sum()),
        "edge_rmse": float((edges[0] - edges[1])[off].square().mean().sqrt()),
        "effective_graphs": float(torch.tensor(entropy).exp()),
    }


def about(rows: Rows) -> dict[str, Any]:
    """What was run, and whether the claim holds."""
    return {
        "claim": f"JSD at most {MOST} nats and edge RMSE at most {MOST} on each data set",
        "settings": {"nodes": NODES, "rows": ROWS, "steps": STEPS, "batch": BATCH, "hidden": HIDDEN},
        "met": len(rows) == SETS and all(max(r["jsd"], r["edge_rmse"]) <= MOST for r in rows),
    }


def main() -> None:
    """Run, print and save as it goes."""
    resume(OUT, {"rows": [partial(one, seed) for seed in range(SETS)]}, about)


if __name__ == "__main__":
    main()
