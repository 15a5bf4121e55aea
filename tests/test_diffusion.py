"""Time-sliced R^d: the reference process by formula and by draws, its reversal, and the learned kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from numerics import shaken, z_scores
from torch import Tensor, nn

from ctsgfn.balance import Wanted, balance
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput, NoSuchEdge
from ctsgfn.gflownet import GFlowNet
from ctsgfn.gradient import backpropagate
from ctsgfn.kernels.heads.encoders import LangevinEncoder, SlicedEncoder, TimeTable
from ctsgfn.kernels.spaces.diffusion import (
    Slice,
    Step,
    diffusion,
    diffusion_kernels,
    ornstein_uhlenbeck,
    time_sliced,
)
from ctsgfn.kernels.spaces.hypergrid import hypergrid
from ctsgfn.kernels.spaces.time_grid import TimeGrid, cosine_clock, uniform_clock
from ctsgfn.measures import Lebesgue
from ctsgfn.networks import held
from ctsgfn.objectives import trajectory_balance
from ctsgfn.space import Space
from ctsgfn.target import Target, as_target
from ctsgfn.training import train
from ctsgfn.trajectories import Trajectories
from ctsgfn.walks import backtrack, rollout

UNEVEN = [0.0, 0.1, 0.15, 1.0, 1.2]
DECAY, NOISE = [1.0, 0.3, -2.0, 1.1], [0.5, 1.0, 0.2, 2.0]

SPACES: dict[str, Callable[[], Space[Slice, Tensor]]] = {
    "brownian": lambda: diffusion(2, steps=5, sigma=1.7),
    "brownian, uneven": lambda: diffusion(2, clock=UNEVEN, sigma=0.8),
    "one step": lambda: diffusion(2, steps=1, sigma=3.0),
    "ornstein-uhlenbeck": lambda: ornstein_uhlenbeck(2, steps=5, sigma=0.6),
    "ornstein-uhlenbeck, uneven": lambda: ornstein_uhlenbeck(2, clock=UNEVEN, sigma=2.0),
    "any chain": lambda: time_sliced("chain", 2, noise=NOISE, decay=DECAY),
}
VARIANCES: dict[str, Callable[[], list[float]]] = {
    "brownian": lambda: [1.7**2 * t for t in cosine_clock(5)],
    "brownian, uneven": lambda: [0.8**2 * t / 1.2 for t in UNEVEN],
    "one step": lambda: [0.0, 9.0],
    "ornstein-uhlenbeck": lambda: [0.0] + [0.36] * 5,
    "ornstein-uhlenbeck, uneven": lambda: [0.0] + [4.0] * 5,
    "any chain": lambda: [0.0, 0.25, 1.0225, 4.13, 4.13 * 1.21 + 4.0],
}


@pytest.fixture(params=sorted(SPACES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def charts(space: Space[Slice, Tensor]) -> tuple[Step, Step]:
    """The only branch of each reference kernel."""
    ahead, back = space.kappa.branches[0], space.kappa_b.branches[0]
    assert isinstance(ahead, Step)
    assert isinstance(back, Step)
    return ahead, back


def on_slice(step: int, n: int, size: float = 1.0) -> Slice:
    """Random points of a slice; the origin for slice 0. The steps are stored one by one."""
    x = torch.zeros(n, 2).double() if step == 0 else size * torch.randn(n, 2, dtype=torch.float64)
    return Slice(x, torch.full((n,), step))


def grid(t: Trajectories[Slice], steps: int) -> Tensor:
    """Points by trajectory and slice, [N, T + 1, d]."""
    return t.states.x.unflatten(0, (-1, steps + 1))


# ------------------------------------------------------------------ the reference process
def test_variances_by_formula(name: str) -> None:
    space = SPACES[name]()
    ahead, _ = charts(space)
    expected = torch.tensor(VARIANCES[name](), dtype=torch.float64)
    torch.testing.assert_close(ahead.grid.variance, expected)
    assert ahead.grid.sigma == pytest.approx(math.sqrt(expected[-1]))
    assert space.horizon == ahead.grid.steps + 1 == len(expected)


def test_marginals_of_both_directions(name: str) -> None:
    """Second moments of every slice and of neighbours, forwards and backwards; |z| < 5: rate 80 * 6e-7."""
    space, n = SPACES[name](), 20_000
    ahead, _ = charts(space)
    steps, variance = ahead.grid.steps, ahead.grid.variance
    ends = ahead.grid.sigma * torch.randn(n, 2, dtype=torch.float64)
    for x in (
        grid(rollout(space, diffuse(space.kappa).double(), n), steps),
        grid(backtrack(space, diffuse(space.kappa_b).double(), space.write(ends)), steps),
    ):
        assert bool((x[:, 0] == 0).all())
        assert float(z_scores(x[:, 1:].square().mean(-1), variance[1:]).abs().max()) < 5
        decay = ahead.table.table[:-1, 0]
        assert float(z_scores((x[:, :-1] * x[:, 1:]).mean(-1), decay * variance[:-1]).abs().max()) < 5


def normal(x: Tensor, variance: Tensor) -> Tensor:
    """Log N(x; 0, variance I), [B]."""
    return -0.5 * (x.square() / variance + (2 * math.pi * variance).log()).sum(-1)


def test_steps_and_bridge_are_each_others_reversal(name: str) -> None:
    """N(x; V_t) p_F(x, y) = N(y; V_{t+1}) p_B(y, x) at any pair of points: kappa nu = kappa_b nu."""
    space = SPACES[name]()
    ahead, _ = charts(space)
    forward, backward = diffuse(space.kappa).double(), diffuse(space.kappa_b).double()
    for t in range(1, ahead.grid.steps):
        s, u = on_slice(t, 50), on_slice(t + 1, 50)
        here = normal(s.x, ahead.grid.variance[t]) + forward(s).log_density_to(u)
        there = normal(u.x, ahead.grid.variance[t + 1]) + backward(u).log_density_to(s)
        torch.testing.assert_close(here, there, rtol=1e-10, atol=1e-10)


def test_paths_have_the_closed_form(name: str) -> None:
    """Sum of log p_F - log p_B over a path, wherever it leads, is log N(x_T; 0, V_T I)."""
    space = SPACES[name]()
    ahead, _ = charts(space)
    gfn = GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b)).double()
    t = rollout(space, gfn.forward_kernel, 30)
    moved = t.states.x + 3 * torch.randn_like(t.states.x) * (t.states.step > 0)[:, None]
    t = replace(t.forget(), states=Slice(moved, t.states.step))
    b = balance(
        gfn, as_target(lambda x: normal(x, ahead.grid.variance[-1]), space.points), t, wanted=Wanted()
    )
    torch.testing.assert_close(b.log_weight, torch.zeros(30).double(), rtol=0, atol=1e-9)


def test_charts_are_inverse_and_weighted_by_their_jacobian(name: str) -> None:
    space = SPACES[name]()
    ahead, back = charts(space)
    steps = ahead.grid.steps
    for chart, numbers in ((ahead, range(steps)), (back, range(2, steps + 1))):
        for t in numbers:
            s, a = on_slice(t, 4), torch.randn(4, 2, dtype=torch.float64)
            u = chart.push(s, a)
            assert u.step.tolist() == [t + chart.direction] * 4
            torch.testing.assert_close(chart.pull(s, u), a, rtol=1e-9, atol=1e-9)

            def image(c: Tensor, chart: Step = chart, s: Slice = s) -> Tensor:
                return chart.push(s[:1], c[None]).x[0]

            jacobian = torch.autograd.functional.jacobian(image, a[0])
            expected = torch.as_tensor(jacobian).det().abs().log()
            weight = chart.log_weight(s, a).expand(4)
            torch.testing.assert_close(weight[0], expected, rtol=1e-9, atol=1e-9)


def test_the_way_back_to_the_origin_is_an_atom(name: str) -> None:
    """One step after s0 nothing is left to choose: x = 0 exactly, density 1, whatever the kernel."""
    space = SPACES[name]()
    _, backward = diffusion_kernels(space, hidden=8, learned_backward=True)
    for kernel in (diffuse(space.kappa_b).double(), shaken(backward)):
        s = on_slice(1, 20, size=5.0)
        origin, log_density = kernel(s).draw_move()
        assert bool((origin.x == 0).all())
        assert origin.step.tolist() == [0] * 20
        assert log_density.tolist() == [0.0] * 20
        assert kernel(s).log_density_to(origin).tolist() == [0.0] * 20
    elsewhere = Slice(torch.full((1, 2), 1e-9).double(), torch.zeros(1, dtype=torch.long))
    with pytest.raises(NoSuchEdge, match="0 branches of kappa_b"):
        space.kappa_b.locate_move(on_slice(1, 1), elsewhere)


def test_only_neighbouring_slices_are_joined(name: str) -> None:
    space = SPACES[name]()
    s = on_slice(0, 1)
    with pytest.raises(NoSuchEdge, match="0 branches of kappa"):
        space.kappa.locate_move(s, on_slice(0, 1))
    last = on_slice(space.horizon - 1, 1)
    assert space.kappa.open(last).tolist() == [[False, True]]
    assert space.kappa_b.open(s).tolist() == [[False, False]]
    assert space.kappa_b.open(last).tolist() == [[True, False]]


def test_clocks() -> None:
    assert uniform_clock(3, total=6.0) == [0.0, 2.0, 4.0, 6.0]
    times = cosine_clock(50, total=2.0)
    gaps = [b - a for a, b in pairwise(times)]
    assert times[0] == 0.0
    assert times[-1] == 2.0
    assert all(a > b > 0 for a, b in pairwise(gaps))
    assert gaps[-1] < 0.03 * gaps[0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: diffusion(2, steps=0), "steps must be a whole number of at least 1, got 0"),
        (lambda: diffusion(2, steps=2.5), "steps must be a whole number"),  # type: ignore[arg-type]
        (lambda: diffusion(2, steps=True), "steps must be a whole number"),
        (lambda: diffusion(0), "Lebesgue dim must be a whole number of at least 1"),
        (lambda: diffusion(2, sigma=0.0), "sigma must be a positive number, got 0.0"),
        (lambda: diffusion(2, sigma=math.nan), "sigma must be a positive number, got nan"),
        (lambda: diffusion(2, sigma=math.inf), "sigma must be a positive number, got inf"),
        (lambda: diffusion(2, clock=[0.0]), "at least two finite times that start at 0 and increase"),
        (lambda: diffusion(2, clock=[]), "at least two finite times"),
        (lambda: diffusion(2, clock=[0.1, 1.0]), "start at 0"),
        (lambda: diffusion(2, clock=[0.0, 1.0, 1.0]), "increase"),
        (lambda: diffusion(2, clock=[0.0, math.nan]), "finite times"),
        (lambda: diffusion(2, clock=[0.0, math.inf]), "finite times"),
        (lambda: ornstein_uhlenbeck(2, steps=1), "needs at least 2 steps: the first draws its start"),
        (lambda: ornstein_uhlenbeck(2, clock=[0.0, 2.0, 1.0]), "increase"),
        (lambda: cosine_clock(5, floor=0.0), "floor must be positive"),
        (lambda: uniform_clock(-1), "steps must be a whole number"),
        (lambda: TimeGrid([1.0], [1.0, 1.0]), "one decay and one noise per step, got 1 and 2"),
        (lambda: TimeGrid([], []), "got 0 and 0"),
        (lambda: TimeGrid([1.0, 1.0], [1.0, 0.0]), "needs a positive noise"),
        (lambda: TimeGrid([math.inf], [1.0]), "finite decay"),
        (lambda: time_sliced("chain", 2, noise=[1.0, -1.0]), "needs a positive noise"),
        (lambda: diffusion_kernels(diffusion(2, steps=3), layers=0), "at least one hidden layer"),
        (lambda: diffusion_kernels(hypergrid(2, 3)), "is not time-sliced"),  # type: ignore[arg-type]
        (
            lambda: diffusion_kernels(diffusion(2, steps=3), bowl(diffusion(2, steps=3)), clip=0.0),
            "clipped at a positive bound, got clip=0.0",
        ),
    ],
)
def test_bad_grids(build: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()


# ------------------------------------------------------------------ learned kernels
def bowl(space: Space[Slice, Tensor]) -> Target[Tensor]:
    """Log r = -|x - 1|^2 / 2 on the points of a space."""
    return as_target(lambda x: -0.5 * (x - 1.0).square().sum(-1), space.points)


def test_untrained_kernels_are_the_reference_process(name: str) -> None:
    """Whatever has been switched on: the log-weight starts as the one of the reference process."""
    space = SPACES[name]()
    ahead, _ = charts(space)
    gfn = GFlowNet(space, *diffusion_kernels(space, bowl(space), hidden=8, learned_backward=True)).double()
    t = rollout(space, gfn.forward_kernel, 20)
    reference = GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b)).double()
    target = bowl(space)
    one, other = (balance(g, target, t.forget(), wanted=Wanted()) for g in (gfn, reference))
    torch.testing.assert_close(one.log_weight, other.log_weight, rtol=1e-10, atol=1e-10)
    expected = target.log_density(t.final.x) - normal(t.final.x, ahead.grid.variance[-1])
    torch.testing.assert_close(one.log_weight.detach(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("langevin", [False, True])
@pytest.mark.parametrize("learned_variance", [False, True])
@pytest.mark.parametrize("learned_backward", [False, True])
def test_every_setting_draws_and_learns(
    langevin: bool, learned_variance: bool, learned_backward: bool
) -> None:
    space = diffusion(2, steps=4)
    kernels = diffusion_kernels(
        space,
        bowl(space),
        hidden=8,
        langevin=langevin,
        learned_variance=learned_variance,
        learned_backward=learned_backward,
    )
    gfn = shaken(GFlowNet(space, *kernels))
    assert gfn.backward_kernel.trainable == learned_backward
    t = rollout(space, gfn.forward_kernel, 50)
    assert t.states.x.dtype == torch.float64
    assert t.log_forward is not None
    with torch.no_grad():  # drawn with one step for all rows, scored here with a step per row
        materialised = Slice(t.states.x, t.states.step.clone())
        scored = gfn.forward_kernel(materialised).log_density(t.jumps)
    torch.testing.assert_close(t.log_forward, scored, rtol=1e-9, atol=1e-9)
    backpropagate(gfn, bowl(space), t, trajectory_balance, wanted=Wanted(), chunk=25)
    for parameter, p in gfn.named_parameters():
        assert p.grad is not None, parameter
        assert bool((p.grad != 0).any()), parameter
        assert bool(torch.isfinite(p.grad).all()), parameter


def test_both_dtypes() -> None:
    space = diffusion(3, steps=6)
    gfn = shaken(GFlowNet(space, *diffusion_kernels(space, bowl(space), hidden=8, learned_backward=True)))
    exact = rollout(space, gfn.forward_kernel, 40)
    double = balance(gfn, bowl(space), exact.forget(), wanted=Wanted())
    gfn.float()
    single = replace(exact.forget(), states=Slice(exact.states.x.float(), exact.states.step))
    b = balance(gfn, bowl(space), single, wanted=Wanted())
    assert b.log_weight.dtype == torch.float32
    assert rollout(space, gfn.forward_kernel, 4).states.x.dtype == torch.float32
    torch.testing.assert_close(b.log_weight.double(), double.log_weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bound", [0.5, 2.0])
def test_the_learned_variance_stays_within_its_bound(bound: float) -> None:
    from ctsgfn.kernels.heads.gaussian import GaussianStep

    head = GaussianStep(2, 4, log_variance_bound=bound)
    with torch.no_grad():
        head.output.weight.normal_(0.0, 50.0)
    log_variance = 2 * head(100 * torch.randn(200, 4), None, None).log_scale
    assert float(log_variance.detach().abs().max()) == pytest.approx(bound)
    space = diffusion(2, steps=4)
    forward, _ = diffusion_kernels(space, hidden=8, learned_variance=False)
    assert shaken(forward)(on_slice(2, 3)).log_density_to(on_slice(3, 3)).shape == (3,)
    step = forward.heads[0]
    assert isinstance(step, GaussianStep)
    assert step(torch.randn(3, 8).double(), on_slice(2, 3), None).log_scale is None


# ------------------------------------------------------------------ the score in the drift
class Leaning(nn.Module):
    """A target with a parameter, an analytic score, and a count of how often it was asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.measure = Lebesgue(2)
        self.centre = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.scored = 0

    def log_density(self, x: Tensor) -> Tensor:
        return -0.5 * (x - self.centre).square().sum(-1)

    def score(self, x: Tensor) -> Tensor:
        self.scored += 1
        return self.centre - x


