"""Cost of drawing points, against the bare network's own cost, and memory of long and wide walks.

Claims: drawing 10,000 points (T = 100, width 64, two hidden layers) costs at most 1.2 times the bare
network's T forward passes over 10,000 rows; and an update at T = 1,000, d = 1,600, batch 64 fits in 4 GB,
with memory beyond the trajectories themselves that does not grow with T. The answers are in
results/sampling.json.

Times are process CPU times of one thread, interleaved in one process, medians [min, max]; each size of
memory is the peak of a process of its own.

    python benchmarks/sampling.py --write
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from diffusion_step import HIDDEN, STEPS, bare_network, measure
from provenance import provenance
from torch import Tensor

from ctsgfn.gflownet import GFlowNet
from ctsgfn.gradient import backpropagate, keep_freed_memory
from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels
from ctsgfn.measures import Lebesgue
from ctsgfn.objectives import trajectory_balance
from ctsgfn.sampler import Sampler
from ctsgfn.target import Target, as_target
from ctsgfn.targets.gaussian_grid import twenty_five_gaussians
from ctsgfn.targets.many_well import ManyWell
from ctsgfn.walks import rollout

DRAWS = 10_000
MOST_TIME, MOST_MEMORY = 1.2, 4.0
SIZES = ((1000, 1600, 64), (500, 1600, 64), (1000, 2, 2000), (250, 2, 2000))
"""T, d and batch of the updates whose memory is measured."""
OUT = Path(__file__).parent / "results" / "sampling.json"


def flow_on(target: Target[Tensor], dim: int, steps: int, sigma: float, *, langevin: bool) -> GFlowNet[Any]:
    """An untrained diffusion flow."""
    space = diffusion(dim, steps=steps, sigma=sigma)
    return GFlowNet(space, *diffusion_kernels(space, target, hidden=HIDDEN, langevin=langevin))


def draw_times(target: Target[Tensor], dim: int, sigma: float, repeats: int) -> dict[str, Any]:
    """CPU seconds of drawing, without and with the score in the drift, and of the bare network."""
    network = bare_network(dim)
    rows = torch.randn(DRAWS, dim)

    def bare() -> None:
        with torch.no_grad():
            for _ in range(STEPS):
                network(rows)

    variants = {"limit": bare}
    for name, langevin in (("draw", False), ("draw, score", True)):
        sampler: Sampler[Any, Tensor] = Sampler(flow_on(target, dim, STEPS, sigma, langevin=langevin), target)
        variants[name] = lambda sampler=sampler: sampler.sample(DRAWS)
    times = measure(variants, repeats)
    limit = statistics.median(times["limit"])
    return {
        name: {
            "seconds": [round(f(values) / 1e3, 4) for f in (statistics.median, min, max)],
            "ratio": statistics.median(values) / limit,
        }
        for name, values in times.items()
    }


def peak(steps: int, dim: int, batch: int) -> dict[str, float]:
    """Peak memory of one update in this process, in GB, and that of its trajectories alone."""
    torch.manual_seed(0)
    target = as_target(lambda x: -0.5 * x.square().sum(-1), Lebesgue(dim))
    gfn = flow_on(target, dim, steps, 1.0, langevin=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trajectories = rollout(gfn.space, gfn.forward_kernel, batch)
    drawn = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    backpropagate(gfn, target, trajectories, trajectory_balance)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    numbers = batch * (steps + 1) * dim * 4 / 2**30
    return {
        "peak_gb": after / 2**20,
        "imports_gb": before / 2**20,
        "rollout_gb": (drawn - before) / 2**20,
        "update_gb": (after - before) / 2**20,
        "states_gb": numbers,
    }


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--write", action="store_true", help=f"write {OUT.name}")
    parser.add_argument(
        "--peak", type=int, nargs=3, metavar=("T", "D", "BATCH"), help="one size, in this process"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        print(json.dumps(peak(*options.peak)))
        return
    torch.manual_seed(0)
    keep_freed_memory()
    cases = {
        "25 modes, d = 2": draw_times(twenty_five_gaussians(), 2, math.sqrt(50.0), options.repeats),
        "many-well, d = 32": draw_times(ManyWell(32), 32, math.sqrt(2.0), options.repeats),
    }
    for case, rows in cases.items():
        for name, row in rows.items():
            print(f"{case:18s} {name:12s} {row['seconds'][0]:7.3f} s  {row['ratio']:5.2f}")
    memory = {}
    for size in SIZES:
        command = [sys.executable, __file__, "--peak", *map(str, size)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        memory[f"T = {size[0]}, d = {size[1]}, batch {size[2]}"] = found
        print(size, {k: round(v, 3) for k, v in found.items()})
    record = {
        "claim": f"drawing costs at most {MOST_TIME} times the bare network; an update at T = 1,000, "
        f"d = 1,600 fits in {MOST_MEMORY:g} GB",
        "command": "python benchmarks/sampling.py --write",
        **provenance(),
        "repeats": options.repeats,
        "settings": {"draws": DRAWS, "steps": STEPS, "hidden": HIDDEN, "layers": 2},
        "draws": cases,
        "met": all(rows["draw"]["ratio"] <= MOST_TIME for rows in cases.values()),
        "memory": memory,
        "memory met": next(iter(memory.values()))["peak_gb"] <= MOST_MEMORY,
    }
    if options.write:
        OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
