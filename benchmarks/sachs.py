"""Protein signalling (Sachs et al., 2005): exact posteriors over the graphs of 11 proteins.

The data are those that the optional package cdt ships (its files alone are read): 7,466 cells of all nine
experiments in one table, without saying which is which, and, as its first 853 rows, the cells of the
observational one. The graph they are compared with is the one shipped beside them: 18 edges, contested,
and with a cycle (PIP2 -> PIP3 -> plcg -> PIP2), so that no acyclic graph can agree with it. Columns are
logarithms, standardised; the likelihood is BGe. With 11 columns all graphs are summed over exactly:
expected structural Hamming distance (a reversed edge counts once), expected edges and AUROC follow from
the edge probabilities alone, without sampling error.

    pip install --no-deps cdt==0.6.0
    python benchmarks/sachs.py
"""

from __future__ import annotations

import csv
import json
import time
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance
from torch import Tensor

import ctsgfn

OBSERVED, BOOTSTRAPS = 853, 20
OUT = Path(__file__).parent / "results" / "sachs.json"


def shipped(name: str) -> list[list[str]]:
    """Rows of a file of the package, which is not imported."""
    path = Path(str(distribution("cdt").locate_file(f"cdt/data/resources/{name}")))
    with path.open(newline="") as file:
        return list(csv.reader(file))


def read() -> tuple[list[str], Any, Tensor]:
    """Names, logarithms of the data [7466, 11], and the graph [11, 11]."""
    head, *rows = shipped("cyto_full_data.csv")
    edges = torch.zeros(len(head), len(head), dtype=torch.bool)
    for cause, effect in shipped("cyto_full_target.csv")[1:]:
        edges[head.index(cause), head.index(effect)] = True
    return head, np.log(np.array(rows, dtype=float)), edges


def auroc(p: Tensor, there: Tensor, among: Tensor) -> float:
    """Probability that an edge of the graph is held more probable than a pair without one, ties half."""
    yes, no = p[among & there][:, None], p[among & ~there][None]
    return float((yes > no).double().mean() + 0.5 * (yes == no).double().mean())


def expected_distance(p: Tensor, there: Tensor) -> float:
    """Expected number of pairs of nodes that the graph and a draw join differently."""
    away = torch.where(there, 1 - p, torch.where(there.T, 1 - p.T, p + p.T))
    return float(away.triu(1).sum())


def judge(data: Any, names: list[str], there: Tensor, prior: str) -> dict[str, float]:
    """An exact posterior, against the graph."""
    start = time.process_time()
    posterior = ctsgfn.fit_graph(data, names=names, prior=prior, seed=0)
    p = posterior.edge_probabilities()
    off = ~torch.eye(len(names), dtype=torch.bool)
    return {
        "expected_shd": expected_distance(p, there),
        "expected_edges": float(p.sum()),
        "auroc": auroc(p, there, off),
        "auroc_undirected": auroc(p + p.T, there | there.T, off.triu()),
        "cpu_seconds": round(time.process_time() - start, 2),
    }


def main() -> None:
    """Observational cells and all of them, each with bootstraps."""
    torch.set_num_threads(1)
    names, data, there = read()
    generator = np.random.default_rng(0)
    rows = []
    for which, cells in (("observational", data[:OBSERVED]), ("all experiments", data)):
        for prior in ("uniform", "fair"):
            draws = [
                judge(cells[generator.integers(len(cells), size=len(cells))], names, there, prior)
                for _ in range(BOOTSTRAPS)
            ]
            spread = {
                key: round(float(np.std([d[key] for d in draws], ddof=1)), 3)
                for key in draws[0]
                if key != "cpu_seconds"
            }
            row = {"cells": which, "rows": len(cells), "prior": prior, **judge(cells, names, there, prior)}
            rows.append({**row, "bootstrap_sd": spread})
            print(rows[-1], flush=True)
    record = {
        "claim": "none: measured against the contested graph of 18 edges that cdt ships",
        "command": "python benchmarks/sachs.py",
        **provenance(),
        "settings": {
            "columns": len(names),
            "edges": int(there.sum()),
            "bootstraps": BOOTSTRAPS,
            "likelihood": "bge",
        },
        "rows": rows,
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
