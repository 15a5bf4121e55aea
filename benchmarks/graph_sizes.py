"""Graphs of more nodes: edge probabilities against exact sums, beside a Markov chain; cost of an update.

Claims (simulated linear Gaussian data, N = 100, one expected edge per node, weights integrated out):

- 8 and 10 nodes: edge probabilities from 10,000 weighted draws of a flow within 0.02 (root mean square) of
  the exact ones, which the dynamic programme of ``AcyclicSums`` gives;
- CPU seconds of an update for 5, 10, 20 and 50 nodes, for both kinds of network (no claim: measured).

Beside them stand the dynamic programme itself and a plain structure Markov chain Monte Carlo (the chains that
``fit`` takes its graphs from), on the same scores.

    python benchmarks/graph_sizes.py run [n]  # the runs that have no result yet, or n of them
    python benchmarks/graph_sizes.py cost     # CPU seconds of an update
    python benchmarks/graph_sizes.py plot     # figures/graph_sizes.png from the results
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from torch import Tensor

from ctsgfn.api import fit
from ctsgfn.gflownet import GFlowNet
from ctsgfn.graph_chains import graph_chains
from ctsgfn.importance import Importance
from ctsgfn.kernels.spaces.dag import dag, dag_kernels
from ctsgfn.objectives import log_partition_variance
from ctsgfn.psis import psis
from ctsgfn.targets import linear_gaussian_network
from ctsgfn.training import train

ROWS, DRAWS, MOST = 100, 10_000, 0.02
STEPS = {8: 500, 10: 800}
SEEDS = (0, 1, 2)
HERE = Path(__file__).parent
OUT, FIGURE = HERE / "results" / "graph_sizes.json", HERE.parent / "figures" / "graph_sizes.png"


def off(p: Tensor, exact: Tensor) -> float:
    """Root mean square error over ordered pairs of different nodes."""
    return float((p - exact)[~torch.eye(len(p), dtype=torch.bool)].square().mean().sqrt())


def one(nodes: int, seed: int) -> dict[str, Any]:
    """A flow, a Markov chain and the dynamic programme on one data set."""
    target = linear_gaussian_network(nodes, ROWS, seed=seed)
    start = time.process_time()
    exact = target.edge_probabilities()
    sums = time.process_time() - start
    row: dict[str, Any] = {"nodes": nodes, "data set": seed, "exact_cpu_seconds": round(sums, 3)}
    for chains, steps in ((256, None), (64, 20_000)):
        torch.manual_seed(seed)
        start = time.process_time()
        x = graph_chains(target, chains, steps)
        row[f"chains_{chains}"] = {
            "steps": steps or 30 * nodes * nodes,
            "edge_rmse": off(x.double().mean(0), exact),
            "cpu_seconds": round(time.process_time() - start, 2),
        }
    start = time.process_time()
    sampler = fit(target, steps=STEPS[nodes], batch_size=128, seed=seed, progress_bar=False)
    seconds = time.process_time() - start
    torch.manual_seed(seed + 1000)
    edges, log_weight = Importance(sampler.gfn, target).weigh(DRAWS)
    weight = psis(log_weight).log_weight.exp()
    row["flow"] = {
        "steps": STEPS[nodes],
        "edge_rmse": off(torch.einsum("n,nij->ij", weight, edges.double()), exact),
        "edge_rmse_unweighted": off(edges.double().mean(0), exact),
        "log_z_error": float(log_weight.logsumexp(0) - torch.tensor(float(DRAWS)).log()) - target.log_z,
        "ess": float(1 / weight.square().sum()) / DRAWS,
        "cpu_seconds": round(seconds, 1),
    }
    return row


def cost(nodes: int, pairs: bool, updates: int = 3, batch: int = 4) -> dict[str, Any]:
    """CPU seconds of an update, after one that is not timed, and per state visited."""
    target = linear_gaussian_network(nodes, ROWS, seed=0)
    space = dag(nodes)
    torch.manual_seed(0)
    kernels = dag_kernels(space, target, hidden=32 if pairs else 128, pairs=pairs)
    gfn = GFlowNet(space, *kernels)
    seen: list[tuple[float, int]] = []
    train(
        gfn, target, steps=updates + 1, objective=log_partition_variance, batch_size=batch, seed=0,
        progress_bar=False, on_step=lambda step, b: seen.append((time.process_time(), len(b.owner))),
    )  # fmt: skip
    seconds = (seen[-1][0] - seen[0][0]) / updates
    states = sum(count for _, count in seen[1:]) / updates
    return {
        "nodes": nodes,
        "network": "pairs" if pairs else "adjacency",
        "cpu_seconds": round(seconds, 4),
        "states": round(states),
        "microseconds_per_state": round(1e6 * seconds / states),
    }


def write(record: dict[str, Any]) -> None:
    """Save with the claim and what it came to."""
    rows = record["rows"]
    runs = [(n, s) for n in STEPS for s in SEEDS]
    record = {
        "claim": f"edge RMSE at most {MOST} against exact sums, 8 and 10 nodes",
        "command": "python benchmarks/graph_sizes.py run; .. cost; .. plot",
        **provenance(),
        "settings": {"rows": ROWS, "draws": DRAWS, "batch": 128, "cost_batch": 4},
        "met": len(rows) == len(runs) and all(r["flow"]["edge_rmse"] <= MOST for r in rows),
        "rows": rows,
        "cost": record["cost"],
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")


def plot(record: dict[str, Any]) -> None:
    """Error against CPU time, and the cost of an update against the number of nodes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = {"flow": "o", "chains_256": "^", "chains_64": "v"}
    names = {
        "flow": "flow, weighted draws",
        "chains_256": "256 short chains",
        "chains_64": "64 longer chains",
    }
    for key, marker in styles.items():
        for nodes, ink in ((8, "#1b4965"), (10, "#d1495b")):
            rows = [r[key] for r in record["rows"] if r["nodes"] == nodes]
            if rows:
                left.loglog([r["cpu_seconds"] for r in rows], [r["edge_rmse"] for r in rows], marker,
                            color=ink, label=f"{names[key]}, {nodes} nodes")  # fmt: skip
    left.axhline(MOST, color="grey", lw=0.8)
    left.set(xlabel="CPU seconds", ylabel="RMSE of edge probabilities")
    left.legend(fontsize=7)
    for network, ink in (("adjacency", "#1b4965"), ("pairs", "#d1495b")):
        rows = [r for r in record["cost"] if r["network"] == network]
        right.loglog(
            [r["nodes"] for r in rows], [r["cpu_seconds"] for r in rows], "o-", color=ink, label=network
        )
    right.set_xticks([5, 10, 20, 50], ["5", "10", "20", "50"])
    right.minorticks_off()
    right.set(xlabel="nodes", ylabel="CPU seconds of an update of 4 walks")
    right.legend(fontsize=8, title="network on")
    figure.savefig(FIGURE, dpi=120)


def main() -> None:
    """Run what is asked for, saving as it goes."""
    torch.set_num_threads(1)
    record = json.loads(OUT.read_text()) if OUT.exists() else {"rows": [], "cost": []}
    asked = sys.argv[1] if len(sys.argv) > 1 else "run"
    if asked == "run":
        done = {(r["nodes"], r["data set"]) for r in record["rows"]}
        missing = [(n, s) for s in SEEDS for n in STEPS if (n, s) not in done]
        for nodes, seed in missing[: int(sys.argv[2]) if len(sys.argv) > 2 else None]:
            record["rows"].append(one(nodes, seed))
            print(record["rows"][-1], flush=True)
            write(record)
    elif asked == "cost":
        record["cost"] = [cost(nodes, pairs) for pairs in (False, True) for nodes in (5, 10, 20, 50)]
        for line in record["cost"]:
            print(line)
        write(record)
    else:
        plot(record)


if __name__ == "__main__":
    main()
