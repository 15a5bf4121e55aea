"""Three assumptions of the theory, broken one at a time on the Box: what goes wrong, and that check sees it.

The assumptions (section 3.1 of the paper): densities are over states, not over actions; every state can be
reached from s0; the number of steps is bounded.

- ``no jacobian``: all charts have weight 1, as if the density of an angle were one of a point. Trajectory
  balance converges all the same, to another density.
- ``unreachable``: the first step goes along the arc of radius delta instead of into the disc. Nothing
  nearer than sqrt(2) delta to the corner can be reached, but for the arc itself.
- ``no forced stop``: arcs are never closed: what leaves the square comes back on the other side. Walks
  have no longest length.

The flows are trained by trajectory balance for 1,500 updates of 128 trajectories, half of them walked back
from uniform points (all on-policy where such points have no way back: ``unreachable``); ``check`` is asked
about the spaces alone, with the target.

    python paper_repro/box_failures.py [--quick] [--seeds N] [--device D] [--minutes M]
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from experiment import Experiment, Record, main
from torch import Tensor

from ctsgfn.behaviours import mixed, on_policy
from ctsgfn.checks import check
from ctsgfn.diagnostics import jensen_shannon
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import NotAbsorbed
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernel import Kernel
from ctsgfn.kernels.heads.beta import BetaMixture
from ctsgfn.kernels.heads.waves import wave_encoder
from ctsgfn.kernels.spaces.box import QUARTER, Arc, Disc, Spot, box, box_kernels
from ctsgfn.measures import Atom, Lebesgue
from ctsgfn.networks import zero_init
from ctsgfn.reference import Branch
from ctsgfn.seeding import seeded
from ctsgfn.space import Space
from ctsgfn.targets.four_squares import FourSquares
from ctsgfn.walks import arrivals, rollout

from box import TRAINING, from_everywhere  # isort: skip

DELTA, LONG, CELLS = 0.25, 10_000, 40


class Weightless(Branch[Spot]):
    """A chart of the Box whose Jacobian is forgotten."""

    def __init__(self, inner: Branch[Spot]) -> None:
        self.inner, self.base = inner, inner.base

    def push(self, s: Spot, a: Tensor) -> Spot:
        """As it is."""
        return self.inner.push(s, a)

    def pull(self, s: Spot, t: Spot) -> Tensor:
        """As it is."""
        return self.inner.pull(s, t)

    def owns(self, s: Spot, t: Spot) -> Tensor:
        """As it is."""
        return self.inner.owns(s, t)

    def intrinsic(self, t: Spot) -> Tensor:
        """As it is."""
        return self.inner.intrinsic(t)


class FirstArc(Branch[Spot]):
    """From s0 to the arc of radius delta, in its angle; arc length."""

    def __init__(self, delta: float) -> None:
        self.base = Lebesgue(1, 0.0, 1.0)
        self.disc = Disc(delta)

    def push(self, s: Spot, a: Tensor) -> Spot:
        """To the rim of the disc."""
        return self.disc.push(s, torch.cat([torch.ones_like(a), a], -1))

    def pull(self, s: Spot, t: Spot) -> Tensor:
        """The angle."""
        return self.disc.pull(s, t)[:, 1:]

    def log_weight(self, s: Spot, a: Tensor) -> Tensor:
        """Length of the arc."""
        return torch.full_like(a[:, 0], self.disc.delta * QUARTER).log()

    def owns(self, s: Spot, t: Spot) -> Tensor:
        """Edges out of s0 to the rim."""
        rim = (t.x.norm(dim=-1) - self.disc.delta).abs() < 32 * torch.finfo(t.x.dtype).eps
        return self.disc.owns(s, t) & rim

    def intrinsic(self, t: Spot) -> Tensor:
        """The plane."""
        return t.x


class Wrapped(Arc):
    """A whole quarter arc from every point: what leaves the square comes back on the other side."""

    def interval(self, s: Spot) -> tuple[Tensor, Tensor]:
        """Always open."""
        return torch.zeros_like(s.x[:, 0]), torch.full_like(s.x[:, 0], QUARTER)

    def push(self, s: Spot, a: Tensor) -> Spot:
        """Step, modulo 1."""
        angle = QUARTER * a[:, 0]
        step = torch.stack([angle.cos(), angle.sin()], -1)
        return Spot((s.x + self.sign * self.delta * step) % 1.0, s.started)


def no_jacobian() -> Space[Spot, Tensor]:
    """Weights of 1."""
    space = box(DELTA)
    kappa, kappa_b = space.kappa, space.kappa_b
    plain = replace(kappa, branches=tuple(Weightless(b) for b in kappa.branches))
    home, arc = kappa_b.branches
    return replace(space, kappa=plain, kappa_b=replace(kappa_b, branches=(home, Weightless(arc))))


def unreachable() -> Space[Spot, Tensor]:
    """Arcs from the start."""
    space = box(DELTA)
    return replace(space, kappa=replace(space.kappa, branches=(FirstArc(DELTA), space.kappa.branches[1])))


def no_forced_stop() -> Space[Spot, Tensor]:
    """Arcs without end."""
    space = box(DELTA)
    kappa = replace(
        space.kappa,
        branches=(space.kappa.branches[0], Wrapped(DELTA, +1)),
        allowed=lambda s: torch.stack([~s.started, s.started], -1),
    )
    return replace(space, kappa=kappa)


BROKEN = {"none": lambda: box(DELTA), "no jacobian": no_jacobian, "unreachable": unreachable}


def build(space: Space[Spot, Any]) -> GFlowNet[Spot]:
    """The usual kernels, with a first head that fits the first branch."""
    dim = space.kappa.branches[0].base.dim
    if dim == 2:
        return GFlowNet(space, *box_kernels(space))
    heads = [BetaMixture(1, 8, 0), BetaMixture(1, 4, 128)]
    forward = Kernel(
        space.kappa, wave_encoder(space, 128, 4, 8), heads, gate=zero_init(torch.nn.Linear(128, 3))
    )
    back = [diffuse(space.kappa_b).heads[0], BetaMixture(1, 4, 128)]
    assert back[0].base == Atom()
    return GFlowNet(space, forward, Kernel(space.kappa_b, wave_encoder(space, 128, 4, 8), back))


def histogram(x: Tensor) -> np.ndarray:
    """Density of samples in cells of the square."""
    bins = np.linspace(0, 1, CELLS + 1)
    return np.histogram2d(*x.double().numpy().T, bins=[bins, bins], density=True)[0].astype(np.float32)


def verdicts(space: Space[Spot, Any]) -> Record:
    """What check says of a space."""
    report = check(space, FourSquares(), n=5000)
    return {"checks": {result.name: [result.verdict, result.found] for result in report.results}}


def body() -> None:
    """All runs."""
    lab = Experiment(__file__, __doc__, seeds=1)
    steps, samples = (4, 500) if lab.quick else (1500, 200_000)

    def trained(name: str, seed: int) -> Record:
        space = BROKEN[name]()
        with seeded(seed):
            gfn = build(space).to(lab.device)
        target = FourSquares()
        line = (torch.arange(CELLS) + 0.5) / CELLS
        truth = target.log_density(torch.cartesian_prod(line, line))

        behaviour = on_policy if name == "unreachable" else mixed(on_policy, from_everywhere, 0.5)

        def look(done: int) -> Record:
            drawn = histogram(arrivals(space, gfn.forward_kernel, 20 * samples // 100).x.cpu())
            return {
                "log_z": gfn.log_z.item(),
                "jsd": jensen_shannon(truth, torch.tensor(drawn).log().flatten()),
            }

        curve = lab.train(
            f"{name}, seed {seed}", gfn, target, look,
            steps=steps, every=max(1, steps // 4), batch_size=128, seed=seed,
            behaviour=behaviour, **TRAINING,
        )  # fmt: skip
        with seeded(seed + 1):
            drawn = histogram(arrivals(space, gfn.forward_kernel, samples).x.cpu())
        found = {"curve": curve, "density": drawn, "log_z": gfn.log_z.item(), "truth_log_z": target.log_z}
        return found | {"jsd": jensen_shannon(truth, torch.tensor(drawn).log().flatten())} | verdicts(space)

    def endless() -> Record:
        """How long walks of the parameter-free kernel are, with and without the forced stop."""
        lengths = {}
        for name, space in (("forced", box(DELTA)), ("not forced", no_forced_stop())):
            with seeded(0):
                run = rollout(replace(space, horizon=LONG), reluctant(space), samples // 100)
            counts = torch.bincount(run.lengths)
            lengths[name] = (1 - counts.cumsum(0) / counts.sum()).numpy()
        try:
            rollout(no_forced_stop(), reluctant(no_forced_stop()), 1000)
            said = "nothing"
        except NotAbsorbed as error:
            said = str(error)
        return lengths | {"error": said} | verdicts(no_forced_stop())

    for seed in lab.seeds:
        for name in BROKEN:
            lab.run(f"{name}, seed {seed}", lambda n=name, k=seed: trained(n, k))
    lab.run("no forced stop", endless)


class Reluctant(torch.nn.Module):
    """A gate that stops with probability 0.1 where it may go on."""

    def forward(self, context: Tensor) -> Tensor:
        """Logits [B, 3]."""
        return torch.tensor([[0.9, 0.9, 0.1]]).log().expand(len(context), 3)


def reluctant(space: Space[Spot, Any]) -> Kernel[Spot]:
    """Uniform steps that stop seldom."""
    plain = diffuse(space.kappa)
    return Kernel(space.kappa, plain.encoder, list(plain.heads), gate=Reluctant())


if __name__ == "__main__":
    main(body)
