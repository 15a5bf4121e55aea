"""The training loop: it learns, resumes exactly, survives Ctrl-C, and refuses what makes no sense."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from registry import flow, ramp
from torch import Tensor

from ctsgfn.balance import Balance
from ctsgfn.behaviours import epsilon_uniform, from_data, mixed, on_policy
from ctsgfn.divergences import maximum_likelihood, reverse_kl
from ctsgfn.errors import BadCheckpoint, CtsgfnWarning, InvalidInput, MeasureMismatch, NonFinite
from ctsgfn.exact import explore
from ctsgfn.gflownet import GFlowNet
from ctsgfn.history import History
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.measures import Lebesgue
from ctsgfn.objectives import detailed_balance, objective, trajectory_balance
from ctsgfn.replay import Replay
from ctsgfn.target import as_target
from ctsgfn.training import cosine, train

SPACE = hypergrid(2, 3)
TARGET = ramp(SPACE)
LOG_Z = 2 * math.log(1 + math.exp(0.5) + math.exp(1.0))


def grid_flow(seed: int = 0) -> GFlowNet[Any]:
    torch.manual_seed(seed)
    return flow(hypergrid_kernels, SPACE, hidden=16)


def run(gfn: GFlowNet[Any], steps: int, **options: Any) -> History:
    return train(gfn, TARGET, steps=steps, batch_size=32, lr=1e-2, progress_bar=False, **options)


def parameters(gfn: GFlowNet[Any]) -> Tensor:
    return torch.cat([p.detach().flatten() for p in gfn.parameters()])


@pytest.mark.parametrize("loss", [trajectory_balance, detailed_balance], ids=lambda o: o.__name__)
def test_it_learns_the_normaliser(loss: Any) -> None:
    gfn = grid_flow()
    history = run(gfn, 300, objective=loss, seed=1)
    assert history.steps == 300
    assert gfn.log_z.item() == pytest.approx(LOG_Z, abs=0.05)
    assert history.loss[-1] < 0.05 * history.loss[0]
    assert history.ess[-1] > 0.95


def test_log_z_starts_at_the_median_weight() -> None:
    gfn = grid_flow()
    seen: list[float] = []
    still: dict[str, Any] = {"schedule": lambda progress: 0.0, "seed": 1}  # nothing moves afterwards
    run(gfn, 1, **still, on_step=lambda step, b: seen.append((b.log_z - b.log_weight.median()).item()))
    assert seen == [0.0]
    gfn = grid_flow()
    run(gfn, 1, **still, start_log_z=False)
    assert gfn.log_z.item() == 0.0


def test_seeds_give_the_same_bits_and_leave_the_generator() -> None:
    before = torch.get_rng_state()
    runs = []
    for _ in range(2):
        gfn = grid_flow()
        torch.set_rng_state(before)
        run(gfn, 5, seed=3)
        assert torch.equal(torch.get_rng_state(), before)
        runs.append(parameters(gfn))
    assert torch.equal(*runs)
    other = grid_flow()
    run(other, 5, seed=4)
    assert not torch.equal(parameters(other), runs[0])


class Stop(Exception):
    """What ends a run in the middle."""


def stop_at(step: int) -> Any:
    def on_step(now: int, b: Balance) -> None:
        if now == step:
            raise Stop

    return on_step


BEHAVIOURS: dict[str, Any] = {
    "on_policy": lambda: on_policy,
    "uniform": lambda: epsilon_uniform(0.1),
    "replay": lambda: Replay(100, priority="loss"),
}


@pytest.mark.parametrize(("drawn_by", "average"), [*((name, None) for name in BEHAVIOURS), ("uniform", 0.9)])
def test_resuming_gives_the_numbers_of_an_uninterrupted_run(
    drawn_by: str, average: float | None, tmp_path: Path
) -> None:
    whole = grid_flow()
    expected = run(whole, 12, behaviour=BEHAVIOURS[drawn_by](), seed=5, average=average)
    path = tmp_path / "run.pt"
    halted = grid_flow()
    with pytest.raises(Stop):
        run(halted, 12, behaviour=BEHAVIOURS[drawn_by](), seed=5, average=average, checkpoint=path,
            checkpoint_every=4, on_step=stop_at(9))  # fmt: skip
    resumed = grid_flow(seed=99)  # other numbers, all of which the checkpoint replaces
    history = run(resumed, 12, behaviour=BEHAVIOURS[drawn_by](), seed=5, average=average, checkpoint=path,
                  checkpoint_every=4)  # fmt: skip
    assert torch.equal(parameters(resumed), parameters(whole))
    for name, values in asdict(expected).items():  # NaN where nothing was drawn by the flow alone
        assert repr(getattr(history, name)) == repr(values)
    assert history.steps == 12


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    gfn = grid_flow()
    run(gfn, 3, seed=5, checkpoint=tmp_path / "run.pt")
    done = parameters(gfn)
    assert run(gfn, 3, seed=5, checkpoint=tmp_path / "run.pt").steps == 3
    assert torch.equal(parameters(gfn), done)


def test_a_run_ends_with_the_average_of_its_updates() -> None:
    """Weights of the k-th of n: min(decay, (k - 1) / k) pushed through those after it, by hand."""
    gfn, path = grid_flow(), list[Tensor]()
    run(gfn, 6, seed=3, average=0.75, on_step=lambda step, b: path.append(parameters(gfn)))
    expected = torch.zeros_like(path[0])
    for step, now in enumerate(path):
        decay = min(0.75, step / (step + 1))
        expected = decay * expected + (1 - decay) * now
    torch.testing.assert_close(parameters(gfn), expected)
    assert not torch.allclose(parameters(gfn), path[-1])


def test_interrupts_leave_a_usable_flow() -> None:
    def on_step(step: int, b: Balance) -> None:
        if step == 2:
            raise KeyboardInterrupt

    gfn = grid_flow()
    with pytest.warns(CtsgfnWarning, match="interrupted after 3 of 50 steps: the flow is usable"):
        history = run(gfn, 50, on_step=on_step)
    assert history.interrupted
    assert history.steps == 3
    assert torch.isfinite(parameters(gfn)).all()


def test_history_counts_the_flows_own_draws_only() -> None:
    """Walks back from data say nothing about the policy's effective sample size."""
    gfn = grid_flow()
    data = torch.tensor([[2, 2]])
    assert math.isnan(run(gfn, 1, behaviour=mixed(on_policy, from_data(data), 1.0)).ess[0])
    assert not math.isnan(run(gfn, 1, behaviour=mixed(on_policy, from_data(data), 0.5)).ess[0])


