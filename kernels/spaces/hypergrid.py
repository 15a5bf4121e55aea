r"""The hypergrid: the discrete theory as the special case of counting measure.

References:
    Flow network based generative models (Bengio et al., 2021), arXiv 2106.04399, section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Kernel
from ctsgfn.kernels.heads.categorical import Categorical
from ctsgfn.measures import Counting, Product, Pushforward, coordinates
from ctsgfn.networks import MLP, FeatureEncoder, zero_init
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.space import Space
from ctsgfn.states import Batch


@dataclass(frozen=True)
class Cell(Batch):
    """A cell of the grid."""

    cell: Tensor  # [B, dim] long, 0 .. side - 1


class Increment(Branch[Cell]):
    """Move by one along an axis: up for kappa, down for kappa_b; counting measure on the axes."""

    def __init__(self, dim: int, side: int, sign: int) -> None:
        self.base = Counting(dim)
        self.side, self.sign = side, sign

    def push(self, s: Cell, a: Tensor) -> Cell:
        """Add sign to coordinate a."""
        return Cell(s.cell.scatter_add(1, a, torch.full_like(a, self.sign)))

    def pull(self, s: Cell, t: Cell) -> Tensor:
        """Return the axis along which the cells differ."""
        return (t.cell - s.cell).abs().argmax(-1, keepdim=True)

    def live(self, s: Cell) -> Tensor:
        """Axes not at the wall, [B, dim]."""
        return s.cell < self.side - 1 if self.sign > 0 else s.cell > 0

    def owns(self, s: Cell, t: Cell) -> Tensor:
        """Edges that move one step along one axis."""
        step = self.sign * (t.cell - s.cell)
        return (step.sum(-1) == 1) & (step >= 0).all(-1)


def hypergrid(dim: int, side: int) -> Space[Cell, Tensor]:
    """Cells {0, .., side - 1}^dim, each terminal, reached from the corner by unit steps.

    Raises:
        InvalidInput: when dim < 1 or side < 2.

    Example:
        >>> space = hypergrid(2, 4)
        >>> space.horizon, str(space.points)
        (7, 'counting measure on {0, .., 3} x counting measure on {0, .., 3}')
    """
    if dim < 1 or side < 2:
        raise InvalidInput(f"a hypergrid needs dim >= 1 and side >= 2, got dim={dim}, side={side}.")
    up, down = Increment(dim, side, +1), Increment(dim, side, -1)
    points = Product((Counting(side),) * dim)
    nu = Pushforward(
        points,
        push=lambda a: Cell(a.round().long()),
        pull=lambda s: s.cell,
        owns=lambda s: torch.ones(len(s), dtype=torch.bool, device=s.cell.device),
    )
    return Space(
        name=f"hypergrid(dim={dim}, side={side})",
        source=lambda n: Cell(torch.zeros(n, dim, dtype=torch.long)),
        nu=nu,
        kappa=ReferenceKernel(
            (up,),
            allowed=lambda s: up.live(s).any(-1, keepdim=True),
            sink=lambda s: torch.ones(len(s), dtype=torch.bool, device=s.cell.device),
            name="kappa of the hypergrid",
        ),
        kappa_b=ReferenceKernel(
            (down,),
            allowed=lambda s: down.live(s).any(-1, keepdim=True),
            forced=True,
            name="kappa_b of the hypergrid",
        ),
        progress=lambda s: s.cell.sum(-1).to(torch.get_default_dtype()),
        horizon=dim * (side - 1) + 1,
        points=points,
        read=lambda s: s.cell,
        write=lambda x: Cell(x.round().long()),
        features=lambda s: torch.nn.functional.one_hot(s.cell, side).flatten(1).to(torch.get_default_dtype()),
    )


def hypergrid_kernels(
    space: Space[Cell, Any], *, hidden: int = 64, layers: int = 2
) -> tuple[Kernel[Cell], Kernel[Cell]]:
    """Learned categoricals over the axes, forwards with a learned stop, and backwards.

    Args:
        space: a hypergrid.
        hidden: width of each network.
        layers: hidden layers of each network.

    Returns:
        The forward and the backward kernel.

    Example:
        >>> forward, backward = hypergrid_kernels(hypergrid(2, 4), hidden=8)
        >>> forward(Cell(torch.tensor([[3, 3]]))).log_stop.tolist()
        [0.0]
    """

    def encoder() -> FeatureEncoder:
        return FeatureEncoder(space.features, MLP(space.width, hidden, layers), hidden)

    dim = coordinates(space.points)
    stop = zero_init(nn.Linear(hidden, 2))
    forward = Kernel(space.kappa, encoder(), [Categorical(dim, hidden)], gate=stop)
    return forward, Kernel(space.kappa_b, encoder(), [Categorical(dim, hidden)])
