r"""Spaces of s0 and the points of a box: entered at a point, then walked from point to point.

.. math::
    S = \{s_0\} \cup X, \qquad \nu = \delta_{s_0} + \text{Lebesgue on } X, \qquad
    \kappa(s, \cdot) = \delta_{s_f} + \sum_k \kappa_k(s, \cdot) \text{ on } X, \qquad
    \kappa_b(s, \cdot) = 1[s \text{ returns}]\,\delta_{s_0} + \sum_k \kappa_{b, k}(s, \cdot)

What is left to a space of this kind is how it enters and how it travels.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, Def. 1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.measures import Lebesgue, Pushforward, Sum, point_mass
from ctsgfn.reference import Branch, ReferenceKernel, Return
from ctsgfn.space import Space
from ctsgfn.states import Batch


@dataclass(frozen=True)
class Spot(Batch):
    """A point, or s0 (started = False, x = 0)."""

    x: Tensor  # [B, d]
    started: Tensor  # [B] bool


class Entry(Branch[Spot]):
    """From s0 to the points: set ``base``, write ``place`` and its inverse ``find``, and ``log_weight``."""

    base: Lebesgue

    @abstractmethod
    def place(self, a: Tensor) -> Tensor:
        """Points [B, d] at coordinates [B, k]."""

    @abstractmethod
    def find(self, x: Tensor) -> Tensor:
        """Coordinates [B, k] of points [B, d]."""

    def push(self, s: Spot, a: Tensor) -> Spot:
        """The point at a."""
        return Spot(self.place(a), torch.ones_like(s.started))

    def pull(self, s: Spot, t: Spot) -> Tensor:
        """Coordinates of the point, told from the walls of the base."""
        return self.base.interior(self.find(t.x))

    def owns(self, s: Spot, t: Spot) -> Tensor:
        """Edges out of s0."""
        return ~s.started & t.started

    def intrinsic(self, t: Spot) -> Tensor:
        """The point."""
        return t.x


class Travel(Branch[Spot]):
    """From point to point: a branch that says which pairs of points it joins."""

    base: Lebesgue

    @abstractmethod
    def joins(self, s: Spot, t: Spot) -> Tensor:
        """Which pairs of points [B] are edges, to rounding."""

    def owns(self, s: Spot, t: Spot) -> Tensor:
        """Edges from point to point."""
        return s.started & t.started & self.joins(s, t)

    def intrinsic(self, t: Spot) -> Tensor:
        """The point."""
        return t.x


@dataclass(frozen=True)
class Ways:
    """How to travel in one direction."""

    branches: tuple[Travel, ...]
    open: Callable[[Spot], Tensor]  # states -> [B, K] bool, which of them have mass at a point


def spots(
    name: str,
    what: str,
    points: Lebesgue,
    entry: Entry,
    ahead: Ways,
    back: Ways,
    *,
    returns: Callable[[Spot], Tensor],
    forced: bool = False,
    progress: Callable[[Spot], Tensor],
    horizon: int,
) -> Space[Spot, Tensor]:
    """A space of s0 and points, all of them terminal.

    Args:
        name: of the space.
        what: the same in messages, "the box".
        points: the points of the target, a bounded box.
        entry: the branch of kappa that leaves s0.
        ahead: the branches of kappa between points.
        back: those of kappa_b.
        returns: states -> [B, 1] bool, from which points kappa_b leads home at once.
        forced: True when kappa_b has exactly one branch open at each point.
        progress: states -> [B], of points; at least 1, rising by at least 1 along every edge.
        horizon: most edges of a trajectory.

    Example:
        >>> from ctsgfn.kernels.spaces.cube import cube
        >>> cube(2).write(torch.ones(1, 2))
        Spot(x=tensor([[1., 1.]]), started=tensor([True]))
    """

    def source(n: int) -> Spot:
        return Spot(torch.zeros(n, points.dim), torch.zeros(n, dtype=torch.bool))

    def write(x: Tensor) -> Spot:
        return Spot(x, torch.ones(len(x), dtype=torch.bool, device=x.device))

    def read(s: Spot) -> Tensor:
        return s.x

    def started(s: Spot) -> Tensor:
        return s.started

    def waiting(s: Spot) -> Tensor:
        return ~s.started

    def forward_open(s: Spot) -> Tensor:
        on = s.started[:, None]
        return torch.cat([~on, on & ahead.open(s)], -1)

    def backward_open(s: Spot) -> Tensor:
        return s.started[:, None] & torch.cat([returns(s), back.open(s)], -1)

    centre, half = 0.5 * (points.low + points.high), 0.5 * (points.high - points.low)
    return Space(
        name=name,
        source=source,
        nu=Sum((point_mass(source, waiting), Pushforward(points, push=write, pull=read, owns=started))),
        kappa=ReferenceKernel((entry, *ahead.branches), forward_open, started, name=f"kappa of {what}"),
        kappa_b=ReferenceKernel(
            (Return(source, waiting), *back.branches), backward_open, forced=forced, name=f"kappa_b of {what}"
        ),
        progress=lambda s: s.started * progress(s),
        horizon=horizon,
        points=points,
        read=read,
        write=write,
        features=lambda s: torch.cat([(s.x - centre) / half, s.started[:, None]], -1),
    )
