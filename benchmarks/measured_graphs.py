"""Rows of the README's table: posteriors over graphs."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from measured import RESULTS, Row, read, worst


def graphs() -> Iterator[Row]:
    """Posterior over acyclic graphs."""
    if not (RESULTS / "graphs.json").exists():
        return
    record = read("graphs")
    rows, sizes = record["rows"], record["settings"]
    yield (
        f"Posterior over all acyclic graphs of {sizes['nodes']} nodes, {len(rows)} data sets, exact law",
        f"Jensen-Shannon divergence at most {worst(rows, 'jsd'):.1e} nats, edge probabilities within "
        f"{worst(rows, 'edge_rmse'):.1e} (RMS); {worst(rows, 'cpu_seconds'):.0f} CPU s",
        "graphs.py",
    )


def graph_sizes() -> Iterator[Row]:
    """Graphs of more nodes, beside the dynamic programme and Markov chains."""
    if not (RESULTS / "graph_sizes.json").exists():
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


def dibs() -> Iterator[Row]:
    """Graphs of 20 nodes beside DiBS and Markov chains."""
    if not (RESULTS / "dibs_graphs.json").exists():
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


def sachs() -> Iterator[Row]:
    """Protein signalling."""
    record = read("sachs")
    published = ", ".join(f"{k} {v:.1f}" for k, (v, _) in record["published"]["expected_shd"].items())
    for row in record["rows"]:
        if row["prior"] == "uniform":
            spread, beside = row["bootstrap_sd"], ""
            if row["cells"] == "observational" and row["graph"].startswith("17"):
                beside = f"; published expected SHD ({record['published']['source']}): {published}"
            yield (
                f"Sachs data, {row['cells']}, {row['rows']} x 11, exact BGe posterior, {row['graph']}",
                f"expected SHD {row['expected_shd']:.1f} (bootstrap sd {spread['expected_shd']:.1f}), "
                f"expected edges {row['expected_edges']:.1f}, AUROC {row['auroc']:.2f} "
                f"({spread['auroc']:.2f}); {row['cpu_seconds']:.2f} CPU s{beside}",
                "sachs.py",
            )


def joint_graphs() -> Iterator[Row]:
    """Posterior over graphs and parameters."""
    if (RESULTS / "joint_graphs.json").exists():
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
    if (RESULTS / "student_graphs.json").exists():
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

    if (RESULTS / "network_graphs.json").exists():
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


PARTS = (graphs, graph_sizes, dibs, sachs, joint_graphs)
