"""Cost of one trajectory-balance update on time-sliced R^d, against the bare network's own cost.

Question: does an update at T = 100, batch 300, width 64 cost at most 1.4 times the bare network without,
and 1.7 times with the score of the target in the drift? The answer is in results/diffusion_step.json.

The limit is what no implementation can avoid: T forward passes of the bare network at the batch size
without gradient (the rollout), and one forward and backward pass over the B T visited states in runs
of 3000 rows. The bare network is two hidden layers and the output layer (mean and log-variance), with
no time input, no embedding and no score. "eager" is the loop that is common in the field: T steps with
the graph kept, the time embedded for every row, the score by automatic differentiation inside.

Times are process CPU times on one thread, variants interleaved in one process, medians [min, max].

    python benchmarks/diffusion_step.py
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from torch import Tensor, nn

from ctsgfn.gflownet import GFlowNet
from ctsgfn.gradient import backpropagate
from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels
from ctsgfn.objectives import trajectory_balance
from ctsgfn.target import Target, score
from ctsgfn.targets.gaussian_grid import twenty_five_gaussians
from ctsgfn.targets.many_well import ManyWell
from ctsgfn.walks import rollout

STEPS, BATCH, HIDDEN, RUN = 100, 300, 64, 3000
MOST = {"update": 1.4, "update, score": 1.7}
"""What is claimed: the most that an update costs, in units of the limit."""
CASES: dict[str, tuple[Callable[[], Target[Tensor]], int, float]] = {
    "25 modes, d = 2": (twenty_five_gaussians, 2, math.sqrt(50.0)),
    "many-well, d = 32": (lambda: ManyWell(32), 32, math.sqrt(2.0)),
}


def bare_network(dim: int) -> nn.Sequential:
    """Two hidden layers, and the mean and log-variance of a step."""
    return nn.Sequential(
        nn.Linear(dim, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 2 * dim)
    )


def bare(dim: int) -> Callable[[], None]:
    """The limit."""
    network = bare_network(dim)
    x, rows = torch.randn(BATCH, dim), torch.randn(BATCH * STEPS, dim)

    def update() -> None:
        with torch.no_grad():
            for _ in range(STEPS):
                network(x)
        for run in rows.split(RUN):
            network(run).sum().backward()
        network.zero_grad()

    return update


def ours(target: Target[Tensor], dim: int, sigma: float, *, langevin: bool) -> Callable[[], None]:
    """One update of the library: rollout, densities, reward, gradient, Adam."""
    space = diffusion(dim, steps=STEPS, sigma=sigma)
    kernels = diffusion_kernels(space, target, hidden=HIDDEN, layers=2, langevin=langevin)
    gfn = GFlowNet(space, *kernels)
    optimiser = torch.optim.Adam(gfn.parameters(), lr=1e-4, fused=True)

    def update() -> None:
        trajectories = rollout(space, gfn.forward_kernel, BATCH)
        optimiser.zero_grad()
        backpropagate(gfn, target, trajectories, trajectory_balance)
        optimiser.step()

    return update


def scores(target: Target[Tensor], dim: int) -> Callable[[], None]:
    """The T evaluations of the target's score that an update with the score needs."""
    x = torch.randn(BATCH, dim)

    def update() -> None:
        for _ in range(STEPS):
            score(target, x)

    return update


class Eager(nn.Module):
    """The step network of the eager loop: time embedded per row, score in the drift."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN))
        self.point = nn.Linear(dim, HIDDEN)
        self.rest = nn.Sequential(nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 2 * dim))
        self.gain = nn.Sequential(nn.Linear(16, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))

    def forward(self, x: Tensor, t: float, slope: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, [B, d] each."""
        angle = torch.full((len(x), 1), t) * torch.arange(1, 9) * math.pi / 2
        waves = torch.cat([angle.sin(), angle.cos()], -1)
        mean, raw = self.rest(self.point(x) + self.time(waves)).chunk(2, -1)
        return (mean if slope is None else mean + self.gain(waves) * slope), raw.tanh()


