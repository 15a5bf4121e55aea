r"""The Box: the unit square, reached by a quarter disc and then quarter arcs.

.. math::
    \kappa(s_0, \cdot) = \text{area on } \{|x| \le \delta\}, \qquad
    \kappa(s, \cdot) = \text{arc length on } \{s + \delta (\cos\theta, \sin\theta)\} \cap [0, 1]^2
        + \delta_{s_f}

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, 4.1, C.2.
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
from ctsgfn.measures import Atom, Lebesgue
from ctsgfn.networks import zero_init
from ctsgfn.reference import latest
from ctsgfn.space import Space

QUARTER = math.pi / 2


def unit(angle: Tensor) -> Tensor:
    """Directions [B, 2]."""
    return torch.stack([angle.cos(), angle.sin()], -1)


def length(x: Tensor) -> Tensor:
    """Euclidean lengths [B, 1]."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


class Disc(Entry):
    """From s0 to the quarter disc, in polar coordinates (radius / delta, angle / (pi / 2)); area.

    Float rounding must not carry a point over the rim, where kappa_b has no way home: radii are
    rounded to at most delta (1 - 8 eps).
    """

    def __init__(self, delta: float) -> None:
        self.base, self.delta = Lebesgue(2, 0.0, 1.0), delta

    def place(self, a: Tensor) -> Tensor:
        """Polar to Cartesian."""
        radius = self.delta * a[:, :1].clamp(max=1 - 8 * torch.finfo(a.dtype).eps)
        return radius * unit(QUARTER * a[:, 1])

    def find(self, x: Tensor) -> Tensor:
        """Cartesian to polar."""
        angle = torch.atan2(x[:, 1:], x[:, :1])
        return torch.cat([length(x) / self.delta, angle / QUARTER], -1)

    def log_weight(self, s: Spot, a: Tensor) -> Tensor:
        """Area element r dr dtheta."""
        return a[:, 0].log() + math.log(self.delta**2 * QUARTER)


class Arc(Travel):
    """Along a quarter circle of radius delta around s, inside the square; arc length.

    sign = +1 is kappa's arc towards (1, 1), sign = -1 that of kappa_b towards (0, 0). Points are
    rounded into the square, and away from the circle around the corner behind them: an edge in
    exact arithmetic is an edge of both kernels in floating point.
    """

    def __init__(self, delta: float, sign: int) -> None:
        self.base, self.delta, self.sign = Lebesgue(1, 0.0, 1.0), delta, sign

    @latest
    def arc(self, s: Spot) -> tuple[Tensor, Tensor]:
        """Lowest admissible angle and what is open above it, [B] each; not positive where there is no arc."""
        room = ((1 - s.x if self.sign > 0 else s.x) / self.delta).clamp(max=1.0)
        low = room[:, 0].acos()
        return low, room[:, 1].asin() - low

    def is_open(self, s: Spot) -> Tensor:
        """Where the arc has positive length, [B, 1]."""
        return (self.arc(s)[1] > 0)[:, None]

    def push(self, s: Spot, a: Tensor) -> Spot:
        """Step along the angle at fraction a of the arc."""
        low, width = self.arc(s)
        step = unit(torch.addcmul(low, width, a[:, 0]))
        x = torch.add(s.x, step, alpha=self.sign * self.delta).clamp(0.0, 1.0)
        behind = x if self.sign > 0 else 1 - x
        reach = self.delta * (1 + 8 * torch.finfo(x.dtype).eps)
        behind = behind / (length(behind) / reach).clamp(max=1.0)
        return Spot(behind if self.sign > 0 else 1 - behind, s.started)

    def pull(self, s: Spot, t: Spot) -> Tensor:
        """Fraction of the arc at which t lies."""
        low, width = self.arc(s)
        step = self.sign * (t.x - s.x)
        return self.base.interior(((torch.atan2(step[:, 1], step[:, 0]) - low) / width)[:, None])

    def log_weight(self, s: Spot, a: Tensor) -> Tensor:
        """Length of the arc."""
        return (self.delta * self.arc(s)[1]).log()

    def joins(self, s: Spot, t: Spot) -> Tensor:
        """Points at distance delta, to rounding."""
        gap = (length(t.x - s.x)[:, 0] - self.delta).abs()
        return gap <= 16 * torch.finfo(gap.dtype).eps


def box(delta: float = 0.25) -> Space[Spot, Tensor]:
    """The unit square with steps of length delta; every point but s0 is terminal.

    The stop is forced where the admissible arc is empty (within delta of the corner (1, 1)), and
    kappa_b leads home exactly where its arc is empty (within delta of the origin).

    Args:
        delta: step length, in (0, 1).

    Raises:
        InvalidInput: when delta is not in (0, 1).

    Example:
        >>> space = box(0.25)
        >>> space.horizon, str(space.points)
        (10, 'Lebesgue measure on [0, 1]^2')
        >>> space.kappa.open(space.write(torch.tensor([[0.5, 0.5], [0.9, 0.9]]))).tolist()
        [[False, True, True], [False, False, True]]
    """
    if not 0.0 < delta < 1.0:
        raise InvalidInput(f"box needs a step length delta in (0, 1), got {delta}.")
    ahead, back = Arc(delta, +1), Arc(delta, -1)
    return spots(
        f"box(delta={delta:g})",
        "the box",
        Lebesgue(2, 0.0, 1.0),
        Disc(delta),
        Ways((ahead,), ahead.is_open),
        Ways((back,), back.is_open),
        returns=lambda s: ~back.is_open(s),
        forced=True,
        progress=lambda s: 1 + s.x.sum(-1) / delta,
        horizon=2 + math.ceil(2 / delta),
    )


def box_kernels(
    space: Space[Spot, Any],
    *,
    hidden: int = 128,
    layers: int = 4,
    components: int = 4,
    first_components: int = 8,
    harmonics: int = 8,
    spread: float = 100.0,
    learned_backward: bool = True,
    tied: bool = False,
) -> tuple[Kernel[Spot], Kernel[Spot]]:
    r"""Beta mixtures on the charts of the Box: free parameters at s0, networks elsewhere.

    Args:
        space: a box.
        hidden: width of each network.
        layers: hidden layers of each network.
        components: mixture components on the arcs.
        first_components: mixture components on the first disc.
        harmonics: the networks also see the waves of ``wave_encoder``.
        spread: concentrations of the Betas are in (1, 1 + spread); 4.1 has the reference's upper bound.
        learned_backward: learn p_B; otherwise it is uniform on the arcs.
        tied: p_B shares all but its output layer with p_F.

    Returns:
        The forward and the backward kernel.

    Example:
        >>> space = box()
        >>> forward, backward = box_kernels(space, hidden=8)
        >>> forward(space.source(1)).log_mass.tolist()
        [[0.0, -inf, -inf]]
    """
    torso = wave_encoder(space, hidden, layers, harmonics)
    first, later = BetaMixture(2, first_components, 0, spread), BetaMixture(1, components, hidden, spread)
    forward = Kernel(space.kappa, torso, [first, later], gate=zero_init(nn.Linear(hidden, 3)))
    if not learned_backward:
        return forward, diffuse(space.kappa_b)
    other = torso if tied else wave_encoder(space, hidden, layers, harmonics)
    heads: list[Head] = [Diffuse(Atom()), BetaMixture(1, components, hidden, spread)]
    return forward, Kernel(space.kappa_b, other, heads)
