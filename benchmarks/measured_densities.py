"""Rows of the README's table: densities on R^d."""

from __future__ import annotations

import json
from collections.abc import Iterator
from statistics import median

from measured import RESULTS, Row, read, worst


def modes() -> Iterator[Row]:
    """25 modes by ``fit``."""
    runs = read("modes")["runs"]
    yield (
        "25 Gaussian modes, `fit` with default settings, 3 seeds",
        f"log Z - ELBO at most {worst(runs, 'gap'):.4f}, ESS at least {min(r['ess'] for r in runs):.0%}, "
        f"{min(r['modes'] for r in runs)} modes, their weights within "
        f"{worst(runs, 'weights_total_variation'):.1%} of even; {worst(runs, 'cpu_seconds'):.0f} CPU s",
        "modes.py",
    )


def panel() -> Iterator[Row]:
    """Thirteen targets by ``fit``, and those made to defeat it."""
    record = read("panel")
    runs = record["runs"]
    hard = [r for r in runs if r["target"] in record["defeating"]]
    runs = [r for r in runs if r not in hard]
    failed = [
        f"{r['target']}, seed {r['seed']} ({', '.join(r['short_of_claim'])})"
        for r in runs
        if r["short_of_claim"]
    ]
    slowest = max(runs, key=lambda r: r["cpu_seconds"])
    yield (
        f"{len({r['target'] for r in runs})} targets (2 to 32 dimensions, up to 65,536 modes, a funnel, far "
        "and badly scaled ones), `fit` with default settings, 3 seeds",
        f"error of log Z at most 0.05, ESS at least 30 %, every mode and the CPU limit in {record['met']} of "
        f"{record['of']} runs; largest error {worst(runs, 'error'):.4f}, least ESS "
        f"{min(r['ess'] for r in runs):.0%}, longest {slowest['cpu_seconds']:.0f} CPU s "
        f"({slowest['target']}); {sum(r['silent_error'] for r in runs)} silent errors"
        + (f"; short: {'; '.join(failed)}" if failed else ""),
        "panel.py",
    )
    silent = sorted({r["target"] for r in hard if r["silent_error"]})
    yield (
        "Densities made to defeat it: needles in a normal, Cauchy tails, a diverging integral; 3 seeds",
        f"right within 4 standard errors or warned: {sum(not r['silent_error'] for r in hard)} of {len(hard)}"
        + (f"; silently wrong: {', '.join(silent)}" if silent else ""),
        "panel.py",
    )


def large() -> Iterator[Row]:
    """Many dimensions."""
    record = read("large")
    for dim, published in ((64, 16.3), (128, 70.4)):
        runs = [r for r in record["wells"] if r["dim"] == dim]
        yield (
            f'Many-well {dim} (2^{dim // 2} modes), `kernel="autoregressive"`, 3000 updates, '
            f"{len(runs)} seeds",
            f"error of log Z at most {worst(runs, 'error'):.3f}, log Z - ELBO at most "
            f"{worst(runs, 'gap'):.2f} "
            f"(published: bounds {published} apart), ESS at least {min(r['ess'] for r in runs):.0%}; "
            f"{worst(runs, 'cpu_seconds'):.0f} CPU s",
            "large.py",
        )
    runs = record["cox"]
    values = [f"{r['log_z']:.2f} +- {r['stderr']:.2f}" for r in runs]
    yield (
        f"Log-Gaussian Cox process, 1,600 cells, `fit` with default settings, {len(runs)} seeds",
        f"ELBO at least {min(r['lower_bound'] for r in runs):.1f} (best published 497.9), log Z "
        f"{', '.join(values)}; ESS {min(r['ess'] for r in runs):.1%} to {max(r['ess'] for r in runs):.1%}: "
        f"{sum(bool(r['warned']) for r in runs)} of {len(runs)} warned; "
        f"{worst(runs, 'cpu_seconds'):.0f} CPU s",
        "large.py",
    )


