"""Figures of training runs and of samples; matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctsgfn.measures import Counting, Product

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, ACCENT = "#1b4965", "#d1495b"


def figure(width: float, height: float) -> Figure:
    """An empty figure that no global state knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plot_history(history: Mapping[str, Any]) -> Figure:
    """Loss, log Z with the evidence bound, and ESS against the step.

    Args:
        history: the fields of a ``History`` by name.

    Example:
        >>> run = {"loss": [2.0, 1.0], "log_z": [0.0, 0.1], "elbo": [-1.0, 0.0], "ess": [0.2, 0.5]}
        >>> fig = plot_history(run)
        >>> [ax.get_ylabel() for ax in fig.axes]
        ['loss', 'log Z', 'ESS / batch']
    """
    fig = figure(9.0, 2.8)
    panels = fig.subplots(1, 3)
    loss: Sequence[float] = history["loss"]
    panels[0].plot(loss, color=INK, lw=0.8)
    if loss and min(loss) > 0:
        panels[0].set_yscale("log")
    panels[1].plot(history["elbo"], color=ACCENT, lw=0.5, alpha=0.7, label="lower bound")
    panels[1].plot(history["log_z"], color=INK, lw=1.2, label="learned log Z")
    settled = [
        v for v in history["log_z"][len(loss) // 5 :] + history["elbo"][len(loss) // 5 :] if math.isfinite(v)
    ]
    if settled:  # the first steps would flatten the rest
        middle, spread = sorted(settled)[len(settled) // 2], max(settled) - min(settled)
        panels[1].set_ylim(middle - max(spread, 1e-3), middle + max(spread, 1e-3))
    panels[1].legend(frameon=False, fontsize="small")
    panels[2].plot(history["ess"], color=INK, lw=0.8)
    panels[2].set_ylim(0, 1.02)
    for ax, label in zip(panels, ("loss", "log Z", "ESS / batch"), strict=True):
        ax.set_xlabel("step")
        ax.set_ylabel(label)
    return fig


PANELS = 5
"""Most coordinates of a figure of pairs."""


def plot_draws(draws: Mapping[str, Tensor], target: Any) -> Figure:
    """Draws of a target: one coordinate, a plane with the log-density, or pairs of up to 5 coordinates.

    Args:
        draws: by name, [N, ..].
        target: the target in the draws' own coordinates: its measure tells cells from points, and its
            density is drawn beneath points of the plane.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> from ctsgfn.target import as_target
        >>> normal = as_target(lambda x: -0.5 * x.square().sum(-1), Lebesgue(3))
        >>> len(plot_draws({"x": torch.randn(50, 3)}, normal).axes)
        6
    """
    columns = dict(_columns(draws))
    if not columns:
        return figure(3.0, 3.0)
    discrete = isinstance(target.measure, Counting) or (
        isinstance(target.measure, Product) and all(isinstance(p, Counting) for p in target.measure.parts)
    )
    if len(columns) == 1:
        return _line(columns, discrete)
    if len(columns) == 2 and discrete:
        return _cells(columns)
    if len(columns) == 2:
        return _plane(columns, target if set(draws) == {"x"} else None)
    return _pairs(columns)


def _columns(draws: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The first scalars of the draws by name, each [N]; a site is never cut off by a long one before it."""
    found: list[tuple[str, Tensor]] = []
    for name, values in draws.items():
        flat = values.detach().cpu().double().reshape(len(values), -1)
        wide = values.dim() > 1
        found += [(f"{name}[{j}]" if wide else name, flat[:, j]) for j in range(flat.shape[1])]
    return found


def _line(columns: Mapping[str, Tensor], discrete: bool) -> Figure:
    ((name, x),) = columns.items()
    fig = figure(4.5, 3.2)
    ax = fig.subplots()
    if discrete:
        cells, counts = x.unique(return_counts=True)
        ax.bar(cells.numpy(), (counts / len(x)).numpy(), color=INK)
    else:
        ax.hist(x.numpy(), bins=_bins(x), density=True, color=INK, alpha=0.85)
    ax.set(xlabel=name, ylabel="probability" if discrete else "density")
    return fig


def _cells(columns: Mapping[str, Tensor]) -> Figure:
    """Heat map of a discrete plane."""
    (first, x), (second, y) = columns.items()
    low = torch.stack([x.min(), y.min()])
    width, height = (torch.stack([x.max(), y.max()]) - low).long().add(1).tolist()
    index = (x - low[0]).long() * height + (y - low[1]).long()
    counts = torch.bincount(index, minlength=width * height).reshape(width, height)
    fig = figure(4.4, 3.8)
    ax = fig.subplots()
    edges = (low[0] - 0.5, low[0] + width - 0.5, low[1] - 0.5, low[1] + height - 0.5)
    image = ax.imshow(
        (counts / len(x)).T.numpy(), origin="lower", extent=[float(e) for e in edges], cmap="Blues"
    )
    fig.colorbar(image, ax=ax, label="frequency")
    ax.set(xlabel=first, ylabel=second)
    return fig


def _plane(columns: Mapping[str, Tensor], target: Any) -> Figure:
    """Points, over contours of the log-density where it can be evaluated on a grid."""
    (first, x), (second, y) = columns.items()
    fig = figure(4.6, 4.4)
    ax = fig.subplots()
    if target is not None:
        _contours(ax, x, y, target)
    ax.scatter(x.numpy(), y.numpy(), s=3, color=ACCENT, alpha=0.35, lw=0, rasterized=True)
    ax.set(xlabel=first, ylabel=second)
    return fig


def _contours(ax: Any, x: Tensor, y: Tensor, target: Any, side: int = 120) -> None:
    axes = []
    for v in (x, y):
        margin = 0.08 * (v.max() - v.min()) + 1e-9
        axes.append(torch.linspace(float(v.min() - margin), float(v.max() + margin), side, dtype=v.dtype))
    grid = torch.cartesian_prod(*axes).to(torch.get_default_dtype())
    inside = target.measure.contains(grid)
    value = torch.full((len(grid),), math.nan)
    with torch.no_grad():
        value[inside] = target.log_density(grid[inside]).float()
    top = value[value.isfinite()].max()
    levels = [float(top) - gap for gap in (16.0, 8.0, 4.0, 2.0, 1.0, 0.5)]
    ax.contour(
        axes[0].numpy(),
        axes[1].numpy(),
        value.reshape(side, side).T.numpy(),
        levels,
        colors=INK,
        linewidths=0.6,
    )


def _pairs(columns: Mapping[str, Tensor]) -> Figure:
    """Histograms on the diagonal, points beneath it."""
    chosen = list(columns.items())[:PANELS]
    d = len(chosen)
    fig = figure(1.7 * d, 1.7 * d)
    for i, (below, y) in enumerate(chosen):
        for j, (beside, x) in enumerate(chosen[: i + 1]):
            ax = fig.add_subplot(d, d, i * d + j + 1)
            if i == j:
                ax.hist(x.numpy(), bins=_bins(x), color=INK, alpha=0.85)
                ax.set_yticks([])
            else:
                ax.scatter(x.numpy(), y.numpy(), s=1.5, color=ACCENT, alpha=0.3, lw=0, rasterized=True)
                ax.set_ylabel(below if j == 0 else "")
            ax.set_xlabel(beside if i == d - 1 else "")
            ax.tick_params(labelsize="x-small")
    return fig


def _bins(x: Tensor) -> int:
    """Bins of a histogram: about the square root of the number of draws, at most 80."""
    return max(5, min(80, math.isqrt(len(x))))
