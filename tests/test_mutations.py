"""The validator is honest: what is broken is noticed by the check that is there for it, what is right passes.

Every registered space is broken in every way of ``mutations.MUTATIONS`` that makes sense on it. The
fast form has few probes and large errors; the slow one has the default number of probes, and errors
of a tenth on every single branch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from altered import alter, reference_of
from broken_charts import Change, weight
from mutations import HARMLESS, MUTATIONS, Mutation
from registry import SPACES

from ctsgfn.checks import check
from ctsgfn.kernels.spaces.box import box
from ctsgfn.kernels.spaces.cube import cube
from ctsgfn.kernels.spaces.diffusion import diffusion, ornstein_uhlenbeck
from ctsgfn.kernels.spaces.finite import finite
from ctsgfn.kernels.spaces.hypergrid import hypergrid
from ctsgfn.space import Space

FEW = 2000
"""Probes of the fast form."""


@cache
def space(name: str) -> Space[Any, Any]:
    return SPACES[name].space()


BROKEN = [
    pytest.param(s, m, id=f"{s}-{m}") for s in SPACES for m in MUTATIONS if MUTATIONS[m].change(space(s))
]
CHANGED = [pytest.param(s, h, id=f"{s}-{h}") for s in SPACES for h in HARMLESS if HARMLESS[h](space(s))]


def backwards(other: Space[Any, Any]) -> Change:
    """Kappa_b is that of another space."""
    return lambda space: replace(space, kappa_b=other.kappa_b)


def weight_of(other: Space[Any, Any]) -> Change:
    """The steps back are weighed as if they were those of another space."""
    weigh = other.kappa_b.branches[0].log_weight
    return lambda space: alter(space, "kappa_b", log_weight=lambda inner, s, a: weigh(s, a))


LADDER = [(0, 1), (0, 2), (1, 3), (2, 3), (2, 4), (3, 5), (4, 5), (4, 6), (1, 6)]

OTHER_STEPS: dict[str, Mutation] = {
    "box": Mutation("support", backwards(box(0.32))),
    "cube": Mutation("support", backwards(cube(2, least=0.3))),
    "hypergrid": Mutation("support", lambda space: replace(space, kappa=hypergrid(2, 3).kappa)),
    "finite": Mutation("support", backwards(finite(LADDER[:-1], terminal=[3, 5, 6]))),
    "diffusion": Mutation("pairing", weight_of(diffusion(2, steps=4, sigma=1.8))),
    "ornstein_uhlenbeck": Mutation("pairing", weight_of(ornstein_uhlenbeck(2, steps=4, sigma=1.2))),
}
"""One kernel takes steps of another size than the other one undoes."""


@pytest.mark.parametrize("name", OTHER_STEPS)
def test_steps_of_another_size_are_caught(name: str) -> None:
    by, change = OTHER_STEPS[name]
    other = change(space(name))
    assert other is not None
    report = check(other, n=FEW)
    assert report[by].verdict == "FAIL", str(report)


def test_another_bridge_breaks_nothing() -> None:
    """On R^d a way back with other steps is as good: its chart says so itself."""
    report = check(replace(space("diffusion"), kappa_b=diffusion(2, steps=4, sigma=1.8).kappa_b))
    assert report.ok, str(report)


def broken(name: str, mutation: str) -> Space[Any, Any]:
    out = MUTATIONS[mutation].change(space(name))
    assert out is not None
    return out


@pytest.mark.parametrize(("name", "mutation"), BROKEN)
def test_mutation_is_caught(name: str, mutation: str) -> None:
    by = MUTATIONS[mutation].caught_by
    report = check(broken(name, mutation), n=FEW, only=[by])
    result = report[by]
    assert result.verdict == "FAIL", str(report)
    assert result.remedy or result.cause is not None, "a failure says what to do, or what was raised"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mutation"), BROKEN)
def test_mutation_is_caught_with_default_probes(name: str, mutation: str) -> None:
    report = check(broken(name, mutation))
    assert report[MUTATIONS[mutation].caught_by].verdict == "FAIL", str(report)


@pytest.mark.parametrize("name", SPACES)
def test_every_space_is_broken_in_six_ways_or_more(name: str) -> None:
    ways = [m for m in MUTATIONS if MUTATIONS[m].change(space(name))]
    assert len(ways) >= 6
    assert {MUTATIONS[m].caught_by for m in ways} >= {
        "pairing",
        "charts",
        "support",
        "absorbing",
        "read_write",
        "evidence",
    }


@pytest.mark.parametrize(("name", "change"), CHANGED)
def test_harmless_changes_pass(name: str, change: str) -> None:
    changed = HARMLESS[change](space(name))
    assert changed is not None
    report = check(changed, n=FEW)
    assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["kappa", "kappa_b"])
@pytest.mark.parametrize("name", SPACES)
def test_a_tenth_too_much_on_any_branch_is_caught(name: str, side: str) -> None:
    for i in range(len(reference_of(space(name), side).branches)):
        wrong = weight(side, 1.1, i)(space(name))
        if wrong is not None:
            report = check(wrong)
            assert report["pairing"].verdict == "FAIL", f"branch {i} of {side}: {report}"
            assert "nu x kappa_b is" in report["pairing"].found


def no_false_alarm(name: str, seeds: range, n: int) -> None:
    """Check a correct space, its default kernels and its target from many seeds."""
    case = SPACES[name]
    target, log_z = case.target(space(name)), case.log_z(space(name))
    gfn = case.kernels(space(name))
    for seed in seeds:
        report = check(space(name), target, gfn, log_z=log_z, seed=seed, n=n)
        assert report.ok, f"seed {seed}: {report}"


@pytest.mark.parametrize("name", SPACES)
def test_no_false_alarm(name: str) -> None:
    no_false_alarm(name, range(5), n=FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_no_false_alarm_in_two_hundred_seeds(name: str) -> None:
    """False alarms have probability 1e-4 a call at most: 0.02 of them are expected here on each space."""
    no_false_alarm(name, range(200), n=20_000)
