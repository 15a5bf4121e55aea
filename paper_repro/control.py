"""Stochastic control: nine Gaussians and a funnel in T = 100 steps (Tables 2 and C.1, Fig. C.1).

Setting of the paper (section 4.2, C.3): Brownian motion pinned at 0 as the backward kernel, steps of equal
duration, variance 5 (nine Gaussians) or 1 (funnel, the easy one) at the end; forward steps with that
variance and a learned mean; 1,500 batches of 300 trajectories; learning rates 1e-2 and 1e-1 for log Z.
Networks as deep as there (4 hidden layers), of width 64 (not printed). Other than there: the step enters
after the first layer, the rates decay by a cosine, and gradients are clipped at norm 10 (the paper is silent
on both). Runs of an earlier series say ``batch`` 100 and ``layers`` 2.

Off-policy runs add variance to the sampling steps, annealed to 0. What is printed, 0.1^2 / T a step, is
0.2 % of a step's own variance; the authors' later code has 0.1^2 a step (20 %). Runs have the latter,
``as printed`` (nine Gaussians alone) has the former, ``wider exploration`` has 0.3^2 a step. Reverse KL
off-policy and forward KL weigh trajectories by self-normalised importance.

B is the mean log importance weight, B_RW the log of the mean weight, over K = 2,000 (6,000) fresh
trajectories; log Z = 0, so both are errors. ``modes`` counts the nine with at least a tenth of their share.

Beside them: sequential Monte Carlo and annealed importance sampling with Hamiltonian moves, from the law of
the reference process at the end; and ``fit``, this package's default, with all energy calls counted
(a training asks for 450,000 densities, PIS also for 45 million scores).

    python paper_repro/control.py [--quick] [--seeds N] [--device D] [--minutes M]
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from experiment import Experiment, Record, main
from torch import Tensor
from weighed import weighed

from ctsgfn.balance import Balance, balance
from ctsgfn.behaviours import Guided, on_policy
from ctsgfn.bridge import Bridge, Scale
from ctsgfn.diagnostics import mode_counts
from ctsgfn.divergences import forward_kl, reverse_kl, reverse_kl_score
from ctsgfn.errors import NonFinite
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.heads.tempered import tempered
from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels
from ctsgfn.kernels.spaces.time_grid import uniform_clock
from ctsgfn.objectives import trajectory_balance
from ctsgfn.seeding import seeded
from ctsgfn.smc import plan, run
from ctsgfn.targets import easy_funnel, nine_gaussians
from ctsgfn.trajectories import Trajectories
from ctsgfn.walks import rollout

from counting import counted  # isort: skip

STEPS, BATCH, LAYERS, EPSILON, WIDER = 100, 300, 4, 0.1, 0.3


@dataclass(frozen=True)
class Task:
    """A target, the variance of the reference process at the end, and trajectories that B is taken over."""

    target: Any
    variance: float
    draws: int


TASKS = {"nine Gaussians": Task(nine_gaussians(), 5.0, 2000), "funnel": Task(easy_funnel(), 1.0, 6000)}


class Widened:
    """Steps with more variance than the policy's, annealed to none: a behaviour.

    Args:
        extra: variance added at the start, in units of a step's own.
        steps: batches over which its root falls to 0.
        weighs: record log p_F - log p of what draws, for importance weights.
    """

    def __init__(self, extra: float, steps: int, weighs: bool) -> None:
        self.extra, self.steps, self.weighs, self.made = extra, steps, weighs, 0
        self.log_ratio = torch.empty(0)

    def __call__(self, gfn: GFlowNet[Any], n: int) -> Trajectories[Any]:
        """Draw n trajectories."""
        share = max(0.0, 1 - self.made / self.steps)
        guide = tempered(gfn.forward_kernel, 1 + self.extra * share**2)
        walks = replace(rollout(gfn.space, Guided(gfn.forward_kernel, guide), n), own=None)
        self.made += 1
        if self.weighs:
            s, t, seen = walks.moves
            with torch.no_grad():
                drawn = guide(s, seen).log_density_to(t).unflatten(0, (n, -1)).sum(1)
            assert walks.log_forward is not None
            self.log_ratio = walks.log_forward.unflatten(0, (n, -1)).sum(1) - drawn
        return walks

    def remember(self, gfn: GFlowNet[Any], trajectories: Trajectories[Any], arrays: Balance) -> None:
        """Nothing: what has been drawn is forgotten."""

    def state_dict(self) -> dict[str, Any]:
        """Batches made."""
        return {"made": self.made}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.made = state["made"]


METHODS = (
    "off-policy TB", "off-policy reverse KL", "off-policy forward KL",
    "on-policy TB", "on-policy reverse KL", "on-policy forward KL",
    "PIS, with gradient", "off-policy TB, with gradient", "off-policy TB, wider exploration",
    "off-policy TB, as printed",
)  # fmt: skip
PLAIN = {"TB": trajectory_balance, "reverse KL": reverse_kl_score, "forward KL": forward_kl}


def chosen(method: str, task: Task, steps: int) -> dict[str, Any]:
    """Objective and behaviour of a method."""
    if method.startswith("PIS"):
        return {"objective": reverse_kl}
    policy, name = method.split(",")[0].split(" ", 1)
    if policy == "on-policy":
        return {"objective": PLAIN[name], "behaviour": on_policy}
    extra = (WIDER if "wider" in method else EPSILON) ** 2 / (task.variance / STEPS)
    drawn = Widened(extra / STEPS if "printed" in method else extra, steps, weighs=name != "TB")
    return {"objective": trajectory_balance if name == "TB" else weighed(name, drawn), "behaviour": drawn}


@torch.no_grad()
def biases(gfn: GFlowNet[Any], target: Any, n: int) -> Record:
    """B, B_RW and the effective fraction of n fresh trajectories."""
    w = torch.cat([
        balance(gfn, target, rollout(gfn.space, gfn.forward_kernel, 1000)).log_weight.double().cpu()
        for _ in range(n // 1000)
    ])  # fmt: skip
    log_mean = float(w.logsumexp(0)) - math.log(len(w))
    ess = float((2 * w.logsumexp(0) - (2 * w).logsumexp(0)).exp()) / len(w)
    return {"B": float(w.mean()), "B_RW": log_mean, "ess": ess}


def final(gfn: GFlowNet[Any], task: Task, n: int) -> Tensor:
    """Where n trajectories end, [n, d]."""
    x: Tensor = rollout(gfn.space, gfn.forward_kernel, n).final.x.cpu()
    return x


def covered(task: Task, x: Tensor) -> Record:
    """Modes found, where there are modes."""
    if not hasattr(task.target, "modes"):
        return {}
    centres = task.target.modes
    counts = mode_counts(x, centres, radius=5 * math.sqrt(task.target.variance))
    return {"modes": int((counts > len(x) / len(centres) / 10).sum())}


def trained(lab: Experiment, name: str, method: str, seed: int) -> Record:
    """One method on one target."""
    task, steps = TASKS[name], 4 if lab.quick else 1500
    batch, draws = (10, 1000) if lab.quick else (BATCH, task.draws)
    langevin = method.endswith("with gradient")
    with seeded(seed):
        space = diffusion(task.target.measure.dim, sigma=math.sqrt(task.variance), clock=uniform_clock(STEPS))
        kernels = diffusion_kernels(
            space, task.target, layers=LAYERS, learned_variance=False, langevin=langevin
        )
        gfn: GFlowNet[Any] = GFlowNet(space, *kernels).to(lab.device)
    about = {"target": name, "method": method, "seed": seed, "batch": batch, "layers": LAYERS}
    try:
        curve = lab.train(
            f"{name}, {method}, seed {seed}", gfn, task.target, lambda done: biases(gfn, task.target, 1000),
            steps=steps, every=max(2, steps // 10), batch_size=batch, seed=seed, lr=1e-2, lr_log_z=1e-1,
            **chosen(method, task, steps),
        )  # fmt: skip
    except NonFinite as error:
        return about | {"failed": str(error)}
    with seeded(seed + 1):
        found = biases(gfn, task.target, draws)
        x = final(gfn, task, 2000)
    found |= about | {"curve": curve} | covered(task, x)
    return found | ({"samples": x.half().numpy()} if seed == 0 else {})


# ------------------------------------------------------------------ beside them
class Start:
    """The law of the reference process at the end: N(0, variance I)."""

    def __init__(self, dim: int, variance: float) -> None:
        self.dim, self.variance = dim, variance

    def draw(self, n: int) -> Tensor:
        """Draws [n, d]."""
        return math.sqrt(self.variance) * torch.randn(n, self.dim)

    def log_density(self, z: Tensor) -> Tensor:
        """Log-density, [n]."""
        constant = self.dim * math.log(2 * math.pi * self.variance)
        return -0.5 * (z.square().sum(-1) / self.variance + constant)

    def score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density and its gradient."""
        return self.log_density(z), -z / self.variance


