"""A batched function of one tensor, replayed as the flat list of tensor operations it comes down to."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

PATIENCE = 64
"""Calls with one size before it is worth recording: recording costs some hundred calls' time."""

WIDEST = 2**13
"""Most rows of a recorded batch: above, arithmetic costs more than the interpreter."""

MOST = 32
"""Recordings kept by one function."""

LIKE = tuple(getattr(torch.ops.aten, kind).default for kind in ("zeros_like", "ones_like", "full_like"))
"""Operations whose result does not depend on the numbers that they are given."""


class Traced:
    """A row-wise function [B, d] -> [B, ..] that costs its arithmetic alone once it has been called often.

    A function built from layers of Python, such as a probabilistic program under ``vmap``, spends most
    of its time between the tensor operations. After some calls with one batch size its operations are
    recorded; what does not depend on the points is computed once. A recording is used only if it gives
    the very same bits as the function itself, so that it does not matter when one is made; what cannot be
    recorded, or needs gradients, runs as it is. Batches are filled up to one of few sizes with copies of
    their first row.

    Args:
        fn: the function. What it closes over must not change.

    Example:
        >>> cubes = Traced(lambda x: (x.square() * x).sum(-1))
        >>> x = torch.arange(6.0).reshape(3, 2)
        >>> values = [cubes(x).tolist() for _ in range(70)]
        >>> values[0] == values[-1] == [1.0, 35.0, 189.0], cubes.recordings
        (True, 1)
    """

    def __init__(self, fn: Callable[[Tensor], Tensor]) -> None:
        self.fn = fn
        self._calls: dict[tuple[object, ...], int] = {}
        self._made: dict[tuple[object, ...], Callable[[Tensor], Tensor] | None] = {}

    @property
    def recordings(self) -> int:
        """How many shapes run from a recording."""
        return sum(made is not None for made in self._made.values())

    def __call__(self, x: Tensor) -> Tensor:
        """Value of the function at a batch of points."""
        if (torch.is_grad_enabled() and x.requires_grad) or not 0 < len(x) <= WIDEST:
            return self.fn(x)
        count, size = len(x), _size(len(x))
        filled = torch.cat([x, x[:1].expand(size - count, -1)]) if size > count else x.contiguous()
        return self._at(filled)[:count]

    def _at(self, x: Tensor) -> Tensor:
        """Value at a batch of one of the few sizes."""
        key = (x.shape, x.dtype, x.device)
        if key in self._made:
            made = self._made[key]
            return self.fn(x) if made is None else made(x)
        value = self.fn(x)
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._calls[key] >= PATIENCE and len(self._made) < MOST:
            self._made[key] = _recorded(self.fn, x, value)
        return value


def _size(rows: int) -> int:
    """The least m 2^k of at least ``rows``, with m from 4 to 8: at most a quarter more."""
    step = 1 << max(0, rows.bit_length() - 3)
    return max(4, -(-rows // step) * step)


def _recorded(fn: Callable[[Tensor], Tensor], x: Tensor, value: Tensor) -> Callable[[Tensor], Tensor] | None:
    """The function at this shape, or None where its recording does not give the same bits."""
    from torch.fx.experimental.proxy_tensor import make_fx  # a second to import, and rarely needed

    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            pure = torch.func.functionalize(lambda points: fn(points))  # nothing is written in place
            graph = make_fx(pure)(x)
            if not _fold(graph, x.device):
                return None
            again = graph.forward(x)
    except Exception:  # whatever cannot be recorded still runs as it is, only slower
        return None
    same = again.shape == value.shape and again.dtype == value.dtype
    return (
        graph.forward if same and bool(((again == value) | (again.isnan() & value.isnan())).all()) else None
    )


def _fold(graph: fx.GraphModule, device: torch.device) -> bool:
    """Compute once what does not depend on the points; False where a constant could be overwritten."""
    graph.graph.eliminate_dead_code()
    constant: dict[fx.Node, Any] = {}
    taken: set[int] = (
        set()
    )  # storage that must stay as it is: read by what depends on the points, or not ours
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            constant[node] = getattr(graph, node.target)
            taken.add(_storage(constant[node]))
        elif node.op == "call_function":
            fixed = all(parent in constant for parent in node.all_input_nodes)
            if isinstance(node.target, OpOverload) and node.target._schema.is_mutable:
                written = constant.get(node.args[0])
                if written is not None and (not fixed or _storage(written) in taken):
                    return False
            if fixed:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), constant.__getitem__)
                constant[node] = node.target(*args, **kwargs)
                continue
            taken |= {_storage(constant[parent]) for parent in node.all_input_nodes if parent in constant}
            if node.target in LIKE:  # looks at the shape alone
                meta = node.meta["tensor_meta"]
                like = torch.empty_strided(meta.shape, meta.stride, dtype=meta.dtype, device=device)
                constant[node] = node.target(like, *node.args[1:], **node.kwargs)
        elif node.op == "output" and any(parent in constant for parent in node.all_input_nodes):
            return False  # a caller may write into what it gets
    for i, (node, value) in enumerate(constant.items()):
        if node.op == "call_function" and any(user not in constant for user in node.users):
            setattr(graph, f"folded_{i}", value)
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.get_attr(f"folded_{i}"))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return True


def _storage(value: Any) -> int:
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else 0
