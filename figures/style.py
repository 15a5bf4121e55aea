"""What every figure shares: where results are, colours that colour-blind readers tell apart, png and pdf."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]

INK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE, GREY = [
    "#000000",
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
    "#7f7f7f",
]
"""Okabe and Ito's palette, and a grey."""

mpl.rcParams.update({
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.linewidth": 1.3,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
})  # fmt: skip


class Page:
    """One figure: its results in, its files out.

    Args:
        script: the script's ``__file__``; its stem names the files.
        about: its docstring.
    """

    def __init__(self, script: str, about: str | None) -> None:
        parser = argparse.ArgumentParser(description=about)
        parser.add_argument("--quick", action="store_true", help="from and to build/paper_quick")
        quick = ROOT / "build" / "paper_quick"
        self.name, chosen = Path(script).stem, parser.parse_args()
        self.results = quick if chosen.quick else ROOT / "paper_repro" / "results"
        self.out = quick if chosen.quick else ROOT / "figures"

    def runs(self, experiment: str) -> dict[str, Any]:
        """Runs of an experiment by name."""
        return json.loads((self.results / f"{experiment}.json").read_text())["runs"]

    def arrays(self, experiment: str) -> dict[str, np.ndarray]:
        """Arrays of an experiment, as run/name."""
        return dict(np.load(self.results / f"{experiment}.npz"))

    def save(self, figure: Figure) -> None:
        """Write png and pdf."""
        for suffix in ("png", "pdf"):
            undated = {"CreationDate": None} if suffix == "pdf" else None  # the same file each time
            figure.savefig(self.out / f"{self.name}.{suffix}", metadata=undated)
        plt.close(figure)
        print(self.out / f"{self.name}.png")


def spread(curves: list[list[dict[str, float]]], key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Million trajectories, and geometric mean and factor of spread of a number over runs."""
    length = min(map(len, curves))
    x = np.array([point["trajectories"] for point in curves[0][:length]]) / 1e6
    logs = np.log([[point[key] for point in curve[:length]] for curve in curves])
    return x, np.exp(logs.mean(0)), np.exp(logs.std(0, ddof=1) if len(curves) > 1 else 0 * x)
