"""GFlowNets and variational inference on a hypergrid: exact divergences, and the variance of gradients.

The paper (section 2, C.3) compares trajectory balance with the four algorithms of Malkin et al. (2023):
reverse KL, forward KL, wake-sleep and reverse wake-sleep, on- and off-policy. Here all ten run on a grid of
16 x 16 cells (r0 = 0.01) whose terminating law is computed exactly; p_B is learned, batches of 64, 1,500
updates, learning rate 3e-3 with cosine decay. Off-policy: a tenth of the states choose evenly, falling to
none; the variational algorithms then weigh trajectories by self-normalised importance.

Gradients: along a run of trajectory balance, p_F's gradient of one divergence, D(P_F | P_B), is estimated
from many batches by four estimators with the same mean up to their baseline: trajectory balance with the
learned log Z, VarGrad, and the score function with the leave-one-out mean as baseline and without any.
``noise`` is the trace of an estimate's covariance over the squared norm of the mean gradient (over all
batches, of VarGrad): the number of batches after which signal and noise are alike.

    python paper_repro/vi.py [--quick] [--seeds N] [--device D] [--minutes M]
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from experiment import Experiment, Record, main
from torch import Tensor
from weighed import ALGORITHMS, weighed

from ctsgfn.balance import Balance, balance
from ctsgfn.behaviours import Guided, on_policy
from ctsgfn.diagnostics import jensen_shannon
from ctsgfn.diffuse import diffuse
from ctsgfn.divergences import forward_kl, reverse_kl_score, reverse_wake_sleep, wake_sleep
from ctsgfn.exact import explore
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.objectives import log_partition_variance, objective, trajectory_balance
from ctsgfn.seeding import seeded
from ctsgfn.targets import HypergridReward
from ctsgfn.trajectories import Trajectories
from ctsgfn.walks import rollout

SIDE, BATCH, EPSILON = 16, 64, 0.1
PLAIN = {
    "TB": trajectory_balance,
    "reverse KL": reverse_kl_score,
    "forward KL": forward_kl,
    "wake-sleep": wake_sleep,
    "reverse wake-sleep": reverse_wake_sleep,
}


class Mixed:
    """Even choices at a fraction of the states, annealed to none: a behaviour that knows its density.

    Args:
        steps: batches over which the fraction falls to 0.
    """

    def __init__(self, steps: int) -> None:
        self.steps, self.made, self.log_ratio = steps, 0, torch.empty(0)

    def __call__(self, gfn: GFlowNet[Any], n: int) -> Trajectories[Any]:
        """Draw n trajectories."""
        epsilon = EPSILON * max(0.0, 1 - self.made / self.steps)
        even = diffuse(gfn.space.kappa).to(gfn.log_z)
        walks = rollout(gfn.space, Guided(gfn.forward_kernel, even, epsilon), n)
        self.made += 1
        own = walks.log_forward
        assert own is not None
        with torch.no_grad():
            other = even(walks.states).log_density(walks.jumps)
        drawn = (
            own if epsilon == 0 else torch.logaddexp(own + math.log1p(-epsilon), other + math.log(epsilon))
        )
        self.log_ratio = own.new_zeros(n).index_add(0, walks.owner, own - drawn)
        return replace(walks, own=None)

    def remember(self, gfn: GFlowNet[Any], trajectories: Trajectories[Any], arrays: Balance) -> None:
        """Nothing: what has been drawn is forgotten."""

    def state_dict(self) -> dict[str, Any]:
        """Batches made."""
        return {"made": self.made}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.made = state["made"]


def build(lab: Experiment, seed: int) -> GFlowNet[Any]:
    """A flow on the grid."""
    with seeded(seed):
        space = hypergrid(2, SIDE)
        return GFlowNet(space, *hypergrid_kernels(space)).to(lab.device)


def trained(lab: Experiment, name: str, policy: str, seed: int) -> Record:
    """One algorithm, on- or off-policy."""
    steps = 6 if lab.quick else 1500
    gfn, target = build(lab, seed), HypergridReward(2, SIDE, r0=0.01)
    graph = explore(gfn.space)
    log_p = graph.log_reward(target).log_softmax(0)

    def look(done: int) -> Record:
        log_q = graph.terminating_law(gfn.forward_kernel)
        return {
            "tv": float((log_q.exp() - log_p.exp()).abs().sum() / 2),
            "jsd": jensen_shannon(log_p, log_q),
            "reverse_kl": float((log_q.exp() * (log_q - log_p)).sum()),
            "forward_kl": float((log_p.exp() * (log_p - log_q)).sum()),
        }

    options: dict[str, Any] = {"objective": PLAIN[name], "behaviour": on_policy}
    if policy == "off-policy":
        drawn = Mixed(steps)
        options = {"objective": PLAIN[name] if name == "TB" else weighed(name, drawn), "behaviour": drawn}
    curve = lab.train(
        f"{name}, {policy}, seed {seed}", gfn, target, look,
        steps=steps, every=max(2, steps // 15), batch_size=BATCH, seed=seed, lr=3e-3, lr_log_z=3e-2,
        **options,
    )  # fmt: skip
    return {"algorithm": name, "policy": policy, "seed": seed, "curve": curve} | curve[-1]


@objective()
def no_baseline(b: Balance) -> Tensor:
    """Reverse Kullback-Leibler divergence by the score function, nothing subtracted."""
    return (-b.log_weight.detach() * b.total(b.log_forward)).mean()


ESTIMATORS = {
    "TB, learned log Z": (trajectory_balance, 0.5),
    "VarGrad": (log_partition_variance, 0.5),
    "score, leave-one-out": (reverse_kl_score, 1.0),
    "score, no baseline": (no_baseline, 1.0),
}
"""And the factor that makes each an estimate of the gradient of D(P_F | P_B)."""


def noise(gfn: GFlowNet[Any], target: Any, batches: int) -> Record:
    """Variance of each estimator of p_F's gradient, in units of the squared mean gradient."""
    parameters = list(gfn.forward_kernel.parameters())
    found: dict[str, list[Tensor]] = {name: [] for name in ESTIMATORS}
    for _ in range(batches):
        walks = on_policy(gfn, BATCH)
        for name, (loss, factor) in ESTIMATORS.items():
            arrays = balance(gfn, target, walks)
            gradient = torch.autograd.grad(factor * loss(arrays), parameters, allow_unused=True)
            found[name].append(torch.cat([g.flatten() for g in gradient if g is not None]))
    stacked = {name: torch.stack(rows).double() for name, rows in found.items()}
    mean = stacked["VarGrad"].mean(0)
    signal = float(mean.square().sum() - stacked["VarGrad"].var(0).sum() / batches)
    variance = {name: float(rows.var(0).sum()) for name, rows in stacked.items()}
    return {"signal": signal, "variance": variance, "noise": {n: v / signal for n, v in variance.items()}}


