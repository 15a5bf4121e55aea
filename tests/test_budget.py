"""Time budgets: how they are read, what runs do with them, and when tight bounds end a run."""

from __future__ import annotations

import itertools
import math
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import TARGET, grid_flow, parameters, run
from torch import Tensor

from ctsgfn import budget, fit
from ctsgfn.balance import Balance
from ctsgfn.behaviours import from_data, mixed, on_policy
from ctsgfn.budget import Budget, Pace, seconds
from ctsgfn.errors import InvalidInput
from ctsgfn.history import WINDOW, History
from ctsgfn.measures import Counting, Product
from ctsgfn.training import train

QUICK: dict[str, Any] = {"seed": 0, "progress_bar": False}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("90s", 90),
        ("2min", 120),
        ("2 min", 120),
        ("1h", 3600),
        ("0.5m", 30),
        (".5h", 1800),
        (7, 7),
        (2.5, 2.5),
    ],
)
def test_times_in_words(said: float | str, meant: float) -> None:
    assert seconds(said) == meant


@pytest.mark.parametrize(
    "bad", ["", "2", "min", "-3s", "2 days", 0, -1.0, math.nan, math.inf, True, None, "0s"]
)
def test_what_is_no_time(bad: Any) -> None:
    with pytest.raises(InvalidInput, match='must be a time such as "90s", "2min"'):
        seconds(bad)


def test_budgets_run_out() -> None:
    assert 5.0 < Budget(10.0, start=time.monotonic() - 4).left <= 6.0
    assert Budget(1.0, start=time.monotonic() - 4).left == 0.0


def test_progress_follows_time_or_steps_whichever_is_further() -> None:
    now = time.monotonic()
    pace = Pace(steps=101, seconds=10.0, spent=5.0)
    assert pace.progress(0) == pytest.approx(0.5, abs=0.01)
    assert pace.progress(80) == 0.8
    assert not pace.over(100)
    assert pace.over(101)
    late = Pace(seconds=1.0, _start=now - 2)
    assert late.progress(0) == 1.0
    assert not late.over(0)  # one update is always made
    assert late.over(1)
    with pytest.raises(InvalidInput, match="needs steps= or seconds="):
        Pace()


def test_a_run_stops_at_its_time_with_its_rates_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of the test's own, which ticks when it is read: the machine may be busy."""
    ticks = itertools.count()
    clock = types.SimpleNamespace(monotonic=lambda: 0.01 * next(ticks))
    rates: list[float] = []

    def schedule(progress: float) -> float:
        rates.append(progress)
        return 1.0

    with monkeypatch.context() as patched:
        patched.setattr(budget, "time", clock)
        pace = Pace(seconds=1.0, _start=0.0)
        assert pace.elapsed == 0.0
        history = train(
            grid_flow(), TARGET, seconds=1.0, batch_size=32, schedule=schedule, progress_bar=False
        )
    assert 40 < history.steps < 60  # two readings a step
    assert rates == sorted(rates)
    assert rates[0] < 0.1
    assert rates[-1] > 0.9
    short = train(grid_flow(), TARGET, steps=3, seconds=60.0, batch_size=32, progress_bar=False)
    assert short.steps == 3
    with pytest.raises(InvalidInput, match="needs steps= or seconds="):
        train(grid_flow(), TARGET)


def test_time_spent_is_kept_in_the_checkpoint(tmp_path: Path) -> None:
    """A run that was killed goes on for what was left of its time, not for all of it."""

    class Stop(Exception):
        pass

    def halt(step: int, b: Balance) -> None:
        if step > 0 and time.monotonic() - before > 2.0:
            raise Stop

    options: dict[str, Any] = {"seconds": 3.0, "checkpoint": tmp_path / "run.pt", "checkpoint_every": 1}
    gfn, before = grid_flow(), time.monotonic()
    with pytest.raises(Stop):
        train(gfn, TARGET, batch_size=32, progress_bar=False, on_step=halt, **options)
    again = time.monotonic()
    history = train(grid_flow(), TARGET, batch_size=32, progress_bar=False, **options)
    assert time.monotonic() - again < 2.5
    done = parameters(gfn)
    assert history.steps > 1
    assert train(grid_flow(), TARGET, batch_size=32, progress_bar=False, **options).steps <= history.steps + 1
    assert not torch.equal(done, parameters(grid_flow()))


