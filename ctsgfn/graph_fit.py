"""``fit_graph``: from a table of data to a posterior over the graph that made it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ctsgfn.acyclic import Acyclic
from ctsgfn.api import fit
from ctsgfn.errors import CtsgfnWarning, InvalidInput, whole
from ctsgfn.graph_data import GraphData, Node, read_data
from ctsgfn.graph_posterior import GraphPosterior, GraphSource
from ctsgfn.graph_sources import ExactGraphs, FlowGraphs, JointFlow
from ctsgfn.targets.bge_graphs import BGeGraphs
from ctsgfn.targets.gram_graphs import TABLED, GramGraphs
from ctsgfn.targets.joint_graphs import JointGraphs
from ctsgfn.targets.linear_gaussian_graphs import LinearGaussianGraphs
from ctsgfn.targets.noises import LaplaceNoise, Noise, StudentNoise

NOISES: dict[str, Noise] = {"student_t": StudentNoise(), "laplace": LaplaceNoise()}
LIKELIHOODS = ("bge", "linear_gaussian", *NOISES)
METHODS = ("auto", "exact", "flow")


def fit_graph(
    data: Any,
    *,
    likelihood: str = "bge",
    noise_variance: float | None = None,
    weight_variance: float | None = None,
    prior: str = "uniform",
    edges_per_node: float | None = None,
    interventions: Any = None,
    forbidden: Iterable[tuple[Node, Node]] | None = None,
    required: Iterable[tuple[Node, Node]] | None = None,
    max_parents: int | None = None,
    names: Sequence[str] | None = None,
    scale: bool | None = None,
    method: str = "auto",
    steps: int | None = None,
    budget: float | str | None = None,
    batch_size: int = 128,
    pool: int = 4096,
    seed: int | None = None,
    device: torch.device | str | None = None,
    progress_bar: bool = True,
) -> GraphPosterior:
    """Posterior over the directed acyclic graph, and its weights, of a linear network that made the data.

    The columns are centred, and by default divided by their standard deviations for the BGe likelihood;
    weights and effects are reported in the units of the data. Up to 12 columns all graphs are summed over
    exactly, in seconds; beyond, or with ``method="flow"``, a flow that adds edge by edge is trained, and its
    draws are weighted.

    Args:
        data: [N, d] array, tensor, or data frame (its columns name the nodes).
        likelihood: "bge" (means, weights and noise variances unknown), "linear_gaussian" (one noise variance
            for all nodes, which must be given), or "student_t" and "laplace": linear with noise of that kind
            and of unknown scales, graph and parameters drawn together by a flow.
        noise_variance: of "linear_gaussian".
        weight_variance: prior variance of the weights, by default 1; "bge" has its own.
        prior: on graphs: "uniform", "erdos_renyi" or "fair" (see ``GramGraphs``).
        edges_per_node: of the Erdos-Renyi prior, by default 1.
        interventions: values that the experimenter set: a mask [N, d], or for each row None, a column, or
            several. They say nothing of the node that was set.
        forbidden: edges (from, to) that no graph has, by name or number.
        required: edges that every graph has.
        max_parents: most parents of a node; None for no bound.
        names: of the columns, for data that do not name their own.
        scale: divide the columns by their standard deviations; by default for all but "linear_gaussian".
        method: "exact", "flow", or "auto": exact up to 12 columns unless steps or budget are given.
        steps: updates of the flow, see ``fit``.
        budget: time for training the flow, see ``fit``.
        batch_size: trajectories per update.
        pool: weighted draws that averages rest on.
        seed: makes the fit reproducible.
        device: where to train the flow.
        progress_bar: show the training.

    Raises:
        InvalidInput: naming the argument, row or column that makes no sense.

    Warns:
        CtsgfnWarning: when a column varies less than the noise that was stated, or was set in every row.

    Example:
        >>> x = torch.randn(100, 1)
        >>> data = torch.cat([x, 2 * x + torch.randn(100, 1)], -1)
        >>> posterior = fit_graph(data, names=["dose", "response"], forbidden=[("response", "dose")], seed=0)
        >>> round(float(posterior.edge_probabilities()[0, 1]), 3)
        1.0
        >>> effect = posterior.effects("dose", "response", seed=1)
        >>> abs(float(effect.mean()) - 2) < 0.5
        True
    """
    if likelihood not in LIKELIHOODS:
        raise InvalidInput(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}.")
    if method not in METHODS:
        raise InvalidInput(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    if edges_per_node is not None and prior != "erdos_renyi":
        raise InvalidInput(f"edges_per_node belongs to the prior 'erdos_renyi', and prior is {prior!r}.")
    whole("pool", pool, least=2)
    known = likelihood == "linear_gaussian"
    if known and noise_variance is None:
        raise InvalidInput(
            "the likelihood 'linear_gaussian' takes the noise variance as known: pass noise_variance=, or "
            "use likelihood='bge', which does not need it."
        )
    if noise_variance is not None and not known:
        raise InvalidInput("noise_variance belongs to the likelihood 'linear_gaussian': leave it out.")
    if weight_variance is not None and likelihood == "bge":
        raise InvalidInput(
            "the likelihood 'bge' has a prior of its own on the weights: leave weight_variance out."
        )
    if likelihood in NOISES and prior not in ("uniform", "erdos_renyi"):
        raise InvalidInput(f"the likelihood {likelihood!r} takes the priors uniform and erdos_renyi.")
    scaled = not known if scale is None else scale
    table = read_data(data, interventions=interventions, names=names, scale=scaled)
    edges = table.pairs("forbidden", forbidden), table.pairs("required", required)
    per_node = 1.0 if edges_per_node is None else edges_per_node
    variance = 1.0 if weight_variance is None else weight_variance
    closed: dict[str, Any] = {
        "prior": prior,
        "edges_per_node": per_node,
        "interventions": table.interventions,
        "max_parents": max_parents,
        "forbidden": edges[0],
        "required": edges[1],
    }
    target: GramGraphs | JointGraphs
    if noise_variance is not None:
        target = LinearGaussianGraphs(table.values, noise_variance, variance, **closed)
    elif likelihood == "bge":
        target = BGeGraphs(table.values, **closed)
    else:
        target = JointGraphs(
            table.values.to(torch.get_default_dtype()),
            noise=NOISES[likelihood],
            weight_variance=variance,
            edges_per_node=per_node if prior == "erdos_renyi" else None,
            interventions=table.interventions,
            graphs=Acyclic(len(table.names), max_parents, *edges),
        )
    for line in _doubts(table, noise_variance):
        warnings.warn(line, CtsgfnWarning, stacklevel=2)
    trained = steps is not None or budget is not None
    if method == "exact" and trained:
        raise InvalidInput("method='exact' trains nothing: leave steps and budget out, or use method='flow'.")
    if method == "exact" and isinstance(target, JointGraphs):
        raise InvalidInput(f"the likelihood {likelihood!r} has no closed form: leave method out.")
    small = len(table.names) <= TABLED and not trained
    source: GraphSource
    if isinstance(target, GramGraphs) and (method == "exact" or (method == "auto" and small)):
        source, how = ExactGraphs(target), "all graphs summed over exactly"
    else:
        sampler = fit(
            target,
            steps=steps,
            budget=budget,
            batch_size=batch_size,
            seed=seed,
            device=device,
            progress_bar=progress_bar,
        )
        if isinstance(target, GramGraphs):
            source, how = FlowGraphs(sampler, target), "graphs drawn by a flow and weighted"
        else:
            source, how = JointFlow(sampler, target), "graphs and parameters drawn by a flow and weighted"
    return GraphPosterior(source, table, _notes(table, likelihood, how), pool, seed)


def _notes(table: GraphData, likelihood: str, how: str) -> tuple[str, ...]:
    size, d = table.values.shape
    scaled = not bool((table.spread == 1).all())
    done = "centred and divided by their standard deviations" if scaled else "centred"
    return (
        f"{size} rows of {d} columns, {done}; likelihood {likelihood}; {how}.",
        "Edges are causal only if no common cause is missing and the network is linear.",
    )


def _doubts(table: GraphData, noise_variance: float | None) -> list[str]:
    """What the data say against the model, in sentences."""
    lines, size = [], len(table.values)
    if table.interventions is not None and bool(table.interventions.all(0).any()):
        name = table.names[int(table.interventions.all(0).nonzero()[0])]
        lines.append(f"column {name!r} was set in every row: its parents follow from the prior alone.")
    if noise_variance is not None:
        variance = table.values.var(0)
        least = int(variance.argmin())
        if float(variance[least]) < noise_variance * (1 - 4 * math.sqrt(2 / size)):
            lines.append(
                f"column {table.names[least]!r} has variance {float(variance[least]):.3g}, less than the "
                f"noise variance {noise_variance:g} that every column is said to have: state a smaller one, "
                "or use likelihood='bge'."
            )
    return lines