def thorough() -> Iterator[Row]:
    """Three targets with more care."""
    runs = read("thorough")["runs"]
    each = []
    for name in dict.fromkeys(r["target"] for r in runs):
        some = [r for r in runs if r["target"] == name]
        each.append(
            f"{name}: log Z - ELBO at most {worst(some, 'gap'):.3f}, bounds at most "
            f"{worst(some, 'between_bounds'):.3f} apart, error of log Z at most {worst(some, 'error'):.3f}, "
            f"ESS at least {min(r['ess'] for r in some):.0%}, {worst(some, 'cpu_seconds'):.0f} CPU s"
        )
    failed = [f"{r['target']}, seed {r['seed']}" for r in runs if not r["met"]]
    yield (
        f"`fit(..., **ctsgfn.THOROUGH)`, {len({r['seed'] for r in runs})} seeds",
        "; ".join(each)
        + f"; {sum(bool(r['warned']) for r in runs)} of {len(runs)} warned all the same (Pareto k)"
        + (f"; short: {', '.join(failed)}" if failed else ""),
        "thorough.py",
    )


def schools() -> Iterator[Row]:
    """Eight schools through Pyro."""
    runs = read("eight_schools")["runs"]
    apart = max(abs(v) for run in runs for v in run["means_apart_in_errors"].values())
    yield (
        "Eight schools, a Pyro model, `fit` with default settings, 3 seeds",
        f"means within {apart:.1f} combined Monte-Carlo errors of 100,000 NUTS draws; log evidence within "
        f"{worst(runs, 'log_evidence_error'):.4f} of quadrature; {worst(runs, 'cpu_seconds'):.0f} CPU s",
        "eight_schools.py",
    )


def posteriordb() -> Iterator[Row]:
    """Posteriors of posteriordb by ``fit``."""
    records = [json.loads(path.read_text()) for path in sorted((RESULTS / "posteriordb").glob("*.json"))]
    runs = [run for record in records for run in record["runs"]]
    failed = [record["posterior"] for record in records if not record["met"]]
    if runs:
        yield (
            f"{len(records)} posteriors of posteriordb, `fit` with default settings, 3 seeds",
            f"means within {worst(runs, 'errors_from_draws'):.1f} combined Monte-Carlo errors of reference "
            f"draws, sd within {worst(runs, 'sd_error'):.1%} and log evidence within "
            f"{worst(runs, 'log_evidence_error'):.4f} of the exact ones; ESS at least "
            f"{min(r['ess'] for r in runs):.0%}; {min(r['cpu_seconds'] for r in runs):.0f} to "
            f"{worst(runs, 'cpu_seconds'):.0f} CPU s; {sum(bool(r['warned']) for r in runs)} of "
            f"{len(runs)} warned all the same" + (f"; short: {', '.join(failed)}" if failed else ""),
            "posteriordb.py",
        )


def peers() -> Iterator[Row]:
    """Median errors and CPU time beside other samplers, target by target."""
    runs = [json.loads(path.read_text()) for path in sorted((RESULTS / "peers").glob("*.json"))]
    for target in dict.fromkeys(run["target"] for run in runs):
        each = []
        for peer in ("ctsgfn", "pocomc", "dynesty", "blackjax", "torchgfn", "numpyro"):
            mine = [run for run in runs if (run["target"], run["peer"]) == (target, peer)]
            ended = [run for run in mine if "cpu_seconds" in run]
            if ended:
                said = [
                    f"{what} {median(abs(run[key]) for run in ended if key in run):{form}}"
                    for key, what, form in (("error", "log Z", ".4f"), ("mean_error", "means", ".3f"))
                    if any(key in run for run in ended)
                ]
                seconds = median(run["cpu_seconds"] for run in ended)
                each.append(f"{peer} ({len(ended)}): {', '.join(said)} in {seconds:.0f} s")
            elif mine:
                each.append(f"{peer} not within {mine[0]['stopped_after']} s")
        yield (
            f"Beside other samplers, {target}: errors of log Z and of means (largest, in sd) and CPU time, "
            "medians over so many seeds",
            "; ".join(each),
            "peers.py",
        )


PARTS = (modes, panel, large, thorough, schools, posteriordb, peers)
