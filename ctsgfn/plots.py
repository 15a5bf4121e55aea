"""Figures of training runs and of samples; matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctsgfn.measures import Counting, Product
from ctsgfn.target import HasConstrain, Target

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


def plot_predictive(draws: Mapping[str, Tensor], observed: Mapping[str, Tensor], lines: int = 50) -> Figure:
    """Empirical distribution functions of the data over those of single draws, a panel for each site.

    Args:
        draws: by site, [n, ..]; the first ``lines`` of them are drawn.
        observed: by site, [..].
        lines: draws in a panel.

    Example:
        >>> fig = plot_predictive({"y": torch.randn(20, 8)}, {"y": torch.randn(8)})
        >>> len(fig.axes), len(fig.axes[0].lines)
        (1, 21)
    """
    fig = figure(4.2 * min(3, len(draws)), 3.2 * math.ceil(len(draws) / 3))
    panels = fig.subplots(math.ceil(len(draws) / 3), min(3, len(draws)), squeeze=False).flatten()
    for ax, (site, made) in zip(panels, draws.items(), strict=False):
        for k, row in enumerate([*made[:lines].detach().cpu(), observed[site].detach().cpu()]):
            y = row.double().flatten().sort().values
            data = k == len(made[:lines])
            height = (torch.arange(len(y), dtype=y.dtype) + 1) / len(y)
            style = {"color": ACCENT, "lw": 1.8, "label": "data"} if data else {"color": INK, "lw": 0.4}
            if k == 0:
                style["label"] = "draws of the model"
            ax.step(y.numpy(), height.numpy(), where="post", alpha=1.0 if data else 0.5, **style)
        ax.set(xlabel=site, ylabel="share of the values up to", ylim=(0, 1.02))
    panels[0].legend(frameon=False, fontsize="small")
    for ax in panels[len(draws) :]:
        ax.set_axis_off()
    return fig


Density = Callable[[Tensor], Tensor]
PANELS = 5
"""Most coordinates of a figure of pairs."""


def plot_draws(draws: Mapping[str, Tensor], target: Target[Any]) -> Figure:
    """Draws of a target: one coordinate, a plane with the log-density, or pairs of up to 5 coordinates.

    Args:
        draws: by name, [N, ..].
        target: the target in its own coordinates: its measure tells cells from points, and its
            density is drawn with the draws where they are in the same coordinates.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> from ctsgfn.target import as_target
        >>> normal = as_target(lambda x: -0.5 * x.square().sum(-1), Lebesgue(3))
        >>> len(plot_draws({"x": torch.randn(50, 3)}, normal).axes)
        6
    """
    columns = _columns(draws)
    parts = target.measure.parts if isinstance(target.measure, Product) else (target.measure,)
    discrete = all(isinstance(part, Counting) for part in parts)
    density = None
    if not discrete and not isinstance(target, HasConstrain):
        density = partial(_log_density, target, next(iter(draws.values())))
    if len(columns) == 1:
        return _line(columns, density)
    if len(columns) == 2:
        return _cells(columns) if discrete else _plane(columns, density)
    return _pairs(columns)


def _columns(draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first scalars of the draws by name, each [N] in float64 on the CPU."""
    found: dict[str, Tensor] = {}
    for name, values in draws.items():
        flat = values.detach().flatten(1) if values.dim() > 1 else values.detach()[:, None]
        for j in range(min(flat.shape[1], PANELS)):
            found[f"{name}[{j}]" if values.dim() > 1 else name] = flat[:, j].cpu().double()
    return found


def _log_density(target: Target[Any], like: Tensor, grid: Tensor) -> Tensor:
    """Log-density at grid points (on the CPU); -inf outside the support."""
    points = grid.to(like.device, like.dtype)
    value = torch.full((len(grid),), -math.inf, dtype=grid.dtype)
    inside = target.measure.contains(points)
    with torch.no_grad():
        value[inside.cpu()] = target.log_density(points[inside]).cpu().to(grid.dtype)
    return value


def _line(columns: Mapping[str, Tensor], density: Density | None) -> Figure:
    """Histogram, with the target's density normalised over the range that is drawn."""
    ((name, x),) = columns.items()
    fig = figure(4.5, 3.2)
    ax = fig.subplots()
    ax.set_xlabel(name)
    if density is None:
        values, counts = x.unique(return_counts=True)
        ax.bar(values.numpy(), (counts / len(x)).numpy(), color=INK)
        ax.set_ylabel("frequency")
        return fig
    ax.hist(x.numpy(), bins=_bins(x), density=True, color=INK, alpha=0.4, label="draws")
    grid = _axis(x, 500)
    curve = density(grid[:, None]).exp()
    ax.plot(
        grid.numpy(), (curve / torch.trapezoid(curve, grid)).numpy(), color=ACCENT, lw=1.2, label="target"
    )
    ax.legend(frameon=False, fontsize="small")
    ax.set_ylabel("density")
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
    left, bottom = (low - 0.5).tolist()
    image = ax.imshow(
        (counts / len(x)).T.numpy(),
        origin="lower",
        extent=(left, left + width, bottom, bottom + height),
        cmap="Blues",
    )
    fig.colorbar(image, ax=ax, label="frequency")
    ax.set(xlabel=first, ylabel=second)
    return fig


def _plane(columns: Mapping[str, Tensor], density: Density | None, side: int = 100) -> Figure:
    """Points, over contours of the log-density at 0.5, 1, 2, .. 16 nats below its top."""
    (first, x), (second, y) = columns.items()
    fig = figure(4.6, 4.4)
    ax = fig.subplots()
    if density is not None:
        across, up = _axis(x, side), _axis(y, side)
        value = density(torch.cartesian_prod(across, up)).reshape(side, side)
        top = float(value[value.isfinite()].max())
        levels = [top - gap for gap in (16.0, 8.0, 4.0, 2.0, 1.0, 0.5)]
        ax.contour(across.numpy(), up.numpy(), value.T.numpy(), levels, colors=INK, linewidths=0.6)
    ax.scatter(x.numpy(), y.numpy(), s=3, color=ACCENT, alpha=0.35, lw=0, rasterized=True)
    ax.set(xlabel=first, ylabel=second)
    return fig


def _axis(x: Tensor, size: int) -> Tensor:
    """Grid over the range of the draws, a little wider."""
    margin = 0.08 * float(x.max() - x.min()) + 1e-9
    return torch.linspace(float(x.min()) - margin, float(x.max()) + margin, size, dtype=x.dtype)


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