def test_plot_of_a_history() -> None:
    figure = run(grid_flow(), 3).plot()
    labels = {ax.get_ylabel() for ax in figure.axes} | {ax.get_title() for ax in figure.axes}
    assert any("loss" in label for label in labels)


def test_functions_are_objectives_too() -> None:
    def absolute(b: Balance) -> Tensor:
        return (b.log_z - b.log_weight).abs().mean()

    gfn = grid_flow()
    assert run(gfn, 40, objective=absolute, seed=0).loss[-1] < run(grid_flow(), 1, objective=absolute).loss[0]


def test_cosine_schedule_sets_both_rates() -> None:
    assert cosine(0.0) == 1.0
    assert cosine(1.0) == pytest.approx(0.02)
    still, moving = grid_flow(), grid_flow()
    run(still, 2, schedule=lambda progress: 0.0, start_log_z=False)
    run(moving, 2, start_log_z=False)
    assert torch.equal(parameters(still), parameters(grid_flow()))
    assert not torch.equal(parameters(moving), parameters(grid_flow()))


def test_clipping_bounds_the_step_but_not_the_record() -> None:
    steep = as_target(lambda x: 1000.0 * x.sum(-1).float(), SPACE.points)
    history = train(grid_flow(), steep, steps=1, batch_size=32, clip_norm=1e-6, progress_bar=False)
    assert history.grad_norm[0] > 1.0


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize("behaviour", [on_policy, from_data(torch.zeros(1, 2))])
def test_likelihood_of_data_wants_pathwise_walks_from_data(behaviour: Any) -> None:
    with pytest.raises(InvalidInput, match=r"pass behaviour=from_data\(x, reparameterised=True\)"):
        run(grid_flow(), 1, objective=maximum_likelihood, behaviour=behaviour)


def test_choices_of_a_walk_back_have_no_pathwise_gradient() -> None:
    data = from_data(torch.tensor([[1, 1]]), reparameterised=True)
    with pytest.raises(NotImplementedError, match="MaskedCategorical has no reparameterised draw"):
        run(grid_flow(), 1, objective=maximum_likelihood, behaviour=data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.0}, "steps must be a whole number"),
        ({"batch_size": -1}, "batch_size must be a whole number of at least 1, got -1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"lr_log_z": -1.0}, "lr_log_z must be positive"),
        ({"lr": math.nan}, "lr must be positive, got nan"),
        ({"average": 1.0}, r"average must be a decay in \[0, 1\)"),
        ({"objective": reverse_kl, "behaviour": epsilon_uniform(0.1)}, "takes no behaviour"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_arguments_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        train(grid_flow(), TARGET, **{"steps": 1, "progress_bar": False, **options})


def test_a_target_against_another_measure() -> None:
    wrong = as_target(lambda x: x.sum(-1), Lebesgue(2))
    with pytest.raises(MeasureMismatch, match=r"Lebesgue measure on R\^2, but hypergrid.*transformed"):
        train(grid_flow(), wrong, steps=1)


def test_a_loss_that_is_not_finite_names_its_step() -> None:
    @objective()
    def broken(b: Balance) -> Tensor:
        return (b.log_z * math.inf).sum()

    with pytest.raises(NonFinite, match="at step 0: lower lr"):
        run(grid_flow(), 2, objective=broken)


def test_checkpoints_of_other_runs(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    run(grid_flow(), 1, checkpoint=path)
    other = hypergrid(2, 4)
    with pytest.raises(BadCheckpoint, match=r"not a training checkpoint of hypergrid\(dim=2, side=4\)"):
        train(flow(hypergrid_kernels, other), ramp(other), steps=1, checkpoint=path, progress_bar=False)
    with pytest.raises(BadCheckpoint, match="flow of another shape"):
        run(flow(hypergrid_kernels, SPACE, hidden=8), 1, checkpoint=path)
    with pytest.raises(BadCheckpoint, match="saved without an average"):
        run(grid_flow(), 1, checkpoint=path, average=0.5)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadCheckpoint):
        run(grid_flow(), 1, checkpoint=path)


def test_trained_terminating_law_is_the_target() -> None:
    """The exact law of the trained policy, by dynamic programming, against the normalised reward."""
    gfn = grid_flow()
    run(gfn, 400, seed=2)
    assert explore(SPACE).total_variation(gfn.forward_kernel, TARGET) < 0.02
