r"""Mechanisms of causal networks: how a node follows from its parents, with the parameters of one node.

Each is frozen and comparable, because the measure of a joint posterior depends on which parameters are live.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ctsgfn.errors import whole


class Mechanism(Protocol):
    """A regression function of a node on its parents, parameterised for all sets of parents at once."""

    def size(self, nodes: int) -> int:
        """Most parameters of a node."""

    def live(self, parents: Tensor) -> Tensor:
        """Parameters [R, size] that a node with parents [R, d] bool has."""

    def mean(self, data: Tensor, parents: Tensor, theta: Tensor) -> Tensor:
        """Means [R, N] at data [N, d], of nodes with parents [R, d] and parameters [R, size], dead ones 0."""


@dataclass(frozen=True)
class Linear:
    r"""Linear in the parents: :math:`\sum_{i \in P} w_i x_i`; theta is w, entry i for parent i.

    Example:
        >>> parents, w = torch.tensor([[False, True]]), torch.tensor([[0.0, 2.0]])
        >>> Linear().live(parents).tolist(), Linear().mean(torch.tensor([[5.0, 3.0]]), parents, w).tolist()
        ([[False, True]], [[6.0]])
    """

    def size(self, nodes: int) -> int:
        """One weight for each node."""
        return nodes

    def live(self, parents: Tensor) -> Tensor:
        """The weights of the parents."""
        return parents.bool()

    def mean(self, data: Tensor, parents: Tensor, theta: Tensor) -> Tensor:
        """Weighted sum of the parents."""
        del parents
        return theta @ data.T


@dataclass(frozen=True)
class Affine(Linear):
    r"""Linear in the parents with an intercept: :math:`b + \sum_{i \in P} w_i x_i`; theta is w, then b.

    Example:
        >>> parents, theta = torch.tensor([[False, True]]), torch.tensor([[0.0, 2.0, 1.0]])
        >>> Affine().live(parents).tolist(), Affine().mean(torch.ones(1, 2), parents, theta).tolist()
        ([[False, True, True]], [[3.0]])
    """

    def size(self, nodes: int) -> int:
        """One weight for each node, and one number."""
        return nodes + 1

    def live(self, parents: Tensor) -> Tensor:
        """The weights of the parents, and the intercept."""
        return torch.nn.functional.pad(parents.bool(), (0, 1), value=True)

    def mean(self, data: Tensor, parents: Tensor, theta: Tensor) -> Tensor:
        """Weighted sum of the parents, and the intercept."""
        return super().mean(data, parents, theta[:, :-1]) + theta[:, -1:]


@dataclass(frozen=True)
class HiddenLayer:
    r"""A network of one hidden layer, without the copies of itself that make its posterior repeat.

    .. math::
        b + \sum_u e^{v_u} \tanh\bigl(a_1 + e^{a_2} + \dots + e^{a_u}
            + \textstyle\sum_{i \in P} w_{ui} x_i\bigr)

    Units of positive weight and increasing intercepts are one of the :math:`2^U U!` equal ways to write the
    same function; a law with one mode could see only one of them, and would miss the mass of the others. A
    node without parents has b alone. Theta is w (unit by unit), then a, v and b. The posterior of many units
    is still far from normal: ``evidence()`` of a sampler says how far.

    Args:
        units: hidden units, U.

    Raises:
        InvalidInput: when units < 1.

    Example:
        >>> HiddenLayer(2).live(torch.tensor([[True, False], [False, False]])).int().tolist()
        [[1, 0, 1, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0, 1]]
    """

    units: int = 2

    def __post_init__(self) -> None:
        whole("HiddenLayer units", self.units)

    def size(self, nodes: int) -> int:
        """Weights, two more numbers for each unit, and one."""
        return self.units * (nodes + 2) + 1

    def live(self, parents: Tensor) -> Tensor:
        """Weights of the parents; a and v where there are any; b."""
        parents = parents.bool()
        some = parents.any(-1, keepdim=True).expand(-1, 2 * self.units)
        return torch.cat([parents.repeat(1, self.units), some, torch.ones_like(some[:, :1])], -1)

    def mean(self, data: Tensor, parents: Tensor, theta: Tensor) -> Tensor:
        """Value of the network; dead weights are 0, so that only the parents enter."""
        units, nodes = self.units, parents.shape[-1]
        w, a, v, b = theta.split([units * nodes, units, units, 1], -1)
        intercept = torch.cat([a[:, :1], a[:, 1:].exp()], -1).cumsum(-1)
        inner = w.reshape(len(w), units, nodes) @ data.T + intercept[..., None]  # [R, units, N]
        outer = v.exp() * parents.any(-1, keepdim=True)
        return (outer[:, None] @ inner.tanh()).squeeze(1) + b
