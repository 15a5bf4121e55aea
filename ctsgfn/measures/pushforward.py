"""Images of measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic

from torch import Tensor

from ctsgfn.measures.atom import Atom
from ctsgfn.measures.measure import Measure
from ctsgfn.states import S


@dataclass(frozen=True)
class Pushforward(Generic[S]):
    """Image of a measure, of coordinates or of other points, under an injection into the states of a space.

    Args:
        base: the measure of the coordinates [B, k], or points.
        push: coordinates -> states.
        pull: states -> coordinates, the inverse of ``push`` on its image.
        owns: states -> [B] bool, which states lie in the image.

    Example:
        >>> from dataclasses import dataclass
        >>> from ctsgfn.measures import Lebesgue
        >>> from ctsgfn.states import Batch
        >>> @dataclass(frozen=True)
        ... class Point(Batch):
        ...     x: Tensor
        >>> line = Pushforward(Lebesgue(1, 0.0, 2.0), Point, lambda s: s.x, lambda s: s.x[:, 0] > -9)
        >>> float(line.probe(10)[1].exp().mean())
        2.0
    """

    base: Measure[Any]
    push: Callable[[Any], S] = field(repr=False)
    pull: Callable[[S], Any] = field(repr=False)
    owns: Callable[[S], Tensor] = field(repr=False)

    def __str__(self) -> str:
        return f"image of {self.base}"

    def probe(self, n: int) -> tuple[S, Tensor]:
        """Push the probes of ``base``."""
        a, w = self.base.probe(n)
        return self.push(a), w

    def log_probe(self, x: S) -> Tensor:
        """Log-density of the probe law at states of the image, [B]."""
        return self.base.log_probe(self.pull(x))

    def contains(self, x: S) -> Tensor:
        """Which states lie in the image of the base's support, [B]."""
        inside = self.owns(x)
        rows = inside.nonzero().squeeze(-1)
        return inside.index_copy(0, rows, self.base.contains(self.pull(x[rows])))


def point_mass(state: Callable[[int], S], owns: Callable[[S], Tensor]) -> Pushforward[S]:
    """Unit mass on one state, such as s0.

    Args:
        state: n -> n copies of the state.
        owns: states -> [B] bool, which of them are that state.

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid
        >>> mass = point_mass(hypergrid(2, 4).source, lambda s: (s.cell == 0).all(-1))
        >>> mass.probe(2)[1].exp().tolist()
        [1.0, 1.0]
    """

    def push(a: Tensor) -> S:
        return state(len(a)).like(a)

    def pull(s: S) -> Tensor:
        return s.anchor.new_zeros(len(s), 0)

    return Pushforward(Atom(), push, pull, owns)
