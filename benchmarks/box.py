"""The Box of the reference: density quality against the number of trajectories, by the paper's metric.

Claims, for delta = 0.25, a learned p_B and batches of 128 trajectories (every trajectory counts,
whoever drew it): Jensen-Shannon divergence at most 1e-3 after 450,000 trajectories and 4e-4 after 2.4
million with trajectory balance, 2e-3 and 9e-4 with detailed balance; at the end the
importance-weighted log Z is within 3 standard errors of log 0.305, and the terminating density,
computed from 64 backward trajectories per point of a 100 x 100 grid, integrates to 1 within 0.02.

Metric (Lahlou et al., 2023, C.1): kernel density estimates (exponential kernel of the Euclidean
distance, bandwidth 0.1) of 10,000 samples of the model and of 10,000 exact samples of the target, on
the grid linspace(0.001, 1, 100)^2, each normalised over the grid; Jensen-Shannon divergence in nats.
The reference samples here are exact (the published ones clip the density at 2.1, its maximum is 2.6).

Half of each batch is on-policy; the other half starts at uniform points of the square and walks back.

    python benchmarks/box.py train --objective tb        # or db; resumes, --seed, --steps
    python benchmarks/box.py figure
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from provenance import commit, provenance
from torch import Tensor

from ctsgfn.balance import Balance, balance
from ctsgfn.behaviours import mixed, on_policy
from ctsgfn.diagnostics import kde_jsd
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.heads.waves import wave_encoder
from ctsgfn.kernels.spaces.box import box, box_kernels
from ctsgfn.kernels.spaces.spots import Spot
from ctsgfn.networks import StateFunction
from ctsgfn.objectives import detailed_balance, trajectory_balance
from ctsgfn.seeding import seeded
from ctsgfn.targets.four_squares import FourSquares
from ctsgfn.training import train
from ctsgfn.trajectories import Trajectories
from ctsgfn.walks import backtrack, rollout

HERE = Path(__file__).parent / "results"
SCRATCH = Path(__file__).parent.parent / "build"
OBJECTIVES = {"tb": trajectory_balance, "db": detailed_balance}
BATCH, SAMPLES, EVERY = 128, 10_000, 500
EARLY, LATE = 3515, 18_750  # updates: 449,920 and 2,400,000 trajectories
LIMITS = {"tb": (1e-3, 4e-4), "db": (2e-3, 9e-4)}
# read off the published curves by eye, +-5 %: million trajectories, JSD
PUBLISHED = {
    "tb": [(0.064, 1.0e-2), (0.5, 1.5e-3), (1.0, 7.9e-4), (1.5, 5.4e-4), (2.0, 4.0e-4), (2.4, 3.7e-4)],
    "db": [(0.064, 5e-2), (0.5, 2.1e-3), (1.0, 9.8e-4), (1.5, 9.3e-4), (2.0, 8.5e-4), (2.4, 8.7e-4)],
}
OPTIONS: dict[str, Any] = {"hidden": 128, "layers": 4, "components": 4, "first_components": 8, "harmonics": 8}
TRAINING = {"lr": 2e-3, "lr_log_z": 1e-2}


def build(delta: float = 0.25) -> GFlowNet[Spot]:
    """The flow."""
    space = box(delta)
    encoder = wave_encoder(space, OPTIONS["hidden"], OPTIONS["layers"], OPTIONS["harmonics"])
    return GFlowNet(space, *box_kernels(space, **OPTIONS), log_flow=StateFunction(encoder))


def from_everywhere(gfn: GFlowNet[Any], n: int) -> Trajectories[Any]:
    """Walk back from uniform points of the square."""
    return backtrack(gfn.space, gfn.backward_kernel, gfn.space.write(torch.rand(n, 2)))


# ------------------------------------------------------------------ the metric
def divergence(gfn: GFlowNet[Any], target: FourSquares, seed: int, repeats: int) -> list[float]:
    """The metric, on fresh samples of the model and of the target each time."""
    out = []
    for repeat in range(repeats):
        with seeded(seed + repeat):
            final = rollout(gfn.space, gfn.forward_kernel, SAMPLES).final.x
            out.append(kde_jsd(final, target.sample(SAMPLES)))
    return out


@torch.no_grad()
def evidence(gfn: GFlowNet[Any], target: FourSquares, batches: int = 20) -> dict[str, float]:
    """Importance-weighted log Z from 10,000 trajectories a batch, with its standard error."""
    runs = [rollout(gfn.space, gfn.forward_kernel, SAMPLES) for _ in range(batches)]
    w = torch.cat([balance(gfn, target, run).log_weight for run in runs]).double().exp()
    error = float(w.std() / w.mean() / math.sqrt(len(w)))
    log_z = float(w.mean().log())
    return {
        "log_z": log_z,
        "standard_error": error,
        "z_score": (log_z - target.log_z) / error,
        "elbo": float(w.log().mean()),
        "ess": float(w.sum() ** 2 / w.square().sum()) / len(w),
        "learned_log_z": gfn.log_z.item(),
        "trajectories": len(w),
    }


@torch.no_grad()
def terminating_density(gfn: GFlowNet[Any], target: FourSquares, walks: int = 64, side: int = 100) -> Tensor:
    """p(x) = E over backward walks of p_F / p_B, at the midpoints of side x side cells: [side, side]."""
    line = (torch.arange(side) + 0.5) / side
    parts = []
    for x in torch.cartesian_prod(line, line).split(6400 // walks):
        finals = gfn.space.write(x.repeat_interleave(walks, dim=0))
        run = backtrack(gfn.space, gfn.backward_kernel, finals)
        arrays = balance(gfn, target, run)
        log_ratio = (arrays.log_reward - arrays.log_weight).double().unflatten(0, (-1, walks))
        parts.append(log_ratio.logsumexp(-1).exp() / walks)
    return torch.cat(parts).unflatten(0, (side, side))


# ------------------------------------------------------------------ the run
def run(objective: str, seed: int, steps: int) -> None:
    """Train, evaluating as it goes, and write the result; a run that was cut off goes on."""
    HERE.mkdir(exist_ok=True)
    SCRATCH.mkdir(exist_ok=True)
    name = f"box_{objective}_seed{seed}" + ("" if steps == LATE else f"_{steps}")
    log, checkpoint = SCRATCH / f"{name}.log.json", SCRATCH / f"{name}.pt"
    target, revision = FourSquares(), commit()
    with seeded(seed):
        gfn = build()
    record: dict[str, Any] = json.loads(log.read_text()) if log.exists() else {"curve": {}, "cpu": {}}
    before = max(record["cpu"].values(), default=0.0)
    start, spent = time.process_time(), {"evaluation": 0.0}

    def look(step: int, arrays: Balance) -> None:
        del arrays
        done = step + 1
        if done % EVERY and done not in (EARLY, steps):
            return
        begun = time.process_time()
        repeats = 5 if done in (EARLY, LATE) else 1
        record["curve"][str(done)] = divergence(gfn, target, 10_000 * seed + 10 * done, repeats)
        now = time.process_time()
        spent["evaluation"] += now - begun
        training = before + now - start - spent["evaluation"]
        record["cpu"][str(done)] = training
        log.write_text(json.dumps(record))
        jsd = sum(record["curve"][str(done)]) / repeats
        print(f"{done:6d} updates, {done * BATCH:8d} trajectories: JSD {jsd:.2e}, "
              f"log Z {gfn.log_z.item():.3f}, training {training:.0f} CPU s",
              flush=True)  # fmt: skip

    train(
        gfn,
        target,
        steps=steps,
        objective=OBJECTIVES[objective],
        batch_size=BATCH,
        behaviour=mixed(on_policy, from_everywhere, 0.5),
        seed=seed,
        checkpoint=checkpoint,
        checkpoint_every=EVERY,
        on_step=look,
        **TRAINING,
    )
    with seeded(seed + 1):
        bound = evidence(gfn, target)
        density = terminating_density(gfn, target)
    line = (torch.arange(100) + 0.5) / 100
    truth = target.log_density(torch.cartesian_prod(line, line)).exp().unflatten(0, (100, 100)).double()
    truth = truth / truth.mean()
    result = {
        "claim": "JSD at 450,000 and 2.4 M trajectories at most {} and {}".format(*LIMITS[objective]),
        "objective": objective,
        "seed": seed,
        "delta": 0.25,
        "batch": BATCH,
        "updates": steps,
        "networks": OPTIONS,
        "training": TRAINING | {"off_policy_fraction": 0.5, "schedule": "cosine"},
        "jsd_450k": record["curve"].get(str(EARLY)),
        "jsd_2.4M": record["curve"].get(str(LATE)),
        "evidence": bound,
        "truth_log_z": target.log_z,
        "total_mass": float(density.mean()),
        "total_variation": float((density - truth).abs().mean() / 2),
        "curve": {str(int(k) * BATCH): v for k, v in record["curve"].items()},
        "training_cpu_seconds": record["cpu"],
        **provenance(),
        "commit": revision,
    }
    (HERE / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: result[k] for k in ("jsd_450k", "jsd_2.4M", "evidence", "total_mass")}, indent=1))


def figure() -> None:
    """JSD against trajectories, beside the published points."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for ax, (name, published) in zip(axes, PUBLISHED.items(), strict=True):
        for path in sorted(HERE.glob(f"box_{name}_seed*.json")):
            saved = json.loads(path.read_text())
            points = sorted((int(n) / 1e6, sum(v) / len(v)) for n, v in saved["curve"].items())
            ax.plot(*zip(*points, strict=True), lw=1, label=f"ctsgfn, seed {saved['seed']}")
        ax.plot(*zip(*published, strict=True), "k.", ms=8, label="Lahlou et al. 2023 (read off)")
        for x, limit in zip((0.45, 2.4), LIMITS[name], strict=True):
            ax.plot(x, limit, "rv", ms=6)
        ax.axhspan(5e-5, 8.5e-5, color="0.85", label="two exact samples")
        ax.set(yscale="log", xlabel="million trajectories", title={"tb": "trajectory balance", "db":
               "detailed balance"}[name])  # fmt: skip
        ax.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("Jensen-Shannon divergence (nats)")
    fig.savefig(HERE / "box_jsd.png", dpi=150)
    print(HERE / "box_jsd.png")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("task", choices=["train", "figure"])
    parser.add_argument("--objective", choices=sorted(OBJECTIVES), default="tb")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=LATE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.task == "figure":
        figure()
    else:
        run(args.objective, args.seed, args.steps)


if __name__ == "__main__":
    main()
