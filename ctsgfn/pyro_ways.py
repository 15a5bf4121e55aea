"""Ways of running a Pyro model on many points: mapped, mapped with amendments, side by side, one by one."""

from __future__ import annotations

import os
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from ctsgfn.traced import Traced


class Runs(Protocol):
    """What a way needs of a model."""

    @property
    def chunk(self) -> int:
        """Points that go through the model at once."""

    def joint(self, row: Tensor) -> Tensor:
        """Log joint [] at one point [D]."""

    def side_by_side(self, points: Tensor) -> Tensor:
        """Log joint [B] at points [B, D], which share one run of the model."""


class Way(ABC):
    """A way of getting log joint and score of a model at many points."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs

    @abstractmethod
    def value(self, points: Tensor) -> Tensor:
        """Log joint [B] at points [B, D]."""

    @abstractmethod
    def slope(self, points: Tensor) -> Tensor:
        """Its gradient [B, D], detached."""

    @abstractmethod
    def each(self, one: Callable[[Any], dict[str, Tensor]], rows: Any) -> dict[str, Tensor]:
        """Map every row of a tensor, or of a dict of tensors."""

    def _chunks(self, batched: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
        with pyro.validation_enabled(False), poutine.block():
            if len(points) <= self.runs.chunk:
                return batched(points)
            return torch.cat([batched(part) for part in points.split(self.runs.chunk)])


class Mapped(Way):
    """All points at once, by ``torch.func.vmap``."""

    def __init__(self, runs: Runs) -> None:
        super().__init__(runs)
        self._value = Traced(torch.func.vmap(self.one))
        self._slope = Traced(torch.func.vmap(torch.func.grad(self.one)))

    def one(self, row: Tensor) -> Tensor:
        """Log joint [] at one point."""
        return self.runs.joint(row)

    def value(self, points: Tensor) -> Tensor:
        """Log joint [B] at points [B, D]."""
        return self._chunks(self._value, points)

    def slope(self, points: Tensor) -> Tensor:
        """Its gradient [B, D], detached."""
        return self._chunks(self._slope, points)

    def each(self, one: Callable[[Any], dict[str, Tensor]], rows: Any) -> dict[str, Tensor]:
        """Map every row of a tensor, or of a dict of tensors."""
        with pyro.validation_enabled(False), poutine.block():
            return torch.func.vmap(one, chunk_size=self.runs.chunk)(rows)


class Amended(Mapped):
    """All points at once by ``vmap``, where the model assigns to parts of tensors."""

    def one(self, row: Tensor) -> Tensor:
        """Log joint [] at one point."""
        with Assignable(row):
            return self.runs.joint(row)

    def each(self, one: Callable[[Any], dict[str, Tensor]], rows: Any) -> dict[str, Tensor]:
        """Map every row of a tensor, or of a dict of tensors."""

        def amended(row: Any) -> dict[str, Tensor]:
            with Assignable(_pytree.tree_leaves(row)[0]):
                return one(row)

        return super().each(amended, rows)


class OneByOne(Way):
    """A run of the model for every point: right for any model, and slow."""

    def value(self, points: Tensor) -> Tensor:
        """Log joint [B] at points [B, D]."""
        return self._loop(self.runs.joint, points)

    def slope(self, points: Tensor) -> Tensor:
        """Its gradient [B, D], detached."""
        with torch.enable_grad():
            leaf = points.clone().requires_grad_()
            return torch.autograd.grad(self.value(leaf).sum(), leaf)[0]

    def each(self, one: Callable[[Any], dict[str, Tensor]], rows: Any) -> dict[str, Tensor]:
        """Map every row of a tensor, or of a dict of tensors."""
        values: dict[str, Tensor] = self._loop(one, rows)
        return values

    def _loop(self, one: Callable[[Any], Any], rows: Any) -> Any:
        count = len(_pytree.tree_leaves(rows)[0])
        with pyro.validation_enabled(False), poutine.block():
            single = [one(_pytree.tree_map(lambda t, i=i: t[i], rows)) for i in range(count)]
        return _pytree.tree_map(lambda *parts: torch.stack(parts), *single)


class SideBySide(OneByOne):
    """All points in one run of the model, along a new first batch dimension of every latent site.

    Right only for models that broadcast over leading dimensions, as those that Pyro vectorises over
    particles must; ``from_pyro`` compares it with single runs before it uses it.
    """

    def value(self, points: Tensor) -> Tensor:
        """Log joint [B] at points [B, D]."""
        return self._chunks(self._several, points)

    def _several(self, points: Tensor) -> Tensor:
        """Values of a batch that is never one row, whose dimension a model may take for one of its own."""
        if len(points) > 1:
            return self.runs.side_by_side(points)
        return self.runs.side_by_side(points.expand(2, -1))[: len(points)]


class Assignable(TorchFunctionMode):
    r"""Lets a function of one row assign to parts of tensors under ``vmap``.

    ``vmap`` cannot write a batched number into an unbatched tensor: new tensors are therefore batched from
    the start. It cannot index by a batched mask: :math:`x[m] = v` becomes :math:`x \leftarrow m ? v : x`.
    And ``.data``, which it refuses, is ``detach()``.

    Args:
        row: a tensor that is batched.

    Example:
        >>> def f(row):
        ...     x = torch.zeros(2)
        ...     x[0] = row.sum()
        ...     x[x < 0] = 0.0
        ...     return x
        >>> def amended(row):
        ...     with Assignable(row):
        ...         return f(row)
        >>> torch.func.vmap(amended)(torch.tensor([[1.0, 2.0], [-3.0, 1.0]]))
        tensor([[3., 0.],
                [0., 0.]])
    """

    made = frozenset(
        {torch.zeros, torch.ones, torch.full, torch.empty, torch.tensor, torch.eye}
        | {torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like, torch.clone}
        | {Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty, Tensor.new_tensor}
        | {Tensor.clone}
    )

    def __init__(self, row: Tensor) -> None:
        super().__init__()
        self.zero = torch.zeros_like(row.reshape(-1)[0])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach()
        if func is Tensor.__setitem__:
            return _assign(*args)
        out = func(*args, **(kwargs or {}))
        if func in self.made and out.is_floating_point():
            return out + self.zero.to(out.dtype)
        return out


def _assign(x: Tensor, index: Any, value: Any) -> None:
    try:
        x[index] = value
    except RuntimeError:
        by_mask = isinstance(index, Tensor) and index.dtype == torch.bool
        if not by_mask or (isinstance(value, Tensor) and value.ndim):
            raise
        x.copy_(torch.where(index.reshape(*index.shape, *[1] * (x.ndim - index.ndim)), value, x))


def cause(error: BaseException) -> str:
    """What a run failed of, and on which line: the last one outside torch's own machinery.

    Example:
        >>> try:
        ...     torch.func.vmap(lambda x: x.item())(torch.zeros(3))
        ... except RuntimeError as error:
        ...     print(cause(error)[:50])
        It looks like you're calling .item() on a Tensor,
    """
    message = str(error).removeprefix("vmap: ").split("\n")[0].split(". ")[0].rstrip(".")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.line and not _machinery(f.filename)]
    if not frames:
        return message
    line, place = frames[-1].line or "", f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"
    return f"{message}, at `{line if len(line) < 80 else line[:77] + '...'}` ({place})"


def _machinery(filename: str) -> bool:
    """Whether a file is of what runs a model, not of the model or its distributions."""
    home = os.path.dirname
    torchs = filename.startswith(home(torch.__file__)) and "distributions" not in filename
    return torchs or filename.startswith((home(__file__), home(poutine.__file__), pyro.primitives.__file__))
