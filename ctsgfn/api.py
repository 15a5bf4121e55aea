"""``fit``: from a density to a sampler in one call; ``load``: back from a file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctsgfn.acyclic import Acyclic
from ctsgfn.balance import Balance
from ctsgfn.behaviours import Behaviour, epsilon_uniform, mixed, on_policy, there_and_back
from ctsgfn.budget import Budget, seconds
from ctsgfn.builders import BUILDERS, build_on, choose
from ctsgfn.check_mass import SHAPES, misshapen
from ctsgfn.circles import fit_circles
from ctsgfn.errors import BadCheckpoint, InvalidInput, whole
from ctsgfn.euclidean import fit_euclidean
from ctsgfn.euclidean_kernels import Euclidean
from ctsgfn.exploring import back_from_chains, explored, many_orders
from ctsgfn.gflownet import GFlowNet
from ctsgfn.listed import LISTED, weigh
from ctsgfn.measures import Lebesgue, Measure, sizes_of
from ctsgfn.model_fits import few_models, fit_models
from ctsgfn.objectives import Objective, log_partition_variance, trajectory_balance
from ctsgfn.sampler import Sampler
from ctsgfn.sampler_files import read_recipe
from ctsgfn.seeding import seeded
from ctsgfn.space import Space
from ctsgfn.structure_builders import Built
from ctsgfn.target import Target, as_target
from ctsgfn.training import Training

GROWN = ("dag", "subsets", "with_parameters")
"""Builders of structures that are grown choice by choice."""

FITTED = (
    "one normal law per model falls short: fitted laws draw the parameters, and a flow chooses the model."
)
"""What ``sampler.notes`` says where models, or blocks of their parameters, were fitted one by one."""


def fit(
    target: Target[Any] | Callable[[Any], Tensor],
    dim: int | None = None,
    *,
    measure: Measure[Any] | None = None,
    space: Space[Any, Any] | None = None,
    gfn: GFlowNet[Any] | None = None,
    kernel: str = "auto",
    objective: Objective | Callable[[Balance], Tensor] | None = None,
    behaviour: Behaviour | None = None,
    steps: int | None = None,
    budget: float | str | None = None,
    gap: float | None = 0.0005,
    batch_size: int = 300,
    lr: float | None = None,
    lr_log_z: float = 1e-1,
    average: float | None = None,
    slices: int | None = None,
    hidden: int = 64,
    layers: int = 2,
    langevin: bool | None = None,
    floor: float | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress_bar: bool = True,
    checkpoint: str | Path | None = None,
) -> Sampler[Any, Any]:
    """Train a sampler for an unnormalised log-density; the target's measure chooses the space.

    On R^d a warm-up finds the modes, location and scale (``ctsgfn.warmup``). A mixture of normals, fitted
    to what it found and then trained as the first step of a flow, is tried first; where its effective
    sample size, Pareto k or bounds fall short, the coordinates are drawn one after another, or diffusion
    steps are learned after a mixture, and ``sampler.notes`` says why. Above 250 dimensions the normals of
    the best evidence bound are tried first (``ctsgfn.variational``), untrained, and where they fall short,
    annealed Langevin moves after them, of which the gains alone are learned: in 200 updates, of an eighth of
    the batch. On circles a warm-up finds the modes too; a mixture of von Mises laws of all angles, or a law
    of one after another, is the only step, and the other where that falls short. Half-lines and bounded
    boxes are carried to R^d; acyclic graphs, subsets, and structures with parameters get spaces of their own.
    The points of a counting measure, or of a product of some, are weighed one by one up to 262,144 of them,
    and nothing is trained; beyond, or with an objective or a behaviour of your own, their coordinates are
    chosen one after another. Where at most 16 models are listed and one normal law each falls short, laws of
    their parameters are fitted to a warm-up of each (``ctsgfn.model_fits``), and so they are for the nodes of
    graphs whose mechanisms are small networks (``ctsgfn.nested_fits``). Half of the walks that are learned
    from lead, on acyclic graphs, back from graphs that short Markov chains found; on other structures that
    can be grown in several orders, once they have been explored, back from the flow's own draws
    (``behaviours.there_and_back``).

    Args:
        target: a target (anything with ``measure`` and ``log_density``), or a batched callable
            [B, dim] -> [B].
        dim: dimension of a callable on R^dim.
        measure: the measure of a callable, where it is not Lebesgue measure on R^dim.
        space: a space of your own on points of the target's measure; it gets default kernels.
        gfn: a whole flow of your own.
        kernel: on R^d "auto", "mixture" (one step), "autoregressive" (one step, a mixture for each
            coordinate given those before it), "chain" (a mixture, then diffusion steps), "annealed" (a
            mixture, then annealed Langevin moves) or "diffusion" (diffusion steps alone).
        objective: what is minimised; by default trajectory balance, and on structures that grow the variance
            of log Z, which starts hundreds of nats from where a learned log Z would have to go.
        behaviour: who draws the trajectories; by default suited to the space.
        steps: updates of a training run; by default 1000, or as many as the budget lets.
        budget: time for all of the fit, such as "90s", "2min", "1h" or a number of seconds. Training ends
            with it, its rates having fallen as the time went; on R^d each kernel that is tried gets a share
            of what is left, and the one that is kept the rest. Runs of one seed then differ.
        gap: on R^d and circles (with the default behaviour) a training run ends early when its bounds on
            log Z have been this near to each other, in nats, over 100 steps, and the ESS as near to 1; None
            for never.
        batch_size: trajectories per update.
        lr: learning rate of the networks; by default 6e-3 on angles, 3e-3 elsewhere.
        lr_log_z: learning rate of log Z.
        average: decay of a moving average of the parameters, with which a training run ends; see ``train``.
        slices: diffusion steps or annealed moves on R^d (8 after a mixture, 50 alone); turns on circles,
            with a mixture for each angle and no other kernel tried.
        hidden: width of the networks.
        layers: hidden layers of the networks on R^d.
        langevin: put the score of the target into the drift on R^d; by default if it has one.
        floor: least value of a callable, see ``as_target``.
        seed: makes the whole fit reproducible and leaves the caller's generator as it was.
        device: where to train; by default the CPU.
        dtype: of the points; by default torch's default.
        progress_bar: show loss, log Z and ESS.
        checkpoint: file to save to and resume from; needs ``seed``.

    Returns:
        The sampler, in the target's own coordinates.

    Raises:
        InvalidInput: on arguments that make no sense, or a log-density that is not batched.
        NonFinite: when the log-density is NaN or infinite, naming a point.
        MeasureMismatch: when ``space`` or ``gfn`` has points of another measure than the target's.

    Example:
        >>> ring = lambda x: -0.5 * ((x.norm(dim=-1) - 2) / 0.3) ** 2
        >>> sampler = fit(ring, dim=2, steps=5, kernel="mixture", seed=0, progress_bar=False)
        >>> tuple(sampler.sample(10).shape)
        (10, 2)
    """
    for size, value in (("hidden", hidden), ("layers", layers), ("slices", 1 if slices is None else slices)):
        whole(size, value)
    target = _as_target(target, dim, measure, floor)
    if space is not None and gfn is not None:
        raise InvalidInput("gfn= already has a space: leave space= out.")
    if checkpoint is not None and seed is None:
        raise InvalidInput("checkpoint= needs seed=: a resumed run must build the same flow again.")
    like = torch.zeros(0, dtype=torch.get_default_dtype() if dtype is None else dtype, device=device)
    if not like.is_floating_point():
        raise InvalidInput(f"dtype must be a floating-point type, got {dtype}.")
    kind = str(like.dtype).removeprefix("torch.")
    name = "own" if space is not None or gfn is not None else choose(target.measure)
    sizes = sizes_of(target.measure) if name == "cells" else ()
    if sizes and math.prod(sizes) <= LISTED and objective is None and behaviour is None:
        name = "listed"
    elif len(sizes) == 1 and sizes[0] > LISTED:
        raise InvalidInput(
            f"a list of {sizes[0]} points is too long to be weighed one by one (more than {LISTED}): give "
            "them coordinates, Product((Counting(a), Counting(b), ..)), which are chosen one after another."
        )
    if lr is None:
        lr = 6e-3 if name == "torus" else 3e-3
    if objective is None:
        objective = log_partition_variance if name in GROWN else trajectory_balance
    limit = None if budget is None else Budget(seconds(budget))
    training = Training(
        objective, steps, batch_size, lr, lr_log_z, progress_bar, checkpoint, limit, average=average
    )
    with seeded(seed):
        if name == "diffusion":
            settings = Euclidean(kernel, slices, hidden, layers, langevin, kind)
            if behaviour is None and not training.pathwise:
                training = replace(training, gap=gap)
            return fit_euclidean(target, like, settings, training, behaviour)
        if kernel != "auto":
            raise InvalidInput(
                f"kernel={kernel!r} is a choice on R^d, and this target is on {target.measure}: leave it out."
            )
        if name == "torus":
            if behaviour is None and not training.pathwise:
                training = replace(training, gap=gap)
            return fit_circles(target, like, slices, hidden, training, behaviour)
        options = {"hidden": hidden, "flow": training.reads_flow, "dtype": kind}
        recipe: dict[str, Any] | None = None
        built: Built | None = None
        if name == "with_parameters" and few_models(target):
            options["fits"] = fit_models(target, like, hidden)
        if name != "own":
            recipe = {"builder": name, "options": options}
            built = BUILDERS[name](target, options)
            gfn, target = built.gfn, built.target
        elif gfn is None:
            assert space is not None
            gfn = build_on(space, options)
        elif wrong := misshapen(gfn.forward_kernel, gfn.space.source(2).like(gfn.log_z)):
            raise InvalidInput(f"{wrong}: {SHAPES}.")
        sampler: Sampler[Any, Any] = Sampler(gfn.to(like), target, recipe=recipe)
        if name == "listed":
            weigh(sampler, sizes, like)
            return sampler
        if behaviour is None:
            if training.pathwise:
                behaviour = on_policy
            elif isinstance(sampler.target.measure, Acyclic):
                behaviour = back_from_chains(sampler.target, like)
            elif name in GROWN:
                assert built is not None
                simpler = built if built.first is None else built.first
                if built.frozen:  # a poor law would be given up with its model
                    if isinstance(simpler.target.measure, Acyclic):
                        found = back_from_chains(simpler.target, like)
                        history = training.run(simpler.gfn, simpler.target, found, "training", steps=1000)
                    else:
                        history, _ = explored(simpler, training)
                    with torch.no_grad():
                        sampler.gfn.log_z.copy_(simpler.gfn.log_z)
                    sampler.notes = (FITTED,)
                else:
                    history, training = explored(simpler, training)
                if built.frozen or history.interrupted:
                    sampler.history = history
                    return sampler
                behaviour = mixed(on_policy, there_and_back, 0.5) if many_orders(sampler) else on_policy
            elif name == "cells":
                behaviour = mixed(on_policy, epsilon_uniform(0.1), 0.5)
            else:
                behaviour = on_policy
        sampler.history = training.run(sampler.gfn, sampler.target, behaviour, "training", steps=1000)
    return sampler


def load(path: str | Path, target: Target[Any] | Callable[[Any], Tensor]) -> Sampler[Any, Any]:
    """Read a sampler that ``fit`` made and ``Sampler.save`` wrote.

    Args:
        path: the file.
        target: the target it was fitted to; a file cannot carry a user's code.

    Raises:
        BadCheckpoint: when the file is no sampler, is cut short, or was saved without a recipe.

    Example:
        >>> import tempfile
        >>> well = lambda x: -x.square().sum(-1)
        >>> sampler = fit(well, dim=2, steps=5, kernel="mixture", seed=0, progress_bar=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sampler.save(f"{folder}/well.pt")
        ...     twin = load(f"{folder}/well.pt", well)
        >>> torch.equal(twin.sample(5, seed=1), sampler.sample(5, seed=1))
        True
    """
    recipe = read_recipe(path)
    if recipe is None:
        raise BadCheckpoint(
            f"{path} does not say how its flow was built: build it and use Sampler.load(path, target, gfn)."
        )
    options = recipe["options"]
    built = BUILDERS[recipe["builder"]](_as_target(target, options.get("dim"), None, None), options)
    return Sampler.load(path, built.target, built.gfn.to(dtype=getattr(torch, options["dtype"])))


def _as_target(
    target: Target[Any] | Callable[[Any], Tensor],
    dim: int | None,
    measure: Measure[Any] | None,
    floor: float | None,
) -> Target[Any]:
    if isinstance(target, Target):
        given = [n for n, v in (("measure", measure), ("floor", floor)) if v is not None]
        if given:
            raise InvalidInput(
                f"{' and '.join(given)} describe a plain callable, and this target has a measure of its own: "
                "leave them out, or pass target.log_density."
            )
        if dim is not None and isinstance(target.measure, Lebesgue) and target.measure.dim != dim:
            raise InvalidInput(f"dim={dim} was given for a target on {target.measure}: leave dim out.")
        return target
    if not callable(target):
        raise InvalidInput(
            "fit needs a log-density: a callable [B, dim] -> [B] with dim=, or an object with measure and "
            f"log_density, got {type(target).__name__}."
        )
    if measure is None:
        if dim is None:
            raise InvalidInput("fit of a callable needs dim=, the length of a point, or measure=.")
        measure = Lebesgue(dim)
    elif dim is not None and isinstance(measure, Lebesgue) and measure.dim != dim:
        raise InvalidInput(f"dim={dim} disagrees with {measure}: leave one of them out.")
    return as_target(target, measure, floor=floor)
