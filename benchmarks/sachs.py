"""Protein signalling (Sachs et al., 2005): exact posteriors over the graphs of 11 proteins.

The data are those that the optional package cdt ships (its files alone are read): 7,466 cells of all nine
experiments in one table, without saying which is which. The counts of cells in the nine published files add
up to 7,466, and the table breaks where one of them would end and the next begin: the largest two-sample t of
a column, 150 cells against the next 150, is in the record for each boundary, and for the rest of the table.
So the first 853 cells are the observational experiment, and six of the others set one of the proteins (a
seventh inhibits PI3K, which was not measured, and is left out): what was set says nothing of its causes.

They are compared with two graphs: the one shipped beside them, 18 edges, contested, and with a cycle
(PIP2 -> PIP3 -> plcg -> PIP2), so that no acyclic graph can agree with it; and the 17 edges of the consensus
network of the Bayesian network repository (bnlearn), which the comparison below uses. Columns are
logarithms, standardised; the likelihood is BGe. With 11 columns all graphs are summed over exactly: expected
structural Hamming distance (a reversed edge counts once), expected edges and AUROC follow from the edge
probabilities alone, without sampling error.

Published, beside the row of the 17 edges: expected distances of table 2 of BayesDAG (Annadani et al., 2023,
arXiv 2307.13917) on the same 853 cells, five bootstraps of 800 of them, means and 95 % intervals; their
preprocessing and priors are their own, how they count a reversed edge was not found, and the empty graph has
17. Not quoted: the tables of Deleu et al. (2022, arXiv 2202.13903; 2023, arXiv 2305.19366), of DiBS and of
GraN-DAG, of which only openings, or copies in other people's repositories, could be read. On 7,466 cells a
third-party summary of VTI (NeurIPS 2025, openreview KqhMpsWiz2) has at best SHD 23.0, AUROC 0.68 among VTI,
DAGMA, DiBS and JSP-GFN, unchecked.

    pip install --no-deps cdt==0.6.0
    python benchmarks/sachs.py

References:
    Causal protein-signaling networks derived from multiparameter single-cell data (Sachs et al., 2005),
    Science 308, table 1 (the experiments); Exact Bayesian structure learning from uncertain interventions
    (Eaton and Murphy, 2007), AISTATS (which protein each of them sets).
"""

from __future__ import annotations

import csv
import json
import time
from importlib.metadata import distribution
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edge_metrics import auroc, expected_distance
from provenance import provenance
from torch import Tensor

import ctsgfn

BOOTSTRAPS, WINDOW, NEAR = 20, 150, 20
EXPERIMENTS: tuple[tuple[str, int, str | None], ...] = (
    ("anti-CD3/CD28", 853, None),
    ("and ICAM-2", 902, None),
    ("Akt inhibitor", 911, "pakts473"),
    ("G06976", 723, "PKC"),
    ("psitectorigenin", 810, "PIP2"),
    ("U0126", 799, "pmek"),
    ("LY294002", 848, "PI3K"),
    ("PMA", 913, "PKC"),
    ("beta2cAMP", 707, "PKA"),
)
"""What was added, cells, and the protein that it sets; the order is that of the table."""
CONSENSUS = (
    "PKC PKA, PKC praf, PKA praf, PKC pmek, PKA pmek, praf pmek, pmek p44/42, PKA p44/42, p44/42 pakts473, "
    "PKA pakts473, PKC P38, PKA P38, PKC pjnk, PKA pjnk, plcg PIP3, plcg PIP2, PIP3 PIP2"
)
"""Cause and effect of each edge."""
PUBLISHED = {
    "bootstrap GES": (16.61, 0.44),
    "DDS": (34.90, 0.73),
    "BCD Nets": (17.05, 1.93),
    "DiBS": (22.3, 0.31),
    "BayesDAG": (18.92, 1.0),
}
"""Expected SHD on the observational cells against the 17 edges, and half of a 95 % interval."""
OUT = Path(__file__).parent / "results" / "sachs.json"


def shipped(name: str) -> list[list[str]]:
    """Rows of a file of the package, which is not imported."""
    path = Path(str(distribution("cdt").locate_file(f"cdt/data/resources/{name}")))
    with path.open(newline="") as file:
        return list(csv.reader(file))


