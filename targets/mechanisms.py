r"""Mechanisms of causal networks: how a node follows from its parents, with the parameters of one node.

Each is frozen and comparable, because the measure of a joint posterior depends on which parameters are live.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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


@runtime_checkable
class PartlyLinear(Protocol):
    """A mechanism that is linear in some of its parameters, and has equal copies."""

    def linear(self, nodes: int) -> list[int]:
        """The parameters in which the value is linear, in ascending order."""

    def basis(self, data: Tensor, parents: Tensor, theta: Tensor) -> Tensor:
        """What each of them is multiplied with, [R, q, N]; 0 for dead ones."""

    def copies(self, nodes: int) -> tuple[Tensor, Tensor]:
        """Parameters [S, size] whose values, times signs [S, size], give the same function: all S ways."""


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
    r"""A network of one hidden layer.

    .. math::
        b + \sum_u v_u \tanh\bigl(a_u + \textstyle\sum_{i \in P} w_{ui} x_i\bigr)

    A node without parents has b alone. Theta is w (unit by unit), then a, v and b. The value is linear in v
    and b, so that with normal noise these have a normal law given the rest; and the same function is written
    in :math:`2^U U!` ways, by the sign and the order of the units: ``JointGraphs`` says both to those who fit
    laws to its posterior (``ctsgfn.nested_fits``).

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
        """Value of the network; dead parameters are 0."""
        return (theta[:, None, self.linear(parents.shape[-1])] @ self.basis(data, parents, theta)).squeeze(1)

    def linear(self, nodes: int) -> list[int]:
        """The parameters in which the value is linear: v and b."""
        return list(range(self.units * (nodes + 1), self.size(nodes)))

    def basis(self, data: Tensor, parents: Tensor, theta: Tensor) -> Tensor:
        """What each of them is multiplied with, [R, U + 1, N]; 0 for v of nodes without parents."""
        units, nodes = self.units, parents.shape[-1]
        w, a = theta[:, : units * nodes], theta[:, units * nodes : units * (nodes + 1)]
        inner = w.reshape(-1, units, nodes) @ data.T + a[..., None]  # [R, U, N]
        hidden = inner.tanh() * parents.any(-1)[:, None, None]
        return torch.cat([hidden, torch.ones_like(hidden[:, :1])], 1)

    def copies(self, nodes: int) -> tuple[Tensor, Tensor]:
        """Parameters [S, size] whose values, times signs [S, size], give the same function: all S ways."""
        numbers, index, sign = torch.arange(self.size(nodes)), [], []
        w, a, v, b = numbers.split([self.units * nodes, self.units, self.units, 1])
        w = w.reshape(self.units, nodes)
        for order in itertools.permutations(range(self.units)):
            o = list(order)
            for signs in itertools.product((1, -1), repeat=self.units):
                s = torch.tensor(signs)
                index.append(torch.cat([w[o].flatten(), a[o], v[o], b]))
                sign.append(torch.cat([s.repeat_interleave(nodes), s, s, torch.ones_like(b)]))
        return torch.stack(index), torch.stack(sign)
