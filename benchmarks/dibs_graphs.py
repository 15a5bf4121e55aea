"""Graphs of 20 nodes: a flow, DiBS and a plain Markov chain on the same data, against the true graph.

Five simulated linear Gaussian networks (40 expected edges, N = 100, noise variance 0.1 and known, standard
normal weights, Erdos-Renyi prior with the true number of expected edges): the three have the same model. The
graphs and weights that each returns are judged by the expected structural Hamming distance (a reversed edge
counts once), the area under the ROC curve of the edge probabilities over ordered pairs, and by 1000 fresh
rows: expected negative log-likelihood of a row (as DiBS has it), and that of the predictive mixture.

- flow: ``fit_graph``, its weighted draws; beside it (``flow, plain``) the same draws without their weights;
- DiBS: the package's own defaults, 20 particles and 2000 steps as in its README; cyclic particles are left
  out, as its own metrics do; DiBS+ weighs the particles by their densities;
- chain: 64 Markov chains over graphs (``graph_chains``: add, remove or reverse an edge), closed-form scores,
  8 states of each, with weights drawn from their closed form.

No claim: measured.

    python benchmarks/dibs_graphs.py [--dibs-python PATH] [n]  # at most n more of the runs without result

DiBS is run by another interpreter, which needs this repository's extra ``dibs``:

    python3.11 -m venv dibs-env && dibs-env/bin/pip install 'dibs-lib==1.3.3' 'jax==0.4.30' 'jaxlib==0.4.30' \
        'numpy==1.26.4' 'scipy==1.12.0'
    python benchmarks/dibs_graphs.py --dibs-python dibs-env/bin/python
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from edge_metrics import auroc, expected_distance
from provenance import provenance
from torch import Tensor

import ctsgfn
from ctsgfn.errors import UnreliableEstimate
from ctsgfn.graph_chains import graph_chains
from ctsgfn.psis import psis
from ctsgfn.targets import LinearGaussianGraphs, RandomNetwork, random_network

NODES, ROWS, FRESH, PER_NODE, NOISE, SEEDS = 20, 100, 1000, 2.0, 0.1, range(5)
STEPS, BATCH = 150, 64
CHAINS, CHAIN_STEPS = 64, 10_000
PARTICLES, DIBS_STEPS = 20, 2000
HERE = Path(__file__).parent
OUT = HERE / "results" / "dibs_graphs.json"


def judge(
    network: RandomNetwork, rows: Tensor, edges: Tensor, weights: Tensor, mass: Tensor
) -> dict[str, float]:
    """Graphs [n, d, d] with weights, of mass [n], against the truth and fresh rows."""
    edges, weights, mass = edges.double(), weights.double(), mass.double()
    p = torch.einsum("n,nij->ij", mass, edges)
    rest = rows - rows @ (weights * edges)  # [n, rows, d]
    each = -0.5 * (rest.square() / NOISE + math.log(2 * math.pi * NOISE)).sum(-1)
    off = ~torch.eye(NODES, dtype=torch.bool)
    return {
        "expected_shd": expected_distance(p, network.edges),
        "auroc": auroc(p, network.edges, off),
        "expected_edges": float(p.sum()),
        "expected_nll": float(-(mass @ each).mean()),
        "predictive_nll": float(-(mass.log()[:, None] + each).logsumexp(0).mean()),
        "different_graphs": len(edges.flatten(1).unique(dim=0)),
    }


def even(count: int) -> Tensor:
    """Equal masses."""
    return torch.full((count,), 1.0 / count, dtype=torch.float64)


def flow(network: RandomNetwork, train: Tensor, fresh: Tensor, seed: int) -> dict[str, Any]:
    """``fit_graph``: weighted draws, and the same draws unweighted."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEstimate)  # what the weights are worth is in the record
        posterior = ctsgfn.fit_graph(
            train, likelihood="linear_gaussian", noise_variance=NOISE, prior="erdos_renyi",
            edges_per_node=PER_NODE, steps=STEPS, batch_size=BATCH, seed=seed, progress_bar=False,
        )  # fmt: skip
        torch.manual_seed(seed)
        edges, weights, log_weight = posterior.source.draw(2048)
        evidence = posterior.source.judge(log_weight)
    seconds = round(time.process_time() - start, 1)
    worth = {
        "ess": evidence.ess,
        "pareto_k": evidence.pareto_k,
        "lower_bound": evidence.lower_bound,
        "upper_bound": evidence.upper_bound,
        "reliable": evidence.reliable,
    }
    weighted = judge(network, fresh, edges, weights, psis(log_weight).log_weight.exp())
    plain = judge(network, fresh, edges, weights, even(len(edges)))
    return {
        "flow": {**weighted, "cpu_seconds": seconds, **worth},
        "flow, plain": {**plain, "cpu_seconds": seconds},
    }


