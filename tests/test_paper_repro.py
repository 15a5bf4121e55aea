"""The reproduction of the paper: its table, its figures and its results belong together."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import script

ROOT = Path(__file__).resolve().parents[1]
PAPER, FIGURES = ROOT / "paper_repro", ROOT / "figures"


def listed(variable: str) -> list[str]:
    """Names in a variable of the Makefile."""
    found = re.search(rf"^{variable} := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert found is not None
    return found[1].split()


@pytest.mark.parametrize("name", ["table", "orderings"])
def test_readme_has_the_blocks_of_the_results(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    module = script(PAPER / f"{name}.py")
    assert module.BLOCK.cut()[1] == module.table(), f"run python paper_repro/{name}.py"


def test_every_experiment_is_made_by_make() -> None:
    makes = {path.stem for path in PAPER.glob("*.py") if "Experiment(__file__" in path.read_text()}
    assert set(listed("PAPER")) == makes
    assert set(listed("FIGURES")) == {path.stem for path in FIGURES.glob("*.py")} - {"style"}


@pytest.mark.parametrize("name", listed("FIGURES"))
def test_figures_are_committed_in_both_forms(name: str) -> None:
    assert (FIGURES / f"{name}.png").exists()
    assert (FIGURES / f"{name}.pdf").exists()


@pytest.mark.parametrize("path", sorted((PAPER / "results").glob("*.json")), ids=lambda p: p.stem)
def test_results_say_where_they_come_from(path: Path) -> None:
    for run in json.loads(path.read_text()).get("runs", {}).values():
        assert {"date", "commit", "machine", "versions", "cpu_seconds"} <= set(run)


def test_weighed_objectives_are_the_librarys_on_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights of 1 each algorithm has the gradient of the library's, up to its baseline's factor."""
    from ctsgfn.balance import Balance
    from ctsgfn.divergences import forward_kl, reverse_kl_score, reverse_wake_sleep, wake_sleep

    weighed = script(PAPER / "weighed.py")
    n = 5
    generator = torch.Generator().manual_seed(0)
    forward, backward = torch.randn(2, n, generator=generator, dtype=torch.float64)
    reward = torch.randn(n, generator=generator, dtype=torch.float64)
    drawn = type("Drawn", (), {"log_ratio": torch.zeros(n, dtype=torch.float64)})()
    pairs = {
        "reverse KL": reverse_kl_score,
        "forward KL": forward_kl,
        "wake-sleep": wake_sleep,
        "reverse wake-sleep": reverse_wake_sleep,
    }
    rows, ends = torch.arange(n), torch.ones(n, dtype=torch.bool)
    for name, ours in pairs.items():
        gradients = []
        for loss in (weighed.weighed(name, drawn), ours):
            f, b = forward.clone().requires_grad_(), backward.clone().requires_grad_()
            value = loss(Balance(f, b, reward, torch.zeros(()), rows, ends, ends))
            gradients.append(torch.autograd.grad(value, (f, b)))
        by_score = weighed.ALGORITHMS[name][0] == "score"
        factor = n / (n - 1) if by_score else 1.0  # the library leaves out the trajectory itself
        torch.testing.assert_close(gradients[0][0] * factor, gradients[1][0])
        torch.testing.assert_close(gradients[0][1], gradients[1][1])


def test_torsion_energy_is_periodic_and_integrates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corners are the table's, edges meet; exact and resampled draws follow the density (z below 4.9)."""
    monkeypatch.syspath_prepend(str(PAPER))
    molecule = script(PAPER / "molecule.py")
    energy = np.random.default_rng(0).normal(size=(6, 6))
    target = molecule.TorsionEnergy(energy, 298.15)
    line = -np.pi + 2 * np.pi * np.arange(6) / 6
    corners = torch.tensor(np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2))
    expected = torch.tensor(-energy.reshape(-1) / (molecule.GAS * 298.15))
    torch.testing.assert_close(target.log_density(corners), expected)
    torch.testing.assert_close(target.log_density(corners + 2 * np.pi), expected)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = target.sample(20_000)
        again = molecule.resampled(target, 1_000_000, 20_000)
    truth = molecule.mesh(240).double()
    weight = target.log_density(truth).softmax(0)
    for f in (lambda v: v[:, 0].cos(), lambda v: v[:, 1].sin(), lambda v: (v[:, 0] - v[:, 1]).cos()):
        exact = (weight * f(truth)).sum()
        for draws in (f(x.double()), f(again.double())):
            assert abs(draws.mean() - exact) < 4.9 * draws.std() / len(draws) ** 0.5 + 1e-4


def test_ddpm_predicts_the_step_that_the_bridge_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of walks back from one point have the closed mean given both ends (z below 4.9)."""
    from ctsgfn.diffuse import diffuse
    from ctsgfn.kernels.spaces.diffusion import ornstein_uhlenbeck
    from ctsgfn.walks import backtrack

    monkeypatch.syspath_prepend(str(PAPER))
    denoising = script(PAPER / "denoising.py")
    space, n, data = ornstein_uhlenbeck(1, steps=5), 4000, torch.tensor([[0.8]])
    step = space.kappa.branches[0]
    levels = denoising.Levels.of(step.grid)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        walks = backtrack(space, diffuse(space.kappa_b), space.write(data.expand(n, 1)))
    s, t, _ = walks.moves
    taken = step.pull(s, t)[:, 0]
    for k in range(1, 5):
        rows = s.step == k
        carried, noise, decay, pace = (v[k] for v in vars(levels).values())
        x = s.x[rows, 0]
        epsilon = (x - carried * data[0, 0]) / noise
        rest = taken[rows] - pace * (noise * x - epsilon) / decay
        for moment in (rest, rest * x):
            assert abs(moment.mean()) < 4.9 * moment.std() / n**0.5 + 1e-5  # the last step is certain
        assert abs(epsilon.mean()) < 4.9 / n**0.5
        assert abs(epsilon.std() - 1) < 4.9 / (2 * n) ** 0.5


def test_digits_are_found_again_and_distances_are_zero_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    digits = script(PAPER / "digits.py")
    train, test = digits.images()
    assert len(train) + len(test) == 1797
    assert torch.equal(digits.quantised(digits.dequantised(test)), test)
    assert abs(digits.frechet(train, train)) < 1e-6
    assert digits.frechet(train, test) == pytest.approx(0.12, abs=0.02)
    assert digits.frechet(train, test + 1) > digits.frechet(train, test)


def test_orderings_say_how_sure_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    compared = script(PAPER / "orderings.py").compared
    assert compared([1.0], [2.0]) == "holds, one run"
    assert compared([2.0], [1.0, 1.1]) == "**does not hold**, one run on a side"
    assert compared([1.0, 1.1, 0.9], [5.0, 5.5, 4.5]).startswith("holds, p = ")
    assert compared([1.0, 2.0, 3.0], [1.1, 2.1, 2.9]).startswith("not to be told apart")
