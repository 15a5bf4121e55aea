"""Log evidence and moments by ctsgfn and by other samplers: error against CPU seconds and density calls.

Question: for the same unnormalised density, what error does a user get for how much work? The answer is in
results/peers/ and figures/peers.png. Errors are those of log Z, and of moments: the largest error of a mean
in standard deviations, and the largest relative error of a standard deviation.

ctsgfn, pocoMC and dynesty run with their defaults. The last two need a prior; they are given a box or
normals that hold the target comfortably, which ctsgfn has to find out by itself. blackjax's adaptive
tempered SMC has no defaults: 1,024 particles from the same prior, five HMC moves of ten steps of 0.1 at
each temperature, densities in JAX, compilation counted. NumPyro's NUTS gives draws and no evidence: four
chains started in the prior, 1,000 steps of warm-up and 1,000 kept, in JAX, compilation counted.

torchgfn's box and diffusion environments come with targets of their own; a user's density gets in as a
subclass of the diffusion environment's BaseTarget, entered into its table of targets. It runs as the
package's example script does (trajectory balance, on-policy, 32 steps, 2,000 updates with 200 trajectories
each), with the target's true scale as its diffusion coefficient, and stops at SECONDS if that comes first;
its log Z is importance-weighted.

A run that has not ended after LIMIT CPU seconds is stopped and recorded as such. In the hard funnel the x
have fourth moments of order e^18, so that their deviations settle for nobody who draws thousands.

The peers live in environments of their own (torchgfn wants an older numpy):

    python -m venv .venv-peers && .venv-peers/bin/pip install -e '.[peers]'
    .venv-peers/bin/python benchmarks/peers.py run            # what is missing, one process per run
    python -m venv .venv-torchgfn && .venv-torchgfn/bin/pip install -e '.[torchgfn]'
    .venv-torchgfn/bin/python benchmarks/peers.py run --peers torchgfn
    python benchmarks/peers.py plot
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from counting import counted
from peer_cases import CASES
from peer_samplers import PEERS
from provenance import provenance

HERE = Path(__file__).parent
RESULTS, FIGURE = HERE / "results" / "peers", HERE.parent / "figures" / "peers.png"
LIMIT = 300
"""CPU seconds after which a run is stopped."""
SEEDS = 3
COLOURS = dict(zip(PEERS, ("#d55e00", "#0072b2", "#009e73", "#e69f00", "#000000", "#cc79a7"), strict=True))


def path_of(peer: str, name: str, seed: int) -> Path:
    """Where a run is written."""
    return RESULTS / f"{peer}_{name.replace(' ', '-')}_seed{seed}.json"


def one(peer: str, name: str, seed: int) -> None:
    """Make one run and write it."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT + 5))
    case = CASES[name]
    exact = case.make()
    target = counted(exact)
    start = time.process_time()
    found = PEERS[peer](name, target, seed)
    seconds = time.process_time() - start
    version, draws = importlib.metadata.version(peer), found.pop("draws")
    if "log_z" in found:
        found["error"] = found["log_z"] - exact.log_z
    write(peer, name, seed, {
        **found,
        **case.moment_errors(*draws),
        "cpu_seconds": round(seconds, 2),
        "density_calls": target.density_calls,
        "gradient_calls": target.gradient_calls,
        "version": version,
    })  # fmt: skip


