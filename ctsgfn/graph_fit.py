"""``fit_graph``: from a table of data to a posterior over the graph that made it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ctsgfn.api import fit
from ctsgfn.errors import CtsgfnWarning, InvalidInput, whole
from ctsgfn.evidence import Evidence, estimate_evidence
from ctsgfn.graph_chains import graph_chains
from ctsgfn.graph_data import GraphData, Node, read_data
from ctsgfn.graph_posterior import GraphPosterior, GraphSource
from ctsgfn.importance import Importance
from ctsgfn.sampler import Sampler
from ctsgfn.seeding import seeded
from ctsgfn.targets.bge_graphs import BGeGraphs
from ctsgfn.targets.gram_graphs import TABLED, GramGraphs
from ctsgfn.targets.linear_gaussian_graphs import LinearGaussianGraphs

LIKELIHOODS = ("bge", "linear_gaussian")
METHODS = ("auto", "exact", "flow")


class ExactGraphs(GraphSource):
    """Sums over all graphs and exact draws; weights in closed form.

    Args:
        target: of at most 12 nodes.

    Example:
        >>> from ctsgfn.targets import linear_gaussian_network
        >>> source = ExactGraphs(linear_gaussian_network(3))
        >>> edges, log_weight = source.draw(4)
        >>> tuple(source.weights(edges).shape), bool((log_weight == source.target.log_z).all())
        ((4, 3, 3), True)
    """

    def __init__(self, target: GramGraphs) -> None:
        self.target, self.graphs = target, target.measure
        self.exact = target.edge_probabilities()

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Independent graphs, all of the same weight Z."""
        return self.target.sample(n), torch.full((n,), self.target.log_z, dtype=torch.float64)

    def weights(self, edges: Tensor) -> Tensor:
        """Draw weights given graphs, in closed form."""
        return self.target.sample_weights(edges)

    def log_graph(self, edges: Tensor) -> Tensor:
        """Log p(D | G) + log P(G)."""
        return self.target.log_density(edges)

    def log_weights(self, edges: Tensor, weights: Tensor) -> Tensor:
        """Log-density of weights given graphs, in closed form."""
        return self.target.log_weights(edges, weights)

    def judge(self, log_weight: Tensor) -> Evidence:
        """Z is known."""
        return replace(super().judge(log_weight), method="exact, by sums over all graphs")


class FlowGraphs(ExactGraphs):
    """Graphs drawn by a flow, weighted; weights of the edges in closed form.

    Importance weights know nothing of graphs that the flow never draws. So graphs that Markov chains find
    are weighed too: a flow that misses a mode has an upper bound on log Z far above the lower one.

    Args:
        sampler: trained on a ``GramGraphs``.

    Example:
        >>> from ctsgfn.targets import linear_gaussian_network
        >>> target = linear_gaussian_network(3)
        >>> source = FlowGraphs(fit(target, steps=2, batch_size=8, seed=0, progress_bar=False), target)
        >>> edges, log_weight = source.draw(4)
        >>> tuple(edges.shape), tuple(log_weight.shape)
        ((4, 3, 3), (4,))
    """

    def __init__(self, sampler: Sampler[Any, Any], target: GramGraphs) -> None:
        self.target, self.graphs, self.sampler = target, target.measure, sampler
        self.exact = None
        self._importance: Importance[Any, Tensor] = Importance(sampler.gfn, target)
        with seeded(0):
            self._found = self._importance.weigh_backwards(graph_chains(target)[:1024]).cpu()

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Graphs of the flow and the log-weights of their trajectories."""
        edges, log_weight = self._importance.weigh(n)
        return edges.cpu(), log_weight.cpu()

    def judge(self, log_weight: Tensor) -> Evidence:
        """What the weights are worth; graphs that Markov chains find stand in for samples of the target."""
        return estimate_evidence(log_weight, measure=str(self.graphs), log_weight_at_target=self._found)


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
        likelihood: "bge" (means, weights and noise variances unknown) or "linear_gaussian" (one noise
            variance for all nodes, which must be given).
        noise_variance: of "linear_gaussian".
        weight_variance: prior variance of the weights of "linear_gaussian", by default 1.
        prior: on graphs: "uniform", "erdos_renyi" or "fair" (see ``GramGraphs``).
        edges_per_node: of the Erdos-Renyi prior, by default 1.
        interventions: values that the experimenter set: a mask [N, d], or for each row None, a column, or
            several. They say nothing of the node that was set.
        forbidden: edges (from, to) that no graph has, by name or number.
        required: edges that every graph has.
        max_parents: most parents of a node; None for no bound.
        names: of the columns, for data that do not name their own.
        scale: divide the columns by their standard deviations; by default for "bge" only.
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
    given = [n for n, v in (("noise_variance", noise_variance), ("weight_variance", weight_variance)) if v]
    if not known and given:
        raise InvalidInput(
            f"{' and '.join(given)} belong to the likelihood 'linear_gaussian': leave them out."
        )
    table = read_data(
        data, interventions=interventions, names=names, scale=not known if scale is None else scale
    )
    options: dict[str, Any] = {
        "prior": prior,
        "edges_per_node": 1.0 if edges_per_node is None else edges_per_node,
        "interventions": table.interventions,
        "max_parents": max_parents,
        "forbidden": table.pairs("forbidden", forbidden),
        "required": table.pairs("required", required),
    }
    target: GramGraphs
    if noise_variance is not None:
        variance = 1.0 if weight_variance is None else weight_variance
        target = LinearGaussianGraphs(table.values, noise_variance, variance, **options)
    else:
        target = BGeGraphs(table.values, **options)
    for line in _doubts(table, noise_variance):
        warnings.warn(line, CtsgfnWarning, stacklevel=2)
    d = len(table.names)
    trained = steps is not None or budget is not None
    if method == "exact" and trained:
        raise InvalidInput("method='exact' trains nothing: leave steps and budget out, or use method='flow'.")
    exact = method == "exact" or (method == "auto" and d <= TABLED and not trained)
    source: GraphSource
    if exact:
        source = ExactGraphs(target)
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
        source = FlowGraphs(sampler, target)
    return GraphPosterior(source, table, _notes(table, likelihood, exact), pool, seed)


def _notes(table: GraphData, likelihood: str, exact: bool) -> tuple[str, ...]:
    size, d = table.values.shape
    scaled = not bool((table.spread == 1).all())
    done = "centred and divided by their standard deviations" if scaled else "centred"
    how = "all graphs summed over exactly" if exact else "graphs drawn by a flow and weighted"
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
