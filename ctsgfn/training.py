"""Training: one loop for every space, objective and behaviour."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ctsgfn.balance import Balance, Wanted, balance
from ctsgfn.behaviours import Behaviour, FromData, Remembers, on_policy, reparameterised
from ctsgfn.budget import Budget, Pace
from ctsgfn.errors import CtsgfnWarning, InvalidInput, MeasureMismatch, NonFinite, whole
from ctsgfn.gflownet import GFlowNet
from ctsgfn.gradient import CHUNK, backpropagate
from ctsgfn.history import History
from ctsgfn.objectives import Objective, trajectory_balance
from ctsgfn.optimisation import Run, Schedule
from ctsgfn.seeding import seeded
from ctsgfn.target import Density, Target


def cosine(progress: float) -> float:
    """Cosine decay of the learning rate from 1 to 0.02.

    Example:
        >>> [round(cosine(p), 2) for p in (0.0, 0.5, 1.0)]
        [1.0, 0.51, 0.02]
    """
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    gfn: GFlowNet[Any],
    target: Target[Any],
    *,
    steps: int | None = None,
    seconds: float | None = None,
    gap: float | None = None,
    objective: Objective | Callable[[Balance], Tensor] = trajectory_balance,
    batch_size: int = 256,
    behaviour: Behaviour = on_policy,
    lr: float = 1e-3,
    lr_log_z: float = 1e-1,
    schedule: Schedule = cosine,
    clip_norm: float | None = 10.0,
    average: float | None = None,
    start_log_z: bool = True,
    chunk: int = CHUNK,
    seed: int | None = None,
    progress_bar: bool = True,
    label: str = "training",
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    on_step: Callable[[int, Balance], None] | None = None,
) -> History:
    """Minimise an objective with Adam; the flow is trained in place.

    Ctrl-C ends the run early and leaves a usable flow. With ``checkpoint`` the run is saved as it
    goes, and continues from the file if there is one: the numbers are those of a run that was not
    interrupted.

    Args:
        gfn: the flow.
        target: the target; its measure must be ``gfn.space.points``.
        steps: updates in all; None where time alone limits them.
        seconds: time in all; the schedule then follows it (or the steps, if they are further), and two
            runs of one seed differ.
        gap: stop when the bounds on log Z have been no more nats apart over 100 steps, and the ESS as near
            to 1. For behaviours that mix the flow's own draws with walks back from draws of the target.
        objective: an ``Objective``, or any function of a ``Balance``.
        batch_size: trajectories per update.
        behaviour: draws the trajectories, on-policy by default.
        lr: Adam's rate for the networks.
        lr_log_z: Adam's rate for log Z.
        schedule: progress -> factor of both rates.
        clip_norm: bound on the gradient norm of the networks, None for none.
        average: decay in [0, 1) of the exponential moving average of the parameters, which the run ends with;
            None for the last ones.
        start_log_z: set log Z to the first batch's median log-weight, instead of where it stands.
        chunk: rows per recomputed run of the two-pass gradient.
        seed: seed of the run; the caller's generator is left as it was.
        progress_bar: show loss, log Z and ESS (never when standard error is not a terminal).
        label: what the progress bar says.
        checkpoint: file to save to and resume from.
        checkpoint_every: updates between saves.
        on_step: called after every update with its number and arrays.

    Raises:
        InvalidInput: when a size or rate makes no sense.
        MeasureMismatch: when the target is a density against another measure than the space's.
        NonFinite: when the loss is not finite, naming the step.
        BadCheckpoint: when the checkpoint is of another model or run.

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
        >>> from ctsgfn.target import as_target
        >>> space = hypergrid(2, 4)
        >>> gfn = GFlowNet(space, *hypergrid_kernels(space, hidden=16))
        >>> even = as_target(lambda x: torch.zeros(len(x)), space.points)
        >>> history = train(gfn, even, steps=150, batch_size=64, lr=1e-2, seed=0, progress_bar=False)
        >>> abs(gfn.log_z.item() - torch.tensor(16.0).log().item()) < 0.1
        True
    """
    sizes = {"batch_size": batch_size, "checkpoint_every": checkpoint_every}
    for name, value in sizes.items() if steps is None else {"steps": steps, **sizes}.items():
        whole(name, value)
    for name, rate in (("lr", lr), ("lr_log_z", lr_log_z)):
        if not rate > 0:
            raise InvalidInput(f"{name} must be positive, got {rate!r}.")
    if average is not None and not 0.0 <= average < 1.0:
        raise InvalidInput(f"average must be a decay in [0, 1), such as 0.99, or None, got {average!r}.")
    if not callable(objective):
        raise InvalidInput(
            "objective must be a function of a Balance, such as ctsgfn.objectives.trajectory_balance, got "
            f"{objective!r}."
        )
    require_same_measure(gfn, target)
    wanted = objective.wanted if isinstance(objective, Objective) else Wanted(flow=gfn.log_flow is not None)
    pathwise = isinstance(objective, Objective) and objective.reparameterised
    if pathwise:
        if behaviour is not on_policy:
            raise InvalidInput(
                "this objective differentiates through its own trajectories, so it takes no behaviour: "
                "leave behaviour=on_policy, or use the score-function form of the objective."
            )
        behaviour = reparameterised
    walked_back = isinstance(objective, Objective) and objective.walked_back
    if walked_back and not (isinstance(behaviour, FromData) and behaviour.reparameterised):
        raise InvalidInput(
            "this objective learns from data, by walks back that carry the pathwise gradient: pass "
            "behaviour=from_data(x, reparameterised=True)."
        )
    pace = Pace(steps, seconds)
    run = Run(gfn, behaviour, lr, lr_log_z, schedule, pace, average)
    history = History()
    floor = target.floor if isinstance(target, Density) else None
    with seeded(seed):
        first = 0
        if checkpoint is not None and Path(checkpoint).exists():
            first = run.resume(Path(checkpoint), history)
        bar = tqdm(
            initial=first,
            total=steps,
            desc=label,
            unit="step",
            disable=None if progress_bar else True,
            mininterval=0.5,
        )
        try:
            step = first
            while not pace.over(step) and not (gap is not None and history.tight(gap)):
                trajectories = behaviour(gfn, batch_size)
                run.set_rate(step)
                if step == 0 and start_log_z:
                    _start_log_z(gfn, target, trajectories)
                run.optimiser.zero_grad(set_to_none=True)
                loss, arrays = backpropagate(gfn, target, trajectories, objective, wanted=wanted, chunk=chunk)
                if not math.isfinite(float(loss)):
                    raise NonFinite(
                        f"the loss is {float(loss)} at step {step}: lower lr, set clip_norm, or pass a "
                        "bounded penalty g= to the objective."
                    )
                norm = run.update(clip_norm, step)
                history.record(loss, arrays, norm, trajectories.own, floor)
                if isinstance(behaviour, Remembers):
                    behaviour.remember(gfn, trajectories, arrays)
                if on_step is not None:
                    on_step(step, arrays)
                if step % 10 == 0:
                    bar.set_postfix(history.last(), refresh=False)
                step += 1
                bar.update()
                if checkpoint is not None and step % checkpoint_every == 0:
                    run.save(Path(checkpoint), step, history)
            if checkpoint is not None and step > first and step % checkpoint_every:
                run.save(Path(checkpoint), step, history)
        except KeyboardInterrupt:
            history.interrupted = True
            of = "" if steps is None else f" of {steps}"
            warnings.warn(
                f"training was interrupted after {history.steps}{of} steps: the flow is usable, and "
                "evidence() says how good it is.",
                CtsgfnWarning,
                stacklevel=2,
            )
        finally:
            bar.close()
        run.finish()
    return history


@dataclass(frozen=True)
class Training:
    """The choices of a training run that do not depend on the flow: ``run`` makes it."""

    objective: Objective | Callable[[Balance], Tensor]
    steps: int | None
    batch_size: int
    lr: float
    lr_log_z: float
    progress_bar: bool
    checkpoint: str | Path | None
    budget: Budget | None = None
    stages: int = 1  # runs from here on that share what is left of it
    gap: float | None = None  # see ``train``
    average: float | None = None

    @property
    def pathwise(self) -> bool:
        """Whether the objective differentiates through its own draws."""
        return isinstance(self.objective, Objective) and self.objective.reparameterised

    @property
    def reads_flow(self) -> bool:
        """Whether the objective says that it reads the flow of states."""
        return isinstance(self.objective, Objective) and self.objective.wanted.flow

    def run(
        self,
        gfn: GFlowNet[Any],
        target: Target[Any],
        behaviour: Behaviour,
        label: str,
        steps: int,
    ) -> History:
        """Train a flow; each label has its own checkpoint.

        Args:
            gfn: the flow.
            target: its target.
            behaviour: who draws.
            label: of the run.
            steps: updates where none were chosen; the last run on a budget has as many as that lets.
        """
        unlimited = self.budget is not None and self.stages == 1
        path = None if self.checkpoint is None else Path(self.checkpoint)
        return train(
            gfn,
            target,
            steps=(None if unlimited else steps) if self.steps is None else self.steps,
            seconds=None if self.budget is None else self.budget.left / self.stages,
            gap=self.gap,
            objective=self.objective,
            batch_size=self.batch_size,
            behaviour=behaviour,
            lr=self.lr,
            lr_log_z=self.lr_log_z,
            average=self.average,
            progress_bar=self.progress_bar,
            label=label,
            checkpoint=None if path is None else path.with_name(f"{path.stem}_{label}{path.suffix}"),
        )

    def say(self, line: str) -> None:
        """Tell the user, where there is a progress bar to tell it above."""
        if self.progress_bar:
            tqdm.write(line)


def require_same_measure(gfn: GFlowNet[Any], target: Target[Any]) -> None:
    """Refuse a target that is a density against another measure than the space's.

    Raises:
        MeasureMismatch: naming both measures and the remedy.
    """
    if target.measure != gfn.space.points:
        raise MeasureMismatch(
            f"the target is a density against {target.measure}, but {gfn.space.name} draws points whose "
            f"reference is {gfn.space.points}: change the target's coordinates with ctsgfn.transformed (it "
            "adds the Jacobian), or choose a space on the target's measure."
        )


def _start_log_z(gfn: GFlowNet[Any], target: Target[Any], trajectories: Any) -> None:
    """Median log-weight of the batch: no outlier can carry log Z away."""
    with torch.no_grad():
        arrays = balance(gfn, target, trajectories, wanted=Wanted(), chunk=4 * CHUNK)
        gfn.log_z.copy_(arrays.log_weight.median())
