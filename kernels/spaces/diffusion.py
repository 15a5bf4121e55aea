r"""Time-sliced R^d: x moves in T Gaussian steps from the origin to a point of the target.

A state is a point and the number of its slice; :math:`\nu = \delta_{s_0} + \sum_{t=1}^T` Lebesgue on
slice t, :math:`\kappa(t, \cdot)` is Lebesgue measure on slice t + 1, and the sink is reached exactly
at t = T. Steps are written in the coordinates of the reference process, so that its own forward and
backward kernels are standard normals: the parameter-free backward kernel *is* the bridge.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, section 4.2;
    Path integral sampler (Zhang and Chen, 2022), arXiv 2111.15141; Denoising diffusion samplers
    (Vargas et al., 2023), arXiv 2302.13834.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Kernel
from ctsgfn.kernels.heads.encoders import LangevinEncoder, SlicedEncoder
from ctsgfn.kernels.heads.gaussian import GaussianStep, LangevinStep
from ctsgfn.kernels.spaces.time_grid import StepTable, TimeGrid, cosine_clock
from ctsgfn.measures import Counting, Lebesgue, Product, Pushforward, Sum, point_mass
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.space import Space
from ctsgfn.states import Batch
from ctsgfn.target import Target


@dataclass(frozen=True)
class Slice(Batch):
    """A point on a slice of time."""

    x: Tensor  # [B, dim]
    step: Tensor  # [B] long, 0 .. T; step 0 has x = 0 only


class Step(Branch[Slice]):
    """To the next slice (+1) or the previous one (-1): x' = factor x + std a.

    One step after s0 the way back has no freedom: all axes are dead there and the chart lands on s0.
    """

    def __init__(self, dim: int, grid: TimeGrid, direction: int) -> None:
        self.base = Lebesgue(dim)
        self.dim, self.grid, self.direction = dim, grid, direction
        self.table = StepTable(grid.ahead if direction > 0 else grid.back, dim, direction)

    def push(self, s: Slice, a: Tensor) -> Slice:
        """Return factor x + std a, one slice on."""
        factor, std, *_ = self.table.rows(s.step, s.x)
        return Slice((a * std).addcmul(s.x, factor), self.table.following(s.step))

    def pull(self, s: Slice, t: Slice) -> Tensor:
        """Return (x' - factor x) / std, and 0 where the axes are dead."""
        factor, _, inverse, *_ = self.table.rows(s.step, s.x)
        return t.x.addcmul(s.x, factor, value=-1.0) * inverse

    def log_weight(self, s: Slice, a: Tensor) -> Tensor:
        """Return dim log std: the reference measure is Lebesgue measure of x', [B]."""
        return self.table.rows(s.step, a)[4]

    def pace(self, s: Slice) -> Tensor:
        """Root of the step's share of the whole variance, std / sigma, [B, 1]."""
        return self.table.rows(s.step, s.x)[3]

    def live(self, s: Slice) -> Tensor | None:
        """All axes, but none on the way back to s0: [B, 1]."""
        return None if self.direction > 0 else (s.step > 1)[:, None]

    def owns(self, s: Slice, t: Slice) -> Tensor:
        """Edges between neighbouring slices; from slice 1 back only the one to the origin."""
        near = t.step == s.step + self.direction
        return near if self.direction > 0 else near & ((s.step > 1) | (t.x == 0).all(-1))

    def intrinsic(self, t: Slice) -> Tensor:
        """Return x: the reference measure is its volume."""
        return t.x


def diffusion(
    dim: int, steps: int = 100, sigma: float = 1.0, clock: Sequence[float] | None = None
) -> Space[Slice, Tensor]:
    r"""R^d through T slices of a Brownian motion pinned at 0, with N(0, sigma^2 I) at the end.

    Args:
        dim: d.
        steps: T, when no clock is given.
        sigma: standard deviation of the reference process at the end, best near the target's spread.
        clock: any increasing times, starting at 0; they are scaled so that the variance at the last
            one is sigma^2. By default ``cosine_clock(steps)``.

    Raises:
        InvalidInput: when dim < 1, sigma is not positive, or the clock does not increase from 0.

    Example:
        >>> space = diffusion(2, steps=10)
        >>> space.horizon, str(space.points)
        (11, 'Lebesgue measure on R^2')
    """
    times = _checked(cosine_clock(steps) if clock is None else clock, sigma)
    noise = [sigma * math.sqrt((b - a) / times[-1]) for a, b in pairwise(times)]
    return time_sliced(f"diffusion(dim={dim}, steps={len(noise)}, sigma={sigma:g})", dim, noise=noise)


def ornstein_uhlenbeck(
    dim: int, steps: int = 100, sigma: float = 1.0, clock: Sequence[float] | None = None
) -> Space[Slice, Tensor]:
    r"""R^d through T slices of a stationary Ornstein-Uhlenbeck process, N(0, sigma^2 I) on each.

    The first step draws from the stationary law; then :math:`x' = e^{-\Delta} x + \sigma
    \sqrt{1 - e^{-2 \Delta}}\, a` over the intervals :math:`\Delta` of the clock (T - 1 of them).

    Args:
        dim: d.
        steps: T, when no clock is given; at least 2.
        sigma: standard deviation on every slice.
        clock: any increasing times, starting at 0, in units of the relaxation time. By default
            ``cosine_clock(steps - 1, total=4.0)``.

    Raises:
        InvalidInput: when dim < 1, sigma is not positive, or the clock does not increase from 0.

    Example:
        >>> ornstein_uhlenbeck(2, steps=10).horizon
        11
    """
    if clock is None and steps == 1:
        raise InvalidInput("an Ornstein-Uhlenbeck process needs at least 2 steps: the first draws its start.")
    times = _checked(cosine_clock(steps - 1, total=4.0) if clock is None else clock, sigma)
    gaps = [b - a for a, b in pairwise(times)]
    decay = [1.0, *[math.exp(-gap) for gap in gaps]]
    noise = [sigma, *[sigma * math.sqrt(-math.expm1(-2 * gap)) for gap in gaps]]
    name = f"ornstein_uhlenbeck(dim={dim}, steps={len(noise)}, sigma={sigma:g})"
    return time_sliced(name, dim, noise=noise, decay=decay)


def _checked(clock: Sequence[float], sigma: float) -> list[float]:
    times = [float(t) for t in clock]
    if not 0.0 < sigma < math.inf:
        raise InvalidInput(f"sigma must be a positive number, got {sigma!r}.")
    increasing = all(a < b for a, b in pairwise(times))
    if len(times) < 2 or times[0] != 0.0 or not increasing or not math.isfinite(times[-1]):
        raise InvalidInput("a clock must hold at least two finite times that start at 0 and increase.")
    return times


def time_sliced(
    name: str, dim: int, *, noise: Sequence[float], decay: Sequence[float] | None = None
) -> Space[Slice, Tensor]:
    """R^d through the slices of any linear Gaussian chain x' = decay x + noise a, started at 0."""
    grid = TimeGrid([1.0] * len(noise) if decay is None else decay, noise)
    steps, points = grid.steps, Lebesgue(dim)
    ahead, back = Step(dim, grid, +1), Step(dim, grid, -1)

    def origin(n: int) -> Slice:
        return Slice(torch.zeros(n, dim), torch.zeros(1, dtype=torch.long).expand(n))

    start = point_mass(origin, lambda s: (s.step == 0) & (s.x == 0).all(-1))
    slices = Pushforward(
        Product((Counting(steps), Lebesgue(dim))),
        push=lambda a: Slice(a[:, 1:], a[:, 0].round().long() + 1),
        pull=lambda s: torch.cat([(s.step - 1)[:, None].to(s.x.dtype), s.x], dim=-1),
        owns=lambda s: (s.step >= 1) & (s.step <= steps),
    )
    return Space(
        name=name,
        source=origin,
        nu=Sum((start, slices)),
        kappa=ReferenceKernel(
            (ahead,),
            allowed=lambda s: (s.step < steps)[:, None],
            sink=lambda s: s.step == steps,
            forced=True,
            name=f"kappa of {name}",
        ),
        kappa_b=ReferenceKernel(
            (back,), allowed=lambda s: (s.step > 0)[:, None], forced=True, name=f"kappa_b of {name}"
        ),
        progress=lambda s: s.step.to(s.x.dtype),
        horizon=steps + 1,
        points=points,
        read=lambda s: s.x,
        write=lambda x: Slice(x, torch.full((len(x),), steps, dtype=torch.long, device=x.device)),
        features=lambda s: torch.cat([s.x / grid.sigma, time_waves(s.step / steps).to(s.x.dtype)], dim=-1),
        synchronous=True,
    )


WAVES = 8
"""Frequencies of the time features."""


def time_waves(progress: Tensor) -> Tensor:
    """Sines and cosines [B, 2 WAVES] of progress in [0, 1], at frequencies pi/2, 2 pi/2, 3 pi/2, .."""
    angle = progress[:, None] * torch.arange(1, WAVES + 1, device=progress.device) * (math.pi / 2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def diffusion_kernels(
    space: Space[Slice, Tensor],
    target: Target[Tensor] | None = None,
    *,
    hidden: int = 64,
    layers: int = 2,
    learned_variance: bool = True,
    langevin: bool = True,
    learned_backward: bool = False,
    clip: float = 100.0,
) -> tuple[Kernel[Slice], Kernel[Slice]]:
    """Forward and backward kernels of a time-sliced space: Gaussian steps near the reference process.

    Untrained, both are the reference process itself.

    Args:
        space: a time-sliced space.
        target: the target, on the points of the space; needed for its score.
        hidden: width of the networks.
        layers: hidden layers of the networks.
        learned_variance: learn the variance of each coordinate of each forward step.
        langevin: put the score of the target into the forward drift; only where a target is given.
        learned_backward: learn a correction of the bridge, instead of keeping it.
        clip: bound on the coordinates of sigma times the score.

    Raises:
        InvalidInput: when the space is not time-sliced.

    Example:
        >>> space = diffusion(2, steps=10)
        >>> forward, backward = diffusion_kernels(space, hidden=8)
        >>> forward.trainable, backward.trainable
        (True, False)
    """
    chart, bridge = space.kappa.branches[0], space.kappa_b.branches[0]
    if not (isinstance(chart, Step) and isinstance(bridge, Step)):
        raise InvalidInput(f"space {space.name!r} is not time-sliced: build it with diffusion(..).")
    dim, grid = chart.dim, chart.grid
    waves = time_waves(torch.arange(grid.steps + 1) / grid.steps)

    bound = 1.0 if learned_variance else None
    step = GaussianStep(dim, hidden, pace=chart.pace, log_variance_bound=bound)
    if langevin and target is not None:
        steered = LangevinEncoder(target, dim, waves, grid.sigma, hidden, layers, clip)
        forward = Kernel(space.kappa, steered, [LangevinStep(step)])
    else:
        forward = Kernel(space.kappa, SlicedEncoder(dim, waves, grid.sigma, hidden, layers), [step])
    if not learned_backward:
        return forward, diffuse(space.kappa_b)
    correction = GaussianStep(dim, hidden, pace=bridge.pace, log_variance_bound=bound)
    return forward, Kernel(space.kappa_b, SlicedEncoder(dim, waves, grid.sigma, hidden, layers), [correction])
