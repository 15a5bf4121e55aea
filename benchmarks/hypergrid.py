"""Hypergrid: exact total variation against trajectories drawn, for six objectives.

Claim: at d = 2, side 32 and at d = 4, side 8 (the reward of Bengio et al., 2021, r0 = 0.1), the exact
terminating law of the trained forward kernel is within total variation 0.02 of the target, for trajectory
balance, detailed balance, sub-trajectory balance, VarGrad, modified detailed balance and flow matching.

Trajectories come from the policy mixed with a little of the uniform one. The law is no estimate: it is the
recursion of the forward kernel's probabilities over all cells. Times are process CPU times on one thread.

    python benchmarks/hypergrid.py
    python benchmarks/hypergrid.py --steps 20 --out /tmp/hypergrid
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import ctsgfn
from ctsgfn.balance import Balance
from ctsgfn.behaviours import epsilon_uniform
from ctsgfn.exact import explore
from ctsgfn.gflownet import GFlowNet, state_flow
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.objectives import (
    Objective,
    detailed_balance,
    flow_matching,
    log_partition_variance,
    modified_detailed_balance,
    trajectory_balance,
)
from ctsgfn.subtrajectories import subtrajectory_balance
from ctsgfn.targets import HypergridReward
from ctsgfn.training import train

OBJECTIVES: dict[str, Objective] = {
    "trajectory balance": trajectory_balance,
    "detailed balance": detailed_balance,
    "sub-trajectory balance": subtrajectory_balance,
    "VarGrad": log_partition_variance,
    "modified detailed balance": modified_detailed_balance,
    "flow matching": flow_matching,
}
GRIDS = ((2, 32), (4, 8))
BATCH, HIDDEN, RATE, EPSILON, RECORDS, MOST = 128, 128, 3e-3, 0.05, 20, 0.02
OUT = Path(__file__).parent / "results" / "hypergrid"


def run(dim: int, side: int, name: str, steps: int, seed: int) -> dict[str, Any]:
    """One training run: total variation as it goes and at the end."""
    torch.manual_seed(seed)
    space, target = hypergrid(dim, side), HypergridReward(dim, side)
    graph = explore(space)
    loss = OBJECTIVES[name]
    log_flow = state_flow(space, hidden=HIDDEN) if loss.wanted.flow else None
    gfn = GFlowNet(space, *hypergrid_kernels(space, hidden=HIDDEN), log_flow)
    curve: list[tuple[int, float]] = []
    every = max(steps // RECORDS, 1)

    def record(step: int, _: Balance) -> None:
        if (step + 1) % every == 0:
            curve.append(((step + 1) * BATCH, graph.total_variation(gfn.forward_kernel, target)))

    start = time.process_time()
    train(
        gfn,
        target,
        objective=loss,
        steps=steps,
        batch_size=BATCH,
        behaviour=epsilon_uniform(EPSILON),
        lr=RATE,
        seed=seed,
        label=f"{name}, d = {dim}",
        on_step=record,
    )
    return {
        "dim": dim,
        "side": side,
        "objective": name,
        "seed": seed,
        "trajectories": steps * BATCH,
        "cpu_seconds": round(time.process_time() - start, 1),
        "total_variation": graph.total_variation(gfn.forward_kernel, target),
        "curve": curve,
    }


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Total variation against trajectories, one panel per grid."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(GRIDS), figsize=(10, 4), sharey=True, layout="constrained")
    for axis, (dim, side) in zip(axes, GRIDS, strict=True):
        for one in (r for r in runs if (r["dim"], r["side"]) == (dim, side)):
            axis.plot(*zip(*one["curve"], strict=True), label=one["objective"])
        axis.axhline(MOST, color="black", linestyle=":", label=f"claim, {MOST}")
        axis.set(yscale="log", xlabel="trajectories", title=f"d = {dim}, side {side}")
    axes[0].set_ylabel("exact total variation")
    axes[-1].legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run everything, write the results and the figure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=2000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=OUT, help="path of the results, without its ending")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    runs = []
    for dim, side in GRIDS:
        for name in OBJECTIVES:
            runs.append(run(dim, side, name, chosen.steps, chosen.seed))
            last = runs[-1]
            print(
                dim, side, name, f"TV {last['total_variation']:.4f}", f"{last['cpu_seconds']} s", flush=True
            )
    report = {
        "claim": f"exact total variation at most {MOST} for every objective on both grids",
        "holds": all(r["total_variation"] <= MOST for r in runs),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {platform.system()}, one thread",
        "versions": {
            "ctsgfn": ctsgfn.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "settings": {"batch": BATCH, "hidden": HIDDEN, "lr": RATE, "epsilon": EPSILON, "steps": chosen.steps},
        "runs": runs,
    }
    chosen.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    draw(runs, chosen.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
