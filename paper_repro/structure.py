"""Structure and parameters of linear Gaussian networks, d = 3, 4, 5 (Tables 3 and C.2).

As in the paper (section 4.4, C.5): an acyclic graph grows edge by edge, then all its weights are drawn at
once; reward p(D | theta, G) p(theta | G) P(G); data of 100 rows from an Erdos-Renyi graph with standard
normal weights. The paper prints neither the noise, the graph prior, the number of data sets nor its
networks; here noise of variance 0.1, a uniform prior, one expected edge per node, 3 data sets, and ``fit``
on ``JointGraphs`` with its default kernels and objective: weights are drawn near the normal law that it
finds for each graph, once.

Metrics of the paper, from 10,000 draws of the trained policy (no importance weights) against the exact
posterior over all 25, 543 and 29,281 graphs: root mean square error and Pearson correlation of the marginal
probabilities of edges, paths and Markov blankets; and the mean of -log p(theta | G, D), beside what exact
draws score. ``weighted`` are errors after importance resampling. DiBS is in ``structure_dibs.py``; BCD Nets
are not run.

    python paper_repro/structure.py [--quick] [--seeds N] [--device D] [--minutes M]
"""

from __future__ import annotations

import math
from typing import Any

import torch
from experiment import Experiment, Record, main
from torch import Tensor

from ctsgfn.seeding import seeded
from ctsgfn.targets import JointGraphs, LinearGaussianGraphs, linear_gaussian_network

STEPS = {3: 300, 4: 800, 5: 2500}
DRAWS = 10_000


def marginals(graphs: Tensor, share: Tensor) -> dict[str, Tensor]:
    """Probabilities of edges, paths and Markov blankets [d (d - 1)] under weights on graphs."""
    edge = graphs.double()
    path = edge
    for _ in range(graphs.shape[-1] - 2):
        path = ((path + path @ edge) > 0).double()
    family = edge + edge.transpose(1, 2) + edge @ edge.transpose(1, 2)
    off = ~torch.eye(graphs.shape[-1], dtype=torch.bool)
    tables = {"edges": edge, "paths": path, "blankets": (family > 0).double()}
    return {name: torch.einsum("g,gij->ij", share, table)[off] for name, table in tables.items()}


def compared(found: dict[str, Tensor], exact: dict[str, Tensor]) -> Record:
    """Errors and correlations of marginals."""
    out: Record = {}
    for name, truth in exact.items():
        out[f"{name}_rmse"] = float((found[name] - truth).square().mean().sqrt())
        out[f"{name}_r"] = float(torch.corrcoef(torch.stack([found[name], truth]))[0, 1])
    return out


def surprise(target: LinearGaussianGraphs, graphs: Tensor, weights: Tensor) -> float:
    """Mean of -log p(theta | G, D)."""
    mean, covariance = target.weights(graphs)
    there = graphs.transpose(1, 2).bool()
    covariance = covariance + torch.diag_embed((~there).double())  # a dead axis adds what is taken off below
    law = torch.distributions.MultivariateNormal(mean.transpose(1, 2), covariance)
    dead = (~there).sum((1, 2)) * 0.5 * math.log(2 * math.pi)
    return -float((law.log_prob(weights.transpose(1, 2).double()).sum(-1) + dead).mean())


def one(lab: Experiment, nodes: int, seed: int) -> Record:
    """One data set."""
    graphs = linear_gaussian_network(nodes, seed=seed)
    steps, draws = (5, 200) if lab.quick else (STEPS[nodes], DRAWS)
    key = f"d = {nodes}, data set {seed}"
    target = JointGraphs(graphs.data)
    sampler: Any = lab.fit(key, target, seed=seed, resumes=True, steps=steps)
    drawn, again = sampler.sample(draws, seed=seed + 1), sampler.resample(draws, seed=seed + 2)
    every = graphs.measure.all()
    log_p = graphs.log_density(every)
    exact = marginals(every, log_p.softmax(0))
    even = torch.full((draws,), 1 / draws, dtype=torch.float64)
    evidence = sampler.evidence(draws, seed=seed + 3)
    with seeded(seed + 4):
        ideal = graphs.sample(draws)
        best = surprise(graphs, ideal, graphs.sample_weights(ideal))
    weighted = compared(marginals(again.model.cpu(), even), exact)
    return {
        "nodes": nodes,
        "data_set": seed,
        **compared(marginals(drawn.model.cpu(), even), exact),
        "weighted": {name: value for name, value in weighted.items() if name.endswith("rmse")},
        "surprise": surprise(graphs, drawn.model.cpu(), target.weights(drawn.theta.cpu())),
        "surprise_exact_draws": best,
        "log_z_error": evidence.log_z - float(log_p.logsumexp(0)),
        "log_z_stderr": evidence.stderr,
        "effective_graphs": math.exp(-float((log_p.log_softmax(0) * log_p.softmax(0)).sum())),
    }


def body() -> None:
    """All runs."""
    lab = Experiment(__file__, __doc__, seeds=3)
    for seed in lab.seeds:
        for nodes in (3, 4) if lab.quick else STEPS:
            lab.run(f"d = {nodes}, data set {seed}", lambda d=nodes, s=seed: one(lab, d, s))


if __name__ == "__main__":
    main(body)
