"""One line per space, head, target and objective: each inherits the whole conformance suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernel import Head
from ctsgfn.kernels.heads.categorical import Categorical
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.space import Space
from ctsgfn.target import Density, Target, as_target


# ---------------------------------------------------------------- spaces
@dataclass(frozen=True)
class SpaceCase:
    """A space, its default learned kernels (small), and a target on it whose log Z is known."""

    space: Callable[[], Space[Any, Any]]
    kernels: Callable[[Space[Any, Any]], GFlowNet[Any]]
    target: Callable[[Space[Any, Any]], Target[Any]]
    log_z: Callable[[Space[Any, Any]], float]


def ramp(space: Space[Any, Tensor]) -> Density[Tensor]:
    """On cells: log r = half the sum of the coordinates."""
    return as_target(lambda x: 0.5 * x.sum(-1).to(torch.get_default_dtype()), space.points)


def log_sum(space: Space[Any, Tensor], side: int, dim: int) -> float:
    """Log Z of ``ramp`` in closed form: the coordinates are independent."""
    del space
    return dim * float((0.5 * torch.arange(side, dtype=torch.float64)).logsumexp(0))


SPACES: dict[str, SpaceCase] = {
    "hypergrid": SpaceCase(
        space=lambda: hypergrid(2, 4),
        kernels=lambda space: hypergrid_kernels(space, hidden=16),
        target=ramp,
        log_z=lambda space: log_sum(space, side=4, dim=2),
    ),
}


# ---------------------------------------------------------------- heads
@dataclass(frozen=True)
class HeadCase:
    """How to build a head of context width ``width``; whether it honours a live mask."""

    build: Callable[[int], Head]
    live: bool = False


HEADS: dict[str, HeadCase] = {
    "categorical": HeadCase(lambda width: Categorical(5, width), live=True),
}

# ---------------------------------------------------------------- targets: name -> constructor
TARGETS: dict[str, Callable[[], Any]] = {}
