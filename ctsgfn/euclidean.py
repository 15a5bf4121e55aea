r"""Fitting on R^d: a mixture of normals first, and richer kernels where it falls short.

A warm-up finds the places; a mixture fitted to its particles is the law of the first step, and all of
it is then learned by the flow's own objective, on the flow's draws and on the particles. Where that is
not enough (funnels, more modes than normals), one step draws coordinate by coordinate instead; what no
single step can do is left to more steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ctsgfn.behaviours import Behaviour, from_data, mixed, on_policy
from ctsgfn.builders import on_line, set_floor
from ctsgfn.errors import InvalidInput, NonFinite
from ctsgfn.euclidean_kernels import Euclidean, encoded, started
from ctsgfn.evidence import Evidence
from ctsgfn.gaussian_fits import WIDE
from ctsgfn.judging import USABLE, better, judge, loss, said, shortcoming
from ctsgfn.objectives import log_partition_variance, trajectory_balance
from ctsgfn.penalties import huber
from ctsgfn.sampler import Sampler
from ctsgfn.target import Eased, Target, batched, has_floor
from ctsgfn.training import Training
from ctsgfn.warmup import WarmUp, walk_on, warm_up

LADDER = (("autoregressive", 0.95, 0.5), ("finer", 0.9, 0.7), ("chain", *USABLE))
"""What is tried after a mixture of few normals, each where the ESS so far is below its first number, or
Pareto k above its second: at 1/2 the weights have no variance."""

SAID = {
    "mixture": "a mixture of few normals as the only step",
    "autoregressive": "a mixture per coordinate, given those before it",
    "finer": "a finer mixture",
    "chain": "diffusion steps after a mixture",
    "annealed": "annealed Langevin moves after a mixture",
}

WIDEST = 128
"""Most coordinates that are drawn one after another."""

FLOOR = 0.005
"""Share of draws with a coordinate from the floor of its mixture, to first order."""


EASE = 5.0
"""Nats below the lowest particle at which a floor stands while a flow learns."""


def fit_euclidean(
    target: Target[Tensor],
    like: Tensor,
    settings: Euclidean,
    training: Training,
    behaviour: Behaviour | None,
) -> Sampler[Any, Tensor]:
    """Warm up, fit the cheapest kernel, and go on to a richer one where it falls short.

    Args:
        target: a target on R^d, a half-line or a box.
        like: a tensor of the dtype and device to work in.
        settings: of the kernels.
        training: of the training runs.
        behaviour: who draws; by default the flow, and walks back from the particles.
    """
    kernel = settings.kernel
    if training.pathwise:
        if kernel not in ("auto", "diffusion"):
            raise InvalidInput(
                f"{training.objective} differentiates through its draws, which a mixture does not allow: use "
                'kernel="diffusion", or reverse_kl_score.'
            )
        kernel = "diffusion"
    line = on_line(target)
    dim = line.measure.dim
    batched(line, torch.zeros(3 if dim == 2 else 2, dim).to(like))  # shape, kind, device: before all else
    start = warm_up(line, dim, like=like)

    if dim > WIDE and kernel in ("auto", "mixture"):
        return _wide(target, start, like, settings, training, behaviour)
    ladder = LADDER if kernel == "auto" else LADDER[1:2]

    def stage(name: str, later: int) -> tuple[Sampler[Any, Tensor], Evidence]:
        part = replace(training, stages=1 + later)
        fresh = started(name, target, start, like, settings, training.reads_flow)
        return _trained(name, fresh, encoded(fresh, start), part, behaviour)

    if kernel == "autoregressive":
        start = walk_on(line, start)
    if kernel not in ("auto", "mixture"):
        return stage(kernel, 0)[0]
    sampler, judged = stage("mixture", 1 + len(ladder))
    latest, notes = sampler, [f"{SAID['mixture']}: {said(judged)}"]
    for later, (name, *enough) in zip(range(len(ladder), 0, -1), ladder, strict=True):
        short = shortcoming(judged, *enough)
        if not short or _interrupted(latest):
            break
        if name == "autoregressive":
            if dim > WIDEST:
                continue
            start = walk_on(line, start)
            judged = _judge(sampler, encoded(sampler, start))  # at better points than before
            notes = [f"{SAID['mixture']}: {said(judged)}"]
        notes[-1] += f", not enough ({short})"
        training.say(f"{notes[-1]}; trying {SAID[name]}.")
        try:
            richer, again = stage(name, later)
        except NonFinite:  # far draws of an untried kernel: what serves already is kept
            notes.append(f"{SAID[name]}: dropped, it drew points where the log-density is not finite")
            continue
        latest, improved = richer, better(again, judged)
        notes.append(f"{SAID[name]}: {said(again)}, {'kept' if improved else 'no better and dropped'}")
        if improved:
            sampler, judged = richer, again
    time_left = training.budget is not None and training.budget.left > 0 and training.steps is None
    if time_left and not _interrupted(latest):
        sampler, judged = _trained("rest", sampler, encoded(sampler, start), training, behaviour)
        notes.append(f"trained on for what was left of the budget: {said(judged)}")
    sampler.notes = tuple(f"{note}." for note in notes)
    return sampler


def _wide(
    target: Target[Tensor],
    start: WarmUp,
    like: Tensor,
    settings: Euclidean,
    training: Training,
    behaviour: Behaviour | None,
) -> Sampler[Any, Tensor]:
    """In many dimensions: a mixture as the warm-up fitted it, and annealed moves after it where needed.

    Its normals have the best evidence bound already. Training would seek the same, and so many numbers would
    not bear its rate.
    """
    sampler = started("mixture", target, start, like, settings, training.reads_flow)
    judged = _judge(sampler, encoded(sampler, start))
    with torch.no_grad():
        sampler.gfn.log_z.fill_(judged.log_z)
    notes = [f"{SAID['mixture']}, of the best evidence bound: {said(judged)}"]
    short = shortcoming(judged, *USABLE)
    if short and settings.kernel == "auto":
        notes[0] += f", not enough ({short})"
        training.say(f"{notes[0]}; trying {SAID['annealed']}.")
        moved = started("annealed", target, start, like, settings, training.reads_flow)
        moved, again = _trained("annealed", moved, encoded(moved, start), training, behaviour)
        improved = better(again, judged)
        notes.append(f"{SAID['annealed']}: {said(again)}, {'kept' if improved else 'no better and dropped'}")
        sampler = moved if improved else sampler
    sampler.notes = tuple(f"{note}." for note in notes)
    return sampler


def _trained(
    name: str,
    sampler: Sampler[Any, Tensor],
    z: Tensor,
    training: Training,
    behaviour: Behaviour | None,
) -> tuple[Sampler[Any, Tensor], Evidence]:
    """Train a sampler at particles z too, and judge it; what training made worse goes back to its start."""
    assert sampler.recipe is not None
    options = sampler.recipe["options"]
    autoregressive = options.get("autoregressive") is not None
    steps = 1000
    if autoregressive and training.objective is trajectory_balance:
        training = replace(training, objective=trajectory_balance.using(g=huber))  # its tails start loose
    elif name == "annealed" and training.objective is trajectory_balance:
        training = replace(training, objective=log_partition_variance)  # log Z is nats away at first
    if _costly(sampler):
        steps, training = 200, replace(training, batch_size=max(2, training.batch_size // 8))
    gfn = sampler.gfn
    if behaviour is None:
        behaviour = on_policy if training.pathwise else mixed(on_policy, from_data(z), 1 / 3)
    fitted = None
    if name != "diffusion":
        fitted = _judge(sampler, z), {key: value.clone() for key, value in gfn.state_dict().items()}
    if autoregressive:
        set_floor(gfn, options, 0.0)
    sampler.history = training.run(gfn, _eased(sampler.target, z), behaviour, name, steps=steps)
    if autoregressive:
        set_floor(gfn, options, FLOOR / z.shape[1])  # bounds weights; nothing to learn from
    trained = _judge(sampler, z)
    if name == "annealed":
        with torch.no_grad():
            gfn.log_z.fill_(trained.log_z)  # its objective learns none
    if fitted is None:
        return sampler, trained
    doubtful = name == "rest" and fitted[0].reliable and not trained.reliable  # nothing kept gets doubtful
    if doubtful or loss(fitted[0]) < loss(trained):
        gfn.load_state_dict(fitted[1])  # as fitted to the particles: training made it no better
        with torch.no_grad():
            gfn.log_z.fill_(fitted[0].log_z)
        return sampler, fitted[0]
    return sampler, trained


def _interrupted(sampler: Sampler[Any, Tensor]) -> bool:
    """Whether the user wants to wait no longer."""
    return sampler.history is not None and sampler.history.interrupted


def _costly(sampler: Sampler[Any, Tensor]) -> bool:
    """Whether a draw takes many scores of many dimensions, and few numbers are learned from them."""
    assert sampler.recipe is not None
    return bool(sampler.recipe["options"].get("wide", False))


def _judge(sampler: Sampler[Any, Tensor], z: Tensor) -> Evidence:
    """By 4096 draws, 1024 where they are costly."""
    return judge(sampler.gfn, _eased(sampler.target, z), z, 1024 if _costly(sampler) else 4096)


def _eased(target: Target[Tensor], z: Tensor) -> Target[Tensor]:
    """The target with a floor just below all particles, where it has one far below.

    Draws beyond a wall have residuals of hundreds of nats there. A flow that learns from them keeps away from
    the wall, and misses the mass beside it; bounds that count them favour such a flow.
    """
    if not has_floor(target):
        return target
    return Eased(target, float(target.log_density(z).min()) - EASE)
