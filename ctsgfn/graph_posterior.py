r"""A posterior over graphs and the weights of their edges, as weighted draws.

For draws :math:`G_i` with weights :math:`w_i`, a feature f of the graph (an edge, a path, ..) has

.. math:: P(f | D) = \sum_i w_i f(G_i) \Big/ \sum_i w_i.

References:
    Being Bayesian about network structure (Friedman and Koller, 2003), Machine Learning 50;
    Estimating high-dimensional intervention effects from observational data (Maathuis, Kalisch and
    Buhlmann, 2009), arXiv 0810.4214 (effects over many graphs).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctsgfn.acyclic import Acyclic
from ctsgfn.errors import InvalidInput, NoExactAnswer, whole
from ctsgfn.evidence import Evidence, estimate_evidence
from ctsgfn.graph_data import GraphData, Node
from ctsgfn.graph_draws import GraphDraws
from ctsgfn.graph_summary import GraphSummary, summarise_graphs
from ctsgfn.model_posterior import Estimate
from ctsgfn.psis import psis, systematic
from ctsgfn.seeding import seeded

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class GraphSource(ABC):
    """Where the draws of a ``GraphPosterior`` come from: exact sums, a flow over graphs, a joint flow.

    Weights are in the units of the data that the source was given; ``GraphPosterior`` converts them.
    """

    closed: bool
    """Whether the parameters are integrated out: ``log_graph`` and ``log_weights`` are then known."""

    graphs: Acyclic
    """Counting measure on the graphs that may be drawn."""
    exact: Tensor | None = None
    """Edge probabilities [d, d], where they are known and draws are independent and not weighted."""

    @abstractmethod
    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Graphs [n, d, d] bool, weights of their edges, log-weights [n] float64 whose mean estimates Z."""

    def log_graph(self, edges: Tensor) -> Tensor:
        """Log of p(D | G) P(G), [B].

        Raises:
            NoExactAnswer: where the parameters are not integrated out.
        """
        raise NoExactAnswer(
            "the parameters of this likelihood are not integrated out, so that the probability of a graph is "
            "not known: see the most probable graphs of summary()."
        )

    def log_weights(self, edges: Tensor, weights: Tensor) -> Tensor:
        """Log-density of weights given graphs and the data, [B], as ``log_graph``."""
        return self.log_graph(edges)

    def judge(self, log_weight: Tensor) -> Evidence:
        """What log-weights of draws say about log Z and about themselves."""
        return estimate_evidence(log_weight, measure=str(self.graphs))


