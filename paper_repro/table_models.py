"""Rows of Tables 3, C.2 and 4: networks and their parameters, and digits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import mean

from rows import Row, judged, read, spread

# ------------------------------------------------------------------ structure and parameters
STRUCTURE = {  # RMSE and Pearson correlation, d = 3, 4, 5
    "edges": ((1.50e-2, 0.9993), (1.61e-2, 0.9990), (1.80e-2, 0.9990)),
    "paths": ((3.39e-3, 1.0000), (1.07e-2, 0.9996), (1.99e-2, 0.9989)),
    "blankets": ((2.14e-2, 0.9986), (2.38e-2, 0.9982), (2.83e-2, 0.9980)),
}
SURPRISE = (-1.75, -3.06, -5.17)


def structure() -> Iterator[Row]:
    """Tables 3 and C.2."""
    runs = list(read("structure").values())
    for k, nodes in enumerate((3, 4, 5)):
        mine = [run for run in runs if run["nodes"] == nodes]
        if not mine:
            edges = STRUCTURE["edges"][k][0]
            item = f"Tables 3 and C.2, d = {nodes}, edges RMSE"
            yield Row(item, "structure.py", f"{edges:.2e}", "not run yet", 0, 0, "open")
            continue
        cpu = mean(run["cpu_seconds"] for run in mine)
        for name, cells in STRUCTURE.items():
            rmse = [run[f"{name}_rmse"] for run in mine]
            r = mean(run[f"{name}_r"] for run in mine if not math.isnan(run[f"{name}_r"]))  # all alike: none
            weighted = mean(run["weighted"][f"{name}_rmse"] for run in mine)
            yield Row(
                f"Table C.2, d = {nodes}, {name}: RMSE, r",
                "structure.py",
                f"{cells[k][0]:.2e}, {cells[k][1]:.4f}",
                f"{spread(rmse, '.1e')}, {r:.4f} (weighted {weighted:.1e})",
                len(mine),
                cpu,
                judged(mean(rmse), cells[k][0], 0.0),
            )
        best = mean(run["surprise_exact_draws"] for run in mine)
        yield Row(
            f"Table 3, d = {nodes}, -log p(theta given G, D)",
            "structure.py",
            f"{SURPRISE[k]}",
            f"{spread([run['surprise'] for run in mine], '.2f')} (exact draws {best:.2f})",
            len(mine),
            cpu,
            "other data",
        )


DIBS = (3.28e-1, 2.95e-1, 3.15e-1)
"""RMSE of edges, d = 3, 4, 5."""


def dibs() -> Iterator[Row]:
    """DiBS in Table 3, by its own package."""
    runs = list(read("structure_dibs").values())
    for published, nodes in zip(DIBS, (3, 4, 5), strict=True):
        mine = [run for run in runs if run["nodes"] == nodes]
        item = f"Table 3, d = {nodes}, DiBS, edges: RMSE, r"
        if not mine:
            yield Row(item, "structure_dibs.py", f"{published:.2e}", "not run yet", 0, 0, "open")
            continue
        rmse, r = [run["edges_rmse"] for run in mine], mean(run["edges_r"] for run in mine)
        plus = mean(run["weighted"]["edges_rmse"] for run in mine)
        yield Row(
            item,
            "structure_dibs.py",
            f"{published:.2e}",
            f"{spread(rmse, '.1e')}, {r:.2f} (DiBS+ {plus:.1e})",
            len(mine),
            mean(run["dibs_cpu_seconds"] for run in mine),
            "a rival, our data",
        )


# ------------------------------------------------------------------ digits
DIGITS = {
    "MLE-GFN": "ImageNet-32: NLL 4.47, FID 16.36",
    "p_B fixed": "",
    "DDPM, weighted": "",
    "DDPM, simple": "ImageNet-32: NLL 4.57, FID 17.65",
}


def digits() -> Iterator[Row]:
    """Table 4, scaled down."""
    runs = read("digits")
    for method, published in DIGITS.items():
        mine = [run for run in runs.values() if run.get("method") == method]
        item = f"Table 4, digits of 8 x 8 pixels, {method}: bits a pixel"
        if not mine:
            yield Row(item, "digits.py", published, "not run yet", 0, 0, "open")
            continue
        bound, weighted, frechet = (
            [run[key] for run in mine] for key in ("test_bound", "test_weighted", "frechet")
        )
        ours = f"bound {spread(bound, '.3f')}, weighted {spread(weighted, '.3f')}"
        yield Row(
            item,
            "digits.py",
            published,
            f"{ours}; Frechet {spread(frechet, '.2f')}",
            len(mine),
            mean(run["cpu_seconds"] for run in mine),
            "scaled down",
        )
    if "data" in runs:
        data = runs["data"]
        yield Row(
            "digits without a flow: histograms of single pixels; one normal law",
            "digits.py",
            "",
            f"{data['histograms']:.3f}; {data['normal']:.3f} (Frechet of the training images "
            f"{data['frechet_floor']:.2f})",
            0,
            0,
            "",
        )