def chain(network: RandomNetwork, train: Tensor, fresh: Tensor, seed: int) -> dict[str, Any]:
    """Structure Markov chains on the same scores."""
    torch.manual_seed(seed)
    start = time.process_time()
    target = LinearGaussianGraphs(train, NOISE, 1.0, prior="erdos_renyi", edges_per_node=PER_NODE)
    edges = graph_chains(target, CHAINS, CHAIN_STEPS)
    weights = target.sample_weights(edges)
    seconds = round(time.process_time() - start, 1)
    return {"chain": {**judge(network, fresh, edges, weights, even(len(edges))), "cpu_seconds": seconds}}


def dibs(network: RandomNetwork, train: Tensor, fresh: Tensor, seed: int, python: str) -> dict[str, Any]:
    """DiBS and DiBS+, by another interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = f"{folder}/in.npz", f"{folder}/out.npz"
        np.savez(
            given, data=train.numpy(), noise_variance=NOISE, edges_per_node=PER_NODE, particles=PARTICLES,
            steps=DIBS_STEPS, seed=seed,
        )  # fmt: skip
        subprocess.run([python, str(HERE / "dibs_run.py"), given, found], check=True)
        out = dict(np.load(found))
    edges, weights = torch.from_numpy(out["edges"]).bool(), torch.from_numpy(out["weights"])
    acyclic = ctsgfn.Acyclic(NODES).contains(edges)
    some = {"cpu_seconds": round(float(out["seconds"]), 1), "cyclic": int((~acyclic).sum())}
    plus = torch.from_numpy(out["plus"]).double()[acyclic].softmax(0)
    masses = {"dibs": even(int(acyclic.sum())), "dibs+": plus}
    return {
        name: {**judge(network, fresh, edges[acyclic], weights[acyclic], mass), **some}
        for name, mass in masses.items()
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over data sets, method by method."""
    keys = ("expected_shd", "auroc", "expected_edges", "expected_nll", "predictive_nll", "cpu_seconds")
    names = dict.fromkeys(name for row in rows for name in row if isinstance(row[name], dict))
    return {
        name: {key: mean(row[name][key] for row in rows if name in row) for key in keys} for name in names
    }


def main() -> None:
    """Run, print and save as it goes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("n", nargs="?", type=int, default=3 * len(SEEDS))
    parser.add_argument("--dibs-python")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(OUT.read_text())["rows"] if OUT.exists() else []
    for seed in SEEDS:
        network = random_network(
            NODES, ROWS + FRESH, edges_per_node=PER_NODE, noise_variance=NOISE, seed=seed
        )
        centre = network.data[:ROWS].mean(0)
        train, fresh = network.data[:ROWS] - centre, network.data[ROWS:] - centre
        if len(rows) <= seed:
            truth = judge(network, fresh, network.edges[None], network.weights[None], even(1))
            rows.append(
                {"data set": seed, "edges": int(network.edges.sum()), "truth_nll": truth["expected_nll"]}
            )
        methods = {"flow": flow, "chain": chain}
        if asked.dibs_python:
            methods["dibs"] = lambda *of: dibs(*of, asked.dibs_python)
        for name, method in methods.items():
            if name in rows[seed] or asked.n == 0:
                continue
            asked.n -= 1
            found = method(network, train, fresh, seed)
            rows[seed] |= found
            print(
                seed, {k: {i: round(float(j), 3) for i, j in v.items()} for k, v in found.items()}, flush=True
            )
            record = {
                "claim": "none: measured",
                "command": "python benchmarks/dibs_graphs.py --dibs-python dibs-env/bin/python",
                **provenance(),
                "settings": {
                    "nodes": NODES, "rows": ROWS, "fresh_rows": FRESH, "edges_per_node": PER_NODE,
                    "flow": {"steps": STEPS, "batch": BATCH, "draws": 2048},
                    "chain": {"chains": CHAINS, "steps": CHAIN_STEPS},
                    "dibs": {"particles": PARTICLES, "steps": DIBS_STEPS, "version": "dibs-lib 1.3.3"},
                },
                "mean": summary(rows),
                "rows": rows,
            }  # fmt: skip
            OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
