r"""Draws of a target moved on by Markov chains that leave it invariant, exactly.

References:
    MCMC using Hamiltonian dynamics (Neal, 2011), arXiv 1206.1901.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctsgfn.bridge import GOAL, Bridge, Scale
from ctsgfn.target import Target

GUIDES = 256
"""Draws that set scales, step sizes and directions, and are not returned."""

_ADAPTING = 20
"""Moves of the guides, in which the step size is found."""


class _Flat:
    """No law: the path from it is the target alone, at its end."""

    def __init__(self, like: Tensor) -> None:
        self.like = like

    def draw(self, n: int) -> Tensor:
        """The first n points of those it was made from."""
        return self.like[:n]

    def log_density(self, z: Tensor) -> Tensor:
        """Zero, [B]."""
        return torch.zeros_like(z[:, 0])

    def score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Zero, [B] and [B, d]."""
        return torch.zeros_like(z[:, 0]), torch.zeros_like(z)


def move_on(target: Target[Tensor], z: Tensor, guides: Tensor, steps: int) -> Tensor:
    """Move every point ``steps`` times: along differences of two guides, then by Hamiltonian dynamics.

    The guides are other draws, which set the scale, the step size and the differences before the first
    move; nothing adapts while the points move, so that a draw of the target stays one.

    Args:
        target: the target, on R^d or carried there.
        z: points [N, d].
        guides: other points [G, d].
        steps: moves of each point.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> from ctsgfn.target import as_target
        >>> normal = as_target(lambda x: -0.5 * (x - 3).square().sum(-1), Lebesgue(1))
        >>> moved = move_on(normal, torch.zeros(500, 1), torch.randn(200, 1), steps=20)
        >>> bool((moved.mean() - 3).abs() < 0.3)
        True
    """
    bridge = Bridge(_Flat(z), target)
    dim = z.shape[1]
    scale, leaps, size = Scale.of(guides), math.ceil(1.5 * dim**0.25), dim**-0.25
    if bridge.differentiable:
        at = bridge.look(guides)
        for _ in range(_ADAPTING):
            at, rate = bridge.leap(at, 1.0, scale, size, leaps)
            size = min(3.0, max(1e-4, size * math.exp(rate - GOAL)))
    at = bridge.look(z)
    for _ in range(steps):
        at, _ = bridge.differ(at, 1.0, guides)
        if bridge.differentiable:
            at, _ = bridge.leap(at, 1.0, scale, size, leaps)
    return at.z
