"""The examples are importable, and what they build is right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scripts import script

import ctsgfn

FOLDER = Path(__file__).resolve().parents[1] / "examples"


def test_two_models() -> None:
    """Evidence and probability of the models against their closed forms, by z-score below 4.9."""
    module = script(FOLDER / "two_models.py")
    space = module.two_models()
    target = ctsgfn.as_target(module.log_density, space.points)
    ctsgfn.check(space, target).raise_if_failed()
    sampler = ctsgfn.fit(target, space=space, steps=150, seed=0, progress_bar=False)
    both = torch.stack([module.exact(1), module.exact(2)]) - torch.tensor(2.0).log()
    evidence = sampler.evidence(10_000, seed=1)
    assert abs(evidence.log_z - float(both.logsumexp(0))) < 4.9 * evidence.stderr
    assert evidence.ess > 0.5
    summary = sampler.summary(10_000, seed=2)
    assert summary["kind"].mean == pytest.approx(float(both.softmax(0)[1]), abs=4.9 * summary["kind"].mcse)


def test_demo_states_the_evidence_of_eight_schools() -> None:
    """The quadrature that the demo prints, against a number computed elsewhere."""
    assert script(FOLDER / "demo.py").exact_log_evidence() == pytest.approx(-31.311348, abs=1e-5)


def test_demo_of_graphs_draws_its_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script(FOLDER / "demo_graphs.py").main(tmp_path / "graphs.png")
    assert (tmp_path / "graphs.png").stat().st_size > 10_000
    assert "rain -> crop" in capsys.readouterr().out