def leaning_flow(clip: float = 100.0) -> tuple[GFlowNet[Slice], Leaning, Space[Slice, Tensor]]:
    space, target = diffusion(2, steps=5, sigma=2.0), Leaning()
    return shaken(GFlowNet(space, *diffusion_kernels(space, target, hidden=8, clip=clip))), target, space


@pytest.mark.parametrize("pathwise", [False, True])
def test_no_gradient_flows_into_the_score(pathwise: bool) -> None:
    """Neither to parameters of the target nor, along a path, through the point it is taken at."""
    gfn, target, space = leaning_flow()
    t = rollout(space, gfn.forward_kernel, 10, reparameterised=pathwise)
    assert t.seen is not None
    assert not t.seen.requires_grad
    fixed = as_target(lambda x: -x.square().sum(-1), space.points)
    backpropagate(gfn, fixed, t, trajectory_balance, wanted=Wanted())
    assert target.centre.grad is None
    assert any(p.grad is not None for p in gfn.forward_kernel.parameters())


def test_the_score_is_clipped_and_in_the_units_of_the_space() -> None:
    gfn, target, _ = leaning_flow(clip=3.0)
    s = on_slice(2, 50, size=4.0)
    seen = gfn.forward_kernel.encoder.observe(s)
    expected = (2.0 * (target.centre - s.x)).clamp(-3.0, 3.0)  # sigma times the score
    assert bool((expected.abs() == 3.0).any())
    torch.testing.assert_close(seen, expected.detach())


