"""Batches of states: frozen dataclasses of tensors that share axis 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from typing_extensions import Self

from ctsgfn.errors import InvalidInput


class Batch:
    """Mixin for frozen dataclasses of tensors whose axis 0 counts the states of a batch.

    A space declares its state in a few lines and inherits selection, writing and stacking; a state
    is a point of the space and nothing more. A field may itself be a batch.

    Raises:
        InvalidInput: from ``cat``, when there is nothing to stack.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Point(Batch):
        ...     x: Tensor  # [B, 2]
        >>> p = Point(torch.arange(6.0).reshape(3, 2))
        >>> len(p), p[1:].x.tolist()
        (3, [[2.0, 3.0], [4.0, 5.0]])
        >>> p.put(torch.tensor([0]), p[2:]).x[0].tolist()
        [4.0, 5.0]
    """

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, in the order they were declared; "outer.inner" in a nested batch."""
        if not any(isinstance(field, Batch) for field in self.__dict__.values()):
            return cast(dict[str, Tensor], self.__dict__)
        found: dict[str, Tensor] = {}
        for name, field in self.__dict__.items():
            inner = field.tensors() if isinstance(field, Batch) else {"": field}
            found |= {f"{name}.{key}" if key else name: t for key, t in inner.items()}
        return found

    def of(self, tensors: Iterable[Tensor]) -> Self:
        """Return a batch of this kind of other tensors, in the order of ``tensors()``."""
        left = iter(tensors)
        fields = self.__dict__.values()
        return type(self)(*[field.of(left) if isinstance(field, Batch) else next(left) for field in fields])

    @property
    def anchor(self) -> Tensor:
        """An empty tensor of the device of the states, and of their floating dtype if they have one."""
        columns = list(self.tensors().values())
        floating = [t for t in columns if t.is_floating_point()]
        return floating[0].new_empty(0) if floating else torch.empty(0, device=columns[0].device)

    def __len__(self) -> int:
        return next(iter(self.tensors().values())).shape[0]  # several times cheaper than len

    def __getitem__(self, rows: Any) -> Self:
        return self.of(t[rows] for t in self.tensors().values())

    def index_select(self, dim: int, rows: Tensor) -> Self:
        """Rows [B'] long of axis dim = 0, as of a tensor: cheaper than indexing, and so is its gradient."""
        return self.of(t.index_select(dim, rows) for t in self.tensors().values())

    def put(self, rows: Tensor, values: Self) -> Self:
        """Return a copy in which ``rows`` (long or bool) are replaced by ``values``."""
        index = rows.nonzero().squeeze(-1) if rows.dtype == torch.bool else rows
        pairs = zip(self.tensors().values(), values.tensors().values(), strict=True)
        return self.of(old.index_copy(0, index, new) for old, new in pairs)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """Apply ``fn`` to every tensor: ``.map(lambda t: t.roll(-1, 0))``."""
        return self.of(fn(t) for t in self.tensors().values())

    def like(self, anchor: Tensor) -> Self:
        """Move to the device of ``anchor``, and its floating fields to the dtype of ``anchor``."""
        return self.map(
            lambda t: t.to(anchor.device, anchor.dtype) if t.is_floating_point() else t.to(anchor.device)
        )

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Stack batches along axis 0."""
        if not parts:
            raise InvalidInput(f"{cls.__name__}.cat got no batches to stack: pass at least one.")
        columns = zip(*[p.tensors().values() for p in parts], strict=True)
        return parts[0].of(torch.cat(column) for column in columns)


S = TypeVar("S", bound=Batch)
"""The type of a space's states."""
X = TypeVar("X")
"""The type of what a target sees: a tensor, or a batch."""


class Jump(NamedTuple, Generic[S]):
    """Where an edge leads: to a state, or to the sink."""

    target: S  # [B]; rows with stop=True are never read
    stop: Tensor  # [B] bool
