"""The log-densities of the posteriordb benchmark on small data of our own, against scipy."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

import ctsgfn

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def posteriors(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("posteriors")


RNG = np.random.default_rng(0)
SMALL = {"J": 3, "y": [28.0, 8.0, -3.0], "sigma": [15.0, 10.0, 16.0]}
MOTHERS = {"N": 6, "kid_score": [2.1, 2.9, 4.2, 4.8, 6.3, 6.9], "mom_iq": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
SERIES = {"T": 7, "K": 2, "y": RNG.normal(size=7).tolist(), "sigma1": 0.5}
DESIGN = {"N": 5, "D": 2, "X": RNG.normal(size=(5, 2)).tolist(), "y": RNG.normal(size=5).tolist()}
GROUPS = {"N": 4, "y": [-2.0, -1.0, 1.5, 2.5]}
EARNED = {
    "N": 5,
    "earn": [10.0, 20.0, 30.0, 25.0, 9.0],
    "height": [60.0, 65, 70, 72, 61],
    "male": [0, 1, 1, 0, 0],
}
VOTERS = {
    "N": 5,
    "partyid7": [1, 4, 7, 3, 2],
    "real_ideo": [2, 4, 6, 5, 1],
    "race_adj": [1, 2, 1, 1, 2],
    "age_discrete": [1, 2, 3, 4, 2],
    "educ1": [1, 2, 3, 4, 4],
    "gender": [0, 1, 0, 1, 1],
    "income": [1, 2, 5, 3, 4],
}
Values = dict[str, float]


def vector(p: Values, name: str) -> np.ndarray:
    return np.array([value for key, value in p.items() if key.startswith(f"{name}[")])


def schools(p: Values) -> float:
    eta, tau = vector(p, "theta_trans"), p["tau"]
    likelihood = stats.norm.logpdf(SMALL["y"], p["mu"] + tau * eta, SMALL["sigma"]).sum()
    priors = stats.norm.logpdf(eta).sum() + stats.norm.logpdf(p["mu"], 0, 5) + stats.cauchy.logpdf(tau, 0, 5)
    return likelihood + priors


def regression(x: Any, y: Any, p: Values) -> float:
    return stats.norm.logpdf(y, np.asarray(x) @ vector(p, "beta"), p["sigma"]).sum()


def mothers(p: Values) -> float:
    x = np.column_stack([np.ones(6), MOTHERS["mom_iq"]])
    return regression(x, MOTHERS["kid_score"], p) + stats.cauchy.logpdf(p["sigma"], 0, 2.5)


def earned(p: Values) -> float:
    z = (np.array(EARNED["height"]) - np.mean(EARNED["height"])) / np.std(EARNED["height"], ddof=1)
    male = np.array(EARNED["male"])
    return regression(np.column_stack([np.ones(5), z, male, z * male]), np.log(EARNED["earn"]), p)


def voters(p: Values) -> float:
    age = np.array(VOTERS["age_discrete"])
    columns = [np.ones(5), VOTERS["real_ideo"], VOTERS["race_adj"], age == 2, age == 3, age == 4]
    columns += [VOTERS["educ1"], VOTERS["gender"], VOTERS["income"]]
    return regression(np.column_stack(columns), VOTERS["partyid7"], p)


def design(p: Values) -> float:
    prior = stats.norm.logpdf(vector(p, "beta"), 0, 10).sum() + stats.norm.logpdf(p["sigma"], 0, 10)
    return regression(DESIGN["X"], DESIGN["y"], p) + prior


def lagged(p: Values) -> float:
    y, (b1, b2) = SERIES["y"], vector(p, "beta")
    terms = [
        stats.norm.logpdf(y[t], p["alpha"] + b1 * y[t - 1] + b2 * y[t - 2], p["sigma"]) for t in range(2, 7)
    ]
    prior = stats.norm.logpdf([p["alpha"], b1, b2], 0, 10).sum() + stats.cauchy.logpdf(p["sigma"], 0, 2.5)
    return sum(terms) + prior


def volatile(p: Values) -> float:
    y, variance, total = SERIES["y"], SERIES["sigma1"] ** 2, 0.0
    for t in range(7):
        if t > 0:
            variance = p["alpha0"] + p["alpha1"] * (y[t - 1] - p["mu"]) ** 2 + p["beta1"] * variance
        total += stats.norm.logpdf(y[t], p["mu"], math.sqrt(variance))
    return total


def groups(p: Values) -> float:
    first = stats.norm.pdf(GROUPS["y"], p["mu[1]"], p["sigma[1]"])
    second = stats.norm.pdf(GROUPS["y"], p["mu[2]"], p["sigma[2]"])
    four = [p["mu[1]"], p["mu[2]"], p["sigma[1]"], p["sigma[2]"]]
    prior = stats.norm.logpdf(four, 0, 2).sum() + stats.beta.logpdf(p["theta"], 5, 5)
    return np.log(p["theta"] * first + (1 - p["theta"]) * second).sum() + prior


CASES: dict[str, tuple[dict[str, Any], Callable[[Values], float]]] = {
    "eight_schools": (SMALL, schools),
    "kidiq": (MOTHERS, mothers),
    "earnings": (EARNED, earned),
    "nes": (VOTERS, voters),
    "blr": (DESIGN, design),
    "autoregression": (SERIES, lagged),
    "garch": (SERIES, volatile),
    "two_normals": (GROUPS, groups),
}


@pytest.mark.parametrize("name", CASES)
def test_density_is_joint_times_jacobian(posteriors: ModuleType, name: str) -> None:
    """Against scipy at random points, with the Jacobian of ``constrain`` by autograd."""
    data, joint = CASES[name]
    posterior = getattr(posteriors, name)(data)
    assert isinstance(posterior, ctsgfn.target.Target)
    for u in torch.randn(5, posterior.measure.dim, dtype=torch.float64):

        def read(v: torch.Tensor, p: Any = posterior) -> torch.Tensor:
            return torch.cat(list(p.constrain(v[None]).values())[: p.dim])

        values = {key: float(value) for key, value in posterior.constrain(u[None]).items()}
        jacobian = torch.linalg.slogdet(torch.autograd.functional.jacobian(read, u)).logabsdet
        assert float(posterior.log_density(u[None])) == pytest.approx(
            joint(values) + float(jacobian), abs=1e-9
        )


def test_every_posterior_is_tested(posteriors: ModuleType) -> None:
    assert {make.__name__ for make in posteriors.POSTERIORS.values()} == set(CASES)


def test_evidence_of_a_regression(posteriors: ModuleType) -> None:
    """A sum over a grid of u against the closed form given the noise, integrated by scipy."""
    x, y = np.column_stack([np.ones(6), MOTHERS["mom_iq"]]), np.array(MOTHERS["kid_score"])
    b, rss = np.linalg.lstsq(x, y, rcond=None)[:2]

    def given(s: float) -> float:  # the flat coefficients integrated out
        power = (2 * math.pi * s * s) ** (-(6 - 2) / 2) * math.exp(-rss[0] / (2 * s * s))
        return power / math.sqrt(np.linalg.det(x.T @ x)) * stats.cauchy.pdf(s, 0, 2.5)

    exact = math.log(quad(given, 0, np.inf, epsabs=0)[0])
    axes = [torch.linspace(m - w, m + w, 121, dtype=torch.float64) for m, w in ((b[0], 6), (b[1], 1.6))]
    axes.append(torch.linspace(-3.5, 2.5, 121, dtype=torch.float64))
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    value = posteriors.kidiq(MOTHERS).log_density(torch.cartesian_prod(*axes))
    assert float(value.logsumexp(0)) + math.log(cell) == pytest.approx(exact, abs=5e-3)


def test_script_says_that_data_are_absent(
    posteriors: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = importlib.import_module("posteriordb")
    monkeypatch.setattr(
        sys, "argv", ["posteriordb.py", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    )
    script.main()
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_stated_answers_are_of_these_posteriors(posteriors: ModuleType) -> None:
    stated = json.loads((FOLDER / "posteriordb_stated.json").read_text())
    assert set(stated) == set(posteriors.POSTERIORS)
