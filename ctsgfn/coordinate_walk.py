r"""Random walks of particles on R^d, one coordinate at a time, that cross between modes.

Annealing loses modes where there are many more than particles; but where a coordinate has several wells,
a step of that coordinate alone finds the way from one to another.

References:
    A Markov chain Monte Carlo version of the genetic algorithm differential evolution (ter Braak, 2006),
    Stat. Comput. 16: differences of other particles, at full length, as jumps between modes; Equation of
    state calculations by fast computing machines (Metropolis et al., 1953), one coordinate at a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctsgfn.counted import CountedTarget


def walk(counted: CountedTarget, x: Tensor, *, sweeps: int, kept: int = 4) -> Tensor:
    r"""Move every coordinate of every particle ``sweeps`` times by Metropolis steps.

    Half of the steps are differences of that coordinate between two of the other half of the particles,
    half are normal with a standard deviation between a tenth and ten times the particles' own. Both are
    symmetric, so the target is left invariant.

    Args:
        counted: the target.
        x: particles [N, d] with a finite density.
        sweeps: moves of each coordinate.
        kept: snapshots, evenly spread over the second half of the sweeps; at most ``sweeps``.

    Returns:
        The snapshots [N, kept, d], the last one last.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> from ctsgfn.target import as_target
        >>> wells = as_target(lambda x: -(x.square() - 9).square().sum(-1) / 9, Lebesgue(1))
        >>> start = torch.cat([torch.full((390, 1), 3.0), torch.full((10, 1), -3.0)])
        >>> path = walk(CountedTarget(wells), start, sweeps=40)
        >>> tuple(path.shape), bool((path[:, -1] < 0).double().mean() > 0.3)
        ((400, 4, 1), True)
    """
    n, dim = x.shape
    x, value, path = x.clone(), counted.value(x), []
    shown = {sweeps - 1 - k * max(1, sweeps // (2 * kept)) for k in range(min(kept, sweeps))}
    for sweep in range(sweeps):
        order = torch.randperm(n, device=x.device)
        halves = order[: n // 2], order[n // 2 :]
        for axis in torch.randperm(dim).tolist():
            for mine, other in (halves, halves[::-1]):
                ahead = x[mine]
                ahead[:, axis] += _steps(x[other, axis], len(mine))
                new = counted.value(ahead)
                good = torch.rand(len(mine)).to(x).log() < new - value[mine]
                rows = mine[good]
                x[rows], value[rows] = ahead[good], new[good]
        if sweep in shown:
            path.append(x.clone())
    return torch.stack(path, 1)


def _steps(other: Tensor, n: int) -> Tensor:
    """Steps [n] along one axis, from the places of other particles on it."""
    one, two = other[torch.randint(len(other), (2, n), device=other.device)]
    narrow, noise = other.std(), torch.randn(n).to(other)
    wide = narrow * torch.empty(n).uniform_(math.log(0.1), math.log(10.0)).exp().to(other)
    return torch.where(torch.rand(n).to(other) < 0.5, wide * noise, one - two + 0.05 * narrow * noise)
