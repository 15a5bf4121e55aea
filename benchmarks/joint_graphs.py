"""Joint posterior of graph and weights: ``fit`` against the exact posterior of graphs of five nodes.

Claim, for each of ten simulated linear Gaussian data sets (N = 100, one and two expected edges per node;
the weights are sampled, not integrated out), in at most 5 CPU minutes: Jensen-Shannon divergence between
the exact terminating law of the flow over the 29,281 graphs (no sampling) and the posterior at most 0.005
nats in the median and 0.02 at worst; probabilities of edges, of paths and of being in a Markov blanket
within 0.005 (root mean square, median); Kullback-Leibler divergence of the weights given the graph,
averaged over the posterior, at most 0.01; log Z by importance weighting within 0.02.

    python benchmarks/joint_graphs.py [n]  # at most n more of the runs that have no result yet
"""

from __future__ import annotations

import time
import warnings
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from resume import Rows, resume
from torch import Tensor

import ctsgfn
from ctsgfn.acyclic import closure
from ctsgfn.diagnostics import jensen_shannon
from ctsgfn.errors import UnreliableEstimate
from ctsgfn.exact import Graph, explore
from ctsgfn.kernels.spaces.dag import dag
from ctsgfn.kernels.spaces.parameter_kernels import structure_kernel
from ctsgfn.targets import JointGraphs, LinearGaussianGraphs, linear_gaussian_network

NODES, ROWS, STEPS, BATCH = 5, 100, 2000, 128
SETS = [(edges, seed) for seed in range(5) for edges in (1.0, 2.0)]
OUT = Path(__file__).parent / "results" / "joint_graphs.json"


def features(edges: Tensor) -> dict[str, Tensor]:
    """Edges, paths and Markov blankets of graphs [G, d, d], each [G, d, d] float64."""
    child = edges.double()
    spouses = child @ child.transpose(1, 2)  # a common child
    blanket = (child + child.transpose(1, 2) + spouses) > 0
    return {"edge": child, "path": closure(edges).double(), "markov": blanket.double()}


def weights_divergence(sampler: Any, exact: LinearGaussianGraphs, edges: Tensor, posterior: Tensor) -> float:
    """KL divergence of the exact law of the weights from the flow's, averaged over the posterior."""
    draw, total = len(sampler.gfn.forward_kernel.heads) - 1, 0.0
    kernel, space = sampler.gfn.forward_kernel, sampler.gfn.space
    for some, mass in zip(edges.split(2048), posterior.split(2048), strict=True):
        size = space.points.size
        s = space.write(ctsgfn.Parameterised(some, torch.zeros(len(some), size)))
        s = space.kappa_b.branches[-1].push(s, torch.zeros(len(some), 0))
        with torch.no_grad():
            law = kernel.heads[draw](None, s, space.kappa.branches[draw].live(s))
        mean, covariance = exact.weights(some)
        live = some.transpose(1, 2)  # [B, j, i]: i is a parent of j
        covariance = covariance + torch.diag_embed((~live).double())
        factor = law.scale_tril.double()
        inverse = torch.linalg.inv(factor)
        away = (law.loc.double() - mean.transpose(1, 2)) * live
        z = (inverse @ away[..., None]).squeeze(-1)
        trace = (inverse @ covariance @ inverse.transpose(-1, -2)).diagonal(dim1=-2, dim2=-1).sum(-1)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(covariance)
        each = 0.5 * (trace + z.square().sum(-1) - NODES + log_det)
        total += float((mass * each.sum(-1)).sum())
    return total


def one(graph: Graph[Any], edges_per_node: float, seed: int) -> dict[str, float]:
    """Fit on one data set and measure against the list."""
    exact = linear_gaussian_network(NODES, ROWS, edges_per_node=edges_per_node, seed=seed)
    start = time.process_time()
    sampler = ctsgfn.fit(
        JointGraphs(exact.data), steps=STEPS, batch_size=BATCH, seed=seed, progress_bar=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEstimate)  # reported below
        evidence = sampler.evidence(16_384, seed=seed)
    seconds = time.process_time() - start
    edges = graph.states.edges
    found = graph.terminating_law(structure_kernel(graph.space, sampler.gfn.forward_kernel))
    wanted = exact.log_density(edges).log_softmax(0)
    off = ~torch.eye(NODES, dtype=torch.bool)
    rmse = {
        f"{name}_rmse": float(
            torch.einsum("g,gij->ij", found.exp() - wanted.exp(), each)[off].square().mean().sqrt()
        )
        for name, each in features(edges).items()
    }
    return {
        "edges_per_node": edges_per_node,
        "data set": seed,
        "cpu_seconds": round(seconds, 1),
        "jsd": jensen_shannon(found, wanted),
        **rmse,
        "weights_kl": weights_divergence(sampler, exact, edges, wanted.exp()),
        "log_z_error": evidence.log_z - exact.log_z,
        "log_z_stderr": evidence.stderr,
        "ess": evidence.ess,
        "pareto_k": evidence.pareto_k,
        "effective_graphs": float((-(wanted.exp() * wanted).sum()).exp()),
    }


def met(rows: Rows) -> dict[str, bool]:
    """Which parts of the claim hold."""

    def column(name: str) -> list[float]:
        return [abs(row[name]) for row in rows]

    return {
        "jsd": median(column("jsd")) <= 0.005 and max(column("jsd")) <= 0.02,
        **{f: median(column(f"{f}_rmse")) <= 0.005 for f in ("edge", "path", "markov")},
        "weights_kl": max(column("weights_kl")) <= 0.01,
        "log_z": max(column("log_z_error")) <= 0.02,
        "cpu_seconds": max(column("cpu_seconds")) <= 300,
    }


def about(rows: Rows) -> dict[str, Any]:
    """What was run, and which parts of the claim hold by the rows that there are."""
    return {
        "claim": __doc__.split("\n\n")[1].replace("\n", " "),
        "settings": {"nodes": NODES, "rows": ROWS, "steps": STEPS, "batch": BATCH},
        "met": met(rows),
        "complete": len(rows) == len(SETS),
    }


def main() -> None:
    """Run, print and save as it goes."""
    graph = explore(dag(NODES))
    resume(OUT, {"rows": [partial(one, graph, *case) for case in SETS]}, about)


if __name__ == "__main__":
    main()
