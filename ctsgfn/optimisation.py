"""The optimiser of a training run, and its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

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
    """The optimiser's side of a run, and its checkpoints."""

    gfn: GFlowNet[Any]
    behaviour: Behaviour
    lr: float
    lr_log_z: float
    schedule: Schedule
    pace: Pace

    def __post_init__(self) -> None:
        log_z = self.gfn.log_z
        self.networks = [p for p in self.gfn.parameters() if p.requires_grad and p is not log_z]
        groups = [{"params": self.networks, "lr": self.lr}] if self.networks else []
        self.optimiser = torch.optim.Adam([*groups, {"params": [log_z], "lr": self.lr_log_z}], fused=True)
        self.rates = [float(group["lr"]) for group in self.optimiser.param_groups]

    def set_rate(self, step: int) -> None:
        """Set the learning rates: where steps alone count, by the step alone, so that resuming is exact."""
        factor = self.schedule(self.pace.progress(step))
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
                "seconds": self.pace.elapsed,
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
        self.pace.spent = float(saved.get("seconds", 0.0))
        return int(saved["step"])
