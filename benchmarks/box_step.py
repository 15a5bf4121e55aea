"""Cost of one trajectory-balance update on the Box, against the bare networks' own cost.

Claim: at delta = 0.25, batch 128 and width 128 (three hidden layers), an update costs at most 1.6 times
the bare networks on the same states, with separate networks for p_F and p_B or a shared one.

The limit is what no implementation can avoid: at each step one forward pass of p_F's network without
gradient on the trajectories that are still under way, then one forward and backward pass of both
networks (one, where shared) over all visited states. A network is its hidden layers and the linear
layers that give masses and mixture parameters; the limit has no mixture density, no draw, no reward.

Times are process CPU times on one thread, interleaved in one process, medians [min, max]; the states
are those of fresh trajectories of the flow each time, the same for both.

    python benchmarks/box_step.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from torch import Tensor, nn

from ctsgfn.gflownet import GFlowNet
from ctsgfn.gradient import backpropagate
from ctsgfn.kernels.spaces.box import box, box_kernels
from ctsgfn.objectives import trajectory_balance
from ctsgfn.targets import FourSquares
from ctsgfn.trajectories import Trajectories
from ctsgfn.walks import rollout

BATCH, HIDDEN, LAYERS, COMPONENTS, HARMONICS, MOST = 128, 128, 3, 4, 8, 1.6
OUT = Path(__file__).parent / "results" / "box_step.json"


class Bare:
    """The networks alone, of the same sizes as those of ``box_kernels``."""

    def __init__(self, inputs: int, *, tied: bool) -> None:
        self.torsos = [self.torso(inputs) for _ in range(1 if tied else 2)]
        outputs = 3 * COMPONENTS
        self.forward_layers = nn.ModuleList([nn.Linear(HIDDEN, 3), nn.Linear(HIDDEN, outputs)])
        self.backward_layer = nn.Linear(HIDDEN, outputs)

    @staticmethod
    def torso(inputs: int) -> nn.Sequential:
        """Hidden layers."""
        widths = [inputs] + [HIDDEN] * LAYERS
        return nn.Sequential(
            *[m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.LeakyReLU())]
        )

    def update(self, steps: list[int], rows: Tensor) -> None:
        """One no-grad pass per step, then forward and backward over all rows."""
        with torch.no_grad():
            for n in steps:
                context = self.torsos[0](rows[:n])
                for layer in self.forward_layers:
                    layer(context)
        contexts = [torso(rows) for torso in self.torsos]
        total = self.backward_layer(contexts[-1]).sum()
        for layer in self.forward_layers:
            total = total + layer(contexts[0]).sum()
        total.backward()


def under_way(trajectories: Trajectories[Any]) -> list[int]:
    """How many trajectories make a step, step by step."""
    lengths = trajectories.lengths
    return [int((lengths > k).sum()) for k in range(int(lengths.max()))]


def compare(*, tied: bool, repeats: int) -> dict[str, Any]:
    """Measure one case and print its line."""
    space, target = box(0.25), FourSquares()
    kernels = box_kernels(
        space, hidden=HIDDEN, layers=LAYERS, components=COMPONENTS, harmonics=HARMONICS, tied=tied
    )
    gfn = GFlowNet(space, *kernels)
    optimiser = torch.optim.Adam(gfn.parameters(), lr=1e-5, fused=True)  # as train has it
    bare = Bare(space.width + 4 * HARMONICS, tied=tied)
    ours, limit, visited = [], [], []
    for round_ in range(repeats + 3):
        start = time.process_time()
        trajectories = rollout(space, gfn.forward_kernel, BATCH)
        optimiser.zero_grad()
        backpropagate(gfn, target, trajectories, trajectory_balance)
        optimiser.step()
        middle = time.process_time()
        steps, rows = (
            under_way(trajectories),
            torch.randn(len(trajectories.owner), space.width + 4 * HARMONICS),
        )
        begin = time.process_time()
        bare.update(steps, rows)
        end = time.process_time()
        if round_ >= 3:
            ours.append(1e3 * (middle - start))
            limit.append(1e3 * (end - begin))
            visited.append(len(rows))
    ratio = statistics.median(ours) / statistics.median(limit)
    name = "shared network" if tied else "separate networks"
    print(
        f"{name:18s} update {statistics.median(ours):6.2f} [{min(ours):.2f}, {max(ours):.2f}] ms, limit "
        f"{statistics.median(limit):6.2f} [{min(limit):.2f}, {max(limit):.2f}] ms: {ratio:.2f} "
        f"(claimed at most {MOST}: {'met' if ratio <= MOST else 'NOT met'})"
    )
    return {
        "case": name,
        "ratio": ratio,
        "claimed at most": MOST,
        "met": ratio <= MOST,
        "update_ms": [statistics.median(ours), min(ours), max(ours)],
        "limit_ms": [statistics.median(limit), min(limit), max(limit)],
        "states": statistics.median(visited),
    }


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    record = {
        "claim": f"an update costs at most {MOST} times the bare networks on the same states",
        "cases": [compare(tied=tied, repeats=arguments.repeats) for tied in (False, True)],
        "settings": {"batch": BATCH, "hidden": HIDDEN, "layers": LAYERS, "delta": 0.25},
        "repeats": arguments.repeats,
        **provenance(),
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")
    print(OUT)


if __name__ == "__main__":
    main()
