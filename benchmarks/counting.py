"""Targets that count how often they are asked; a benchmark hides exact samples and log Z behind them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctsgfn.target import HasConstrain, HasScore, Target


class Counted:
    """A target that counts the points at which its density was asked for, and its gradient.

    Nothing else of the target can be seen through it, so that ``fit`` and ``evidence`` know no more than
    of a user's density.
    """

    def __init__(self, target: Target[Any]) -> None:
        self.target, self.measure = target, target.measure
        self.density_calls = self.gradient_calls = 0

    def log_density(self, x: Any) -> Tensor:
        """Log-density [B]; a backward pass is taken to follow where x needs gradients."""
        self.density_calls += len(x)
        columns = [x] if isinstance(x, Tensor) else x.tensors().values()
        if torch.is_grad_enabled() and any(column.requires_grad for column in columns):
            self.gradient_calls += len(x)
        return self.target.log_density(x)


class CountedScore(Counted):
    """The same for a target with a score of its own."""

    def score(self, x: Tensor) -> Tensor:
        """Gradient [B, d]."""
        self.gradient_calls += len(x)
        assert isinstance(self.target, HasScore)
        return self.target.score(x)


class CountedNames(Counted):
    """The same for a target that names its variables."""

    def constrain(self, x: Tensor) -> dict[str, Tensor]:
        """Value of each variable."""
        assert isinstance(self.target, HasConstrain)
        return self.target.constrain(x)


def counted(target: Target[Any]) -> Counted:
    """The wrapper for a target, with its score or its names if it has them."""
    if isinstance(target, HasConstrain):
        return CountedNames(target)
    return CountedScore(target) if isinstance(target, HasScore) else Counted(target)
