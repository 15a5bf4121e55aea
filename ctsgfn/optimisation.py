"""The optimiser of a training run, and its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ctsgfn.behaviours import Behaviour, Remembers
from ctsgfn.budget import Pace
from ctsgfn.checkpoints import load_checkpoint, save_checkpoint
from ctsgfn.errors import BadCheckpoint
from ctsgfn.gflownet import GFlowNet
from ctsgfn.history import History
from ctsgfn.seeding import generator_states, restore_generators

Schedule = Callable[[float], float]
"""Progress in [0, 1] -> factor of the learning rates."""


@dataclass
class Run:
    """The optimiser's side of a run, and its checkpoints.

    With ``average`` the parameters that a run ends with are the exponential moving average of those of its
    updates, by that decay: the noise of the last updates is averaged out.
    """

    gfn: GFlowNet[Any]
    behaviour: Behaviour
    lr: float
    lr_log_z: float
    schedule: Schedule
    pace: Pace
    average: float | None = None

    def __post_init__(self) -> None:
        log_z = self.gfn.log_z
        self.networks = [p for p in self.gfn.parameters() if p.requires_grad and p is not log_z]
        groups = [{"params": self.networks, "lr": self.lr}] if self.networks else []
        self.optimiser = torch.optim.Adam([*groups, {"params": [log_z], "lr": self.lr_log_z}], fused=True)
        self.rates = [float(group["lr"]) for group in self.optimiser.param_groups]
        self.mean = [] if self.average is None else [p.detach().clone() for p in self._learned]

    @property
    def _learned(self) -> list[Tensor]:
        return [*self.networks, self.gfn.log_z]

    def set_rate(self, step: int) -> None:
        """Set the learning rates: where steps alone count, by the step alone, so that resuming is exact."""
        factor = self.schedule(self.pace.progress(step))
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def update(self, clip_norm: float | None, step: int) -> float:
        """Clip and make the update numbered ``step``; returns the norm before clipping."""
        gradients = [p for p in self.networks if p.grad is not None]
        norm = 0.0
        if gradients:
            bound = math.inf if clip_norm is None else clip_norm
            norm = float(nn.utils.clip_grad_norm_(gradients, bound))
        self.optimiser.step()
        if self.average is not None:
            decay = min(self.average, step / (step + 1))  # at first the plain mean, without the start
            get_ema_multi_avg_fn(decay)(self.mean, [p.detach() for p in self._learned], step)
        return norm

    def finish(self) -> None:
        """Put the average in the place of the last parameters, where one was kept."""
        with torch.no_grad():
            for parameter, mean in zip(self._learned, self.mean, strict=self.average is not None):
                parameter.copy_(mean)

    def save(self, path: Path, step: int, history: History) -> None:
        """Write everything that the next step depends on."""
        memory: dict[str, Any] = self.behaviour.state_dict() if isinstance(self.behaviour, Remembers) else {}
        save_checkpoint(
            path,
            {
                "kind": "training",
                "space": self.gfn.space.name,
                "step": step,
                "seconds": self.pace.elapsed,
                "gfn": self.gfn.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "mean": self.mean,
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
        if len(saved.get("mean", [])) != len(self.mean):
            raise BadCheckpoint(
                f"{path} was saved {'without' if self.mean else 'with'} an average of the parameters: resume "
                "with the same average=, or delete it to start afresh."
            )
        for mean, value in zip(self.mean, saved.get("mean", []), strict=True):
            mean.copy_(value)
        restore_generators(saved["rng"])
        for name, value in saved["history"].items():
            setattr(history, name, value)
        history.interrupted = False
        self.pace.spent = float(saved.get("seconds", 0.0))
        return int(saved["step"])
