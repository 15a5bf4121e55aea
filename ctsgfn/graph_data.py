"""Data for graph posteriors, checked at the door: an array or a data frame, as centred columns with names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput

Node = str | int
"""A column by its name or its number."""


@runtime_checkable
class Frame(Protocol):
    """A table with named columns, such as a pandas data frame."""

    columns: Any

    def to_numpy(self) -> Any:
        """The values, [N, d]."""
        ...


@dataclass(frozen=True)
class GraphData:
    """Columns of data, centred and perhaps scaled, and what was done to them.

    Example:
        >>> data = read_data([[1.0, 10.0], [3.0, 30.0]], scale=True)
        >>> data.values[:, 0].tolist(), data.spread.tolist(), data.names
        ([-0.7071..., 0.7071...], [1.4142..., 14.142...], ('x0', 'x1'))
        >>> data.pairs("forbidden", [("x1", 0)])
        [(1, 0)]
    """

    values: Tensor  # [N, d] float64, each column of mean 0 (and, if scaled, standard deviation 1)
    spread: Tensor  # [d] what each column was divided by
    names: tuple[str, ...]
    interventions: Tensor | None  # [N, d] bool

    def node(self, argument: str, node: Node) -> int:
        """Number of a column.

        Raises:
            InvalidInput: when there is no such column, naming the argument.
        """
        if isinstance(node, str) and node in self.names:
            return self.names.index(node)
        number = isinstance(node, int | np.integer) and not isinstance(node, bool)
        if number and 0 <= int(node) < len(self.names):
            return int(node)
        raise InvalidInput(
            f"{argument} names the column {node!r}, and the data have "
            f"{', '.join(self.names[:12])}{', ..' if len(self.names) > 12 else ''}: use a name, or a number "
            f"below {len(self.names)}."
        )

    def pairs(self, argument: str, edges: Iterable[tuple[Node, Node]] | None) -> list[tuple[int, int]]:
        """Edges as pairs of numbers.

        Raises:
            InvalidInput: when an entry is no pair of columns.
        """
        found = []
        for edge in edges or ():
            if isinstance(edge, str) or len(edge) != 2:
                raise InvalidInput(f"{argument} holds {edge!r}: give each edge as a pair (from, to).")
            found.append((self.node(argument, edge[0]), self.node(argument, edge[1])))
        return found


def read_data(
    data: Any, *, interventions: Any = None, names: Sequence[str] | None = None, scale: bool = True
) -> GraphData:
    """Read rows of observations, centre the columns and divide them by their standard deviation.

    Args:
        data: [N, d], an array, a tensor, nested lists or a data frame.
        interventions: which values the experimenter set, [N, d] of 0 and 1; or one entry for each row:
            None, a column, or a collection of columns.
        names: of the columns, where the data have none.
        scale: whether to divide.

    Raises:
        InvalidInput: naming the row and the column of what makes no sense, and the remedy.
    """
    if isinstance(data, Frame):
        if names is not None:
            raise InvalidInput("a data frame names its own columns: leave names out.")
        names = [str(name) for name in data.columns]
        data = data.to_numpy()
    raw = np.asarray(data.detach().cpu() if isinstance(data, Tensor) else data)
    if raw.ndim != 2 or raw.shape[0] < 2 or raw.shape[1] < 2:
        raise InvalidInput(
            f"fit_graph needs data [N, d] of at least 2 rows and 2 columns, got shape {list(raw.shape)}."
        )
    columns = tuple(f"x{j}" for j in range(raw.shape[1])) if names is None else tuple(names)
    if len(columns) != raw.shape[1] or len(set(columns)) != len(columns):
        raise InvalidInput(
            f"names must be {raw.shape[1]} different ones, one a column of the data, got {list(columns)}."
        )
    values = np.stack([_numbers(raw[:, j], name) for j, name in enumerate(columns)], axis=-1)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise InvalidInput(
            f"the data are {values[row, column]} at row {row}, column {columns[column]!r}: leave such rows "
            "out, or fill them in."
        )
    spread = values.std(axis=0, ddof=1)
    if not (spread > 1e-12 * np.abs(values).max(axis=0)).all():
        constant = columns[int(np.argmin(spread))]
        raise InvalidInput(f"column {constant!r} is constant and says nothing of any edge: leave it out.")
    divide = spread if scale else np.ones_like(spread)
    centred = torch.from_numpy((values - values.mean(axis=0)) / divide)
    out = GraphData(centred, torch.from_numpy(divide), columns, None)
    if interventions is None:
        return out
    return GraphData(centred, out.spread, columns, _interventions(interventions, out))


def _numbers(column: Any, name: str) -> Any:
    try:
        return np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"column {name!r} holds values that are no numbers ({error}): encode them, or leave it out."
        ) from error


def _interventions(given: Any, data: GraphData) -> Tensor:
    """Mask [N, d] of the values that were set."""
    size, d = data.values.shape
    if isinstance(given, Frame):
        given = given.to_numpy()
    if isinstance(given, Tensor | np.ndarray) and given.ndim == 2:
        mask = np.asarray(given)
        if mask.shape != (size, d):
            raise InvalidInput(
                f"interventions must have the shape of the data, {[size, d]}, got {list(mask.shape)}."
            )
        if not np.isin(mask, (0, 1)).all():
            raise InvalidInput("interventions must be 0 or 1 (or bool): 1 where a value was set.")
    else:
        if len(given) != size:
            raise InvalidInput(
                f"interventions has {len(given)} entries for {size} rows: give one a row (None, a column or "
                "several), or a mask of the shape of the data."
            )
        mask = np.zeros((size, d))
        for row, entry in enumerate(given):
            several = entry if isinstance(entry, tuple | list | set | frozenset) else (entry,)
            for node in several:
                if node is not None:
                    mask[row, data.node("interventions", node)] = 1
    return torch.from_numpy(np.ascontiguousarray(mask)).bool()
