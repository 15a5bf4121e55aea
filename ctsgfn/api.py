"""``fit``: from a density to a sampler in one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctsgfn.balance import Balance
from ctsgfn.behaviours import Behaviour, epsilon_uniform, from_data, mixed, on_policy
from ctsgfn.builders import BUILDERS, anchored, choose, on_line
from ctsgfn.errors import BadCheckpoint, InvalidInput
from ctsgfn.gflownet import GFlowNet
from ctsgfn.measures import Lebesgue, Measure
from ctsgfn.objectives import Objective, trajectory_balance
from ctsgfn.sampler import Sampler, read_recipe
from ctsgfn.seeding import seeded
from ctsgfn.target import Target, Transformed, as_target, evaluate
from ctsgfn.training import train
from ctsgfn.warmup import WarmUp, warm_up


def fit(
    target: Target[Any] | Callable[[Any], Tensor],
    dim: int | None = None,
    *,
    measure: Measure[Any] | None = None,
    gfn: GFlowNet[Any] | None = None,
    objective: Objective | Callable[[Balance], Tensor] = trajectory_balance,
    behaviour: Behaviour | None = None,
    steps: int | None = None,
    batch_size: int = 300,
    lr: float = 3e-3,
    lr_log_z: float = 1e-1,
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

    On R^d a warm-up first finds location and scale (see ``ctsgfn.warmup``), and a time-sliced diffusion
    learns in whitened coordinates, on its own trajectories and on walks back from the warm-up's
    particles. Bounded boxes, angles and grids get spaces of their own.

    Args:
        target: a target (anything with ``measure`` and ``log_density``), or a batched callable
            [B, dim] -> [B].
        dim: dimension of a callable on R^dim.
        measure: the measure of a callable, where it is not Lebesgue measure on R^dim.
        gfn: a flow of your own, on a space whose points have the target's measure.
        objective: what is minimised.
        behaviour: who draws the trajectories; by default suited to the space.
        steps: updates; by default 800 on R^d, 2000 elsewhere.
        batch_size: trajectories per update.
        lr: learning rate of the networks.
        lr_log_z: learning rate of log Z.
        slices: time slices on R^d (50) and on circles (10).
        hidden: width of the networks.
        layers: hidden layers of the networks on R^d.
        langevin: put the score of the target into the drift on R^d; by default if it has one.
        floor: least value of a callable, see ``as_target``.
        seed: makes the whole fit reproducible and leaves the caller's generator as it was.
        device: where to train; by default the CPU.
        dtype: of the points; by default torch's default.
        progress_bar: show loss, log Z and ESS.
        checkpoint: file to save to and resume from.

    Returns:
        The sampler, in the target's own coordinates.

    Raises:
        InvalidInput: on arguments that make no sense, or a log-density that is not batched.
        NonFinite: when the log-density is NaN or infinite, naming a point.
        MeasureMismatch: when ``gfn`` draws points of another measure than the target's.

    Example:
        >>> ring = lambda x: -0.5 * ((x.norm(dim=-1) - 2) / 0.3) ** 2
        >>> sampler = fit(ring, dim=2, steps=2, batch_size=16, slices=5, seed=0, progress_bar=False)
        >>> tuple(sampler.sample(10).shape)
        (10, 2)
    """
    target = _as_target(target, dim, measure, floor)
    like = torch.zeros(0, dtype=torch.get_default_dtype() if dtype is None else dtype, device=device)
    if not like.is_floating_point():
        raise InvalidInput(f"dtype must be a floating-point type, got {dtype}.")
    with seeded(seed):
        recipe: dict[str, Any] | None = None
        if gfn is None:
            name = choose(target.measure)
            options, start = _options(name, target, like, slices, hidden, layers, langevin)
            recipe = {"builder": name, "options": options}
            gfn, target = anchored(BUILDERS[name](target, options), like)
            if behaviour is None:
                behaviour = _behaviour(name, gfn, target, start)
        sampler: Sampler[Any, Any] = Sampler(gfn, target, recipe=recipe)
        sampler.history = train(
            gfn,
            target,
            objective=objective,
            behaviour=on_policy if behaviour is None else behaviour,
            steps=_default_steps(recipe) if steps is None else steps,
            batch_size=batch_size,
            lr=lr,
            lr_log_z=lr_log_z,
            progress_bar=progress_bar,
            checkpoint=checkpoint,
        )
    return sampler


def load(path: str | Path, target: Target[Any] | Callable[[Any], Tensor]) -> Sampler[Any, Any]:
    """Read a sampler that ``fit`` made and ``Sampler.save`` wrote.

    Args:
        path: the file.
        target: the target it was fitted to; a file cannot carry a user's code.

    Raises:
        BadCheckpoint: when the file is no sampler, is cut short, or was saved without a recipe.
    """
    recipe = read_recipe(path)
    if recipe is None:
        raise BadCheckpoint(
            f"{path} does not say how its flow was built: build it and use Sampler.load(path, target, gfn)."
        )
    options = recipe["options"]
    like = torch.zeros(0, dtype=getattr(torch, options["dtype"]))
    built = BUILDERS[recipe["builder"]](_as_target(target, options.get("dim"), None, None), options)
    gfn, inner = anchored(built, like)
    return Sampler.load(path, inner, gfn)


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
            f"fit needs a log-density: a callable [B, dim] -> [B] with dim=, or an object with measure and "
            f"log_density, got {type(target).__name__}."
        )
    if measure is None:
        if dim is None:
            raise InvalidInput("fit of a callable needs dim=, the length of a point, or measure=.")
        measure = Lebesgue(dim)
    elif dim is not None and isinstance(measure, Lebesgue) and measure.dim != dim:
        raise InvalidInput(f"dim={dim} disagrees with {measure}: leave one of them out.")
    return as_target(target, measure, floor=floor)


def _options(
    name: str,
    target: Target[Any],
    like: Tensor,
    slices: int | None,
    hidden: int,
    layers: int,
    langevin: bool | None,
) -> tuple[dict[str, Any], WarmUp | None]:
    """Plain options of a builder, and what the warm-up found if there was one."""
    kind = str(like.dtype).removeprefix("torch.")
    if name == "torus":
        return {"slices": 10 if slices is None else slices, "hidden": hidden, "dtype": kind}, None
    if name != "diffusion":
        return {"hidden": hidden, "dtype": kind}, None
    line = on_line(target)
    dim = line.measure.dim
    evaluate(line, torch.zeros(2, dim).to(like))  # shape, kind and device, before anything is tried
    start = warm_up(line, dim, like=like)
    return {
        "dim": dim,
        "slices": 50 if slices is None else slices,
        "sigma": 1.0,
        "hidden": hidden,
        "layers": layers,
        "langevin": start.differentiable if langevin is None else langevin,
        "location": start.location,
        "scale_tril": start.scale_tril,
        "dtype": kind,
    }, start


def _behaviour(name: str, gfn: GFlowNet[Any], target: Target[Any], start: WarmUp | None) -> Behaviour:
    """Draw as suits the space: warm-up particles on R^d, some uniform moves elsewhere."""
    if start is None:
        return epsilon_uniform(0.05) if name == "hypergrid" else on_policy
    assert isinstance(target, Transformed)
    return mixed(on_policy, from_data(target.transform.inv(start.points)), 1 / 3)


def _default_steps(recipe: dict[str, Any] | None) -> int:
    return 800 if recipe is not None and recipe["builder"] == "diffusion" else 2000
