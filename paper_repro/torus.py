"""Six modes on the torus (Fig. 4 left): T = 10 steps of von Mises mixtures, trajectory balance.

Target: r = (sin 3 psi + cos 2 phi + 2)^3, log Z = log 56 pi^2. As in the paper: T = 10, 5 von Mises laws
per angle in both directions with concentrations above 4, features cos and sin of 1 .. 5 times each angle,
batches of 100, learned p_B. Other than there: networks of 3 x 128 units instead of 5 x 512, a learning rate
of 2e-3 with cosine decay instead of 1e-5, and a tenth of the states drawn uniformly (the authors' code has
that too).

Metrics. ``jsd``: Jensen-Shannon divergence between kernel densities (Gaussian, bandwidth 0.1, wrapped) of
100,000 samples of the model and the exact density, on a 100 x 100 grid. ``jsd_samples``: the same against
100,000 exact samples, the paper's comparison. ``jsd_exact``: the terminating density averaged over 64
backward walks from each point of a 40 x 40 grid, no kernel. The kernel alone costs ``jsd`` what ``floor``
says. log Z is importance-weighted.

    python paper_repro/torus.py [--quick] [--seeds N] [--device D] [--minutes M]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from experiment import Experiment, Record, main
from torch import Tensor

from ctsgfn.balance import balance
from ctsgfn.behaviours import epsilon_uniform
from ctsgfn.diagnostics import jensen_shannon
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.torus import TorusState, torus, torus_kernels
from ctsgfn.seeding import seeded
from ctsgfn.space import Space
from ctsgfn.target import Target
from ctsgfn.targets import TorusSixModes
from ctsgfn.walks import arrivals, backtrack, rollout

STEPS, BATCH, BANDWIDTH = 10, 100, 0.1


def mesh(side: int) -> Tensor:
    """Midpoints of side x side cells of [-pi, pi)^2, [side^2, 2]."""
    line = (torch.arange(side) + 0.5) / side * 2 * math.pi - math.pi
    return torch.cartesian_prod(line, line)


def smoothed(x: Tensor, side: int) -> Tensor:
    """Log of a wrapped Gaussian kernel density at the mesh, up to a constant: [side^2].

    The kernel is a product and the mesh a grid: one matrix product of the two axes.
    """
    line = (torch.arange(side) + 0.5) / side * 2 * math.pi - math.pi
    total = torch.zeros(side, side, dtype=torch.float64)
    for part in x.split(20_000):
        gap = torch.remainder(part[:, :, None] - line + math.pi, 2 * math.pi) - math.pi  # [n, 2, side]
        weight = (-0.5 * (gap / BANDWIDTH).square()).exp()
        total += (weight[:, 0].T @ weight[:, 1]).double()
    return total.log().flatten()


@torch.no_grad()
def terminating(gfn: GFlowNet[TorusState], target: Target[Tensor], walks: int, side: int) -> Tensor:
    """Log-density of where walks end, at the mesh, from backward walks: [side^2]."""
    parts = []
    for x in mesh(side).split(100):
        run = backtrack(gfn.space, gfn.backward_kernel, gfn.space.write(x.repeat_interleave(walks, 0)))
        arrays = balance(gfn, target, run)
        log_ratio = (arrays.log_reward - arrays.log_weight).double().unflatten(0, (-1, walks))
        parts.append(log_ratio.logsumexp(-1) - math.log(walks))
    return torch.cat(parts).cpu()


@torch.no_grad()
def evidence(gfn: GFlowNet[TorusState], target: Target[Tensor], n: int) -> Record:
    """Importance-weighted log Z from n trajectories."""
    w = balance(gfn, target, rollout(gfn.space, gfn.forward_kernel, n)).log_weight.double().exp()
    return {
        "log_z": float(w.mean().log()),
        "standard_error": float(w.std() / w.mean() / math.sqrt(n)),
        "elbo": float(w.log().mean()),
        "ess": float(w.sum() ** 2 / w.square().sum()) / n,
    }


def study(
    lab: Experiment,
    key: str,
    target: Target[Tensor],
    log_z: float,
    exact: Tensor,
    seed: int,
    steps: int,
    kernels: Callable[[Space[TorusState, Tensor]], Any] = torus_kernels,
    **options: Any,
) -> Record:
    """Train on a target of two angles and score the result.

    Args:
        lab: the experiment.
        key: the run's name.
        target: against arc length on two circles.
        log_z: its log Z.
        exact: samples of it [n, 2].
        seed: of the run.
        steps: updates.
        kernels: of the flow, from its space.
        options: of the training; the learning rate is 2e-3 if they do not say.
    """
    samples, side, walks, fine = (500, 20, 2, 10) if lab.quick else (len(exact), 100, 64, 40)
    with seeded(seed):
        space = torus(2, STEPS)
        gfn: GFlowNet[Any] = GFlowNet(space, *kernels(space)).to(lab.device)
    truth = target.log_density(mesh(side).to(lab.device)).cpu()

    def look(done: int) -> Record:
        drawn = arrivals(gfn.space, gfn.forward_kernel, samples // 10).angle.cpu()
        return {"jsd": jensen_shannon(truth, smoothed(drawn, side)), "log_z": gfn.log_z.item()}

    curve = lab.train(
        key, gfn, target, look, steps=steps, every=max(2, steps // 10), batch_size=BATCH, seed=seed,
        **({"lr": 2e-3} | options),
    )  # fmt: skip
    with seeded(seed + 1):
        drawn = arrivals(gfn.space, gfn.forward_kernel, samples).angle.cpu()
        density = terminating(gfn, target, walks, fine)
        found = evidence(gfn, target, samples // 5)
    log_q = smoothed(drawn, side)
    return {
        "seed": seed,
        "curve": curve,
        "jsd": jensen_shannon(truth, log_q),
        "jsd_samples": jensen_shannon(smoothed(exact, side), log_q),
        "jsd_exact": jensen_shannon(target.log_density(mesh(fine).to(lab.device)).cpu(), density),
        "floor": jensen_shannon(truth, smoothed(exact, side)),
        "mass": float(density.exp().mean()) * (2 * math.pi) ** 2,
        "evidence": found,
        "log_z_quadrature": log_z,
        "z_score": (found["log_z"] - log_z) / found["standard_error"],
    } | ({
        "truth": truth.view(side, side).float().numpy(),
        "model": log_q.view(side, side).float().numpy(),
        "reference": smoothed(exact, side).view(side, side).float().numpy(),
    } if seed == 0 else {})  # fmt: skip


def body() -> None:
    """All runs."""
    lab = Experiment(__file__, __doc__, seeds=3)
    target = TorusSixModes()
    with seeded(7):
        exact = target.sample(500 if lab.quick else 100_000)
    steps = 6 if lab.quick else 3000
    options = {"behaviour": epsilon_uniform(0.1), "lr_log_z": 1e-2}
    for seed in lab.seeds:
        key = f"six modes, seed {seed}"
        lab.run(key, lambda k=key, s=seed: study(lab, k, target, target.log_z, exact, s, steps, **options))


if __name__ == "__main__":
    main(body)
