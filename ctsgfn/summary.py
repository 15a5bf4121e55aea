"""Posterior tables: every coordinate or site in one line, and what they rest on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.evidence import Evidence

QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Row:
    """One scalar of the target under the weighted draws."""

    name: str
    mean: float
    sd: float
    quantiles: tuple[float, float, float]  # 5, 50 and 95 %
    mcse: float  # Monte-Carlo standard error of the mean
    ess: float  # draws from the target that would give the mean this error


@dataclass(frozen=True)
class Summary:
    """A table that prints itself; ``rows`` holds the numbers, by name with ``summary[name]``.

    Raises:
        InvalidInput: when there is no row of the name asked for.

    Example:
        >>> from ctsgfn.evidence import estimate_evidence
        >>> w = torch.zeros(100)
        >>> table = summarise({"a": torch.arange(100.0)}, w - w.logsumexp(0), estimate_evidence(w))
        >>> print(str(table).splitlines()[1])
        a        49.50     28.87      4.50     49.50     94.50      2.89       100
    """

    rows: tuple[Row, ...]
    evidence: Evidence
    notes: tuple[str, ...] = ()  # what was decided during the fit, in sentences

    def __getitem__(self, name: str) -> Row:
        """Return the row of that name."""
        names = [row.name for row in self.rows]
        if name not in names:
            raise InvalidInput(f"the summary has no row {name!r}: it has {', '.join(names)}.")
        return self.rows[names.index(name)]

    def __str__(self) -> str:
        width = max([4, *(len(row.name) for row in self.rows)])
        head = "".join(f"{h:>10}" for h in ("mean", "sd", "5%", "50%", "95%", "mcse", "ess"))
        lines = [" " * width + head]
        for row in self.rows:
            numbers = (row.mean, row.sd, *row.quantiles, row.mcse)
            cells = "".join(f"{v:>10.{_places(v)}f}" if abs(v) < 1e6 else f"{v:>10.2e}" for v in numbers)
            lines.append(f"{row.name:<{width}}{cells}{row.ess:>10.0f}")
        return "\n".join([*lines, "", str(self.evidence), *self.notes])


def summarise(
    draws: Mapping[str, Tensor], log_weight: Tensor, evidence: Evidence, notes: tuple[str, ...] = ()
) -> Summary:
    r"""Summarise weighted draws.

    The error of a mean is that of self-normalised importance sampling,
    :math:`\sqrt{\sum_i \bar w_i^2 (f_i - \bar f)^2}`.

    Args:
        draws: by name, [N, ..]; every scalar of the trailing axes gets a row.
        log_weight: [N], of weights that sum to 1.
        evidence: shown beneath the table.
        notes: shown beneath the evidence.

    Example:
        >>> from ctsgfn.evidence import estimate_evidence
        >>> w = torch.zeros(101)
        >>> table = summarise({"a": torch.linspace(0, 1, 101)}, w - w.logsumexp(0), estimate_evidence(w))
        >>> [round(v, 2) for v in (table["a"].mean, *table["a"].quantiles, table["a"].ess)]
        [0.5, 0.05, 0.5, 0.95, 101.0]
    """
    w = log_weight.double().exp()
    rows = []
    for name, values in draws.items():
        for label, column in _scalars(name, values):
            rows.append(_row(label, column.double().to(w.device), w))
    return Summary(tuple(rows), evidence, notes)


def _scalars(name: str, values: Tensor) -> Iterator[tuple[str, Tensor]]:
    columns = values.flatten(1) if values.dim() > 1 else values[:, None]
    for j, index in enumerate(itertools.product(*[range(size) for size in values.shape[1:]])):
        yield f"{name}[{','.join(str(i) for i in index)}]" if index else name, columns[:, j]


def _row(name: str, x: Tensor, w: Tensor) -> Row:
    mean = (w * x).sum()
    square = (x - mean).square()
    variance = float((w * square).sum())
    error = float((w.square() * square).sum())
    quantiles = _quantiles(x, w)
    return Row(
        name=name,
        mean=float(mean),
        sd=math.sqrt(variance),
        quantiles=quantiles,
        mcse=math.sqrt(error),
        ess=variance / error if error > 0 else float(1 / w.square().sum()),
    )


def _quantiles(x: Tensor, w: Tensor) -> tuple[float, float, float]:
    """Quantiles of weighted draws: each sits at the middle of its weight, with lines in between."""
    order = x.argsort()
    x, position = x[order], w[order].cumsum(0) - w[order] / 2
    at = torch.tensor(QUANTILES, dtype=x.dtype, device=x.device)
    right = torch.searchsorted(position, at).clamp(1, len(x) - 1)
    left = right - 1
    step = (position[right] - position[left]).clamp(min=torch.finfo(x.dtype).tiny)
    share = ((at - position[left]) / step).clamp(0.0, 1.0)
    low, middle, high = (x[left] + share * (x[right] - x[left])).tolist()
    return low, middle, high


def _places(value: float) -> int:
    """Decimals that show three figures of a small number."""
    return (
        3
        if value == 0 or not math.isfinite(value)
        else min(6, max(2, 2 - math.floor(math.log10(abs(value)))))
    )
