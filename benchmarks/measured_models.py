"""Rows of the README's table: models of unknown dimension."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from measured import RESULTS, Row, read, worst


def models() -> Iterator[Row]:
    """Models of unknown dimension."""
    if (RESULTS / "selection.json").exists():
        runs = read("selection")["rows"]
        for size in dict.fromkeys(run["variables"] for run in runs):
            some = [run for run in runs if run["variables"] == size]
            yield (
                f"Variable selection, all {2**size:,} models of {size} variables correlated in blocks (0.9), "
                f"`fit` with default settings, {len(some)} data sets",
                f"Jensen-Shannon divergence at most {worst(some, 'jsd'):.4f} nats (of the flow's own law "
                f"{worst(some, 'jsd_flow'):.1e}), inclusion probabilities within "
                f"{worst(some, 'inclusion_rmse'):.4f} and coefficients within "
                f"{worst(some, 'mean_rmse_in_sd'):.1%} of their sd (RMS), log Z within "
                f"{worst(some, 'log_z_error'):.4f}; {worst(some, 'cpu_seconds'):.0f} CPU s",
                "selection.py",
            )
    if (RESULTS / "change_points.json").exists():
        runs = read("change_points")["rows"]
        yield (
            "Coal-mining disasters, up to 10 changes in 111 places, `fit` with default settings, "
            f"{len(runs)} seeds",
            f"number of changes within {worst(runs, 'number_tv'):.4f} (total variation), probability of a "
            f"change within {worst(runs, 'place_error'):.4f} at every year, log Z within "
            f"{worst(runs, 'log_z_error'):.4f} of the exact recursion; ESS at least "
            f"{min(r['ess'] for r in runs):.0%}; {worst(runs, 'cpu_seconds'):.0f} CPU s",
            "change_points.py",
        )
    if (RESULTS / "robust_selection.json").exists():
        record = read("robust_selection")
        last = {
            "ours": record["ours"],
            "jump": [rows[-1] for rows in record["jump"]],
            "nested": record["nested"],
        }
        named = {"ours": "ctsgfn", "jump": "plain reversible jump", "nested": "dynesty, model by model,"}
        each = [
            f"{named[name]} {median(r['inclusion_rmse'] for r in runs):.4f} in "
            f"{median(r['cpu_seconds'] for r in runs):.0f} CPU s and {median(r['calls'] for r in runs):,.0f} "
            "calls"
            for name, runs in last.items()
            if runs
        ]
        yield (
            "Student-t regression, 256 models with parameters: RMS error of inclusion probabilities, median",
            ", ".join(each),
            "robust_selection.py",
        )


def calibration() -> Iterator[Row]:
    """Inclusion probabilities among 60 variables."""
    if not (RESULTS / "calibration.json").exists():
        return
    record = read("calibration")
    found, rows = record["summary"], record["rows"]
    worst_bin = max(found["bins"], key=lambda b: abs(b["z"]))
    yield (
        f"Student-t selection among 60 variables, {len(rows)} data sets from the prior, 30 updates each",
        f"{found['there']} variables there, {found['expected_there']:.1f} expected (z {found['z']:+.1f}; in "
        f"bins of probability at most {abs(worst_bin['z']):.1f}); Brier score {found['brier']:.4f}, "
        f"expected {found['expected_brier']:.4f} (z {found['brier_z']:+.1f}); "
        f"ESS {median(r['ess'] for r in rows):.0%} in the median, "
        f"{sum(not r['reliable'] for r in rows)} called unreliable; "
        f"{median(r['cpu_seconds'] for r in rows):.0f} CPU s",
        "calibration.py",
    )


def galaxies() -> Iterator[Row]:
    """Mixtures with an unknown number of components."""
    if not (RESULTS / "galaxies.json").exists():
        return
    record = read("galaxies")

    def share(values: list[float]) -> str:
        return ", ".join(f"{v:.3f}" for v in values[1:])

    sources = (("galaxies", "82 galaxies", ""), ("acidity", "Acidity of 155 lakes", " (quoted from memory)"))
    for name, what, doubt in sources:
        runs = record["data"][name]
        if not runs["flow"]:
            continue
        each = [
            f"seed {row['seed']}: {share(row['found'])} ({row['cpu_seconds']:.0f} CPU s, ESS "
            f"{row['ess']:.0%}" + (")" if row["reliable"] else ", called unreliable)")
            for row in runs["flow"]
        ]
        each += [
            f"Gibbs sampling {share(row['found'])} (+- {max(row['stderr']):.3f})" for row in runs["gibbs"]
        ]
        yield (
            f"{what}, mixtures of at most 5 normals, one flow by `fit` with default settings: probability of "
            f"2 to 5; published reversible jump{doubt} {share(record['published'][name])}",
            "; ".join(each),
            "galaxies.py",
        )


PARTS = (models, calibration, galaxies)
