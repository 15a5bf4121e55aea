"""Where the draws of a posterior over graphs come from: exact sums, a flow, a flow with parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ctsgfn.acyclic import Acyclic
from ctsgfn.evidence import Evidence, estimate_evidence
from ctsgfn.graph_chains import graph_chains
from ctsgfn.graph_posterior import GraphSource
from ctsgfn.importance import Importance
from ctsgfn.sampler import Sampler
from ctsgfn.seeding import seeded
from ctsgfn.targets.gram_graphs import GramGraphs
from ctsgfn.targets.joint_graphs import JointGraphs


class ClosedGraphs(GraphSource):
    """Graphs of a target whose weights have a closed form.

    Args:
        target: the target.
    """

    closed = True

    def __init__(self, target: GramGraphs) -> None:
        self.target, self.graphs = target, target.measure

    def log_graph(self, edges: Tensor) -> Tensor:
        """Log p(D | G) + log P(G)."""
        return self.target.log_density(edges)

    def log_weights(self, edges: Tensor, weights: Tensor) -> Tensor:
        """Log-density of weights given graphs, in closed form."""
        return self.target.log_weights(edges, weights)


class ExactGraphs(ClosedGraphs):
    """Sums over all graphs and exact draws; weights in closed form.

    Args:
        target: of at most 12 nodes.

    Example:
        >>> from ctsgfn.targets import linear_gaussian_network
        >>> source = ExactGraphs(linear_gaussian_network(3))
        >>> edges, weights, log_weight = source.draw(4)
        >>> tuple(weights.shape), bool((log_weight == source.target.log_z).all())
        ((4, 3, 3), True)
    """

    def __init__(self, target: GramGraphs) -> None:
        super().__init__(target)
        self.exact = target.edge_probabilities()

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Independent graphs, all of the same weight Z."""
        edges = self.target.sample(n)
        weight = torch.full((n,), self.target.log_z, dtype=torch.float64)
        return edges, self.target.sample_weights(edges), weight

    def judge(self, log_weight: Tensor) -> Evidence:
        """Z is known."""
        return replace(super().judge(log_weight), method="exact, by sums over all graphs")


class FlowGraphs(ClosedGraphs):
    """Graphs drawn by a flow, weighted; weights of the edges in closed form.

    Importance weights know nothing of graphs that the flow never draws. So graphs that Markov chains find
    are weighed too: a flow that misses a mode has an upper bound on log Z far above the lower one.

    Args:
        sampler: trained on a ``GramGraphs``.

    Example:
        >>> from ctsgfn.api import fit
        >>> from ctsgfn.targets import linear_gaussian_network
        >>> target = linear_gaussian_network(3)
        >>> source = FlowGraphs(fit(target, steps=2, batch_size=8, seed=0, progress_bar=False), target)
        >>> edges, weights, log_weight = source.draw(4)
        >>> tuple(edges.shape), tuple(log_weight.shape)
        ((4, 3, 3), (4,))
    """

    def __init__(self, sampler: Sampler[Any, Any], target: GramGraphs) -> None:
        super().__init__(target)
        self.sampler = sampler
        self._importance: Importance[Any, Tensor] = Importance(sampler.gfn, target)
        with seeded(0):
            self._found = self._importance.weigh_backwards(graph_chains(target)[:1024]).cpu()

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Graphs of the flow, weights in closed form, and the log-weights of the trajectories."""
        edges, log_weight = self._importance.weigh(n)
        return edges.cpu(), self.target.sample_weights(edges), log_weight.cpu()

    def judge(self, log_weight: Tensor) -> Evidence:
        """What the weights are worth; graphs that Markov chains find stand in for samples of the target."""
        return estimate_evidence(log_weight, measure=str(self.graphs), log_weight_at_target=self._found)


class JointFlow(GraphSource):
    """Graphs drawn together with their parameters by a flow, weighted; nothing is integrated out.

    Args:
        sampler: trained on ``JointGraphs`` with linear mechanisms.
        target: that target.

    Example:
        >>> from ctsgfn.api import fit
        >>> target = JointGraphs(torch.randn(20, 3))
        >>> source = JointFlow(fit(target, steps=2, batch_size=8, seed=0, progress_bar=False), target)
        >>> edges, weights, log_weight = source.draw(4)
        >>> tuple(weights.shape), bool((weights[~edges] == 0).all())
        ((4, 3, 3), True)
    """

    closed = False

    def __init__(self, sampler: Sampler[Any, Any], target: JointGraphs) -> None:
        models = target.measure.models
        assert isinstance(models, Acyclic)
        self.target, self.graphs, self.sampler = target, models, sampler
        self._importance: Importance[Any, Any] = Importance(sampler.gfn, target)

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Graphs and weights of the flow, and the log-weights of the trajectories."""
        x, log_weight = self._importance.weigh(n)
        return x.model.bool().cpu(), self.target.weights(x.theta).double().cpu(), log_weight.cpu()
