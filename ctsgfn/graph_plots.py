"""Figures of a posterior over graphs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ctsgfn.graph_summary import GraphRow
from ctsgfn.plots import INK, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 3
"""Graphs beside the heat map."""


def plot_graphs(edges: Tensor, graphs: Sequence[GraphRow], names: Sequence[str]) -> Figure:
    """Edge probabilities as a heat map, row to column, and the most probable graphs on a circle.

    Args:
        edges: [d, d] probabilities.
        graphs: most probable first.
        names: of the nodes.

    Example:
        >>> import torch
        >>> edge = torch.tensor([[0.0, 0.8], [0.1, 0.0]])
        >>> fig = plot_graphs(edge, [GraphRow(edge > 0.5, 0.8, "a -> b")], ["a", "b"])
        >>> [ax.get_title() for ax in fig.axes[:2]]
        ['P(row -> column)', 'probability 0.8']
    """
    d, shown = len(names), list(graphs[:SHOWN])
    fig = figure(4.2 + 2.6 * len(shown), 3.8)
    panels = fig.subplots(
        1, 1 + len(shown), squeeze=False, gridspec_kw={"width_ratios": [1.6] + [1.0] * len(shown)}
    )[0]
    image = panels[0].imshow(edges.cpu().numpy(), cmap="Blues", vmin=0.0, vmax=1.0)
    small = "small" if d <= 12 else "xx-small"
    panels[0].set_xticks(range(d), names, rotation=90, fontsize=small)
    panels[0].set_yticks(range(d), names, fontsize=small)
    panels[0].set_title("P(row -> column)")
    if d <= 12:
        for i in range(d):
            for j in range(d):
                if i != j:
                    p = float(edges[i, j])
                    ink = "white" if p > 0.6 else INK
                    panels[0].text(j, i, f"{p:.2f}", ha="center", va="center", fontsize="x-small", color=ink)
    fig.colorbar(image, ax=panels[0], shrink=0.8)
    for ax, row in zip(panels[1:], shown, strict=True):
        _circle(ax, row, names)
    return fig


def _circle(ax: Any, row: GraphRow, names: Sequence[str]) -> None:
    """One graph, its nodes on a circle from the top on, clockwise."""
    d = len(names)
    turn = [math.pi / 2 - 2 * math.pi * k / d for k in range(d)]
    place = [(math.cos(t), math.sin(t)) for t in turn]
    for i, j in row.edges.nonzero().tolist():
        arrow = {"arrowstyle": "-|>", "color": INK, "shrinkA": 14, "shrinkB": 14, "lw": 1.0}
        ax.annotate("", xy=place[j], xytext=place[i], arrowprops=arrow)
    for (x, y), name in zip(place, names, strict=True):
        ax.text(x, y, name, ha="center", va="center", fontsize="small" if d <= 12 else "xx-small")
    ax.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal")
    ax.set_title(f"probability {row.probability:.2g}", fontsize="medium")
    ax.set_axis_off()