def sequential(task: Task, seed: int, particles: int, gradient: bool) -> Record:
    """Sequential Monte Carlo: one run plans the temperatures, a second one along them gives log Z."""
    with seeded(seed):
        bridge = Bridge(Start(task.target.measure.dim, task.variance), task.target)
        bridge.differentiable = gradient
        made, _ = plan(bridge, particles, 10**8)
        runs = run(bridge, made, 1, particles)
    return {"B_RW": float(runs.log_z[0]), "calls": bridge.calls} | covered(task, runs.z)


def annealed(task: Task, seed: int, particles: int, levels: int, leaps: int = 5) -> Record:
    """Annealed importance sampling: Hamiltonian moves at equal steps of the inverse temperature."""
    with seeded(seed):
        bridge = Bridge(Start(task.target.measure.dim, task.variance), task.target)
        at, size = bridge.start(particles), 0.3
        log_weight = torch.zeros(particles, dtype=torch.float64)
        for k in range(levels):
            log_weight += at.log_ratio.double() / levels
            at, rate = bridge.leap(at, (k + 1) / levels, Scale.of(at.z), size, leaps)
            size = min(3.0, size * math.exp(rate - 0.7))
        log_z = float(log_weight.logsumexp(0)) - math.log(particles)
    return {"B_RW": log_z, "B": float(log_weight.mean()), "calls": bridge.calls}


