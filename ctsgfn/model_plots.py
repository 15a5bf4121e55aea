"""The figure of a posterior over models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ctsgfn.plots import ACCENT, INK, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELLED = 30
"""Most items whose names are written on the axis."""


def plot_models(
    labels: Sequence[str],
    models: tuple[Tensor, Tensor],
    items: tuple[Tensor, Tensor] | None,
    names: Sequence[str],
    dimension: tuple[Tensor, Tensor],
) -> Figure:
    """Bars, with an error of two standard errors, of the best models, the items and the dimension.

    Args:
        labels: of the models that are drawn, most probable first.
        models: their probabilities and standard errors, [K] each, K at least as many as the labels.
        items: probabilities and errors of the items; None where there are none.
        names: of the items.
        dimension: probabilities and errors of 0, 1, ..

    Example:
        >>> import torch
        >>> pair = (torch.tensor([0.7, 0.3]), torch.tensor([0.01, 0.01]))
        >>> fig = plot_models(["age", "none"], pair, pair, ["age", "dose"], pair)
        >>> [ax.get_xlabel() for ax in fig.axes]
        ['probability of the model', 'item', 'dimension']
    """
    panels = 2 if items is None else 3
    fig = figure(3.6 * panels + 1.0, max(2.8, 0.24 * len(labels)))
    axes = fig.subplots(1, panels)
    shown, error = (t[: len(labels)].tolist() for t in models)
    axes[0].barh(range(len(labels)), shown, xerr=[2 * e for e in error], color=INK)
    axes[0].set_yticks(range(len(labels)), [label[:40] for label in labels], fontsize="small")
    axes[0].invert_yaxis()
    axes[0].set_xlabel("probability of the model")
    if items is not None:
        value, spread = (t.flatten().tolist() for t in items)
        axes[1].bar(range(len(value)), value, yerr=[2 * e for e in spread], color=ACCENT)
        if len(names) <= LABELLED:
            axes[1].set_xticks(range(len(names)), names, rotation=90, fontsize="small")
        axes[1].set(xlabel="item", ylabel="probability that it is there", ylim=(0, 1.02))
    value, spread = (t.tolist() for t in dimension)
    axes[-1].bar(range(len(value)), value, yerr=[2 * e for e in spread], color=INK)
    axes[-1].set(xlabel="dimension", ylabel="probability")
    return fig
