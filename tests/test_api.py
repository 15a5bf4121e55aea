"""``fit`` and ``load``: every kind of measure in one call, reproducible; bad input refused at the door."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ctsgfn
from ctsgfn import Counting, Haar, Lebesgue, Product, fit, load
from ctsgfn.balance import Balance
from ctsgfn.behaviours import on_policy
from ctsgfn.builders import BUILDERS
from ctsgfn.divergences import reverse_kl
from ctsgfn.errors import BadCheckpoint, CtsgfnWarning, InvalidInput, MeasureMismatch, NonFinite
from ctsgfn.euclidean_kernels import KERNELS
from ctsgfn.evidence import estimate_evidence
from ctsgfn.kernels.spaces.diffusion import ornstein_uhlenbeck
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.kernels.spaces.torus import torus
from ctsgfn.objectives import detailed_balance, trajectory_balance
from ctsgfn.targets import twenty_five_gaussians
from ctsgfn.warmup import warm_up

QUICK: dict[str, Any] = {"seed": 0, "progress_bar": False}


def bell(x: Tensor) -> Tensor:
    """Two correlated coordinates, far from 0 and of different scale; log Z is log(2 pi * 30)."""
    u, v = x[:, 0] - 100, (x[:, 1] - 0.3 * x[:, 0]) / 2
    return -0.5 * ((u / 15).square() + v.square())


LOG_BELL = math.log(2 * math.pi * 30)

TARGETS: dict[str, tuple[dict[str, Any], float]] = {
    "line": ({"target": bell, "dim": 2}, LOG_BELL),
    "half-line": (
        {"target": lambda x: (2 * x.log() - x).sum(-1), "measure": Lebesgue(2, 0.0)},
        2 * math.lgamma(3.0),
    ),
    "below": ({"target": lambda x: (x - 3).sum(-1), "measure": Lebesgue(1, -math.inf, 3.0)}, 0.0),
    "bounds": (
        {"target": lambda x: -x.sum(-1), "measure": Lebesgue(2, -1.0, 1.0)},
        2 * math.log(math.e - 1 / math.e),
    ),
    "angles": (
        {"target": lambda x: x.cos().sum(-1), "measure": Haar(1)},
        math.log(2 * math.pi * float(torch.special.i0(torch.tensor(1.0)))),
    ),
    "cells": (
        {"target": lambda x: 0.5 * x.sum(-1).float(), "measure": Product((Counting(3),) * 2)},
        2 * math.log(1 + math.exp(0.5) + math.e),
    ),
    "labels": (
        {"target": lambda x: x[:, 0].float(), "measure": Counting(4)},
        math.log(sum(math.exp(k) for k in range(4))),
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_every_measure_gets_a_space_and_the_right_evidence(name: str) -> None:
    """By importance weights, so the answer is unbiased however short the training: z-score below 4.9."""
    options, log_z = TARGETS[name]
    sampler = fit(**options, steps=60, hidden=16, **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ctsgfn.errors.UnreliableEstimate)
        evidence = sampler.evidence(4096, seed=1)
    assert abs(evidence.log_z - log_z) < 4.9 * evidence.stderr + 1e-3
    assert evidence.ess > 0.02
    assert sampler.target is not None
    draws = sampler.sample(10, seed=2)
    measure = options.get("measure", Lebesgue(options.get("dim", 1)))
    assert bool(measure.contains(draws).all())
    if name in ("cells", "labels"):
        assert sampler.history is None, "every point is weighed, nothing is trained"
    else:
        assert sampler.history is not None
        assert sampler.history.steps == 60


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_default_settings_are_good_everywhere(name: str) -> None:
    options, log_z = TARGETS[name]
    evidence = fit(**options, **QUICK).evidence(8192, seed=1)
    assert abs(evidence.log_z - log_z) < 4.9 * evidence.stderr + 1e-3
    assert evidence.ess > 0.8


@pytest.mark.slow
def test_twenty_five_modes_by_default() -> None:
    target = twenty_five_gaussians()
    sampler = fit(target, **QUICK)
    evidence = sampler.evidence(20_000, seed=1)
    assert evidence.log_z - evidence.lower_bound < 0.12
    assert evidence.ess > 0.6


# ------------------------------------------------------------------ choices on R^d
@pytest.mark.parametrize("kernel", [k for k in KERNELS if k != "auto"])
def test_kernels_on_request(kernel: str) -> None:
    sampler = fit(bell, dim=2, kernel=kernel, steps=5, slices=3, hidden=8, **QUICK)
    assert sampler.recipe is not None
    steps = {"mixture": 1, "autoregressive": 1, "chain": 4, "annealed": 4, "diffusion": 3}[kernel]
    assert sampler.gfn.space.horizon == steps + 1
    options = sampler.recipe["options"]
    assert (options["mixture"] is None) == (kernel in ("autoregressive", "diffusion"))
    assert (options.get("autoregressive") is None) == (kernel != "autoregressive")
    assert (sampler.notes == ()) == (kernel != "mixture")
    assert sampler.sample(7).shape == (7, 2)


def test_a_mixture_that_is_enough_is_kept_and_said() -> None:
    sampler = fit(bell, dim=2, steps=20, **QUICK)
    assert len(sampler.notes) == 1
    assert sampler.notes[0].startswith("a mixture of few normals as the only step: ESS ")


def test_a_funnel_is_drawn_coordinate_by_coordinate() -> None:
    """Turned around, so that the neck comes last: the order of the coordinates is found."""

    def funnel(x: Tensor) -> Tensor:
        return -0.5 * ((x[:, 3] / 3).square() + x[:, 3] * 3 + x[:, :3].square().sum(-1) * (-x[:, 3]).exp())

    sampler = fit(funnel, dim=4, steps=20, slices=2, hidden=16, **QUICK)
    assert len(sampler.notes) >= 2
    assert "not enough" in sampler.notes[0]
    assert "a mixture per coordinate" in sampler.notes[1]
    assert "kept" in sampler.notes[1]
    assert sampler.recipe is not None
    assert sampler.recipe["options"]["autoregressive"]["order"] == [3, 2, 1, 0]
    assert sampler.evidence(4096, seed=1).ess > 0.3


def test_what_no_single_step_does_gets_more() -> None:
    def shell(x: Tensor) -> Tensor:
        return -0.5 * ((x.norm(dim=-1) - 5) / 0.02).square()

    sampler = fit(shell, dim=4, steps=3, slices=2, hidden=8, **QUICK)
    tried = ("few normals", "a mixture per coordinate", "a finer mixture", "diffusion steps after a mixture")
    assert len(sampler.notes) == len(tried)
    for note, name in zip(sampler.notes, tried, strict=True):
        assert name in note
    assert all("kept" in note or "dropped" in note for note in sampler.notes[1:])


def test_the_warm_up_is_worth_its_calls() -> None:
    """The first bound of a fitted mixture, before any training, is near the truth on a bell."""
    start = warm_up(ctsgfn.as_target(bell, Lebesgue(2)), 2, like=torch.zeros(0))
    assert start.log_z == pytest.approx(LOG_BELL, abs=0.1)
    sampler = fit(bell, dim=2, kernel="mixture", steps=1, lr=1e-9, lr_log_z=1e-9, **QUICK)
    assert sampler.evidence(2000, seed=0).ess > 0.9


def test_objectives_that_need_more_get_it() -> None:
    sampler = fit(bell, dim=2, steps=2, slices=2, objective=reverse_kl, **QUICK)
    assert sampler.recipe is not None
    assert sampler.recipe["options"]["mixture"] is None
    with pytest.raises(InvalidInput, match="differentiates through its draws, which a mixture"):
        fit(bell, dim=2, steps=2, kernel="mixture", objective=reverse_kl, **QUICK)
    assert fit(bell, dim=2, steps=2, kernel="mixture", objective=detailed_balance, **QUICK).gfn.log_flow
    sampler = fit(lambda x: x.cos().sum(-1), measure=Haar(1), steps=2, objective=detailed_balance, **QUICK)
    assert sampler.gfn.log_flow is not None

    def absolute(b: Balance) -> Tensor:
        return (b.log_z - b.log_weight).abs().mean()

    assert fit(bell, dim=2, steps=2, kernel="mixture", objective=absolute, **QUICK).history is not None


def test_half_precision_of_choice() -> None:
    sampler = fit(bell, dim=2, steps=5, dtype=torch.float64, **QUICK)
    assert sampler.sample(3).dtype == torch.float64
    assert all(p.dtype == torch.float64 for p in sampler.gfn.parameters())
    assert fit(bell, dim=2, steps=5, **QUICK).sample(3).dtype == torch.float32


# ------------------------------------------------------------------ own spaces and flows
@pytest.mark.parametrize("space", [torus(1, steps=3), ornstein_uhlenbeck(1, steps=4)], ids=lambda s: s.name)
def test_a_space_of_ones_own_gets_default_kernels(space: Any) -> None:
    sampler = fit(lambda x: -x.square().sum(-1), measure=space.points, space=space, steps=30, **QUICK)
    assert sampler.gfn.space is space
    assert all(p.requires_grad for p in sampler.gfn.parameters())
    _, log_weight = sampler.weighted(2000, seed=1)
    assert bool(torch.isfinite(log_weight).all())


def test_a_flow_of_ones_own() -> None:
    space = hypergrid(2, 3)
    gfn = ctsgfn.GFlowNet(space, *hypergrid_kernels(space, hidden=8))
    sampler = fit(lambda x: x.sum(-1).float(), measure=space.points, gfn=gfn, steps=3, **QUICK)
    assert sampler.gfn is gfn
    assert sampler.recipe is None


# ------------------------------------------------------------------ reproducible, and back from a file
@pytest.mark.parametrize("name", ["line", "angles", "cells"])
def test_seeds_give_the_same_bits_and_leave_the_generator(name: str) -> None:
    options = {**TARGETS[name][0], "objective": trajectory_balance}  # without one, cells are weighed
    before = torch.get_rng_state()
    first = fit(**options, steps=5, hidden=8, **QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert fit(**options, steps=5, hidden=8, **QUICK).history == first.history
    assert fit(**options, steps=5, hidden=8, seed=1, progress_bar=False).history != first.history


@pytest.mark.parametrize("name", TARGETS)
def test_saved_samplers_come_back(name: str, tmp_path: Path) -> None:
    options, _ = TARGETS[name]
    sampler = fit(**options, steps=3, hidden=8, **QUICK)
    sampler.save(tmp_path / "s.pt")
    given = options["target"]
    target = ctsgfn.as_target(given, options["measure"]) if "measure" in options else given
    twin = load(tmp_path / "s.pt", target)
    assert torch.equal(twin.sample(20, seed=1), sampler.sample(20, seed=1))
    assert twin.log_evidence(200, seed=1) == sampler.log_evidence(200, seed=1)
    assert twin.notes == sampler.notes
    assert twin.recipe is not None
    assert twin.recipe["builder"] in BUILDERS


@pytest.mark.parametrize("kernel", ["chain", "autoregressive"])
def test_other_kernels_come_back_too(kernel: str, tmp_path: Path) -> None:
    sampler = fit(bell, dim=2, kernel=kernel, steps=3, slices=2, hidden=8, dtype=torch.float64, **QUICK)
    sampler.save(tmp_path / "s.pt")
    assert torch.equal(load(tmp_path / "s.pt", bell).sample(20, seed=1), sampler.sample(20, seed=1))


def test_a_flow_of_ones_own_cannot_be_built_from_a_file(tmp_path: Path) -> None:
    space = hypergrid(2, 3)
    gfn = ctsgfn.GFlowNet(space, *hypergrid_kernels(space, hidden=8))
    target = ctsgfn.as_target(lambda x: x.sum(-1).float(), space.points)
    fit(target, gfn=gfn, steps=1, **QUICK).save(tmp_path / "s.pt")
    with pytest.raises(BadCheckpoint, match=r"does not say how its flow was built.*Sampler.load"):
        load(tmp_path / "s.pt", target)


def test_a_run_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    expected = fit(bell, dim=2, kernel="mixture", steps=6, **QUICK)
    path = tmp_path / "run.pt"
    fit(bell, dim=2, kernel="mixture", steps=6, checkpoint=path, **QUICK)
    assert (tmp_path / "run_mixture.pt").exists()
    again = fit(bell, dim=2, kernel="mixture", steps=6, checkpoint=path, **QUICK)
    assert again.history == expected.history
    assert torch.equal(again.sample(9, seed=1), expected.sample(9, seed=1))


# ------------------------------------------------------------------ bad input
def point(x: Tensor) -> Tensor:
    """A log-density of one point: it forgets the batch."""
    return -x.square().sum()


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "not callable": ({"target": 3.0, "dim": 2}, InvalidInput, "needs a log-density.*got float"),
    "no dim": ({"target": bell}, InvalidInput, "needs dim="),
    "dim 0": ({"target": bell, "dim": 0}, InvalidInput, "Lebesgue dim must be .*got 0"),
    "dim -1": ({"target": bell, "dim": -1}, InvalidInput, "Lebesgue dim"),
    "dim twice": (
        {"target": bell, "dim": 3, "measure": Lebesgue(2)},
        InvalidInput,
        "dim=3 disagrees with Lebesgue measure on R.2",
    ),
    "dim of a target": (
        {"target": ctsgfn.as_target(bell, Lebesgue(2)), "dim": 3},
        InvalidInput,
        "dim=3 was given for a target on Lebesgue",
    ),
    "measure of a target": (
        {"target": ctsgfn.as_target(bell, Lebesgue(2)), "measure": Lebesgue(2), "floor": -9.0},
        InvalidInput,
        "measure and floor describe a plain callable",
    ),
    "not batched": ({"target": point, "dim": 2}, InvalidInput, r"returned shape \[\], not \[3\]: it must be"),
    "column": (
        {"target": lambda x: x.sum(-1, keepdim=True), "dim": 2},
        InvalidInput,
        r"returned shape \[3, 1\], not \[3\]",
    ),
    "integers": ({"target": lambda x: x.sum(-1).long(), "dim": 2}, InvalidInput, "floating-point tensor"),
    "array": ({"target": lambda x: x.sum(-1).numpy(), "dim": 2}, InvalidInput, "got ndarray"),
    "nan": ({"target": lambda x: x.sum(-1) * math.nan, "dim": 2}, NonFinite, "is nan at row 0"),
    "+inf": ({"target": lambda x: x.sum(-1) + math.inf, "dim": 2}, NonFinite, "is inf at row 0"),
    "other dtype": (
        {"target": lambda x: x @ torch.ones(2, dtype=torch.float64), "dim": 2},
        InvalidInput,
        "failed on points of dtype torch.float32.*pass dtype=",
    ),
    "kernel": ({"target": bell, "dim": 2, "kernel": "flow"}, InvalidInput, "must be one of auto, mixture"),
    "kernel elsewhere": (
        {"target": lambda x: x.sum(-1), "measure": Haar(1), "kernel": "chain"},
        InvalidInput,
        "is a choice on R.d, and this target is on arc length",
    ),
    "integer dtype": ({"target": bell, "dim": 2, "dtype": torch.int64}, InvalidInput, "must be a floating"),
    "no space": (
        {"target": lambda x: x.sum(-1), "measure": Product((Counting(2), Lebesgue(1)))},
        InvalidInput,
        "no default space for counting measure.*pass space= or gfn=",
    ),
    "one label": ({"target": lambda x: x.sum(-1), "measure": Counting(1)}, InvalidInput, "no default space"),
    "checkpoint": (
        {"target": bell, "dim": 2, "seed": None, "checkpoint": "x.pt"},
        InvalidInput,
        "checkpoint= needs seed=",
    ),
    "seed": ({"target": bell, "dim": 2, "seed": -1}, InvalidInput, "seed must be a whole number"),
    "steps": ({"target": bell, "dim": 2, "steps": 0}, InvalidInput, "steps must be a whole number"),
    "slices": (
        {"target": bell, "dim": 2, "kernel": "diffusion", "slices": 0},
        InvalidInput,
        "slices must be a whole number of at least 1, got 0",
    ),
    "hidden": ({"target": bell, "dim": 2, "hidden": -4}, InvalidInput, "hidden must be a whole number"),
    "space of another measure": (
        {"target": bell, "dim": 2, "space": hypergrid(2, 3)},
        MeasureMismatch,
        "the target is a density against Lebesgue",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case: str) -> None:
    options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        fit(**{"steps": 2, **QUICK, **options})


def test_space_and_flow_together() -> None:
    space = hypergrid(2, 3)
    gfn = ctsgfn.GFlowNet(space, *hypergrid_kernels(space, hidden=8))
    with pytest.raises(InvalidInput, match="gfn= already has a space"):
        fit(lambda x: x.sum(-1).float(), measure=space.points, space=space, gfn=gfn)


def test_minus_infinity_outside_the_support_is_refused_unless_floored() -> None:
    def positive(x: Tensor) -> Tensor:
        return torch.where((x > 0).all(-1), -x.sum(-1), -math.inf)

    with pytest.raises(NonFinite, match="pass floor= to allow -inf outside the support"):
        fit(positive, dim=1, steps=50, kernel="mixture", **QUICK)
    sampler = fit(positive, dim=1, steps=5, kernel="mixture", floor=-20.0, **QUICK)
    assert sampler.history is not None


def test_unreliable_answers_are_said_to_be() -> None:
    bad = torch.cat([torch.zeros(999), torch.tensor([30.0])])
    assert not estimate_evidence(bad).reliable


def test_a_kernel_whose_far_draws_have_no_density_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What served before it is kept, and the notes say so; in the first kernel the error is the user's."""
    from ctsgfn import euclidean

    trained = euclidean._trained

    def far(name: str, *rest: Any) -> Any:
        if name in refuse:
            raise NonFinite("the log-density is -inf at row 0")
        return trained(name, *rest)

    monkeypatch.setattr(euclidean, "_trained", far)
    refuse = ["autoregressive", "finer", "chain"]
    target = ctsgfn.targets.Funnel(3, 4.0)
    sampler = fit(target, steps=2, seed=0, progress_bar=False)
    assert "few normals" in sampler.notes[0]
    assert "not finite" in sampler.notes[1]
    refuse = ["mixture"]
    with pytest.raises(NonFinite, match="row 0"):
        fit(target, steps=2, seed=0, progress_bar=False)


