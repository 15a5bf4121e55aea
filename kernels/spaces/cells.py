r"""Points of a product of counting measures, one coordinate after another; a list is one choice.

.. math::
    s_0 = () \to (x_1) \to (x_1, x_2) \to \dots \to (x_1, .., x_d) \to s_f

One path leads to each point, so that the backward kernel has no choice and a flow is an autoregressive law.

References:
    Neural autoregressive distribution estimation (Uria et al., 2016), arXiv 1605.02226, section 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Kernel
from ctsgfn.kernels.heads.categorical import Categorical
from ctsgfn.kernels.heads.table import Table
from ctsgfn.measures import Atom, Counting, Measure, Product, Pushforward, Sum, point_mass, sizes_of
from ctsgfn.networks import MLP, FeatureEncoder, NoContext
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.space import Space
from ctsgfn.states import Batch


@dataclass(frozen=True)
class Filled(Batch):
    """The first coordinates of a point; those to come are 0."""

    values: Tensor  # [B, d] long
    filled: Tensor  # [B] long, how many there are


class Fill(Branch[Filled]):
    """Choose the next coordinate; counting measure on as many values as the widest one has."""

    base: Counting

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.base = Counting(max(sizes))
        self.sizes = torch.tensor(sizes)
        self.even = len(set(sizes)) == 1

    def push(self, s: Filled, a: Tensor) -> Filled:
        """Write the value behind those that are there."""
        return Filled(s.values.scatter(1, s.filled[:, None], a), s.filled + 1)

    def pull(self, s: Filled, t: Filled) -> Tensor:
        """Return the value that was written."""
        return t.values.gather(1, s.filled[:, None].clamp(max=t.values.shape[1] - 1))

    def live(self, s: Filled) -> Tensor | None:
        """Values that the next coordinate has, [B, widest]."""
        if self.even:
            return None
        sizes = self.sizes.to(s.filled.device)
        size = sizes[s.filled.clamp(max=len(sizes) - 1)]
        return torch.arange(self.base.size, device=s.filled.device) < size[:, None]

    def owns(self, s: Filled, t: Filled) -> Tensor:
        """Edges that add one value and change no other."""
        place = torch.arange(s.values.shape[1], device=s.values.device)
        kept = (s.values == t.values) | (place == s.filled[:, None])
        return (t.filled == s.filled + 1) & kept.all(-1)


class Empty(Branch[Filled]):
    """Take the last coordinate away: an atom."""

    base = Atom()

    def push(self, s: Filled, a: Tensor) -> Filled:
        """Return the point without its last coordinate."""
        del a
        place = torch.arange(s.values.shape[1], device=s.values.device)
        return Filled(s.values * (place < s.filled[:, None] - 1), s.filled - 1)

    def pull(self, s: Filled, t: Filled) -> Tensor:
        """Return the coordinate of an atom."""
        del t
        return torch.zeros(len(s), 0, device=s.values.device)

    def owns(self, s: Filled, t: Filled) -> Tensor:
        """Edges that take the last value away and change no other."""
        return (self.push(s, torch.zeros(len(s), 0)).values == t.values).all(-1) & (t.filled == s.filled - 1)


def cells(sizes: tuple[int, ...]) -> Space[Filled, Tensor]:
    """Points of {0, .., sizes[0] - 1} x {0, .., sizes[1] - 1} x .., chosen coordinate by coordinate.

    Raises:
        InvalidInput: when there are no sizes, or one is no positive number.

    Example:
        >>> space = cells((2, 5, 3))
        >>> space.horizon, space.synchronous, str(space.points)[:30]
        (4, True, 'counting measure on {0, .., 1}')
    """
    if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise InvalidInput(
            f"cells needs the number of values of each coordinate, such as (2, 5), got {sizes}."
        )
    d, fill, empty = len(sizes), Fill(sizes), Empty()
    points: Any = Product(tuple(Counting(size) for size in sizes)) if d > 1 else Counting(sizes[0])

    def whole(s: Filled) -> Tensor:
        return s.filled == d

    def features(s: Filled) -> Tensor:
        """One-hot values, 0 where there is none yet, and how many there are."""
        seen = torch.arange(d, device=s.values.device) < s.filled[:, None]
        values = torch.nn.functional.one_hot(s.values, fill.base.size) * seen[..., None]
        count = torch.nn.functional.one_hot(s.filled, d + 1)
        return torch.cat([values.flatten(1), count], -1).to(torch.get_default_dtype())

    def level(k: int) -> Pushforward[Filled]:
        """Counting measure on the states with k coordinates."""

        def push(a: Tensor) -> Filled:
            values = torch.nn.functional.pad(a.round().long(), (0, d - k))
            return Filled(values, torch.full((len(a),), k, device=a.device))

        base = Product(tuple(Counting(size) for size in sizes[:k]))
        return Pushforward(base, push, lambda s: s.values[:, :k], lambda s: s.filled == k)

    def source(n: int) -> Filled:
        return Filled(torch.zeros(n, d, dtype=torch.long), torch.zeros(n, dtype=torch.long))

    return Space(
        name=f"cells({' x '.join(map(str, sizes))})",
        source=source,
        nu=Sum((point_mass(source, lambda s: s.filled == 0), *(level(k) for k in range(1, d + 1)))),
        kappa=ReferenceKernel(
            (fill,),
            allowed=lambda s: ~whole(s)[:, None],
            sink=whole,
            forced=True,
            name="kappa of the cells",
        ),
        kappa_b=ReferenceKernel(
            (empty,), allowed=lambda s: (s.filled > 0)[:, None], forced=True, name="kappa_b of the cells"
        ),
        progress=lambda s: s.filled.to(torch.get_default_dtype()),
        horizon=d + 1,
        points=points,
        read=lambda s: s.values,
        write=lambda x: Filled(x.round().long(), torch.full((len(x),), d, device=x.device)),
        features=features,
        width=d * max(sizes) + d + 1,
        synchronous=True,
    )


def cells_kernels(
    space: Space[Filled, Any], *, hidden: int = 64, layers: int = 2
) -> tuple[Kernel[Filled], Kernel[Filled]]:
    """A learned categorical of the next coordinate, given those before it; backwards there is no choice.

    Args:
        space: made by ``cells``.
        hidden: width of the network.
        layers: its hidden layers.

    Returns:
        The forward and the backward kernel.

    Example:
        >>> space = cells((2, 5))
        >>> forward, _ = cells_kernels(space, hidden=8)
        >>> forward(space.source(1)).log_density_to(Filled(torch.tensor([[1, 0]]), torch.tensor([1]))).exp()
        tensor([0.5000], grad_fn=<ExpBackward0>)
    """
    encoder = FeatureEncoder(space.features, MLP(space.width, hidden, layers), hidden)
    widest = space.kappa.branches[0].base
    assert isinstance(widest, Counting)
    return Kernel(space.kappa, encoder, [Categorical(widest.size, hidden)]), diffuse(space.kappa_b)


def listing(measure: Measure[Tensor]) -> Space[Filled, Tensor]:
    """All points of a counting measure, or of a product of some, as one list: the only step picks one.

    Example:
        >>> space = listing(Product((Counting(2), Counting(3))))
        >>> space.horizon, space.read(space.write(torch.tensor([[1, 2]]))).tolist()
        (2, [[1, 2]])
    """
    sizes = sizes_of(measure)
    one = cells((math.prod(sizes),))
    strides = torch.tensor([math.prod(sizes[j + 1 :]) for j in range(len(sizes))])
    bounds = torch.tensor(sizes)

    def read(s: Filled) -> Tensor:
        return s.values // strides.to(s.values.device) % bounds.to(s.values.device)

    def write(x: Tensor) -> Filled:
        return one.write((x.round().long() * strides.to(x.device)).sum(-1, keepdim=True))

    return replace(
        one,
        name=f"listing({one.points})",
        points=measure,
        read=read,
        write=write,
        width=2,
        features=lambda s: torch.nn.functional.one_hot(s.filled, 2).to(torch.get_default_dtype()),
    )


def listing_kernels(space: Space[Filled, Any]) -> tuple[Kernel[Filled], Kernel[Filled]]:
    """A table of masses, even at the start; backwards there is no choice.

    Example:
        >>> forward, _ = listing_kernels(listing(Counting(4)))
        >>> type(forward.heads[0]).__name__
        'Table'
    """
    base = space.kappa.branches[0].base
    assert isinstance(base, Counting)
    return Kernel(space.kappa, NoContext(), [Table(base.size)]), diffuse(space.kappa_b)
