r"""The time-sliced torus: a fixed number of wrapped steps on circles.

:math:`S = \{s_0\} \cup (T^d \times \{1, .., T\})`; :math:`\kappa((s, t), \cdot)` is arc length on slice
t + 1, reached through the wrapped increment :math:`a = s' - s` mod :math:`2\pi`; the sink is reached
from slice T, and from there only; :math:`\nu = \delta_{s_0} + \sum_t` arc length on slice t.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, section
    4.3 and app. C.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head, Kernel
from ctsgfn.kernels.heads.von_mises import VonMisesMixture
from ctsgfn.measures import Counting, Haar, Product, Pushforward, Sum, coordinates, point_mass, wrap
from ctsgfn.networks import MLP, FeatureEncoder
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.space import Space
from ctsgfn.states import Batch

HARMONICS = 5
"""Features are the cosines and sines of the angles times 1 .. HARMONICS."""


@dataclass(frozen=True)
class TorusState(Batch):
    """Angles, and how many steps have been made."""

    angle: Tensor  # [B, d] radians in [-pi, pi); 0 at s0
    step: Tensor  # [B] long, 0 .. steps


class Turn(Branch[TorusState]):
    """Turn every angle by a: from slice t to slice t + 1."""

    def __init__(self, dim: int) -> None:
        self.base = Haar(dim)

    def push(self, s: TorusState, a: Tensor) -> TorusState:
        """Add the increments, wrapped."""
        return TorusState(wrap(s.angle + a), s.step + 1)

    def pull(self, s: TorusState, t: TorusState) -> Tensor:
        """Return the wrapped increments."""
        return wrap(t.angle - s.angle)

    def owns(self, s: TorusState, t: TorusState) -> Tensor:
        """Edges between consecutive slices."""
        return t.step == s.step + 1


class TurnBack(Branch[TorusState]):
    """Turn every angle by a, from slice t to slice t - 1; at t = 1 all axes are dead and lead to s0."""

    def __init__(self, dim: int) -> None:
        self.base = Haar(dim)

    def push(self, s: TorusState, a: Tensor) -> TorusState:
        """Add the increments, wrapped; from slice 1 go to the angle 0."""
        return TorusState(torch.where(self.live(s), wrap(s.angle + a), 0.0), s.step - 1)

    def pull(self, s: TorusState, t: TorusState) -> Tensor:
        """Return the wrapped increments, 0 on dead axes."""
        return torch.where(self.live(s), wrap(t.angle - s.angle), 0.0)

    def live(self, s: TorusState) -> Tensor:
        """All axes, except on slice 1: [B, 1]."""
        return (s.step > 1).unsqueeze(-1)

    def owns(self, s: TorusState, t: TorusState) -> Tensor:
        """Edges between consecutive slices; from slice 1 only the one to the angle 0."""
        home = (t.angle == 0).all(-1) | (s.step > 1)
        return (t.step == s.step - 1) & home


def torus(dim: int = 2, steps: int = 10) -> Space[TorusState, Tensor]:
    """Angles on ``dim`` circles after exactly ``steps`` turns from 0.

    Args:
        dim: number of circles.
        steps: number of turns, T.

    Raises:
        InvalidInput: when dim < 1 or steps < 1.

    Example:
        >>> space = torus(dim=2, steps=10)
        >>> space.horizon, str(space.points)
        (11, 'arc length on 2 circles')
    """
    if dim < 1 or steps < 1:
        raise InvalidInput(f"a torus needs dim >= 1 and steps >= 1, got dim={dim}, steps={steps}.")
    points = Haar(dim)

    def source(n: int) -> TorusState:
        return TorusState(torch.zeros(n, dim), torch.zeros(n, dtype=torch.long))

    slices = Pushforward(
        Product((Counting(steps), points)),
        push=lambda a: TorusState(a[:, 1:], a[:, 0].round().long() + 1),
        pull=lambda s: torch.cat([(s.step - 1).unsqueeze(-1).to(s.angle.dtype), s.angle], dim=-1),
        owns=lambda s: (s.step >= 1) & (s.step <= steps),
    )
    start = point_mass(source, lambda s: (s.step == 0) & (s.angle == 0).all(-1))
    return Space(
        name=f"torus(dim={dim}, steps={steps})",
        source=source,
        nu=Sum((start, slices)),
        kappa=ReferenceKernel(
            (Turn(dim),),
            allowed=lambda s: (s.step < steps).unsqueeze(-1),
            sink=lambda s: s.step == steps,
            forced=True,
            name="kappa of the torus",
        ),
        kappa_b=ReferenceKernel(
            (TurnBack(dim),),
            allowed=lambda s: (s.step > 0).unsqueeze(-1),
            forced=True,
            name="kappa_b of the torus",
        ),
        progress=lambda s: s.step.to(s.angle.dtype),
        horizon=steps + 1,
        points=points,
        read=lambda s: s.angle,
        write=lambda x: TorusState(x, torch.full((len(x),), steps, dtype=torch.long, device=x.device)),
        features=lambda s: _features(s, steps),
        synchronous=True,
    )


def _features(s: TorusState, steps: int) -> Tensor:
    """cos(k angle), sin(k angle) for k = 1 .. HARMONICS, and the fraction of steps made."""
    k = torch.arange(1, HARMONICS + 1, dtype=s.angle.dtype, device=s.angle.device)
    turns = (s.angle.unsqueeze(-1) * k).flatten(1)
    step = s.step.to(s.angle.dtype).unsqueeze(-1) / steps
    return torch.cat([turns.cos(), turns.sin(), step], dim=-1)


def torus_kernels(
    space: Space[TorusState, Any],
    *,
    hidden: int = 128,
    layers: int = 3,
    components: int = 5,
    least: float = 4.0,
    head: Callable[[int, int, int, float], Head] = VonMisesMixture,
) -> tuple[Kernel[TorusState], Kernel[TorusState]]:
    """Learned von Mises mixtures forwards and backwards.

    Args:
        space: a torus.
        hidden: width of each network (the paper has 512).
        layers: hidden layers of each network (the paper has 5).
        components: von Mises components per angle, in each direction; of all angles, where the head is joint.
        least: least concentration of a component; the authors' code has 4.
        head: the law of a turn, from the number of angles, the width of the context, components and least:
            ``VonMisesMixture``, whose angles are independent, or ``JointVonMises``.

    Returns:
        The forward and the backward kernel.

    Example:
        >>> space = torus(1, steps=3)
        >>> forward, backward = torus_kernels(space, hidden=8, layers=1)
        >>> forward(space.source(2)).log_stop.tolist()
        [-inf, -inf]
    """

    def kernel(reference: ReferenceKernel[TorusState]) -> Kernel[TorusState]:
        law = head(coordinates(space.points), hidden, components, least)
        return Kernel(reference, encoder(), [law])

    def encoder() -> FeatureEncoder:
        return FeatureEncoder(space.features, MLP(space.width, hidden, layers), hidden)

    return kernel(space.kappa), kernel(space.kappa_b)
