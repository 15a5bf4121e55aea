"""Rows of the README's table: flows as such, and what an update costs."""

from __future__ import annotations

import json
from collections.abc import Iterator

from measured import RESULTS, Row, read


def box() -> Iterator[Row]:
    """The Box."""
    for name, said in (("tb", "trajectory"), ("db", "detailed")):
        run = read(f"box_{name}_seed0")
        early, late = (sum(run[key]) / len(run[key]) for key in ("jsd_450k", "jsd_2.4M"))
        yield (
            f"The Box (delta = 0.25), {said} balance, learned backward kernel",
            f"JSD by the metric of the paper {early:.1e} after 450,000 trajectories, {late:.1e} after 2.4 M; "
            f"log Z {run['evidence']['z_score']:+.1f} standard errors from the truth; "
            f"density integrates to {run['total_mass']:.3f}",
            "box.py",
        )
    for case in read("box_step")["cases"]:
        yield (
            f"Box update (batch 128, {case['case']}), in units of the bare networks",
            f"{case['ratio']:.2f}",
            "box_step.py",
        )


def hypergrid() -> Iterator[Row]:
    """Six objectives on two grids."""
    for dim, side in ((2, 32), (4, 8)):
        runs = [
            json.loads(path.read_text()) for path in sorted((RESULTS / "hypergrid").glob(f"d{dim}_*.json"))
        ]
        each = ", ".join(f"{run['objective']} {run['total_variation']:.3f}" for run in runs)
        if runs:
            yield f"Hypergrid, d = {dim}, side {side}, exact total variation", each, "hypergrid.py"


def step() -> Iterator[Row]:
    """Cost of an update on R^d."""
    for name, case in read("diffusion_step")["cases"].items():
        yield (
            f"Diffusion update (T = 100, batch 300, {name}), in units of the bare network",
            f"{case['update']['ratio']:.2f}, with the target's score {case['update, score']['ratio']:.2f} "
            f"(the usual step-by-step loop: {case['eager']['ratio']:.2f}, "
            f"{case['eager, score']['ratio']:.2f})",
            "diffusion_step.py",
        )


def sampling() -> Iterator[Row]:
    """Cost of drawing, and memory."""
    record = read("sampling")
    each = ", ".join(
        f"{case}: {rows['draw']['ratio']:.2f} (with the score {rows['draw, score']['ratio']:.2f})"
        for case, rows in record["draws"].items()
    )
    yield "Drawing 10,000 points (T = 100), in units of the bare network", each, "sampling.py"
    size, memory = next(iter(record["memory"].items()))
    yield f"Peak memory of one update, {size}", f"{memory['peak_gb']:.1f} GB", "sampling.py"


PARTS = (box, hypergrid, step, sampling)