def test_scores_are_taken_once_per_visited_state() -> None:
    """T calls for a rollout, and none for the densities and the gradient."""
    gfn, target, space = leaning_flow()
    t = rollout(space, gfn.forward_kernel, 10)
    assert target.scored == 5
    backpropagate(gfn, target, t, trajectory_balance, wanted=Wanted(), chunk=12)
    assert target.scored == 5


def test_a_target_without_a_score_gets_it_by_differentiation() -> None:
    space = diffusion(2, steps=3)
    forward, _ = diffusion_kernels(space, bowl(space), hidden=8)
    s = on_slice(1, 5)
    torch.testing.assert_close(forward.encoder.observe(s), 1.0 - s.x)
    blind, _ = diffusion_kernels(space, hidden=8)
    assert blind.encoder.observe(s) is None


def test_the_drift_moves_the_mean_by_its_gains() -> None:
    """Mean of a = pace (mu + a(t) sigma score + b(t) x / sigma), with the gains set by hand."""
    space, target = diffusion(2, steps=4, sigma=2.0), Leaning()
    forward, _ = diffusion_kernels(space, target, hidden=8)
    forward.double()
    encoder = forward.encoder
    assert isinstance(encoder, LangevinEncoder)
    a, b = encoder.inner.time.outputs[1:]
    with torch.no_grad():
        a.bias.fill_(0.5)  # type: ignore[union-attr, operator]
        b.bias.fill_(-0.25)  # type: ignore[union-attr, operator]
    s = on_slice(2, 6)
    mean = forward.heads[0](encoder(s, None), s, None).mean
    ahead, _ = charts(space)
    pace = ahead.table.table[2, 3]
    drift = 0.5 * 2.0 * (target.centre - s.x) - 0.25 * s.x / 2.0
    torch.testing.assert_close(mean, pace * drift)


