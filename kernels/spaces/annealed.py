r"""Annealed Langevin moves on R^d: from a law near the target to the target, forwards and backwards.

The moves are on the slices of a stationary Ornstein-Uhlenbeck process of N(0, I). Move k leads along

.. math::
    \log \pi_k(x) = \beta_k \log r(x) - (1 - \beta_k)\, |x|^2 / 2, \qquad
    x' \sim N\bigl(x + (1 - e^{-\Delta})\, \nabla \log \pi_k(x),\; (1 - e^{-2 \Delta}) I\bigr)

and before any training the backward kernel is the same law with its ends exchanged: exact where
:math:`\pi_k` is N(0, I), and near it wherever the target is nearly whitened. What is left (the gains of
score and pull at every move, a network's correction of mean and variance, both ways) is learned.

References:
    Transport meets variational inference: controlled Monte Carlo diffusions (Vargas et al., 2024), arXiv
    2307.01050; Score-based diffusion meets annealed importance sampling (Doucet et al., 2022), arXiv
    2208.07698; Annealed importance sampling (Neal, 2001), Statistics and Computing 11.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head, Kernel
from ctsgfn.kernels.heads.encoders import LangevinEncoder
from ctsgfn.kernels.heads.first_step import FirstStep
from ctsgfn.kernels.heads.gaussian import GaussianStep, LangevinStep
from ctsgfn.kernels.spaces.diffusion import Slice, Step, ornstein_uhlenbeck, time_waves
from ctsgfn.kernels.spaces.time_grid import uniform_clock
from ctsgfn.space import Space
from ctsgfn.target import Target


def annealed(dim: int, moves: int = 8, time: float = 1.0) -> Space[Slice, Tensor]:
    """R^d in a first step and then moves of equal length.

    Args:
        dim: d.
        moves: K, after the first step.
        time: K Delta, in units of the relaxation time of N(0, I).

    Raises:
        InvalidInput: when a size is below 1, or the time is not positive.

    Example:
        >>> annealed(2, moves=4).horizon
        6
    """
    if not 0.0 < time < math.inf:
        raise InvalidInput(f"the moves need a positive time, got {time!r}.")
    return ornstein_uhlenbeck(dim, sigma=1.0, clock=uniform_clock(moves, time))


def annealed_kernels(
    space: Space[Slice, Tensor],
    target: Target[Tensor],
    *,
    first: Head | None = None,
    hidden: int = 64,
    layers: int = 2,
    clip: float = 100.0,
    networks: bool = True,
) -> tuple[Kernel[Slice], Kernel[Slice]]:
    """Forward and backward kernels of annealed Langevin moves.

    Args:
        space: of ``annealed``.
        target: the target, on the points of the space; its score steers both kernels.
        first: head of the first step, whose coordinates are those of the points; N(0, I) and learned
            steps from there if None.
        hidden: width of the networks.
        layers: hidden layers of the networks.
        clip: bound on the coordinates of the score.
        networks: learn the networks; otherwise the gains alone are learned, four numbers per move, whose
            gradients are good enough in thousands of dimensions.

    Raises:
        InvalidInput: when the space is not time-sliced, or has no moves after its first step.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> from ctsgfn.target import as_target
        >>> normal = as_target(lambda x: -0.5 * x.square().sum(-1), Lebesgue(2))
        >>> forward, backward = annealed_kernels(annealed(2, moves=4), normal, hidden=8)
        >>> forward.trainable, backward.trainable
        (True, True)
    """
    chart, bridge = space.kappa.branches[0], space.kappa_b.branches[0]
    if not (isinstance(chart, Step) and isinstance(bridge, Step)) or chart.grid.steps < 2:
        raise InvalidInput(f"space {space.name!r} has no moves to anneal along: build it with annealed(..).")
    dim, steps = chart.dim, chart.grid.steps
    moves, decay = steps - 1, chart.grid.ahead[1:steps, 0]
    beta = torch.arange(1, moves + 1) / moves
    # in units of the step's standard deviation: (1 - e^-D) / (1 - e^-2D) = 1 / (1 + e^-D)
    gain = (beta / (1 + decay)).to(torch.get_default_dtype())
    ahead, back = torch.zeros(2, steps + 1)
    ahead[1:steps], back[2:] = gain, gain
    waves = time_waves(torch.arange(steps + 1) / steps)
    kernels: list[Kernel[Slice]] = []
    for reference, branch, given in ((space.kappa, chart, ahead), (space.kappa_b, bridge, back)):
        encoder = LangevinEncoder(target, dim, waves, 1.0, hidden, layers, clip, given)
        head: Head = LangevinStep(GaussianStep(dim, hidden, pace=branch.pace))
        for part in (encoder.inner.point, encoder.inner.rest, head):
            part.requires_grad_(networks)
        if first is not None and branch is chart:
            head = FirstStep(first, head)
        kernels.append(Kernel(reference, encoder, [head]))
    return kernels[0], kernels[1]
