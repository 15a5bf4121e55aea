"""What is special to the Box: disc and arcs, the forced stop, the way home, its terminating density."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from numerics import shaken, z_scores
from torch import Tensor

from ctsgfn.balance import balance
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput, NoSuchEdge
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.heads.beta import BetaMixture, BetaMixtureLaw
from ctsgfn.kernels.spaces import box as box_module
from ctsgfn.kernels.spaces.box import box, box_kernels
from ctsgfn.kernels.spaces.spots import Spot
from ctsgfn.states import Jump
from ctsgfn.target import as_target
from ctsgfn.walks import backtrack, rollout

DELTA = 0.25


def learned(**options: bool) -> GFlowNet[Spot]:
    space = box(DELTA)
    kernels = box_kernels(
        space, hidden=16, layers=1, components=2, first_components=3, harmonics=2, **options
    )
    return shaken(GFlowNet(space, *kernels))


def log_terminating(gfn: GFlowNet[Spot], x: Tensor) -> Tensor:
    """Log p_F / p_B of one backward walk from each point: its exponential has mean p(x)."""
    flat = as_target(lambda x: x.new_zeros(len(x)), gfn.space.points)
    walks = backtrack(gfn.space, gfn.backward_kernel, gfn.space.write(x))
    with torch.no_grad():
        return -balance(gfn, flat, walks.forget()).log_weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("delta", [0.1, 0.25, 0.6])
def test_steps_are_disc_then_arcs(delta: float, dtype: torch.dtype) -> None:
    """Radius at most delta from s0, exactly delta (to rounding) later, north-east, inside the square."""
    space = box(delta)
    walk = rollout(space, diffuse(space.kappa).to(dtype), 2000)
    x, first, move = walk.states.x, walk.source, ~walk.last
    entered = x[1:][first[:-1]]
    assert float(entered.norm(dim=-1).max()) <= delta
    later = (move & ~first).nonzero().squeeze(-1)
    step = x[later + 1] - x[later]
    assert len(later) > 100
    assert float((step.norm(dim=-1) - delta).abs().max()) < 16 * torch.finfo(dtype).eps
    assert float(step.min()) >= -16 * torch.finfo(dtype).eps
    assert bool(((x >= 0) & (x <= 1)).all())


def test_stop_is_forced_within_delta_of_the_far_corner() -> None:
    gfn = learned()
    x = torch.rand(5000, 2, dtype=torch.float64)
    x[:2000] = 1 - 2 * DELTA * x[:2000]
    forced = (1 - x).norm(dim=-1) <= DELTA
    log_stop = gfn.forward_kernel(gfn.space.write(x)).log_stop
    assert 100 < int(forced.sum()) < 4900
    assert torch.equal(log_stop == 0, forced)


def test_home_is_exactly_the_disc() -> None:
    space = box(DELTA)
    x = torch.rand(5000, 2, dtype=torch.float64)
    home, arc = space.kappa_b.allowed(space.write(x)).unbind(-1)
    assert torch.equal(home, x.norm(dim=-1) <= DELTA)
    assert torch.equal(arc, ~home)


def test_first_step_has_the_density_of_the_disc() -> None:
    """The diffuse kernel is uniform in (r, angle), so its density against area is 1 / (r delta pi / 2)."""
    space = box(DELTA)
    s0 = space.source(500).like(torch.zeros(0, dtype=torch.float64))
    law = diffuse(space.kappa).double()(s0)
    jump = law.sample()
    radius = jump.target.x.norm(dim=-1)
    torch.testing.assert_close(law.log_density(jump), -(radius * DELTA * math.pi / 2).log())


def test_length_of_the_arc() -> None:
    """A whole quarter in the middle; cut by a wall to arcs of a known angle."""
    space = box(DELTA)
    x = torch.tensor([[0.5, 0.5], [1 - DELTA / 2, 0.5], [0.5, 1 - DELTA / 2]], dtype=torch.float64)
    arc = space.kappa.branches[1]
    length = arc.log_weight(space.write(x), torch.zeros(3, 1, dtype=torch.float64)).exp()
    quarter = DELTA * math.pi / 2
    expected = torch.tensor([quarter, quarter / 3, quarter / 3], dtype=torch.float64)
    torch.testing.assert_close(length, expected)


def test_a_step_of_another_length_is_no_edge() -> None:
    space = box(DELTA)
    s, t = (space.write(torch.tensor([[0.4, y]], dtype=torch.float64)) for y in (0.3, 0.5))
    with pytest.raises(NoSuchEdge, match="0 branches of kappa of the box lead"):
        diffuse(space.kappa)(s).log_density(Jump(t, torch.tensor([False])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_density_at_walls_corners_and_circles(dtype: torch.dtype) -> None:
    """Points on the walls, at the corners and on both circles of radius delta have a finite density."""
    gfn = learned().to(dtype)
    angle = torch.rand(1000, dtype=dtype) * math.pi / 2
    rim = DELTA * torch.stack([angle.cos(), angle.sin()], -1)
    wall = torch.rand(1000, 2, dtype=dtype)
    wall[:250, 0], wall[250:500, 0], wall[500:750, 1], wall[750:, 1] = 0.0, 1.0, 0.0, 1.0
    corners = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=dtype)
    log_density = log_terminating(gfn, torch.cat([rim, 1 - rim, wall, corners]))
    assert bool(torch.isfinite(log_density).all())


@pytest.mark.parametrize("tied", [False, True])
def test_terminating_density_integrates_to_one(tied: bool) -> None:
    """Backward walks from uniform points, kernels at random parameters; |z| < 5 (rate 6e-7)."""
    p = log_terminating(learned(tied=tied), torch.rand(40_000, 2, dtype=torch.float64)).exp()
    assert float(p.std()) / math.sqrt(len(p)) < 0.05, "too heavy-tailed to see an error"
    assert float(z_scores(p, 1.0).abs()) < 5.0


def test_tied_kernels_share_their_network() -> None:
    forward, backward = box_kernels(box(), hidden=8, tied=True)
    assert forward.encoder is backward.encoder
    assert not box_kernels(box(), hidden=8, learned_backward=False)[1].trainable


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, math.nan])
def test_bad_step_length(delta: float) -> None:
    with pytest.raises(InvalidInput, match=r"step length delta in \(0, 1\)"):
        box(delta)


# ------------------------------------------------------------------ its head
def test_mixture_of_betas_matches_torch() -> None:
    logits, excess = torch.randn(6, 3).double(), 5 * torch.rand(6, 3, 4).double()
    law = BetaMixtureLaw(logits, excess, 6)
    betas = torch.distributions.Beta(1 + excess[..., :2], 1 + excess[..., 2:])
    a = torch.rand(6, 2).double()
    each = betas.log_prob(a[:, None]).sum(-1) + logits.log_softmax(-1)
    torch.testing.assert_close(law.log_prob(a), each.logsumexp(-1))


def test_a_fresh_head_is_nearly_uniform_on_one_axis() -> None:
    law = BetaMixture(1, 8, 4)(torch.randn(50, 4), None, None)
    a = torch.linspace(0.02, 0.98, 50)[:, None]
    assert float(law.log_prob(a).detach().abs().max()) < 0.1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BetaMixture(1, 0, 4), "components >= 1"),
        (lambda: BetaMixture(1, 2, -1), "width >= 0"),
        (lambda: BetaMixture(1, 2, 4, spread=0.0), "spread > 0"),
        (lambda: BetaMixture(0, 2, 4), "Lebesgue dim"),
    ],
)
def test_bad_head(build: type, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()


def test_head_refuses_dead_axes() -> None:
    with pytest.raises(InvalidInput, match="no dead axes"):
        BetaMixture(2, 2, 4)(torch.zeros(3, 4), None, torch.ones(3, 2, dtype=torch.bool))


# ------------------------------------------------------------------ what a space costs its author
def test_the_box_is_a_space_of_few_lines() -> None:
    """At most 70 lines of code, without imports, blank lines, comments, docstrings and kernels."""
    code, docstrings = set(), set()
    for top in ast.parse(Path(box_module.__file__).read_text()).body:
        if (
            isinstance(top, ast.Import | ast.ImportFrom | ast.Expr)
            or getattr(top, "name", "") == "box_kernels"
        ):
            continue
        for node in ast.walk(top):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                code.add(node.lineno)
                docstrings |= span(node.body[0]) if ast.get_docstring(node) is not None else set()
            elif isinstance(node, ast.expr | ast.stmt | ast.arg):
                code |= span(node)
    assert 40 < len(code - docstrings) <= 70


def span(node: Any) -> set[int]:
    """Numbers of the lines of a piece of code."""
    return set(range(node.lineno, node.end_lineno + 1))
