"""The table of measured numbers in the README, made from the result files.

python benchmarks/table.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->"

Row = tuple[str, str, str]
"""What, how much, and the script."""


def read(name: str) -> Any:
    """A result file."""
    return json.loads((HERE / f"{name}.json").read_text())


def worst(runs: list[dict[str, Any]], key: str) -> float:
    """Largest absolute value over runs."""
    return max(abs(float(run[key])) for run in runs)


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
        runs = [json.loads(path.read_text()) for path in sorted((HERE / "hypergrid").glob(f"d{dim}_*.json"))]
        each = ", ".join(f"{run['objective']} {run['total_variation']:.3f}" for run in runs)
        if runs:
            yield f"Hypergrid, d = {dim}, side {side}, exact total variation", each, "hypergrid.py"


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


def posteriordb() -> Iterator[Row]:
    """Posteriors of posteriordb by ``fit``."""
    records = [json.loads(path.read_text()) for path in sorted((HERE / "posteriordb").glob("*.json"))]
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


def graphs() -> Iterator[Row]:
    """Posterior over acyclic graphs."""
    if not (HERE / "graphs.json").exists():
        return
    record = read("graphs")
    rows, sizes = record["rows"], record["settings"]
    yield (
        f"Posterior over all acyclic graphs of {sizes['nodes']} nodes, {len(rows)} data sets, exact law",
        f"Jensen-Shannon divergence at most {worst(rows, 'jsd'):.1e} nats, edge probabilities within "
        f"{worst(rows, 'edge_rmse'):.1e} (RMS); {worst(rows, 'cpu_seconds'):.0f} CPU s",
        "graphs.py",
    )


def joint_graphs() -> Iterator[Row]:
    """Posterior over graphs and parameters."""
    if (HERE / "joint_graphs.json").exists():
        record = read("joint_graphs")
        rows, nodes = record["rows"], record["settings"]["nodes"]
        jsd, *rmse = (
            median(row[key] for row in rows) for key in ("jsd", "edge_rmse", "path_rmse", "markov_rmse")
        )
        yield (
            f"Joint posterior of graphs of {nodes} nodes and their weights, {len(rows)} data sets",
            f"graphs: Jensen-Shannon divergence {jsd:.1e} in the median, {worst(rows, 'jsd'):.1e} at worst; "
            f"edges, paths, blankets within {', '.join(f'{v:.1e}' for v in rmse)} (RMS, median); weights: KL "
            f"at most {worst(rows, 'weights_kl'):.1e}; log Z within {worst(rows, 'log_z_error'):.4f}; "
            f"{worst(rows, 'cpu_seconds'):.0f} CPU s",
            "joint_graphs.py",
        )
    if (HERE / "student_graphs.json").exists():
        record = read("student_graphs")
        rows, fresh = record["rows"], record["held_out"]
        gains = [run["student"] - run["normal"] for run in fresh]
        ranks = (
            f"ranks of four quantities uniform (least p {min(record['p_values'].values()):.2f}), edges "
            f"{record['edges_z']:+.1f} errors from what is expected; "
            if rows
            else ""
        )
        yield (
            f"Graphs with Student-t noise: {len(rows)} data sets from the prior, {len(fresh)} to predict",
            f"{ranks}predictive density {min(gains):+.2f} to {max(gains):+.2f} nats a row above normal noise",
            "student_graphs.py",
        )

    if (HERE / "network_graphs.json").exists():
        record = read("network_graphs")
        rows, ranks, p = record["rows"], record["calibration"], record["p_values"].values()
        gains = [row["network"] - row["line"] for row in rows]
        ess = [row["network_ess"] for row in rows]
        away = [abs(row["network_log_z"] - row["network_sum"]) for row in rows if "network_sum" in row]
        calibrated = (
            f"ranks of four quantities {'uniform' if min(p) > 0.0025 else 'NOT uniform'} (least p "
            f"{min(p):.2f}), edges {record['edges_z']:+.1f} errors from what is expected; "
            if ranks
            else ""
        )
        yield (
            f"Graphs with networks of two hidden units as mechanisms: {len(rows)} data sets to predict"
            + (f", {len(ranks)} from the prior" if ranks else ""),
            f"predictive density {min(gains):+.2f} to {max(gains):+.2f} nats a row above lines; ESS "
            f"{min(ess):.0%} to {max(ess):.0%}; log Z within {max(away):.2f} of a sum over all graphs; "
            f"{calibrated}{worst(rows, 'network_cpu_seconds'):.0f} CPU s",
            "network_graphs.py",
        )


def dibs() -> Iterator[Row]:
    """Graphs of 20 nodes beside DiBS and Markov chains."""
    if not (HERE / "dibs_graphs.json").exists():
        return
    rows = read("dibs_graphs")["rows"]
    named = {
        "flow": "`fit_graph`, weighted draws",
        "flow, plain": "its plain draws",
        "chain": "plain Markov chains",
        "dibs": "DiBS",
        "dibs+": "DiBS+",
    }
    each = []
    for name, said in named.items():
        runs = [row[name] for row in rows if name in row]
        if runs:
            shd, area, nll, seconds = (
                sum(run[key] for run in runs) / len(runs)
                for key in ("expected_shd", "auroc", "expected_nll", "cpu_seconds")
            )
            each.append(
                f"{said} {shd:.1f}, {area:.3f}, {nll:.2f} ({len(runs)} data sets, {seconds:.0f} CPU s)"
            )
    yield (
        "Linear Gaussian networks of 20 nodes, 40 expected edges, N = 100: expected SHD, AUROC, held-out "
        "negative log-likelihood of a row",
        "; ".join(each),
        "dibs_graphs.py",
    )


def graph_sizes() -> Iterator[Row]:
    """Graphs of more nodes, beside the dynamic programme and Markov chains."""
    if not (HERE / "graph_sizes.json").exists():
        return
    record = read("graph_sizes")
    for nodes in sorted({row["nodes"] for row in record["rows"]}):
        rows = [row for row in record["rows"] if row["nodes"] == nodes]
        each = []
        for key, said in (
            ("flow", "flow"),
            ("chains_256", "256 Markov chains"),
            ("chains_64", "64 longer ones"),
        ):
            mine = [row[key] for row in rows]
            steps = f" ({mine[0]['steps']} updates)" if key == "flow" else ""
            error, seconds = worst(mine, "edge_rmse"), worst(mine, "cpu_seconds")
            each.append(f"{said}{steps} {error:.3f} in {seconds:.1f} CPU s")
        exact = max(row["exact_cpu_seconds"] for row in rows)
        yield (
            f"Edge probabilities of {nodes} nodes against exact sums ({exact:.2f} CPU s), RMS error, "
            f"{len(rows)} data set{'s' if len(rows) > 1 else ''}, worst",
            ", ".join(each),
            "graph_sizes.py",
        )
    if record["cost"]:
        each = [
            f"d = {row['nodes']}: {row['microseconds_per_state']}"
            for row in record["cost"]
            if row["network"] == "adjacency"
        ]
        yield (
            "Update of a flow over graphs, CPU microseconds per graph visited",
            ", ".join(each),
            "graph_sizes.py",
        )


def sachs() -> Iterator[Row]:
    """Protein signalling."""
    for row in read("sachs")["rows"]:
        if row["prior"] == "uniform":
            spread = row["bootstrap_sd"]
            yield (
                f"Sachs data, {row['cells']}, {row['rows']} x 11, exact BGe posterior, the 18-edge graph",
                f"expected SHD {row['expected_shd']:.1f} (bootstrap sd {spread['expected_shd']:.1f}), "
                f"expected edges {row['expected_edges']:.1f}, AUROC {row['auroc']:.2f} "
                f"({spread['auroc']:.2f}); {row['cpu_seconds']:.2f} CPU s",
                "sachs.py",
            )


def models() -> Iterator[Row]:
    """Models of unknown dimension."""
    if (HERE / "selection.json").exists():
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
    if (HERE / "change_points.json").exists():
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
    if (HERE / "robust_selection.json").exists():
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


def galaxies() -> Iterator[Row]:
    """Mixtures with an unknown number of components."""
    if not (HERE / "galaxies.json").exists():
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


def calibration() -> Iterator[Row]:
    """Inclusion probabilities among 60 variables."""
    if not (HERE / "calibration.json").exists():
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


def peers() -> Iterator[Row]:
    """Median error and CPU time beside other samplers, target by target."""
    runs = [json.loads(path.read_text()) for path in sorted((HERE / "peers").glob("*.json"))]
    for target in dict.fromkeys(run["target"] for run in runs):
        each = []
        for peer in ("ctsgfn", "pocomc", "dynesty", "blackjax"):
            mine = [run for run in runs if run["target"] == target and run["peer"] == peer]
            ended = [run for run in mine if "error" in run]
            if ended:
                error, seconds = (median(abs(run[key]) for run in ended) for key in ("error", "cpu_seconds"))
                each.append(f"{peer} {error:.4f} in {seconds:.0f} s")
            elif mine:
                each.append(f"{peer} not within {mine[0]['stopped_after']} s")
        seeds = len({run["seed"] for run in runs if run["target"] == target and run["peer"] == "ctsgfn"})
        yield (
            f"Error of log Z beside other samplers, {target}, {seeds} seed{'s' if seeds > 1 else ''}",
            ", ".join(each),
            "peers.py",
        )


def table() -> str:
    """The rows as a table in Markdown."""
    rows = [
        row
        for part in (
            modes,
            panel,
            large,
            thorough,
            schools,
            posteriordb,
            peers,
            graphs,
            graph_sizes,
            dibs,
            sachs,
            joint_graphs,
            models,
            calibration,
            galaxies,
            box,
            hypergrid,
            step,
            sampling,
        )
        for row in part()
    ]
    lines = [f"| {what} | {number} | [`{script}`](benchmarks/{script}) |\n" for what, number, script in rows]
    return "".join(["| what | measured | script |\n|---|---|---|\n", *lines])


def main() -> None:
    """Rewrite the block of the README."""
    text = README.read_text()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    README.write_text(text[:start] + table() + text[end:])


if __name__ == "__main__":
    main()