def gradients(lab: Experiment, seed: int) -> Record:
    """Noise of the estimators along a run of trajectory balance."""
    steps, batches = (4, 4) if lab.quick else (800, 200)
    gfn, target = build(lab, seed), HypergridReward(2, SIDE, r0=0.01)
    gfn.backward_kernel.requires_grad_(False)
    with torch.no_grad():
        gfn.log_z.fill_(0.0)
    with seeded(seed + 5):
        start = {"updates": 0} | noise(gfn, target, batches)
    curve = lab.train(
        f"gradients, seed {seed}", gfn, target, lambda done: noise(gfn, target, batches),
        steps=steps, every=max(1, steps // 4), batch_size=BATCH, seed=seed, lr=3e-3, lr_log_z=3e-2,
        start_log_z=False,
    )  # fmt: skip
    return {"seed": seed, "curve": [start, *curve]}


def body() -> None:
    """All runs."""
    lab = Experiment(__file__, __doc__, seeds=3)
    for seed in lab.seeds:
        lab.run(f"gradients, seed {seed}", lambda s=seed: gradients(lab, s))
        for name in ("TB", *ALGORITHMS):
            for policy in ("on-policy", "off-policy"):
                key = f"{name}, {policy}, seed {seed}"
                lab.run(key, lambda n=name, p=policy, s=seed: trained(lab, n, p, s))


if __name__ == "__main__":
    main(body)