@dataclass(frozen=True, repr=False)
class GraphPosterior:
    """What the data say about the graph that made them; made by ``fit_graph``, and it prints itself.

    Probabilities and averages rest on one pool of weighted draws, taken when first needed.

    Args:
        source: where the draws come from.
        data: the data, with the names of the columns.
        notes: what was decided, in sentences.
        pool: weighted draws that averages rest on.
        seed: of the pool.

    Example:
        >>> import ctsgfn
        >>> x = torch.randn(200, 1)
        >>> data = torch.cat([x, x + 0.3 * torch.randn(200, 1), torch.randn(200, 1)], -1)
        >>> posterior = ctsgfn.fit_graph(data, names=["a", "b", "c"], seed=0)
        >>> p = posterior.edge_probabilities()
        >>> bool(p[0, 1] + p[1, 0] > 0.99), bool(p[0, 2] < 0.3)
        (True, True)
        >>> draws = posterior.sample(10, seed=1)
        >>> tuple(draws.edges.shape), tuple(draws.weights.shape)
        ((10, 3, 3), (10, 3, 3))
    """

    source: GraphSource
    data: GraphData
    notes: tuple[str, ...] = ()
    pool: int = 4096
    seed: int | None = field(default=None)

    # ---------------------------------------------------------------- draws
    def sample(self, n: int, *, seed: int | None = None) -> GraphDraws:
        """Draw n graphs with weights from the posterior, by importance resampling where they are weighted.

        Warns:
            UnreliableEstimate: when the importance weights cannot be trusted.
        """
        whole("n", n)
        with seeded(seed):
            if self.source.exact is not None:
                return self._draw(n)[0]
            draws, log_weight = self._draw(max(2 * n, 4096))
            self.source.judge(log_weight).warn_unless_reliable("the draws of graphs are")
            return draws[systematic(psis(log_weight).log_weight, n)]

    @cached_property
    def _pool(self) -> tuple[GraphDraws, Tensor, Evidence]:
        """Draws, their Pareto-smoothed weights (float64, sum 1), and what these are worth."""
        with seeded(self.seed):
            draws, log_weight = self._draw(self.pool)
        return draws, psis(log_weight).log_weight.exp(), self.source.judge(log_weight)

    def evidence(self) -> Evidence:
        """Log of the sum over graphs of p(data | G) P(G), its error, and what it is worth.

        The prior is not normalised ("uniform" weighs every graph 1), and the data are those that were
        fitted, centred and perhaps scaled: compare evidences of one set of data and one prior.

        Warns:
            UnreliableEstimate: when the importance weights cannot be trusted.
        """
        evidence = self._pool[2]
        evidence.warn_unless_reliable("the evidence of the graphs is")
        return evidence

    # ---------------------------------------------------------------- features of the graph
    def edge_probabilities(self) -> Tensor:
        """P(i -> j | data), [d, d] float64: exact where the source can sum over graphs.

        Warns:
            UnreliableEstimate: when the importance weights cannot be trusted, as in every average.
        """
        if self.source.exact is not None:
            return self.source.exact
        return self.average(lambda draws: draws.edges).value

    def path_probabilities(self) -> Tensor:
        """P(i is an ancestor of j | data), [d, d] float64."""
        return self.average(lambda draws: draws.paths).value

    def markov_blanket_probabilities(self) -> Tensor:
        """P(i is in the Markov blanket of j | data), [d, d] float64, symmetric."""
        return self.average(lambda draws: draws.markov_blankets).value

    def average(self, of: Callable[[GraphDraws], Tensor]) -> Estimate:
        """Posterior mean of a function [n, ..] of the draws, and its Monte-Carlo standard error.

        Warns:
            UnreliableEstimate: when the importance weights cannot be trusted.
        """
        draws, weight, evidence = self._pool
        evidence.warn_unless_reliable("averages over graphs are")
        return weighted_mean(of(draws), weight)

    def effects(self, cause: Node, effect: Node, n: int = 1000, *, seed: int | None = None) -> Tensor:
        """Draw the total causal effect of one column on another from its posterior, [n].

        In units of the effect per unit of the cause; 0 in graphs without a path between them.

        Raises:
            InvalidInput: when there is no such column, or it is the same.
        """
        i, j = self.data.node("cause", cause), self.data.node("effect", effect)
        if i == j:
            raise InvalidInput(f"cause and effect are the same column, {self.data.names[i]!r}.")
        return self.sample(n, seed=seed).effects[:, i, j]

    def log_prob(self, graph: Any, theta: Any = None) -> Tensor:
        """Log posterior probability [B] of graphs [B, d, d], with ``theta`` the joint density with weights.

        Args:
            graph: adjacencies [B, d, d] or [d, d].
            theta: weights [B, d, d] in the units of the data, 0 where there is no edge.

        Raises:
            InvalidInput: when a graph has a cycle or breaks a constraint, or theta has weights off its edges.
            NoExactAnswer: where the parameters are not integrated out.
        """
        edges = self._matrices("graph", graph).bool()
        outside = ~self.source.graphs.contains(edges)
        if bool(outside.any()):
            raise InvalidInput(
                f"graph {int(outside.nonzero()[0])} has a cycle or breaks a constraint: its probability is 0."
            )
        value = self.source.log_graph(edges) - self._pool[2].log_z
        if theta is None:
            return value
        weights = self._matrices("theta", theta)
        if weights.shape != edges.shape or bool((weights != 0)[~edges].any()):
            raise InvalidInput(
                f"theta must have the shape of the graphs, {list(edges.shape)}, and be 0 where there is no "
                "edge."
            )
        unit = self._unit.log() * edges  # dw / d(w in units of the fit)
        return value + self.source.log_weights(edges, weights / self._unit) - unit.sum((1, 2))

    # ---------------------------------------------------------------- reports
    def summary(self) -> GraphSummary:
        """Tabulate the probable edges with their weights, the probable graphs, and the evidence.

        Warns:
            UnreliableEstimate: when the importance weights cannot be trusted.
        """
        self._pool[2].warn_unless_reliable("the summary of the graphs is")
        return self._summary()

    def plot(self) -> Figure:
        """Figure: probabilities of the edges as a heat map, and the three most probable graphs."""
        from ctsgfn.graph_plots import plot_graphs

        summary = self.summary()
        return plot_graphs(self.edge_probabilities(), summary.graphs, self.data.names)

    def to_arviz(self, n: int = 4096, *, seed: int | None = None) -> Any:
        """Return n draws as an ArviZ container: ``edge``, ``weight`` and, where known, ``log_graph``.

        Raises:
            MissingExtra: when ArviZ is not installed.
        """
        from ctsgfn.arviz_export import to_arviz

        draws = self.sample(n, seed=seed)
        stats = {"log_graph": self.source.log_graph(draws.edges)} if self.source.closed else {}
        return to_arviz({"edge": draws.edges, "weight": draws.weights}, stats, self._pool[2])

    def __str__(self) -> str:
        return str(self._summary())

    __repr__ = __str__

    # ---------------------------------------------------------------- inside
    @property
    def _unit(self) -> Tensor:
        """Units of the data over those of the fit, for the weight of each edge: [d, d]."""
        return self.data.spread / self.data.spread[:, None]

    def _draw(self, n: int) -> tuple[GraphDraws, Tensor]:
        edges, weights, log_weight = self.source.draw(n)
        return GraphDraws(edges, weights * self._unit, self.data.names), log_weight

    def _matrices(self, argument: str, given: Any) -> Tensor:
        """One matrix or several, as [B, d, d]."""
        d = len(self.data.names)
        value = torch.as_tensor(given)
        value = value[None] if value.dim() == 2 else value
        if value.dim() != 3 or value.shape[1:] != (d, d):
            raise InvalidInput(
                f"{argument} must have shape [{d}, {d}] or [B, {d}, {d}], got {list(value.shape)}."
            )
        return value.double()

    def _summary(self) -> GraphSummary:
        draws, weight, evidence = self._pool
        edges = weighted_mean(draws.edges, weight)
        if self.source.exact is not None:
            edges = Estimate(self.source.exact, torch.zeros_like(self.source.exact))
        if self.source.closed:
            log_graph = self.source.log_graph(draws.edges) - evidence.log_z
        else:
            which = draws.edges.flatten(1).unique(dim=0, return_inverse=True)[1]
            log_graph = weight.new_zeros(len(weight)).index_add(0, which, weight).log()[which]
        return summarise_graphs(draws, weight, edges, log_graph, evidence, self.notes)


def weighted_mean(value: Tensor, weight: Tensor) -> Estimate:
    """Mean of values [n, ..] under weights [n] that sum to 1, and its standard error (delta method)."""
    flat = value.double().reshape(len(weight), -1)
    mean = weight @ flat
    stderr = (weight.square() @ (flat - mean).square()).sqrt()
    return Estimate(mean.reshape(value.shape[1:]), stderr.reshape(value.shape[1:]))