def read() -> tuple[list[str], Any, dict[str, Tensor]]:
    """Names, logarithms of the data [7466, 11], and the graphs [11, 11]."""
    head, *rows = shipped("cyto_full_data.csv")
    graphs = {
        "18 edges, cdt": shipped("cyto_full_target.csv")[1:],
        "17 edges, consensus": [edge.split() for edge in CONSENSUS.split(", ")],
    }
    return (
        head,
        np.log(np.array(rows, dtype=float)),
        {name: adjacency(head, edges) for name, edges in graphs.items()},
    )


def adjacency(names: list[str], edges: list[list[str]]) -> Tensor:
    """A graph [d, d] from pairs of names."""
    there = torch.zeros(len(names), len(names), dtype=torch.bool)
    for cause, effect in edges:
        there[names.index(cause), names.index(effect)] = True
    return there


def breaks(data: Any) -> dict[str, Any]:
    """Largest two-sample t of a column near each boundary of the experiments, and elsewhere."""
    count = len(data)
    ends = np.cumsum([cells for _, cells, _ in EXPERIMENTS])
    if ends[-1] != count:
        raise ValueError(f"the experiments have {ends[-1]} cells, and the table has {count}")
    sums, squares = (np.cumsum(np.vstack([np.zeros(data.shape[1]), v]), axis=0) for v in (data, data**2))
    at = np.arange(WINDOW, count - WINDOW)
    mean = [(sums[at + s] - sums[at + s - WINDOW]) / WINDOW for s in (0, WINDOW)]
    variance = [
        (squares[at + s] - squares[at + s - WINDOW]) / WINDOW - m**2
        for s, m in zip((0, WINDOW), mean, strict=True)
    ]
    t = (np.abs(mean[0] - mean[1]) / np.sqrt((variance[0] + variance[1]) / WINDOW)).max(1)
    near = [np.abs(at - end) <= NEAR for end in ends[:-1]]
    far = (np.abs(at[:, None] - ends[:-1]) > WINDOW).all(1)
    return {
        "at the boundaries": [round(float(t[some].max()), 1) for some in near],
        "elsewhere": round(float(t[far].max()), 1),
    }


def interventions(names: list[str]) -> tuple[Any, Any]:
    """Cells in which only proteins of the table were set [7466], and the mask of those values [7466, 11]."""
    kept, mask = [], []
    for _, cells, protein in EXPERIMENTS:
        row = np.array([name == protein for name in names])
        kept.append(np.full(cells, protein is None or bool(row.any())))
        mask.append(np.tile(row, (cells, 1)))
    return np.concatenate(kept), np.concatenate(mask)


def judge(data: Any, names: list[str], there: Tensor, prior: str, was_set: Any = None) -> dict[str, float]:
    """An exact posterior, against the graph."""
    start = time.process_time()
    posterior = ctsgfn.fit_graph(data, names=names, prior=prior, interventions=was_set, seed=0)
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
    """Observational cells, all of them, and those with interventions, each with bootstraps."""
    torch.set_num_threads(1)
    names, data, graphs = read()
    generator = np.random.default_rng(0)
    kept, mask = interventions(names)
    observed = EXPERIMENTS[0][1]
    sets: dict[str, tuple[Any, Any]] = {
        "observational": (data[:observed], None),
        "all experiments as if observational": (data, None),
        "interventional": (data[kept], mask[kept]),
    }
    rows = []
    for (graph, there), (which, (cells, was_set)), prior in product(
        graphs.items(), sets.items(), ("uniform", "fair")
    ):
        draws = []
        for _ in range(BOOTSTRAPS):
            some = generator.integers(len(cells), size=len(cells))
            draws.append(judge(cells[some], names, there, prior, None if was_set is None else was_set[some]))
        spread = {
            key: round(float(np.std([d[key] for d in draws], ddof=1)), 3)
            for key in draws[0]
            if key != "cpu_seconds"
        }
        row = {"graph": graph, "cells": which, "rows": len(cells), "prior": prior}
        rows.append({**row, **judge(cells, names, there, prior, was_set), "bootstrap_sd": spread})
        print(rows[-1], flush=True)
    record = {
        "claim": "none: measured against two graphs, one of them contested",
        "command": "python benchmarks/sachs.py",
        **provenance(),
        "settings": {"columns": len(names), "bootstraps": BOOTSTRAPS, "likelihood": "bge"},
        "published": {"source": "arXiv 2307.13917, table 2", "expected_shd": PUBLISHED},
        "breaks": breaks(data),
        "rows": rows,
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
