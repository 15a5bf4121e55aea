"""Training: one loop for every space, objective and behaviour."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ctsgfn.balance import Balance, Wanted, balance
from ctsgfn.behaviours import Behaviour, Remembers, on_policy, reparameterised
from ctsgfn.checkpoints import load_checkpoint, save_checkpoint
from ctsgfn.errors import BadCheckpoint, CtsgfnWarning, InvalidInput, MeasureMismatch, NonFinite, whole
from ctsgfn.gflownet import GFlowNet
from ctsgfn.gradient import CHUNK, backpropagate
from ctsgfn.objectives import Objective, trajectory_balance
from ctsgfn.plots import plot_history
from ctsgfn.seeding import generator_states, restore_generators, seeded
from ctsgfn.target import Density, Target

Schedule = Callable[[float], float]
"""Progress in [0, 1] -> factor of the learning rates."""


def cosine(progress: float) -> float:
    """Cosine decay of the learning rate from 1 to 0.02.

    Example:
        >>> [round(cosine(p), 2) for p in (0.0, 0.5, 1.0)]
        [1.0, 0.51, 0.02]
    """
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class History:
    """What a training run did, step by step; ``plot()`` draws it.

    ``elbo`` and ``ess`` are of the part of a batch that the flow itself drew, and NaN where there is none;
    ``floored`` is the fraction of the batch at the target's floor.

    Example:
        >>> History(loss=[3.0, 1.0], log_z=[0.0, 0.2]).steps
        2
    """

    loss: list[float] = field(default_factory=list)
    log_z: list[float] = field(default_factory=list)  # the learned log Z
    elbo: list[float] = field(default_factory=list)  # mean log importance weight
    ess: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    floored: list[float] = field(default_factory=list)
    interrupted: bool = False

    @property
    def steps(self) -> int:
        """Updates made."""
        return len(self.loss)

    def plot(self) -> Any:
        """Figure of loss, log Z with the evidence bound, and ESS against the step."""
        return plot_history(asdict(self))


def train(
    gfn: GFlowNet[Any],
    target: Target[Any],
    *,
    steps: int,
    objective: Objective | Callable[[Balance], Tensor] = trajectory_balance,
    batch_size: int = 256,
    behaviour: Behaviour = on_policy,
    lr: float = 1e-3,
    lr_log_z: float = 1e-1,
    schedule: Schedule = cosine,
    clip_norm: float | None = 10.0,
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
        steps: updates in all.
        objective: an ``Objective``, or any function of a ``Balance``.
        batch_size: trajectories per update.
        behaviour: draws the trajectories, on-policy by default.
        lr: Adam's rate for the networks.
        lr_log_z: Adam's rate for log Z.
        schedule: progress -> factor of both rates.
        clip_norm: bound on the gradient norm of the networks, None for none.
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
    for name, value in (("steps", steps), ("batch_size", batch_size), ("checkpoint_every", checkpoint_every)):
        whole(name, value)
    for name, rate in (("lr", lr), ("lr_log_z", lr_log_z)):
        if not rate > 0:
            raise InvalidInput(f"{name} must be positive, got {rate!r}.")
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
    run = _Run(gfn, behaviour, lr, lr_log_z, schedule, steps)
    history = History()
    with seeded(seed):
        first = 0
        if checkpoint is not None and Path(checkpoint).exists():
            first = run.resume(Path(checkpoint), history)
        bar = tqdm(
            range(first, steps),
            initial=first,
            total=steps,
            desc=label,
            unit="step",
            disable=None if progress_bar else True,
            mininterval=0.5,
        )
        try:
            for step in bar:
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
                norm = run.update(clip_norm)
                _record(history, loss, arrays, norm, target, trajectories.own)
                if isinstance(behaviour, Remembers):
                    behaviour.remember(gfn, trajectories, arrays)
                if on_step is not None:
                    on_step(step, arrays)
                if step % 10 == 0:
                    bar.set_postfix(_postfix(history), refresh=False)
                if checkpoint is not None and ((step + 1) % checkpoint_every == 0 or step + 1 == steps):
                    run.save(Path(checkpoint), step + 1, history)
        except KeyboardInterrupt:
            history.interrupted = True
            warnings.warn(
                f"training was interrupted after {history.steps} of {steps} steps: the flow is usable, and "
                "evidence() says how good it is.",
                CtsgfnWarning,
                stacklevel=2,
            )
        finally:
            bar.close()
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

    def run(
        self, gfn: GFlowNet[Any], target: Target[Any], behaviour: Behaviour, label: str, steps: int
    ) -> History:
        """Train a flow; ``steps`` is used where none were chosen, and each label has its own checkpoint."""
        path = None if self.checkpoint is None else Path(self.checkpoint)
        return train(
            gfn,
            target,
            steps=steps if self.steps is None else self.steps,
            objective=self.objective,
            batch_size=self.batch_size,
            behaviour=behaviour,
            lr=self.lr,
            lr_log_z=self.lr_log_z,
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


@dataclass
class _Run:
    """The optimiser's side of a run, and its checkpoints."""

    gfn: GFlowNet[Any]
    behaviour: Behaviour
    lr: float
    lr_log_z: float
    schedule: Schedule
    steps: int

    def __post_init__(self) -> None:
        log_z = self.gfn.log_z
        self.networks = [p for p in self.gfn.parameters() if p.requires_grad and p is not log_z]
        groups = [{"params": self.networks, "lr": self.lr}] if self.networks else []
        self.optimiser = torch.optim.Adam([*groups, {"params": [log_z], "lr": self.lr_log_z}], foreach=True)
        self.rates = [float(group["lr"]) for group in self.optimiser.param_groups]

    def set_rate(self, step: int) -> None:
        """Set the learning rates of a step: a function of the step alone, so resuming is exact."""
        factor = self.schedule(step / max(1, self.steps - 1))
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def update(self, clip_norm: float | None) -> float:
        """Clip and step; returns the norm before clipping."""
        gradients = [p for p in self.networks if p.grad is not None]
        norm = 0.0
        if gradients:
            bound = math.inf if clip_norm is None else clip_norm
            norm = float(nn.utils.clip_grad_norm_(gradients, bound))
        self.optimiser.step()
        return norm

    def save(self, path: Path, step: int, history: History) -> None:
        """Write everything that the next step depends on."""
        memory: dict[str, Any] = self.behaviour.state_dict() if isinstance(self.behaviour, Remembers) else {}
        save_checkpoint(
            path,
            {
                "kind": "training",
                "space": self.gfn.space.name,
                "step": step,
                "steps": self.steps,
                "gfn": self.gfn.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "rng": generator_states(),
                "memory": memory,
                "history": asdict(history),
            },
        )

    def resume(self, path: Path, history: History) -> int:
        """Read a checkpoint back; returns the step to go on from."""
        saved = load_checkpoint(path)
        if saved.get("kind") != "training" or saved["space"] != self.gfn.space.name:
            raise BadCheckpoint(
                f"{path} is not a training checkpoint of {self.gfn.space.name}: pass another file, or delete "
                "it to start afresh."
            )
        try:
            self.gfn.load_state_dict(saved["gfn"])
            self.optimiser.load_state_dict(saved["optimiser"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise BadCheckpoint(
                f"{path} belongs to a flow of another shape ({str(error).splitlines()[0]}): build the same "
                "networks, or delete it to start afresh."
            ) from error
        if isinstance(self.behaviour, Remembers):
            self.behaviour.load_state_dict(saved["memory"])
        restore_generators(saved["rng"])
        for name, value in saved["history"].items():
            setattr(history, name, value)
        history.interrupted = False
        return int(saved["step"])


def _start_log_z(gfn: GFlowNet[Any], target: Target[Any], trajectories: Any) -> None:
    """Median log-weight of the batch: no outlier can carry log Z away."""
    with torch.no_grad():
        arrays = balance(gfn, target, trajectories, wanted=Wanted(), chunk=4 * CHUNK)
        gfn.log_z.copy_(arrays.log_weight.median())


def _record(
    history: History, loss: Tensor, arrays: Balance, norm: float, target: Target[Any], own: Tensor | None
) -> None:
    log_weight = arrays.log_weight
    log_weight = log_weight[:0] if own is None else log_weight[own]
    total = 2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0)
    floor = target.floor if isinstance(target, Density) else None
    history.loss.append(float(loss))
    history.log_z.append(float(arrays.log_z.detach()))
    history.elbo.append(float(log_weight.mean()))
    history.ess.append(float(total.exp()) / max(1, len(log_weight)))
    history.grad_norm.append(norm)
    history.floored.append(0.0 if floor is None else float((arrays.log_reward <= floor).double().mean()))


def _postfix(history: History) -> dict[str, str]:
    text = {"loss": f"{history.loss[-1]:.3g}", "log Z": f"{history.log_z[-1]:.3f}"}
    if not math.isnan(history.ess[-1]):
        text["ESS"] = f"{100 * history.ess[-1]:.0f}%"
    if history.floored[-1] > 0:
        text["floored"] = f"{100 * history.floored[-1]:.0f}%"
    return text
