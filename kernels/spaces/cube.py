r"""The cube: [0, 1]^d, entered anywhere and then climbed by increments along one axis at a time.

.. math::
    \kappa(s_0, \cdot) = \text{volume on } [0, 1]^d, \qquad
    \kappa(s, \cdot) = \delta_{s_f}
        + \sum_{i\,:\,s_i + m < 1} \text{length on } \{s + t e_i : m \le t \le 1 - s_i\}

with m the least increment, and backwards the atom at s0 and the same segments downwards:

.. math::
    \kappa_b(s, \cdot) = \delta_{s_0}
        + \sum_{i\,:\,s_i > m} \text{length on } \{s - t e_i : m \le t \le s_i\}.

The first step has a density on the whole cube, up to its faces, and so has what terminates: the least
increment bounds the length of trajectories and closes no region. Segments have translation-invariant
length, so nu x kappa = nu x kappa_b needs no Jacobian.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, Def. 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.diffuse import Diffuse, diffuse
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head, Kernel
from ctsgfn.kernels.heads.beta import BetaMixture
from ctsgfn.kernels.heads.waves import wave_encoder
from ctsgfn.kernels.spaces.spots import Entry, Spot, Travel, Ways, spots
from ctsgfn.measures import Atom, Lebesgue, coordinates
from ctsgfn.networks import zero_init
from ctsgfn.space import Space


class Entrance(Entry):
    """From s0 to any point of the cube, its own coordinates; volume."""

    def __init__(self, dim: int) -> None:
        self.base = Lebesgue(dim, 0.0, 1.0)

    def place(self, a: Tensor) -> Tensor:
        """The coordinates are the point."""
        return a

    def find(self, x: Tensor) -> Tensor:
        """The point."""
        return x


class Increment(Travel):
    """Along one axis by at least ``least``; length. sign = +1 is kappa's, sign = -1 that of kappa_b.

    The coordinate a is the fraction of the segment, counted from the face that it ends on (1 for
    kappa, 0 for kappa_b); a is rounded to at most 1 - 8 eps, so that an edge in exact arithmetic is
    an edge of both kernels in floating point.
    """

    def __init__(self, axis: int, least: float, sign: int) -> None:
        self.base = Lebesgue(1, 0.0, 1.0)
        self.axis, self.least, self.sign = axis, least, sign

    def room(self, s: Spot) -> Tensor:
        """Length of the segment, [B]; not positive where there is none."""
        x = s.x[:, self.axis]
        return (1 - x if self.sign > 0 else x) - self.least

    def push(self, s: Spot, a: Tensor) -> Spot:
        """Put the coordinate at fraction a of the segment, from its face."""
        short = self.room(s) * a[:, 0].clamp(max=1 - 8 * torch.finfo(a.dtype).eps)
        x = s.x.clone()
        x[:, self.axis] = 1 - short if self.sign > 0 else short
        return Spot(x, s.started)

    def pull(self, s: Spot, t: Spot) -> Tensor:
        """Fraction of the segment at which t lies, from its face."""
        x = t.x[:, self.axis]
        return self.base.interior(((1 - x if self.sign > 0 else x) / self.room(s))[:, None])

    def log_weight(self, s: Spot, a: Tensor) -> Tensor:
        """Length of the segment."""
        return self.room(s).log()

    def joins(self, s: Spot, t: Spot) -> Tensor:
        """Points that differ on this axis alone, by enough to rounding."""
        step = self.sign * (t.x - s.x)
        others = (step == 0).sum(-1) == step.shape[-1] - 1
        return others & (step[:, self.axis] >= self.least - 8 * torch.finfo(step.dtype).eps)


def cube(dim: int, least: float = 0.25) -> Space[Spot, Tensor]:
    """The unit cube, climbed along its axes; every point but s0 is terminal, and leads home at once.

    Args:
        dim: d.
        least: least increment m, in (0, 1/2].

    Raises:
        InvalidInput: when dim < 1 or least is not in (0, 1/2].

    Example:
        >>> space = cube(3)
        >>> space.horizon, str(space.points)
        (14, 'Lebesgue measure on [0, 1]^3')
        >>> space.kappa.open(space.write(torch.tensor([[0.1, 0.5, 0.9]]))).tolist()
        [[False, True, True, False, True]]
    """
    points = Lebesgue(dim, 0.0, 1.0)
    if not 0.0 < least <= 0.5:
        raise InvalidInput(f"cube needs a least increment in (0, 1/2], got {least}.")
    return spots(
        f"cube(dim={dim})" if least == 0.25 else f"cube(dim={dim}, least={least:g})",
        "the cube",
        points,
        Entrance(dim),
        Ways(tuple(Increment(axis, least, +1) for axis in range(dim)), lambda s: 1 - s.x - least > 0),
        Ways(tuple(Increment(axis, least, -1) for axis in range(dim)), lambda s: s.x - least > 0),
        returns=lambda s: s.started[:, None],
        progress=lambda s: 1 + s.x.sum(-1) / least,
        horizon=2 + math.ceil(dim / least),
    )


def cube_kernels(
    space: Space[Spot, Any],
    *,
    hidden: int = 128,
    layers: int = 3,
    components: int = 6,
    first_components: int = 16,
    harmonics: int = 4,
    spread: float = 1000.0,
    learned_backward: bool = True,
) -> tuple[Kernel[Spot], Kernel[Spot]]:
    r"""Beta mixtures on the charts of the cube: free parameters at s0, networks elsewhere.

    Args:
        space: a cube.
        hidden: width of each network.
        layers: hidden layers of each network.
        components: mixture components on each axis.
        first_components: mixture components of the first step, each a product over the axes.
        harmonics: the networks also see the waves of ``wave_encoder``.
        spread: bound on the concentrations, less 1.
        learned_backward: learn p_B; otherwise it is even on what is open, and uniform there.

    Returns:
        The forward and the backward kernel.

    Example:
        >>> space = cube(2)
        >>> forward, backward = cube_kernels(space, hidden=8)
        >>> forward(space.source(1)).log_mass.tolist()
        [[0.0, -inf, -inf, -inf]]
    """
    dim = coordinates(space.points)

    def steps() -> list[Head]:
        return [BetaMixture(1, components, hidden, spread) for _ in range(dim)]

    def gate() -> nn.Linear:
        return zero_init(nn.Linear(hidden, dim + 2))

    first: Head = BetaMixture(dim, first_components, 0, spread)
    encoder = wave_encoder(space, hidden, layers, harmonics)
    forward = Kernel(space.kappa, encoder, [first, *steps()], gate())
    if not learned_backward:
        return forward, diffuse(space.kappa_b)
    other = wave_encoder(space, hidden, layers, harmonics)
    return forward, Kernel(space.kappa_b, other, [Diffuse(Atom()), *steps()], gate())