# ---------------------------------------------------------------- tight bounds
def test_bounds_are_recorded_by_who_drew() -> None:
    corner = torch.tensor([[2, 2]])
    half = run(grid_flow(), 3, behaviour=mixed(on_policy, from_data(corner), 0.5), seed=0)
    assert all(math.isfinite(v) for v in half.eubo + half.elbo)
    assert all(math.isnan(v) for v in run(grid_flow(), 3, seed=0).eubo)


def test_tight_bounds_end_a_run_and_loose_ones_do_not() -> None:
    cells = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    exact = cells[torch.multinomial(TARGET.log_density(cells).softmax(0), 500, replacement=True)]
    behaviour = mixed(on_policy, from_data(exact), 0.5)
    ended = run(grid_flow(), 2000, behaviour=behaviour, seed=0, gap=0.01)
    assert WINDOW <= ended.steps < 2000
    assert ended.tight(0.01)
    assert run(grid_flow(), 120, behaviour=behaviour, seed=0, gap=1e-9).steps == 120
    assert run(grid_flow(), 120, seed=0, gap=100.0).steps == 120  # no upper bound: never tight


def test_tight_needs_a_full_window() -> None:
    assert not History(loss=[0.0] * 99, elbo=[0.0] * 99, eubo=[0.0] * 99, ess=[1.0] * 99).tight(1.0)
    whole: dict[str, Any] = {"loss": [0.0] * 150, "elbo": [5.0] * 50 + [0.0] * 100, "ess": [1.0] * 150}
    assert History(**whole, eubo=[0.0] * 150).tight(0.1)
    assert not History(**whole, eubo=[0.0] * 100 + [20.0] * 50).tight(0.1)
    whole["ess"] = [0.8] * 150
    assert not History(**whole, eubo=[0.0] * 150).tight(0.1)


# ---------------------------------------------------------------- fit
@pytest.fixture
def own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is this process's own: on a busy machine the other one runs out before anything is tried."""
    monkeypatch.setattr("ctsgfn.budget.time.monotonic", time.process_time)


@pytest.mark.usefixtures("own_clock")
def test_fit_on_a_budget() -> None:
    before = time.monotonic()
    square = Product((Counting(2),) * 20)
    sampler = fit(lambda x: 0.5 * x.sum(-1).float(), measure=square, budget=2, **QUICK)
    assert 2.0 <= time.monotonic() - before < 10.0
    assert sampler.history is not None
    assert sampler.history.steps > 1
    with pytest.raises(InvalidInput, match="budget must be a time"):
        fit(lambda x: -x.square().sum(-1), dim=2, budget="soon", **QUICK)


def test_a_line_that_is_easy_ends_early() -> None:
    """A normal target: the fitted mixture is right at once, and the run ends at its first full window."""
    sampler = fit(lambda x: -0.5 * x.square().sum(-1), dim=2, **QUICK)
    assert sampler.history is not None
    assert sampler.history.steps == WINDOW
    patient = fit(lambda x: -0.5 * x.square().sum(-1), dim=2, gap=None, steps=120, **QUICK)
    assert patient.history is not None
    assert patient.history.steps == 120


@pytest.mark.usefixtures("own_clock")
def test_the_ladder_shares_the_time_and_what_is_kept_gets_the_rest() -> None:
    def shell(x: Tensor) -> Tensor:
        return -0.5 * ((x.norm(dim=-1) - 5) / 0.02).square()

    before = time.monotonic()
    sampler = fit(shell, dim=3, kernel="mixture", budget="6s", **QUICK)
    assert 6.0 <= time.monotonic() - before < 30.0  # what is no training is not cut short
    assert "trained on for what was left of the budget" in sampler.notes[-1]
    assert len(sampler.notes) == 3
    stopped = fit(shell, dim=3, kernel="mixture", budget="60s", steps=5, **QUICK)
    assert "trained on" not in stopped.notes[-1]
