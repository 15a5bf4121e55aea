r"""Reference kernels: what every transition density is a density against.

.. math::
    \kappa(s, ds') = 1[s \in X]\,\delta_{s_f}
        + \sum_k 1[k \text{ open at } s]\; (\mathrm{push}_k(s, \cdot))_\#
          \bigl(e^{w_k(s, a)}\, \mathrm{base}_k(da)\bigr)

Each branch is a *chart*: it pushes a plain base measure (unit cube, R^k, counting, one atom) through
a map, with a weight. Charts own every Jacobian and every boundary; nothing else does.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, Def. 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput, NoSuchEdge
from ctsgfn.measures import Atom, Measure
from ctsgfn.states import Jump, S

R = TypeVar("R")
B = TypeVar("B", bound="Branch[Any]")


class Branch(ABC, Generic[S]):
    """One piece of a reference kernel: a chart from coordinates to states, with a weight.

    Implementing a branch: set ``base``; write ``push`` and its inverse ``pull``; give ``log_weight``
    when the pushed measure is not the one meant on paper; give ``live`` when some atoms or axes of
    ``base`` are outside the support at ``s``; give ``owns`` when the kernel has several branches;
    give ``intrinsic`` when the measure is the length, area or volume of the image, so that the
    validator can test ``log_weight`` against automatic differentiation.

    Example:
        Standard normal steps of size 2; their reference measure is dx', not da.

        >>> from dataclasses import replace
        >>> from ctsgfn.measures import Lebesgue
        >>> class Stride(Branch[S]):
        ...     base = Lebesgue(1)
        ...     def push(self, s, a):
        ...         return replace(s, x=s.x + 2 * a)
        ...     def pull(self, s, t):
        ...         return (t.x - s.x) / 2
        ...     def log_weight(self, s, a):
        ...         return torch.full((len(a),), 2.0).log()
        ...     def intrinsic(self, t):
        ...         return t.x
    """

    base: Measure[Tensor]
    """The measure of the coordinates ``a``."""

    @abstractmethod
    def push(self, s: S, a: Tensor) -> S:
        """Chart: states [B] and coordinates [B, k] to the states [B] they lead to."""

    @abstractmethod
    def pull(self, s: S, t: S) -> Tensor:
        """Inverse chart: the coordinates [B, k] of the edge from s to t."""

    def log_weight(self, s: S, a: Tensor) -> Tensor:
        """Log-density [B] of the reference measure against ``base``, in chart coordinates."""
        del s
        return a.new_zeros(len(a), dtype=a.dtype if a.is_floating_point() else torch.get_default_dtype())

    def live(self, s: S) -> Tensor | None:
        """Atoms [B, size] or axes [B, k] (or [B, 1]) in the support at s; None means all.

        A dead axis is an atom at 0: its coordinate is 0 and its log-density is 0.
        """
        del s
        return None

    def owns(self, s: S, t: S) -> Tensor:
        """Which edges [B] belong to this branch; branches are mutually singular."""
        del t
        first = next(iter(s.tensors().values()))
        return torch.ones(len(s), dtype=torch.bool, device=first.device)

    def intrinsic(self, t: S) -> Tensor | None:
        """Euclidean coordinates [B, m] in which the reference measure is length, area or volume."""
        del t
        return None


def latest(method: Callable[[B, S], R]) -> Callable[[B, S], R]:
    """Keep what a method of a branch gave for the batch of states that it was last asked about.

    Which branches are open, push, pull and log_weight ask in turn for the same geometry of a batch.
    """
    slot = f"_{method.__name__}"

    @wraps(method)
    def ask(branch: B, s: S) -> R:
        kept = branch.__dict__.get(slot)
        if kept is not None and kept[0] is s:
            found: R = kept[1]
            return found
        found = method(branch, s)
        if not any(t.requires_grad for t in s.tensors().values()):  # or a graph would outlive its call
            branch.__dict__[slot] = s, found
        return found

    return ask


class Return(Branch[S]):
    """Back to s0, an atom, from any other state.

    Args:
        source: n -> n copies of s0.
        at_source: states -> [B] bool, which of them are s0.

    Example:
        >>> from ctsgfn.kernels.spaces.box import box
        >>> space = box()
        >>> home = Return(space.source, lambda s: ~s.started)
        >>> home.push(space.write(torch.ones(1, 2)), torch.zeros(1, 0)).started.tolist()
        [False]
    """

    base = Atom()

    def __init__(self, source: Callable[[int], S], at_source: Callable[[S], Tensor]) -> None:
        self.source, self.at_source = source, at_source

    def push(self, s: S, a: Tensor) -> S:
        """Return s0, in the dtype and on the device of s."""
        return self.source(len(s)).like(s.anchor)

    def pull(self, s: S, t: S) -> Tensor:
        """No coordinates."""
        return s.anchor.new_zeros(len(s), 0)

    def owns(self, s: S, t: S) -> Tensor:
        """Edges to s0."""
        return ~self.at_source(s) & self.at_source(t)


@dataclass(frozen=True)
class ReferenceKernel(Generic[S]):
    """A finite sum of branches, and the states from which the sink can be reached.

    Args:
        branches: the charts, K of them.
        allowed: states -> [B, K] bool, which branches have mass at s.
        sink: states -> [B] bool, the indicator of the terminal states X; None for a backward kernel.
        forced: True when exactly one of the branches and the sink is open at every state, so that
            no mass is ever chosen (verified by ``check``).
        name: used in messages.

    Raises:
        InvalidInput: without branches.

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import Cell, hypergrid
        >>> kappa = hypergrid(2, 3).kappa
        >>> kappa.open(Cell(torch.tensor([[0, 0], [2, 2]]))).tolist()  # may move, may stop
        [[True, True], [False, True]]
    """

    branches: tuple[Branch[S], ...]
    allowed: Callable[[S], Tensor] = field(repr=False)
    sink: Callable[[S], Tensor] | None = field(default=None, repr=False)
    forced: bool = False
    name: str = "kappa"

    def __post_init__(self) -> None:
        if not self.branches:
            raise InvalidInput(f"reference kernel {self.name!r} has no branches: give it at least one.")

    def open(self, s: S, allowed: Tensor | None = None) -> Tensor:
        """Which branches, and last the sink, have mass at s: [B, K + 1] bool; ``allowed`` saves asking."""
        allowed = self.allowed(s) if allowed is None else allowed
        stop = allowed.new_zeros(len(allowed)) if self.sink is None else self.sink(s)
        return torch.cat([allowed, stop[:, None]], dim=-1)

    def locate(self, s: S, jump: Jump[S], allowed: Tensor | None = None) -> Tensor:
        """Which branch each edge is on: [B] long, K for the sink.

        Raises:
            NoSuchEdge: naming the first edge that no branch, or more than one, has.
        """
        k = self.locate_move(s, jump.target, jump.stop, allowed)
        if self.sink is None:
            refused = jump.stop
        else:
            refused = jump.stop & ~self.sink(s)
        if bool(refused.any()):
            row = int(refused.nonzero()[0])
            raise NoSuchEdge(
                f"row {row}: {self.name} has no edge to the sink from {describe(s, row)}: only terminal "
                "states may stop."
            )
        return torch.where(jump.stop, len(self.branches), k)

    def locate_move(self, s: S, t: S, skip: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
        """Which branch leads from s to the state t, [B] long; rows in ``skip`` are not looked at.

        What is ``allowed`` at s need not be asked again where it is given.

        Raises:
            NoSuchEdge: naming the first edge that no branch, or more than one, has.
        """
        allowed = self.allowed(s) if allowed is None else allowed
        owned = allowed & torch.stack([b.owns(s, t) for b in self.branches], dim=-1)
        bad = owned.sum(-1) != 1
        if skip is not None:
            bad = bad & ~skip
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise NoSuchEdge(
                f"row {row}: {int(owned[row].sum())} branches of {self.name} lead from {describe(s, row)} "
                f"to {describe(t, row)}, and exactly one must: check allowed and owns, or the trajectories "
                "that were passed in."
            )
        return owned.to(torch.uint8).argmax(-1)


def describe(s: S, row: int) -> str:
    """One state of a batch, as a short text for messages."""
    parts = [f"{k}={torch.round(v[row].double(), decimals=4).tolist()}" for k, v in s.tensors().items()]
    return f"{type(s).__name__}({', '.join(parts)})"