# ------------------------------------------------------------------ tables and shared steps
def test_a_table_gives_the_same_rows_however_it_is_asked() -> None:
    """One step for all, whole walks, and any steps: the same values and the same gradients."""
    table = TimeTable(torch.randn(6, 4), widths=(3, 1)).double()
    whole = torch.arange(5).repeat(4)
    for step in (torch.tensor([2]).expand(20), whole, whole[torch.randperm(20)], torch.full((20,), 5)):
        weights = [torch.randn(20, 3).double(), torch.randn(20, 1).double()]
        rows = table(step)
        got = torch.autograd.grad(
            sum((r.expand(20, -1) * w).sum() for r, w in zip(rows, weights, strict=True)),  # type: ignore[arg-type]
            list(table.parameters()),
        )
        plain = [values[step] for values in table.compute()]
        for r, p in zip(rows, plain, strict=True):
            assert torch.equal(r.expand_as(p), p)
        expected = torch.autograd.grad(
            sum((p * w).sum() for p, w in zip(plain, weights, strict=True)),  # type: ignore[arg-type]
            list(table.parameters()),
        )
        for g, e in zip(got, expected, strict=True):
            torch.testing.assert_close(g, e)


def test_held_tables_are_computed_once_and_pass_their_gradient_on() -> None:
    encoder = SlicedEncoder(2, torch.randn(5, 4), 1.0, hidden=8).double()
    calls = []
    compute = encoder.time.compute
    encoder.time.compute = lambda: calls.append(1) or compute()  # type: ignore[func-returns-value, method-assign]
    s = Slice(torch.randn(12, 2).double(), torch.arange(4).repeat(3))
    encoder(s, None).square().sum().backward()
    expected = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
    encoder.zero_grad()
    calls.clear()
    with held(encoder.modules(), in_runs=True):
        for rows in (slice(0, 4), slice(4, 12)):
            encoder(s[rows], None).square().sum().backward()
    assert len(calls) == 1
    for p, e in zip(encoder.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, e)
    with torch.no_grad():
        before = encoder(s, None)
        encoder.time.outputs[0].bias.add_(1.0)  # type: ignore[union-attr, operator]
        assert not torch.equal(before, encoder(s, None))  # nothing is kept after the pass