def fitted(lab: Experiment, name: str, seed: int) -> Record:
    """This package's own default."""
    task = TASKS[name]
    asked = counted(task.target)
    steps = 5 if lab.quick else None
    sampler: Any = lab.fit(f"{name}, fit, seed {seed}", asked, seed=seed, resumes=False, steps=steps)
    calls = asked.density_calls + asked.gradient_calls
    with seeded(seed + 1):
        found = biases(sampler.gfn, sampler.target, task.draws)
        x = sampler.sample(2000)
    return found | {"calls": calls, "kernel": sampler.gfn.space.name} | covered(task, x)


def body() -> None:
    """All runs."""
    lab = Experiment(__file__, __doc__, seeds=3)
    particles, levels = (200, 5) if lab.quick else (2000, 40)
    for seed in lab.seeds:
        for name, task in TASKS.items():
            beside = {
                "SMC, no gradient": lambda t=task, s=seed: sequential(t, s, particles, False),
                "SMC, with gradient": lambda t=task, s=seed: sequential(t, s, particles, True),
                "AIS with HMC": lambda t=task, s=seed: annealed(t, s, particles, levels),
                "fit": lambda n=name, s=seed: fitted(lab, n, s),
            }
            for method, make in beside.items():
                key = f"{name}, {method}, seed {seed}"
                lab.run(key, lambda m=make, n=name, k=method, s=seed: labelled(m(), n, k, s))
        for name in TASKS:
            for method in METHODS[: len(METHODS) - (name == "funnel")]:
                key = f"{name}, {method}, seed {seed}"
                lab.run(key, lambda n=name, m=method, s=seed: trained(lab, n, m, s))


def labelled(found: Record, name: str, method: str, seed: int) -> Record:
    """A run that says what it is."""
    return {"target": name, "method": method, "seed": seed} | found


if __name__ == "__main__":
    main(body)
