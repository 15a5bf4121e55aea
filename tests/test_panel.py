"""The panel's targets and its judgement: log Z by grids and closed forms, and that a failure is seen."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import ctsgfn

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("panel_targets")


@pytest.fixture
def panel(targets: ModuleType) -> ModuleType:
    return importlib.import_module("panel")


def integral(target: Any, low: list[float], high: list[float], side: int = 1200) -> float:
    """Log of a sum over a grid of the plane, in float64."""
    axes = [torch.linspace(a, b, side, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    return float(target.log_density(torch.cartesian_prod(*axes)).logsumexp(0)) + math.log(cell)


def test_shift_integrates_to_one(targets: ModuleType) -> None:
    assert integral(targets.shift(), [49.9, -750.0], [50.1, 850.0]) == pytest.approx(0.0, abs=1e-6)


def test_rotated_integrates_to_one(targets: ModuleType) -> None:
    target = targets.rotated(dim=2, condition=100.0)
    assert integral(target, [-70.0, -70.0], [70.0, 70.0]) == pytest.approx(0.0, abs=1e-6)


def test_rotated_has_its_condition_number(targets: ModuleType) -> None:
    assert float(torch.linalg.cond(targets.rotated().precision)) == pytest.approx(1e4)


def test_halves_of_the_needle(targets: ModuleType) -> None:
    """A coarse grid about the broad half sees half the mass; a fine one about the needle the other."""
    target = targets.needle(0.01)
    assert integral(target, [0.93, 0.93], [1.07, 1.07]) == pytest.approx(math.log(0.5), abs=2e-3)
    assert integral(target, [-8.0, -8.0], [8.0, 8.0], 3000) == pytest.approx(0.0, abs=1e-2)


def test_cauchy_tails_are_normalised(targets: ModuleType) -> None:
    mass = (2 / math.pi * math.atan(40.0)) ** 2
    value = integral(targets.heavy(dim=2), [-40.0, -40.0], [40.0, 40.0], 2401)
    assert value == pytest.approx(math.log(mass), abs=1e-3)


def test_no_integral(targets: ModuleType) -> None:
    """Within a radius the integral is pi log(1 + R^2): it grows without end."""
    inner, outer = (integral(targets.endless(), [-r, -r], [r, r]) for r in (30.0, 300.0))
    assert math.exp(outer) - math.exp(inner) == pytest.approx(math.pi * math.log(100.0), rel=0.02)


def test_logistic_is_normalised_over_its_labels(targets: ModuleType) -> None:
    """The evidences of all labellings of three rows sum to 1."""
    design = torch.randn(3, 2, dtype=torch.float64)
    labels = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    total = [integral(targets.Logistic(design, row), [-20.0, -20.0], [20.0, 20.0], 300) for row in labels]
    assert float(torch.tensor(total).logsumexp(0)) == pytest.approx(0.0, abs=1e-3)


def test_long_runs_agree_with_other_methods(targets: ModuleType) -> None:
    """Eight schools against the evidence stated for it; logistic against Laplace's approximation."""
    stated = json.loads((FOLDER / "posteriordb_stated.json").read_text())
    schools = stated["eight_schools-eight_schools_noncentered"]["log_evidence"]
    assert targets.schools_log_z()[0] == pytest.approx(schools, abs=2e-6)
    log_z, error = targets.logistic_log_z(draws=20_000)
    target = targets.logistic()
    mode = torch.zeros(20, dtype=torch.float64)

    def at(v: torch.Tensor) -> torch.Tensor:
        return target.log_density(v[None])[0]

    for _ in range(30):
        hessian = torch.autograd.functional.hessian(at, mode)
        mode = mode - torch.linalg.solve(hessian, torch.autograd.functional.jacobian(at, mode))
    laplace = float(at(mode)) + 10 * math.log(2 * math.pi) - 0.5 * float(torch.linalg.slogdet(-hessian)[1])
    assert error < 0.02
    assert log_z == pytest.approx(laplace, abs=0.5)


def test_modes_are_counted(targets: ModuleType) -> None:
    two = targets.two_apart()
    assert targets.PANEL["two 40 sd apart"].modes(two.sample(500)) == (2, 2)
    assert targets.PANEL["two 40 sd apart"].modes(two.modes[:1].float().expand(500, -1)) == (1, 2)
    wells = torch.tensor([[1.7, 0.0, -1.7, 0.0], [-1.7, 0.0, -1.7, 0.0], [-1.6, 1.0, -1.7, 0.0]])
    assert targets.wells(wells) == (2, 4)


@pytest.mark.parametrize(
    ("change", "is_silent"),
    [
        ({}, False),
        ({"error": 0.05}, True),
        ({"error": -0.05}, True),
        ({"error": math.nan}, True),
        ({"error": 0.05, "warned": ["not reliable"]}, False),
        ({"error": 5e-4, "stderr": 1e-6}, False),  # float32
    ],
)
def test_a_silent_error_is_seen(panel: ModuleType, change: dict[str, Any], is_silent: bool) -> None:
    row = {"error": 0.01, "stderr": 0.01, "warned": [], **change}
    assert panel.silent(row) is is_silent


def test_what_falls_short_is_named(panel: ModuleType) -> None:
    good = {"target": "9 modes", "error": 0.0, "ess": 0.9, "modes": [9, 9], "cpu_seconds": 3.0, "warned": []}
    assert panel.short(good) == []
    bad = {**good, "error": -0.06, "ess": 0.2, "modes": [8, 9], "cpu_seconds": 121.0}
    assert panel.short(bad) == ["log Z", "ESS", "modes", "CPU seconds"]
    wrong = {**good, "target": "needle 0.01", "error": -0.7, "stderr": 1e-3}
    assert panel.short(wrong) == ["silent error"]
    assert panel.short({**wrong, "warned": ["not reliable"]}) == []
    assert panel.short({"target": "no integral", "warned": [], "refused": "no finite integral"}) == []


def test_exact_answers_stay_hidden(targets: ModuleType) -> None:
    """What ``fit`` is given has neither exact samples nor log Z, but the score."""
    counted = importlib.import_module("counting").counted
    hidden = counted(targets.PANEL["many-well 8"].make())
    assert not isinstance(hidden, ctsgfn.target.HasSamples | ctsgfn.target.HasLogZ)
    assert isinstance(hidden, ctsgfn.target.HasScore)
    x = torch.zeros(3, 8)
    ctsgfn.target.score(hidden, x)
    hidden.log_density(x)
    assert (hidden.density_calls, hidden.gradient_calls) == (3, 3)