def test_a_pass_that_fails_leaves_nothing_held() -> None:
    encoder = SlicedEncoder(2, torch.randn(5, 4), 1.0, hidden=8)
    with pytest.raises(RuntimeError, match="on purpose"), held(encoder.modules(), in_runs=True):
        raise RuntimeError("on purpose")
    assert encoder.time._held is None
    assert all(p.grad is None for p in encoder.parameters())


@pytest.mark.parametrize("chunk", [6, 17, 1000])
def test_the_gradient_in_runs_is_exact(chunk: int) -> None:
    space = diffusion(2, steps=5)
    gfn = shaken(GFlowNet(space, *diffusion_kernels(space, bowl(space), hidden=8, learned_backward=True)))
    t = rollout(space, gfn.forward_kernel, 9)
    loss = trajectory_balance(balance(gfn, bowl(space), t, wanted=Wanted()))
    expected = torch.autograd.grad(loss, list(gfn.parameters()))
    value, _ = backpropagate(gfn, bowl(space), t, trajectory_balance, wanted=Wanted(), chunk=chunk)
    torch.testing.assert_close(value, loss.detach())
    for p, e in zip(gfn.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, e)


def test_features_see_point_and_step(name: str) -> None:
    space = SPACES[name]()
    f = space.features(on_slice(space.horizon - 1, 4))
    assert f.shape == (4, space.width)
    assert f.dtype == torch.float64
    assert not torch.allclose(f[:, 2:], space.features(on_slice(0, 4))[:, 2:])
    x = torch.randn(3, 2)
    assert torch.equal(space.read(space.write(x)), x)
    assert bool(space.nu.contains(space.write(x)).all())


