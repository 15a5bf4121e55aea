"""Small networks: encoders of states, a learned function of a state, tables that no state enters."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class MLP(nn.Sequential):
    """Linear layers with an activation after each: ``inputs -> hidden -> .. -> hidden``.

    The output is a hidden layer: heads and gates put their own linear layer on it.

    Example:
        >>> tuple(MLP(3, 16, layers=2)(torch.zeros(5, 3)).shape)
        (5, 16)
    """

    def __init__(
        self, inputs: int, hidden: int, layers: int = 2, activation: Callable[[], nn.Module] = nn.GELU
    ) -> None:
        widths = [inputs] + [hidden] * layers
        blocks: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            blocks += [nn.Linear(a, b), activation()]
        super().__init__(*blocks)


class Encoder(nn.Module, ABC):
    """What a kernel knows of a state: a context [B, width] that its gate and heads read.

    ``observe`` is the part that depends on no parameter and is worth computing once per visited
    state (the score of the target, say): trajectories carry it, and ``forward`` gets it back.
    """

    width: int

    def observe(self, s: Any) -> Tensor | None:
        """Parameter-free observation [B, ..] of the states, or None."""
        del s
        return None

    def observes_as(self, other: Encoder) -> bool:
        """Whether another encoder observes the same of every state: one observation then serves both."""
        del other
        return False

    @abstractmethod
    def forward(self, s: Any, seen: Tensor | None) -> Any:
        """Context [B, width] of the states, given ``seen = observe(s)``.

        A tensor; or a ``Batch`` of tensors, for heads that know its parts apart.
        """

    def bind(self) -> Callable[[Any, Tensor | None], Any]:
        """``forward`` for many calls: an encoder that is called often looks its parameters up once."""
        return self


class NoContext(Encoder):
    """The encoder of kernels without parameters: a context of width 0.

    Its dtype is that of the states, and of the module where the states are all integers.
    """

    width = 0
    anchor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def forward(self, s: Any, seen: Tensor | None) -> Tensor:
        """Return an empty context, [B, 0]."""
        del seen
        columns = list(s.tensors().values())
        like = next((t for t in columns if t.is_floating_point()), self.anchor)
        return like.new_empty(len(s), 0, device=columns[0].device)


class FeatureEncoder(Encoder):
    """A network on the numbers that a space makes of its states, in the network's dtype.

    Args:
        features: states -> [B, F].
        network: [B, F] -> [B, width].
        width: width of the network's output.
    """

    anchor: Tensor

    def __init__(self, features: Callable[[Any], Tensor], network: nn.Module, width: int) -> None:
        super().__init__()
        self.features, self.network, self.width = features, network, width
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def forward(self, s: Any, seen: Tensor | None) -> Tensor:
        """Network of the features, [B, width]."""
        del seen
        return self.network(self.features(s).to(self.anchor.dtype))


class StateFunction(nn.Module):
    """A learned number per state, 0 at the start: the log-flow log u(s).

    Example:
        >>> from dataclasses import dataclass
        >>> from ctsgfn.states import Batch
        >>> @dataclass(frozen=True)
        ... class Point(Batch):
        ...     x: Tensor
        >>> f = StateFunction(FeatureEncoder(lambda s: s.x, MLP(2, 8), 8))
        >>> f(Point(torch.ones(3, 2))).tolist()
        [0.0, 0.0, 0.0]
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.output = zero_init(nn.Linear(encoder.width, 1))

    def forward(self, s: Any) -> Tensor:
        """The number, [B]."""
        return self.output(self.encoder(s, self.encoder.observe(s))).squeeze(-1)


def zero_init(layer: nn.Linear) -> nn.Linear:
    """Set the weights and the bias of a linear layer to 0, and return it."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Table(nn.Module, ABC):
    """Learned tensors that depend on no state: on the step alone, say.

    A walk or a gradient in runs asks for them again and again; within ``held`` they are computed once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: tuple[Tensor, ...] | None = None

    @abstractmethod
    def compute(self) -> tuple[Tensor, ...]:
        """The tensors, from the parameters."""

    def values(self) -> tuple[Tensor, ...]:
        """The tensors, computed once within ``held``."""
        return self.compute() if self._held is None else self._held


@contextmanager
def held(modules: Iterable[nn.Module], *, in_runs: bool = False) -> Iterator[None]:
    """Compute every table among the modules once for all that follows; parameters must not change within.

    Args:
        modules: such as ``kernel.modules()``.
        in_runs: several calls of ``backward`` follow; the gradients that they send to a table are
            gathered, and reach its parameters at the end.
    """
    tables = {m: None for m in modules if isinstance(m, Table) and m._held is None}  # each once, in order
    whole = [table.compute() for table in tables]
    leaves = [tuple(t.detach().requires_grad_(t.requires_grad) for t in ts) for ts in whole]
    try:
        for table, tensors in zip(tables, leaves if in_runs else whole, strict=True):
            table._held = tensors
        yield
    finally:
        for table in tables:
            table._held = None
    pairs = zip(itertools.chain(*whole), itertools.chain(*leaves), strict=True)
    reached = [(t, leaf.grad) for t, leaf in pairs if leaf.grad is not None]
    if reached:
        torch.autograd.backward([t for t, _ in reached], [gradient for _, gradient in reached])
