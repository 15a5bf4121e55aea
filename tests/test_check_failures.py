"""How each of the nine checks fails, and what it then says: what, where, by how much, and the remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from altered import alter
from registry import SPACES, ramp, swirl
from torch import Tensor, nn

import ctsgfn
from ctsgfn.checks import check
from ctsgfn.diffuse import diffuse
from ctsgfn.distributions import CoordinateLaw, UniformBox
from ctsgfn.errors import InvalidInput
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernel import Head, Kernel
from ctsgfn.kernels.heads.categorical import Categorical
from ctsgfn.kernels.spaces.box import Arc, box, box_kernels
from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.kernels.spaces.torus import torus
from ctsgfn.measures import Haar, Lebesgue
from ctsgfn.networks import MLP, FeatureEncoder, NoContext
from ctsgfn.objectives import detailed_balance, log_partition_variance, trajectory_balance
from ctsgfn.target import Density, as_target, transformed
from ctsgfn.whitening import Whitening

FEW = 2000


class Lengthened(Arc):
    """An arc whose length is taken for half as much again."""

    def log_weight(self, s: Any, a: Tensor) -> Tensor:
        return super().log_weight(s, a) + math.log(1.5)


def test_pairing_says_which_branches_where_and_by_how_much() -> None:
    space = box(0.25)
    kappa = replace(space.kappa, branches=(space.kappa.branches[0], Lengthened(0.25, +1)))
    result = check(replace(space, kappa=kappa), only=["pairing"])["pairing"]
    assert result.verdict == "FAIL"
    assert (
        "branch 1 (Lengthened) of kappa of the box with branch 1 (Arc) of kappa_b of the box" in result.found
    )
    factor = float(result.found.split("nu x kappa_b is ")[1].split(" of ")[0])
    assert abs(factor * 1.5 - 1) < 0.05
    assert "at progress" in result.found
    assert "from Spot(x=" in result.found
    assert "log_weight" in result.remedy


def test_charts_say_which_branch_and_where() -> None:
    space = box(0.25)
    kappa = replace(space.kappa, branches=(space.kappa.branches[0], Lengthened(0.25, +1)))
    result = check(replace(space, kappa=kappa), n=FEW, only=["charts"])["charts"]
    assert "log_weight of branch 1 (Lengthened) of kappa of the box" in result.found
    assert "on the edge from Spot(x=" in result.found
    assert f"error {math.log(1.5):.1e}" in result.found


def test_charts_refuse_intrinsic_coordinates_of_another_shape() -> None:
    flat = alter(box(), "kappa", intrinsic=lambda inner, t: t.x[:, 0])
    found = check(flat, n=1000, only=["charts"])["charts"].found
    assert "intrinsic of branch 1 (Altered) of kappa of the box must return Euclidean coordinates" in found


@pytest.mark.parametrize(
    ("change", "name", "says"),
    [
        ({"horizon": 6}, "absorbing", "horizon of 6"),
        ({"progress": lambda s: 0.5 * s.cell.sum(-1)}, "absorbing", "progress rises by 0.5 from Cell(cell="),
        ({"width": 9}, "read_write", "have shape [20000, 8], not [20000, 9]"),
        ({"write": lambda x: SPACES["hypergrid"].space().write(3 - x)}, "read_write", "at Cell(cell="),
        (
            {"source": lambda n: hypergrid(2, 4).write(torch.ones(n, 2))},
            "absorbing",
            "progress is 2 at s0, not 0",
        ),
        ({"points": Lebesgue(2, 0.0, 3.0)}, "read_write", "read(write(x)) differs from x"),
    ],
)
def test_other_checks_say_what_and_where(change: dict[str, Any], name: str, says: str) -> None:
    result = check(replace(hypergrid(2, 4), **change), n=FEW, only=[name])[name]
    assert result.verdict == "FAIL"
    assert says in result.found


def test_support_names_the_state() -> None:
    """A strip near the wall, closed by a tolerance on one side only (architecture's own trap)."""
    space = box(0.25)
    allowed = space.kappa.allowed

    def tolerant(s: Any) -> Tensor:
        out = allowed(s).clone()
        out[:, 1] &= ~(s.x > 0.97).any(-1)
        return out

    result = check(replace(space, kappa=replace(space.kappa, allowed=tolerant)), only=["support"])["support"]
    assert result.verdict == "FAIL"
    assert "kappa of the box" in result.found
    assert "from Spot(x=[" in result.found
    assert "never close a branch by a tolerance" in result.remedy


class Strict(Arc):
    """An arc that knows its edges to a tolerance which float32 cannot hold."""

    def owns(self, s: Any, t: Any) -> Tensor:
        return s.started & t.started & (((t.x - s.x).norm(dim=-1) - self.delta).abs() <= 1e-10)


def test_support_holds_in_the_precision_of_training() -> None:
    space = box(0.25)
    kappa = replace(space.kappa, branches=(space.kappa.branches[0], Strict(0.25, +1)))
    report = check(replace(space, kappa=kappa), n=FEW)
    assert [r.name for r in report.failures] == ["support"]
    assert "0 branches of kappa of the box lead from Spot(x=" in report["support"].found
    assert "(float32)" in report["support"].found


def test_evidence_says_which_log_z_the_walks_give() -> None:
    space = hypergrid(2, 4)
    truth = SPACES["hypergrid"].log_z(space)
    result = check(space, ramp(space), log_z=truth + 0.3, only=["evidence"])["evidence"]
    assert result.verdict == "FAIL"
    said = float(result.found.split("the walks give log Z = ")[1].split(",")[0])
    assert abs(said - truth) < 0.02


def test_evidence_is_inconclusive_where_probes_miss_the_target() -> None:
    far = as_target(lambda x: -0.5 * (x - 40.0).square().sum(-1), Lebesgue(2))
    report = check(diffusion(2, steps=3), far, log_z=math.log(2 * math.pi), n=FEW, only=["evidence"])
    assert report["evidence"].verdict == "inconclusive"
    assert report.ok


class Sloppy(CoordinateLaw):
    """Coordinates on the unit interval: ``draws`` and ``mass`` spoil what is drawn and what is scored."""

    def __init__(self, inner: UniformBox, batch: int, draws: Callable[[Tensor], Tensor], mass: float) -> None:
        super().__init__(batch, 1)
        self.inner, self.draws, self.mass = inner, draws, mass

    def draw(self) -> Tensor:
        return self.draws(self.inner.sample())

    def log_prob(self, value: Tensor) -> Tensor:
        return self.inner.log_prob(value) + math.log(self.mass)


class SloppyHead(Head):
    def __init__(self, draws: Callable[[Tensor], Tensor], mass: float) -> None:
        super().__init__()
        self.base = Lebesgue(1, 0.0, 1.0)
        self.draws, self.mass = draws, mass

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> Sloppy:
        return Sloppy(UniformBox(context.new_zeros(len(s), 1), 0.0, 1.0), len(s), self.draws, self.mass)


@pytest.mark.parametrize(
    ("draws", "mass", "says"),
    [
        (lambda a: a, 1.02, "has a total mass 1.00e-02 off 1 at Spot(x=["),
        (lambda a: a.clamp(0.1, 0.9), 1.0, "do not follow its density on branch 1 (Arc) of kappa of the box"),
        (lambda a: a.pow(1.2), 1.0, "do not follow its density on branch 1 (Arc) of kappa of the box"),
    ],
    ids=["mass", "clamped", "moved"],
)
def test_normalisation(draws: Callable[[Tensor], Tensor], mass: float, says: str) -> None:
    space = box(0.25)
    forward, backward = box_kernels(space, hidden=8, layers=1)
    heads: list[Any] = [forward.heads[0], SloppyHead(draws, mass)]
    gfn = GFlowNet(space, Kernel(space.kappa, forward.encoder, heads, forward.gate), backward)
    result = check(space, gfn=gfn, only=["normalisation"])["normalisation"]
    assert result.verdict == "FAIL"
    assert "forward kernel" in result.found
    assert says in result.found


def test_normalisation_of_steps_in_many_dimensions() -> None:
    """No quadrature there: for the laws alone nothing is said, for a flow its draws are compared."""
    space = diffusion(6, steps=3)
    assert check(space, n=FEW, only=["normalisation"])["normalisation"].verdict == "inconclusive"
    gfn = GFlowNet(space, *diffusion_kernels(space, hidden=8))
    assert check(space, gfn=gfn, n=FEW, only=["normalisation"])["normalisation"].verdict == "pass"


class Detached(Categorical):
    """Logits without a gradient."""

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> Any:
        return super().forward(context.detach(), s, live)


class Rooted(FeatureEncoder):
    """An encoder with an infinite slope at 0."""

    def forward(self, s: Any, seen: Tensor | None) -> Tensor:
        context = super().forward(s, seen)
        return context + (0 * context).sqrt()


def test_gradients() -> None:
    space = hypergrid(2, 4)

    def encoder(kind: type[FeatureEncoder] = FeatureEncoder) -> FeatureEncoder:
        return kind(space.features, MLP(space.width, 8), 8)

    def said(forward: Kernel[Any]) -> str:
        backward = hypergrid_kernels(space, hidden=8)[1]
        result = check(space, gfn=GFlowNet(space, forward, backward), n=1000, only=["gradients"])["gradients"]
        assert result.verdict == "FAIL"
        return result.found

    detached = Kernel(space.kappa, encoder(), [Detached(2, 8)])
    assert "reaches forward_kernel, but not its parameter forward_kernel.encoder." in said(detached)
    rooted = Kernel(space.kappa, encoder(Rooted), [Categorical(2, 8)])
    assert "the gradient of forward_kernel.encoder.network" in said(rooted)
    assert "is not finite" in said(rooted)
    spare = Kernel(space.kappa, encoder(), [Categorical(2, 8)])
    spare.heads[0].register_parameter("spare", nn.Parameter(torch.zeros(1)))
    assert "but not its parameter forward_kernel.heads.0.spare" in said(spare)


def test_gradients_of_the_objectives_that_are_asked_for() -> None:
    case = SPACES["hypergrid"]
    space = case.space()
    gfn = case.kernels(space)  # with log_flow
    alone = check(space, gfn=gfn, n=1000, only=["gradients"], objectives=[log_partition_variance])
    assert "no objective reaches log_flow" in alone["gradients"].found
    both = [trajectory_balance, detailed_balance]
    assert check(space, gfn=gfn, n=1000, only=["gradients"], objectives=both).ok


@dataclass(frozen=True)
class Constant:
    """A density with constants of its own dtype."""

    measure: Any
    log_z: float = math.log(2 * math.pi)

    def log_density(self, x: Tensor) -> Tensor:
        return -0.5 * x.double().square().sum(-1)


def normal(of: Callable[[Tensor], Tensor]) -> Density[Tensor]:
    return as_target(lambda x: of(x) - 0.5 * x.square().sum(-1), Lebesgue(2))


@pytest.mark.parametrize(
    ("target", "log_z", "says"),
    [
        (as_target(lambda x: x.sum(-1), Haar(2)), None, "against arc length on 2 circles, the space ends on"),
        (normal(lambda x: (x[:, 0] - 1).log()), None, "the log-density is nan at row"),
        (normal(lambda x: x.mean()), None, "differs by"),
        (as_target(lambda x: x.square(), Lebesgue(2)), None, "it must be batched"),
        (normal(lambda x: 0 * x[:, 0]), 1.0, "log_z is 1, quadrature differs by 8.38e-01"),
        (Constant(Lebesgue(2)), None, "points of torch.float32 give a log-density of torch.float64"),
    ],
    ids=["measure", "nan", "rows", "shape", "log_z", "dtype"],
)
def test_target(target: Any, log_z: float | None, says: str) -> None:
    report = check(diffusion(2, steps=3), target, log_z=log_z, n=FEW, only=["target"])
    assert report["target"].verdict == "FAIL"
    assert says in report["target"].found
    assert report["target"].remedy


def test_a_whitened_target_passes() -> None:
    """Its location and scale are in float32; the points of the validator are not."""
    whitening = Whitening(torch.tensor([0.3, -0.2]), torch.tensor([[1.2, 0.0], [0.3, 0.9]]))
    target = transformed(normal(lambda x: 0 * x[:, 0]), whitening, Lebesgue(2))
    report = check(diffusion(2, steps=3), target, log_z=math.log(2 * math.pi), only=["evidence", "target"])
    assert report["target"].verdict == report["evidence"].verdict == "pass", str(report)


def test_a_wrong_target_does_not_spoil_the_checks_of_the_space() -> None:
    report = check(hypergrid(2, 3), swirl(torus(2)), n=FEW)
    assert [r.name for r in report.failures] == ["target"]


class Flat(Head):
    """A law of numbers, not of vectors of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Lebesgue(1)

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> Any:
        return torch.distributions.Normal(torch.zeros(len(context)), 1.0)


def test_a_head_of_another_shape_is_named() -> None:
    space = diffusion(1, steps=2)
    gfn = GFlowNet(space, Kernel(space.kappa, NoContext(), [Flat()]), diffuse(space.kappa_b))
    result = check(space, gfn=gfn, only=["normalisation"], n=FEW)["normalisation"]
    says = r"head 0 \(Flat\) returns a law of batch shape \[19\] and event shape \[\] at 19 states"
    assert result.verdict == "FAIL"
    assert re.search(says, result.found)
    assert "Independent(law, 1)" in result.remedy
    target = as_target(lambda x: -x.square().sum(-1), Lebesgue(1))
    with pytest.raises(InvalidInput, match=r"head 0 \(Flat\).*wrap the law in torch.dist"):
        ctsgfn.fit(target, gfn=gfn, steps=1, progress_bar=False)