# ------------------------------------------------------------------ does it learn
@pytest.mark.parametrize("kind", ["brownian", "ornstein-uhlenbeck"])
def test_a_shifted_gaussian_is_learned(kind: str) -> None:
    """N(mean, 0.5^2) times e^2: log Z by importance weights within 4.5 standard errors (rate 7e-6), and
    the bound below it close; untrained the bound is 6 or more nats low."""
    torch.manual_seed(0)
    make = diffusion if kind == "brownian" else ornstein_uhlenbeck
    space = make(2, steps=8)
    mean = torch.tensor([1.0, -0.5])
    target = as_target(
        lambda x: 2.0 - 2.0 * (x - mean.to(x)).square().sum(-1) - math.log(2 * math.pi * 0.25), space.points
    )
    gfn = GFlowNet(space, *diffusion_kernels(space, target, hidden=32))

    def log_weights() -> Tensor:
        with torch.no_grad():
            return balance(gfn, target, rollout(space, gfn.forward_kernel, 8000), wanted=Wanted()).log_weight

    assert float(log_weights().mean()) < -1.0
    train(gfn, target, steps=250, batch_size=128, lr=5e-3, seed=1, progress_bar=False)
    log_weight = log_weights().double()
    weight = (log_weight - 2.0).exp()
    error = float(weight.std()) / math.sqrt(len(weight))
    assert error < 0.01
    assert abs(float(weight.mean()) - 1.0) < 4.5 * error
    assert 2.0 - float(log_weight.mean()) < 0.05
    assert abs(float(gfn.log_z.detach()) - 2.0) < 0.1
