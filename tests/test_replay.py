"""Replay and local search: what is remembered, how it is drawn, and that MALA leaves its target alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from numerics import shaken, z_scores
from registry import SPACES, bell
from torch import Tensor

from ctsgfn.balance import Balance, Wanted, balance
from ctsgfn.behaviours import Remembers, from_data
from ctsgfn.errors import CtsgfnWarning, InvalidInput, MeasureMismatch
from ctsgfn.gflownet import GFlowNet
from ctsgfn.gradient import backpropagate
from ctsgfn.mala import mala, value_and_score
from ctsgfn.measures import Haar, Lebesgue
from ctsgfn.objectives import trajectory_balance
from ctsgfn.replay import LocalSearch, Memory, Replay, ReplayTrajectories
from ctsgfn.target import Target, as_target
from ctsgfn.training import train
from ctsgfn.trajectories import Trajectories


def flow(name: str = "diffusion") -> tuple[GFlowNet[Any], Target[Any]]:
    """A small flow of the registry with generic parameters, in float64, and its target."""
    case = SPACES[name]
    space = case.space()
    return shaken(case.kernels(space)), case.target(space)


def turn(
    behaviour: Any, gfn: GFlowNet[Any], target: Target[Any], n: int
) -> tuple[Trajectories[Any], Balance]:
    """One batch, shown to the behaviour as ``train`` does."""
    t = behaviour(gfn, n)
    with torch.no_grad():
        arrays = balance(gfn, target, t, wanted=Wanted())
    behaviour.remember(gfn, t, arrays)
    return t, arrays


# ------------------------------------------------------------------ the memory
def test_the_oldest_leave_first() -> None:
    memory = Memory(5)
    for k in range(3):
        memory.push(torch.tensor([[2.0 * k], [2.0 * k + 1]]), torch.tensor([0.0, 1.0]) + k)
    assert len(memory) == 5
    assert memory.points is not None
    assert memory.points[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert memory.priority.tolist() == [1.0, 1.0, 2.0, 2.0, 3.0]


def test_ranked_and_even_draws() -> None:
    """Frequencies of 10 entries against 1 / (0.1 + rank) and 1/10; |z| < 5: rate 20 * 6e-7."""
    memory, n = Memory(10), 40_000
    order = torch.randperm(10)
    memory.push(torch.zeros(10, 1), 1e6 * order.double())  # ranks know no scale
    weight = 1.0 / (0.1 + (9 - order.double()))
    for ranked, expected in ((True, weight / weight.sum()), (False, torch.full((10,), 0.1).double())):
        hits = torch.nn.functional.one_hot(memory.draw(n, ranked), 10).double()
        assert float(z_scores(hits, expected).abs().max()) < 5


def test_points_keep_no_graph() -> None:
    memory = Memory(5)
    memory.push(torch.ones(2, 1, requires_grad=True), torch.ones(2, requires_grad=True))
    assert memory.points is not None
    assert not memory.points.requires_grad
    assert not memory.priority.requires_grad


# ------------------------------------------------------------------ replay
@pytest.mark.parametrize("name", ["diffusion", "hypergrid", "torus", "finite"])
@pytest.mark.parametrize("priority", ["uniform", "reward", "loss"])
def test_terminal_states_are_walked_back_anew(name: str, priority: Any) -> None:
    gfn, target = flow(name)
    replay = Replay(1000, priority=priority, fraction=0.5)
    first, arrays = turn(replay, gfn, target, 20)
    assert len(first) == 20  # nothing is remembered yet: all fresh
    second, _ = turn(replay, gfn, target, 20)
    assert len(second) == 20
    known = gfn.space.read(first.final)
    old = gfn.space.read(second.final)[10:]
    assert bool((old[:, None] == known[None]).flatten(2).all(-1).any(-1).all())
    # both densities are those of the flow at its present parameters
    exact = balance(gfn, target, second.forget(), wanted=Wanted())
    assert second.log_forward is not None
    torch.testing.assert_close(second.log_forward, exact.log_forward.detach(), rtol=1e-8, atol=1e-8)
    assert second.own is not None
    assert second.own.tolist() == [True] * 10 + [False] * 10
    assert replay.memory.points is not None
    assert len(replay.memory) == 30  # what was replayed is not remembered twice
    values = (arrays.log_z - arrays.log_weight).square() if priority == "loss" else arrays.log_reward
    if priority != "loss":
        torch.testing.assert_close(replay.memory.priority[:20], values)


def test_walks_back_are_never_stale() -> None:
    """Once the backward kernel has changed, replayed paths are draws of the new one; |z| < 5: rate 1e-6."""
    gfn, target = flow()
    replay, n = Replay(1, fraction=0.5), 4000
    turn(replay, gfn, target, 4)
    shaken(gfn.backward_kernel, 0.3)
    t = replay(gfn, 2 * n)
    replayed = t.states.x.reshape(2 * n, -1, 2)[n:, -2]
    assert replay.memory.points is not None
    again = from_data(replay.memory.points)(gfn, n).states.x.reshape(n, -1, 2)[:, -2]
    spread = torch.sqrt((replayed.var(0) + again.var(0)) / n)
    assert float(((replayed.mean(0) - again.mean(0)) / spread).detach().abs().max()) < 5


def test_losses_of_replayed_points_are_corrected() -> None:
    """A loss that has been learned must not be replayed for ever: its priority is the present residual."""
    gfn, target = flow()
    replay = Replay(100, priority="loss", fraction=0.5)
    turn(replay, gfn, target, 10)
    replay.memory.priority = torch.full((10,), 1e9, dtype=torch.float64)
    t, arrays = turn(replay, gfn, target, 10)
    residual = (arrays.log_z - arrays.log_weight).detach().square()
    assert replay.memory.points is not None
    same = (replay.memory.points[:10, None] == gfn.space.read(t.final)[None, 5:]).all(-1)  # [10, 5]
    for row in range(10):
        expected = residual[5:][same[row]] if bool(same[row].any()) else torch.tensor([1e9]).double()
        assert bool((replay.memory.priority[row] == expected).any())
    assert torch.equal(replay.memory.priority[10:], residual[:5])


def test_priorities_choose_what_is_replayed() -> None:
    """The point of highest reward is replayed most: 1 / 0.01 N against 1 / (0.01 N + rank)."""
    gfn, target = flow()
    replay = Replay(100, priority="reward", fraction=0.9)
    turn(replay, gfn, target, 50)
    best = replay.memory.points[replay.memory.priority.argmax()]  # type: ignore[index]
    t = replay(gfn, 1000)
    hits = (gfn.space.read(t.final)[100:] == best).all(-1).double()
    weight = 1.0 / (0.5 + torch.arange(50.0))
    assert float(z_scores(hits, float(weight[0] / weight.sum())).abs()) < 5  # rate 6e-7


@pytest.mark.parametrize(
    ("n", "fraction", "fresh"), [(100, 0.29, 71), (10, 0.5, 5), (3, 0.9, 1), (1, 0.6, 1)]
)
def test_batches_have_the_size_that_was_asked_for(n: int, fraction: float, fresh: int) -> None:
    gfn, target = flow("hypergrid")
    for replay in (Replay(1000, fraction=fraction), ReplayTrajectories(1000, fraction=fraction)):
        turn(replay, gfn, target, n)
        t, _ = turn(replay, gfn, target, n)
        assert len(t) == n
        assert t.own is not None
        assert int(t.own.sum()) == fresh


@pytest.mark.parametrize("make", [lambda: Replay(50, priority="loss"), lambda: ReplayTrajectories(50)])
def test_a_restored_memory_draws_the_same(make: Any) -> None:
    gfn, target = flow("hypergrid")
    one, two = make(), make()
    assert isinstance(one, Remembers)
    for _ in range(3):
        turn(one, gfn, target, 12)
    two.load_state_dict(one.state_dict())
    two.load_state_dict(two.state_dict())  # also before it is used
    torch.manual_seed(3)
    a = one(gfn, 12)
    torch.manual_seed(3)
    b = two(gfn, 12)
    assert torch.equal(a.states.cell, b.states.cell)
    assert torch.equal(a.owner, b.owner)


@pytest.mark.parametrize("kind", ["replay", "trajectories", "search"])
def test_a_memory_inside_a_memory_is_fed_and_saved(kind: str) -> None:
    gfn, target = flow()
    make: dict[str, Any] = {
        "replay": lambda inner: Replay(100, fresh=inner),
        "trajectories": lambda inner: ReplayTrajectories(100, fresh=inner),
        "search": lambda inner: LocalSearch(target, chains=4, steps=4, fresh=inner),
    }
    inner, again = Replay(100, priority="reward", fraction=0.5), Replay(100, fraction=0.5)
    outer = make[kind](inner)
    for _ in range(3):
        assert len(turn(outer, gfn, target, 16)[0]) == 16
    assert len(inner.memory) == 16 + 4 + 4
    make[kind](again).load_state_dict(outer.state_dict())
    assert len(again.memory) == 24


def test_whole_trajectories_are_replayed_as_they_were() -> None:
    gfn, target = flow("hypergrid")
    replay = ReplayTrajectories(15, fraction=0.5)
    first, _ = turn(replay, gfn, target, 10)
    second = replay(gfn, 10)
    assert second.log_forward is None  # densities of old paths are not trusted

    def paths(t: Trajectories[Any]) -> list[list[list[int]]]:
        return [t.states.cell[t.owner == i].tolist() for i in range(len(t))]

    assert all(path in paths(first) for path in paths(second)[5:])
    for _ in range(4):
        turn(replay, gfn, target, 10)
    assert replay.memory is not None
    assert len(replay.memory) == 15


@pytest.mark.parametrize("kind", ["replay", "trajectories", "search"])
def test_the_gradient_is_that_of_the_same_states(kind: str) -> None:
    """Recorded densities are only a saving: without them the gradient is the same."""
    gfn, target = flow()
    make: dict[str, Any] = {
        "replay": lambda: Replay(100, priority="reward"),
        "trajectories": lambda: ReplayTrajectories(100),
        "search": lambda: LocalSearch(target, chains=5, steps=4),
    }
    behaviour = make[kind]()
    turn(behaviour, gfn, target, 12)
    t = behaviour(gfn, 12)
    gradients = []
    for given in (t, t.forget()):
        gfn.zero_grad()
        backpropagate(gfn, target, given, trajectory_balance, wanted=Wanted(), chunk=20)
        gradients.append(torch.cat([p.grad.flatten() for p in gfn.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-8)


# ------------------------------------------------------------------ local search
def test_local_search_replays_improved_points() -> None:
    gfn, _ = flow()
    far = as_target(lambda x: -0.5 * (x - 4.0).square().sum(-1), Lebesgue(2))
    search = LocalSearch(far, chains=20, steps=60, every=2, fraction=0.5)
    fresh, _ = turn(search, gfn, far, 40)
    assert len(search.pool) == 20 * 30  # the first half of each chain is discarded
    t, _ = turn(search, gfn, far, 40)
    assert len(search.pool) == 600  # every second batch only
    score = far.log_density(gfn.space.read(t.final))
    assert float(score[20:].mean()) > float(far.log_density(gfn.space.read(fresh.final)).mean()) + 2
    assert t.own is not None
    assert t.own.tolist() == [True] * 20 + [False] * 20
    turn(search, gfn, far, 40)
    assert len(search.pool) == 1200


def test_local_search_survives_a_checkpoint() -> None:
    gfn, target = flow()
    one, two = [LocalSearch(target, chains=3, steps=4, every=1) for _ in range(2)]
    turn(one, gfn, target, 8)
    two.load_state_dict(one.state_dict())
    torch.manual_seed(5)
    a = one(gfn, 8)
    torch.manual_seed(5)
    assert torch.equal(a.states.x, two(gfn, 8).states.x)
    assert (two.batches, two.step_size) == (one.batches, one.step_size)


def correlated() -> tuple[Target[Tensor], Tensor]:
    """A Gaussian of unlike scales and correlation 0.6, and the root of its covariance."""
    root = torch.tensor([[2.0, 0.0], [0.3, 0.4]], dtype=torch.float64)
    precision = torch.linalg.inv(root @ root.T)
    return as_target(lambda x: -0.5 * ((x @ precision) * x).sum(-1), Lebesgue(2)), root


@pytest.mark.parametrize("scaled", [False, True])
def test_mala_leaves_a_gaussian_invariant(scaled: bool) -> None:
    """Exact draws stay exact at a fixed step; means and second moments, |z| < 5: rate 5 * 6e-7.

    One step a call: what a call adapts is for the next one only, and is not used here.
    """
    target, root = correlated()
    n = 20_000
    x = torch.randn(n, 2, dtype=torch.float64) @ root.T
    scale = torch.tensor([2.0, 0.5], dtype=torch.float64) if scaled else None
    moved = x
    for _ in range(15):
        chains = mala(target, moved, steps=1, step_size=0.7, scale=scale)
        assert 0.2 < chains.acceptance < 0.99
        moved = chains.path[-1]
    assert float((moved == x).all(-1).double().mean()) < 0.1
    covariance = root @ root.T
    features = torch.stack([moved[:, 0], moved[:, 1], moved[:, 0] ** 2, moved[:, 1] ** 2, moved.prod(-1)], -1)
    expected = torch.tensor([0.0, 0.0, covariance[0, 0], covariance[1, 1], covariance[0, 1]]).double()
    assert float(z_scores(features, expected).abs().max()) < 5


def test_mala_without_its_correction_would_be_caught() -> None:
    """The same z-test refuses unadjusted Langevin at the same step: the test can fail."""
    target, root = correlated()
    x = torch.randn(20_000, 2, dtype=torch.float64) @ root.T
    for _ in range(15):
        _, slope = value_and_score(target, x)
        x = x + 0.5 * 0.7**2 * slope + 0.7 * torch.randn_like(x)
    assert float(z_scores(x.square(), (root @ root.T).diagonal()).abs().max()) > 5


def test_mala_converges_and_adapts() -> None:
    """From far away to N(3, 0.2^2): z of mean and square over chains, |z| < 5: rate 2 * 6e-7."""
    target = as_target(lambda x: -12.5 * (x - 3.0).square().sum(-1), Lebesgue(1))
    chains = mala(target, torch.zeros(4000, 1, dtype=torch.float64), steps=300, step_size=1e-3)
    last = chains.path[-1]
    assert 0.1 < chains.step_size < 1.0
    assert float(z_scores(last, 3.0).abs()) < 5
    assert float(z_scores((last - 3.0).square(), 0.04).abs()) < 5
    torch.testing.assert_close(chains.log_density, target.log_density(last))


def test_mala_uses_an_analytic_score() -> None:
    class Bell:
        measure = Lebesgue(2)
        asked = 0

        def log_density(self, x: Tensor) -> Tensor:
            return -0.5 * x.detach().square().sum(-1)  # no gradient of its own

        def score(self, x: Tensor) -> Tensor:
            self.asked += 1
            return -x

    target = Bell()
    mala(target, torch.randn(5, 2), steps=3, step_size=0.5)
    assert target.asked == 4


# ------------------------------------------------------------------ in training
@pytest.mark.parametrize("kind", ["replay", "trajectories", "search"])
def test_training_feeds_the_memory_and_learns(kind: str) -> None:
    case = SPACES["diffusion"]
    space = case.space()
    torch.manual_seed(0)
    gfn = case.kernels(space)
    target = bell(space)
    make: dict[str, Any] = {
        "replay": lambda: Replay(500, priority="loss"),
        "trajectories": lambda: ReplayTrajectories(500),
        "search": lambda: LocalSearch(target, chains=16, steps=10, every=20),
    }
    behaviour = make[kind]()
    history = train(
        gfn, target, steps=60, batch_size=64, behaviour=behaviour, lr=3e-3, seed=0, progress_bar=False
    )
    assert behaviour.memory is not None
    assert len(behaviour.memory) == (500 if kind != "search" else 64 + 59 * 32)
    assert not any(math.isnan(v) for v in history.ess)  # the fresh part is the flow's own
    assert sum(history.loss[-10:]) < 0.5 * sum(history.loss[:10])


@pytest.mark.parametrize("kind", ["replay", "trajectories", "search"])
def test_an_interrupted_run_goes_on_with_its_memory(kind: str, tmp_path: Path) -> None:
    """Stopped after 6 of 9 updates and resumed: the parameters are those of the whole run, to the bit."""
    case = SPACES["diffusion"]
    space = case.space()
    target = bell(space)
    make: dict[str, Any] = {
        "replay": lambda: Replay(50, priority="loss"),
        "trajectories": lambda: ReplayTrajectories(50),
        "search": lambda: LocalSearch(target, chains=8, steps=4, every=2),
    }

    def run(file: str, stop: int | None) -> list[Tensor]:
        torch.manual_seed(0)
        gfn = case.kernels(space)

        def watch(step: int, arrays: Balance) -> None:
            if step == stop:
                raise KeyboardInterrupt

        options: dict[str, Any] = {"steps": 9, "batch_size": 16, "seed": 0, "progress_bar": False}
        options |= {"checkpoint": tmp_path / file, "checkpoint_every": 6}
        if stop is not None:
            with pytest.warns(CtsgfnWarning, match="interrupted"):
                train(gfn, target, behaviour=make[kind](), on_step=watch, **options)
            gfn = case.kernels(space)
        train(gfn, target, behaviour=make[kind](), **options)
        return [p.detach() for p in gfn.parameters()]

    for a, b in zip(run("whole", None), run("stopped", 7), strict=True):
        assert torch.equal(a, b)


# ------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Replay(0), "capacity must be at least 1, got 0"),
        (lambda: Replay(5, priority="size"), "'uniform', 'reward' or 'loss', got 'size'"),  # type: ignore[arg-type]
        (lambda: Replay(5, fraction=1.0), r"fraction must be in \(0, 1\), got 1\.0"),
        (lambda: Replay(5, fraction=0.0), r"fraction must be in \(0, 1\)"),
        (lambda: ReplayTrajectories(0), "capacity >= 1 and fraction"),
        (lambda: ReplayTrajectories(5, fraction=1.5), r"got 5, 1\.5"),
        (lambda: LocalSearch(correlated()[0], chains=0), "chains, steps, every >= 1"),
        (lambda: LocalSearch(correlated()[0], fraction=1.0), r"fraction in \(0, 1\)"),
        (lambda: mala(correlated()[0], torch.zeros(0, 2), steps=1, step_size=1.0), "at least one start"),
        (lambda: mala(correlated()[0], torch.zeros(2, 2), steps=0, step_size=1.0), "steps >= 1"),
        (lambda: mala(correlated()[0], torch.zeros(2, 2), steps=1, step_size=0.0), "positive step size"),
        (
            lambda: mala(
                as_target(lambda x: x.detach().sum(-1), Lebesgue(1)),
                torch.zeros(2, 1),
                steps=1,
                step_size=1.0,
            ),
            "no gradient with respect to its points",
        ),
    ],
)
def test_bad_arguments(build: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()


@pytest.mark.parametrize("measure", [Lebesgue(2, 0.0, 1.0), Lebesgue(1, 0.0), Haar(1)])
def test_local_search_is_for_all_of_space(measure: Any) -> None:
    with pytest.raises(MeasureMismatch, match=r"moves in all of R\^d, and its target .* ctsgfn\.transformed"):
        LocalSearch(as_target(lambda x: x.sum(-1), measure))