def eager(target: Target[Tensor], dim: int, sigma: float, *, langevin: bool) -> Callable[[], None]:
    """One update by the step-by-step loop with the graph kept."""
    network, log_z = Eager(dim), nn.Parameter(torch.zeros(()))
    optimiser = torch.optim.Adam([*network.parameters(), log_z], lr=1e-4, fused=True)
    dt = 1 / STEPS

    def normal(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        return -0.5 * ((x - mean) ** 2 / log_variance.exp() + log_variance + math.log(2 * math.pi)).sum(-1)

    def update() -> None:
        x, log_forward, log_backward = torch.zeros(BATCH, dim), torch.zeros(BATCH), torch.zeros(BATCH)
        for k in range(STEPS):
            slope = None
            if langevin:
                leaf = x.detach().requires_grad_()
                slope = torch.autograd.grad(target.log_density(leaf).sum(), leaf)[0].clamp(-100, 100)
            drift, raw = network(x, k * dt, slope)
            log_variance = raw + math.log(sigma**2 * dt)
            mean = x + sigma**2 * dt * drift
            y = (mean + (0.5 * log_variance).exp() * torch.randn_like(x)).detach()
            log_forward = log_forward + normal(y, mean, log_variance)
            if k > 0:
                variance = torch.full_like(y, sigma**2 * dt * k / (k + 1))
                log_backward = log_backward + normal(x, y * k / (k + 1), variance.log())
            x = y
        loss = (log_z + log_forward - log_backward - target.log_density(x)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return update


def measure(variants: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """CPU milliseconds of each variant, round-robin after two rounds of warming up."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(repeats + 2):
        for name, update in variants.items():
            start = time.process_time()
            update()
            if round_ >= 2:
                times[name].append(1e3 * (time.process_time() - start))
    return times


def compare(case: str, repeats: int) -> dict[str, Any]:
    """Measure one case and print its table."""
    make, dim, sigma = CASES[case]
    target = make()
    variants = {
        "limit": bare(dim),
        "update": ours(target, dim, sigma, langevin=False),
        "update, score": ours(target, dim, sigma, langevin=True),
        "scores alone": scores(target, dim),
        "eager": eager(target, dim, sigma, langevin=False),
        "eager, score": eager(target, dim, sigma, langevin=True),
    }
    times = measure(variants, repeats)
    limit = statistics.median(times["limit"])
    alone = statistics.median(times["scores alone"])
    rows: dict[str, Any] = {}
    print(case)
    for name, values in times.items():
        median = statistics.median(values)
        rows[name] = {
            "ms": [round(v, 2) for v in (median, min(values), max(values))],
            "ratio": median / limit,
        }
        print(
            f"  {name:15s} {median:7.1f} [{min(values):6.1f}, {max(values):6.1f}] ms  {median / limit:5.2f}"
        )
    for name, most in MOST.items():
        ratio = rows[name]["ratio"]
        rows[name]["claimed at most"], rows[name]["met"] = most, ratio <= most
        verdict = "met" if ratio <= most else "NOT met"
        print(f"  {name}: {ratio:.2f} of the limit, claimed at most {most}: {verdict}")
    own = (statistics.median(times["update, score"]) - alone) / limit
    rows["update, score"]["ratio, scores not counted"] = own
    print(f"  update, score: {own:.2f} without its score evaluations")
    return rows


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="write results/diffusion_step.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {case: compare(case, options.repeats) for case in CASES}
    record = {
        "question": "cost of a trajectory-balance update in units of the bare network's own",
        "command": f"python benchmarks/diffusion_step.py --repeats {options.repeats} --write",
        **provenance(),
        "repeats": options.repeats,
        "settings": {"steps": STEPS, "batch": BATCH, "hidden": HIDDEN, "layers": 2, "rows per run": RUN},
        "cases": results,
    }
    if options.write:
        path = Path(__file__).parent / "results" / "diffusion_step.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
