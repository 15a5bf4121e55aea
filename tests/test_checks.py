"""The validator as a tool: what it passes, what it leaves alone, its report and its errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from altered import alter
from registry import SPACES
from torch import Tensor

import ctsgfn
from ctsgfn.checks import check
from ctsgfn.errors import CheckFailed, InvalidInput, MeasureMismatch
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.box import box
from ctsgfn.kernels.spaces.diffusion import diffusion
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.kernels.spaces.torus import torus
from ctsgfn.report import Report, Result

NAMES = [
    "charts",
    "read_write",
    "absorbing",
    "support",
    "pairing",
    "evidence",
    "normalisation",
    "gradients",
    "target",
]
FEW = 2000


# ---------------------------------------------------------------- what is right
@pytest.mark.parametrize("name", SPACES)
def test_registered_spaces_pass_with_their_kernels_and_targets(name: str) -> None:
    case = SPACES[name]
    space = case.space()
    report = check(space, case.target(space), case.kernels(space), log_z=case.log_z(space))
    assert [r.name for r in report.results] == NAMES
    assert {r.verdict for r in report.results} == {"pass"}, str(report)


@pytest.mark.parametrize("name", SPACES)
def test_a_space_alone_is_checked_too(name: str) -> None:
    report = check(SPACES[name].space(), n=FEW)
    verdicts = {r.name: r.verdict for r in report.results}
    assert [n for n, v in verdicts.items() if v == "skipped"] == ["gradients", "target"]
    assert {v for n, v in verdicts.items() if n not in ("gradients", "target")} == {"pass"}, str(report)


def test_nothing_of_the_caller_is_changed() -> None:
    case = SPACES["box"]
    space = case.space()
    gfn = case.kernels(space)
    before, state = [p.clone() for p in gfn.parameters()], torch.get_rng_state()
    check(space, case.target(space), gfn, n=1000)
    assert all(torch.equal(a, b) for a, b in zip(before, gfn.parameters(), strict=True))
    assert all(p.dtype == torch.float32 and p.grad is None for p in gfn.parameters())
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seed_reproduces_the_report() -> None:
    reports = [str(check(box(), n=1000, seed=seed)) for seed in (3, 3, 4)]
    assert reports[0] == reports[1] != reports[2]


@pytest.mark.parametrize("space", [diffusion(8, steps=30), torus(6, steps=5), hypergrid(4, 6)], ids=str)
def test_many_dimensions_and_long_walks(space: Any) -> None:
    report = check(space, n=FEW)
    assert report.ok, str(report)
    assert {report[name].verdict for name in NAMES[:4]} == {"pass"}, str(report)


# ---------------------------------------------------------------- what a broken space raises
def test_what_a_space_raises_is_reported_and_kept() -> None:
    def crash(inner: Any, s: Any, a: Tensor) -> Any:
        raise RuntimeError("shapes do not fit")

    report = check(alter(hypergrid(2, 3), "kappa", push=crash), n=1000)
    assert report["charts"].found == "RuntimeError: shapes do not fit"
    assert report["pairing"].verdict == "FAIL"
    with pytest.raises(CheckFailed, match="shapes do not fit") as caught:
        report.raise_if_failed()
    assert isinstance(caught.value.__cause__, RuntimeError)


# ---------------------------------------------------------------- the report
REPORT = Report(
    "my space",
    (
        Result("charts", "pass", "largest error 1.0e-15", "1e-06"),
        Result("pairing", "FAIL", "max |z| = 9.0", "4.8", "correct the log_weight"),
        Result("target", "skipped", "no target was given"),
    ),
)


def test_table() -> None:
    assert str(REPORT).splitlines() == [
        "checks of my space: 1 of 3 FAILED",
        "  charts   pass     largest error 1.0e-15 (allowed: 1e-06)",
        "  pairing  FAIL     max |z| = 9.0 (allowed: 4.8)",
        "           remedy: correct the log_weight.",
        "  target   skipped  no target was given",
    ]
    assert repr(REPORT) == str(REPORT)


def test_report_raises_on_demand() -> None:
    assert not REPORT.ok
    assert [r.name for r in REPORT.failures] == ["pairing"]
    with pytest.raises(CheckFailed, match=r"(?s)1 of 3 FAILED.*remedy: correct"):
        REPORT.raise_if_failed()
    fine = check(hypergrid(2, 3), n=1000)
    assert fine.raise_if_failed() is fine


def test_errors() -> None:
    space = hypergrid(2, 3)
    with pytest.raises(InvalidInput, match="n >= 1000 probes"):
        check(space, n=10)
    with pytest.raises(InvalidInput, match="false_alarm must be a probability"):
        check(space, false_alarm=0.0)
    with pytest.raises(InvalidInput, match="there is no check 'pairings': the names are"):
        check(space, only=["pairings"])
    with pytest.raises(InvalidInput, match="there is no check 'colour'"):
        REPORT["colour"]
    gfn = GFlowNet(space, *hypergrid_kernels(space, hidden=4))
    with pytest.raises(MeasureMismatch, match=r"pass gfn\.space"):
        check(hypergrid(2, 3), gfn=gfn)


def test_the_front_door_has_it() -> None:
    assert ctsgfn.check is check