def write(peer: str, name: str, seed: int, row: dict[str, Any]) -> None:
    """Write a run and print it."""
    record = {"peer": peer, "target": name, "seed": seed, **row, **provenance()}
    path = path_of(peer, name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(peer, name, seed, {k: row[k] for k in ("error", "cpu_seconds", "density_calls") if k in row})


def run_missing(peers: list[str], names: list[str], seeds: int) -> None:
    """Each run that has no file yet, in a process of its own."""
    for seed in range(seeds):
        for name in names:
            for peer in peers:
                if path_of(peer, name, seed).exists():
                    continue
                command = [sys.executable, __file__, "one", peer, name, str(seed)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if path_of(peer, name, seed).exists():
                    print(done.stdout.strip(), flush=True)
                elif done.returncode in (-24, -9):  # the limit of CPU seconds
                    write(peer, name, seed, {"stopped_after": LIMIT})
                else:
                    print(f"{peer} on {name} failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)


def rows() -> list[dict[str, Any]]:
    """All runs that were written."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def plot() -> None:
    """Two errors against CPU seconds and against density calls, a column of panels for each target."""
    import matplotlib.pyplot as plt

    errors = {"error": "|error of log Z| (nats)", "mean_error": "error of a mean (sd)"}
    works = {"cpu_seconds": ("CPU seconds", (1, LIMIT)), "density_calls": ("density evaluations", (1e4, 1e7))}
    done, lines = rows(), [(error, work) for error in errors for work in works]
    size = (2.6 * len(CASES), 2.5 * len(lines))
    figure, axes = plt.subplots(len(lines), len(CASES), figsize=size, sharey="row", squeeze=False)
    for axis, (error, work) in zip(axes, lines, strict=True):
        for ax, name in zip(axis, CASES, strict=True):
            for k, peer in enumerate(PEERS):
                mine = [r for r in done if r["target"] == name and r["peer"] == peer]
                points = [(r[work], max(abs(r[error]), 1e-4)) for r in mine if error in r]
                if points:
                    ax.loglog(*zip(*points, strict=True), "o", color=COLOURS[peer], alpha=0.8)
                elif any("stopped_after" in r for r in mine) and (error, work) == lines[0]:
                    ax.text(0.97, 0.95 - 0.08 * k, f"{peer}: > {LIMIT} s", transform=ax.transAxes,
                            ha="right", color=COLOURS[peer], fontsize=7)  # fmt: skip
            ax.set_xlim(works[work][1])
            ax.set_xlabel(works[work][0])
        axis[0].set_ylabel(errors[error])
    for ax, name in zip(axes[0], CASES, strict=True):
        ax.set_title(name, fontsize=10)
    dots = [plt.Line2D([], [], ls="", marker="o", color=COLOURS[peer], label=peer) for peer in PEERS]
    figure.legend(handles=dots, ncols=len(dots), loc="upper center", frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(FIGURE, dpi=110)
    print(FIGURE)
    table(done)


def table(done: list[dict[str, Any]]) -> None:
    """Medians over the seeds."""
    columns = {"error": "9.4f", "mean_error": "9.4f", "sd_error": "9.4f",
               "cpu_seconds": "9.1f", "density_calls": "10.0f"}  # fmt: skip
    print(f"{'target':14s} {'peer':10s} log Z, mean, sd, CPU s, calls")
    for name in CASES:
        for peer in PEERS:
            mine = [r for r in done if r["target"] == name and r["peer"] == peer]
            stopped = sum("stopped_after" in r for r in mine)
            cells = []
            for key, form in columns.items():
                values = [abs(r[key]) for r in mine if key in r]
                cells.append(format(statistics.median(values), form) if values else "        -")
            if mine:
                late = f", {stopped} of {len(mine)} stopped at {LIMIT} s" if stopped else ""
                print(f"{name:14s} {peer:10s} {' '.join(cells)}{late}")


def installed() -> list[str]:
    """The samplers that this environment has."""
    here = {found.metadata["Name"].lower() for found in importlib.metadata.distributions()}
    return [peer for peer in PEERS if peer in here]


def main() -> None:
    """Run one, run what is missing, or plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    single = commands.add_parser("one", help="one run in this process")
    single.add_argument("peer", choices=PEERS)
    single.add_argument("target", choices=CASES)
    single.add_argument("seed", type=int)
    many = commands.add_parser("run", help="every run that has no result yet")
    many.add_argument("--peers", nargs="*", default=installed(), choices=PEERS)
    many.add_argument("--targets", nargs="*", default=list(CASES), choices=CASES)
    many.add_argument("--seeds", type=int, default=SEEDS)
    commands.add_parser("plot", help="figure and table of the results")
    options = parser.parse_args()
    if options.command == "one":
        one(options.peer, options.target, options.seed)
    elif options.command == "run":
        run_missing(options.peers, options.targets, options.seeds)
    else:
        plot()


if __name__ == "__main__":
    main()