def test_an_interrupt_while_exploring_ends_the_fit() -> None:
    calls = 0

    def log_density(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return x.double().sum(-1)

    target = ctsgfn.as_target(log_density, ctsgfn.Subsets(3))
    with pytest.warns(CtsgfnWarning, match="interrupted"):
        sampler = ctsgfn.fit(target, steps=40, batch_size=8, seed=0, progress_bar=False)
    assert sampler.history is not None
    assert sampler.history.interrupted
    assert calls == 12, "nothing is trained after an interrupt"


@pytest.mark.parametrize(
    "options",
    [{"dim": 2, "steps": 50}, {"dim": 2, "budget": 60.0}, {"measure": Haar(3), "steps": 50}],
    ids=str,
)
def test_an_interrupt_ends_the_fit_and_no_other_kernel_is_tried(options: dict[str, Any]) -> None:
    """More modes than a mixture of few normals, or of von Mises laws, can have."""
    calls = 0

    def interrupted(gfn: Any, n: int) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return on_policy(gfn, n)

    def wells(x: Tensor) -> Tensor:
        return (5 * (3 * x).cos() - 0.05 * x.square()).sum(-1)

    with pytest.warns(CtsgfnWarning, match="interrupted"):
        sampler = fit(wells, behaviour=interrupted, **options, **QUICK)
    assert calls == 3
    assert sampler.history is not None
    assert sampler.history.interrupted
    assert len(sampler.notes) == 1


def test_a_density_that_is_zero_at_the_origin_needs_no_floor() -> None:
    """A Maxwell law on the line: what is asked first is shape and kind alone."""
    sampler = fit(lambda x: (x.square().log() - 0.5 * x.square()).sum(-1), dim=1, steps=100, **QUICK)
    evidence = sampler.evidence(seed=1)
    assert abs(evidence.log_z - 0.5 * math.log(2 * math.pi)) < 4.9 * evidence.stderr


def test_a_density_that_is_constant_on_cells() -> None:
    """Its slope is 0 wherever it has one; it was said to have no finite integral."""
    sampler = fit(lambda x: -x.abs().floor().sum(-1), dim=1, steps=100, **QUICK)
    evidence = sampler.evidence(seed=1)
    assert abs(evidence.log_z - math.log(2 / (1 - math.exp(-1)))) < 4.9 * evidence.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": lambda x: -(x[0] ** 2) - x[1] ** 2, "dim": 2}, "must be batched"),
        ({"target": bell, "dim": 2, "objective": "tb"}, "objective must be a function of a Balance"),
        (
            {"target": bell, "dim": 2, "objective": lambda b: b.log_weight, "kernel": "mixture"},
            r"one number, a tensor without axes, got shape \[300\]",
        ),
    ],
    ids=["one point", "name", "vector"],
)
def test_what_is_wrong_is_said_in_words(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        fit(**options, steps=2, **QUICK)


def test_points_of_another_shape_are_refused() -> None:
    sampler = fit(bell, dim=2, steps=2, kernel="mixture", **QUICK)
    for points, said in (
        (torch.zeros(2), "have shape"),
        (torch.zeros(4, 3), r"got \[4, 3\]"),
        ([[0.0, 0.0]], "must be a tensor, got list"),
    ):
        with pytest.raises(InvalidInput, match=said):
            sampler.log_prob(points)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="where axes differ"):
        Lebesgue(2, torch.zeros(2), torch.ones(2))  # type: ignore[arg-type]
