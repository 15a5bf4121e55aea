"""What a posterior over graphs says, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ctsgfn.evidence import Evidence
from ctsgfn.graph_draws import GraphDraws
from ctsgfn.model_posterior import Estimate

EDGES, GRAPHS = 20, 5
"""Most rows that are printed."""


class EdgeRow(NamedTuple):
    """One edge: its probability, and its weight in the graphs that have it."""

    source: str
    target: str
    probability: float
    stderr: float
    weight: float  # posterior mean, given the edge
    sd: float


class GraphRow(NamedTuple):
    """One graph and its probability."""

    edges: Tensor  # [d, d] bool
    probability: float
    text: str


@dataclass(frozen=True, repr=False)
class GraphSummary:
    """The edges by probability, the most probable graphs that were drawn, and the evidence; it prints itself.

    Example:
        >>> from ctsgfn.evidence import estimate_evidence
        >>> edges = torch.tensor([[[0, 1], [0, 0]], [[0, 0], [0, 0]]]).bool()
        >>> half = torch.tensor([0.5, 0.5]).double()
        >>> p = Estimate(edges.double().mean(0), torch.zeros(2, 2))
        >>> draws, e = GraphDraws(edges, 2.0 * edges.double(), ("a", "b")), estimate_evidence(torch.zeros(2))
        >>> table = summarise_graphs(draws, half, p, half.log(), e)
        >>> [(row.source, row.target, row.probability, row.weight) for row in table.edges]
        [('a', 'b', 0.5, 2.0)]
        >>> [(row.text, row.probability) for row in table.graphs]
        [('a -> b', 0.5), ('no edges', 0.5)]
    """

    edges: tuple[EdgeRow, ...]  # all that were drawn, most probable first
    graphs: tuple[GraphRow, ...]
    evidence: Evidence
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        width = max([4, *(len(row.source) + len(row.target) + 4 for row in self.edges[:EDGES])])
        lines = [f"{'edge':<{width}}  probability           weight given the edge"]
        for row in self.edges[:EDGES]:
            lines.append(
                f"{row.source + ' -> ' + row.target:<{width}}  {row.probability:.4f} +- {row.stderr:.4f}    "
                f"{row.weight:>9.4g} (sd {row.sd:.2g})"
            )
        if len(self.edges) > EDGES:
            lines.append(f".. and {len(self.edges) - EDGES} more of probability up to "
                         f"{self.edges[EDGES].probability:.4f}")  # fmt: skip
        lines += ["", "most probable graphs"]
        lines += [f"{row.probability:.4f}  {row.text}" for row in self.graphs[:GRAPHS]]
        return "\n".join([*lines, "", str(self.evidence), *self.notes])

    __repr__ = __str__


def summarise_graphs(
    draws: GraphDraws,
    weight: Tensor,
    edges: Estimate,
    log_graph: Tensor,
    evidence: Evidence,
    notes: tuple[str, ...] = (),
) -> GraphSummary:
    """Summarise weighted draws.

    Args:
        draws: n of them.
        weight: [n], of sum 1.
        edges: probabilities of the edges, [d, d].
        log_graph: [n] log posterior probability of each draw's graph.
        evidence: shown beneath the table.
        notes: shown beneath the evidence.
    """
    there = torch.einsum("n,nij->ij", weight, draws.edges.double())
    first = torch.einsum("n,nij->ij", weight, draws.weights.double())
    second = torch.einsum("n,nij->ij", weight, draws.weights.double().square())
    rows = []
    for i, j in (there > 0).nonzero().tolist():
        mean = float(first[i, j] / there[i, j])
        variance = max(0.0, float(second[i, j] / there[i, j]) - mean**2)  # 0 up to rounding
        p, error = float(edges.value[i, j]), float(edges.stderr[i, j])
        rows.append(EdgeRow(draws.names[i], draws.names[j], p, error, mean, variance**0.5))
    order = log_graph.argsort(descending=True, stable=True)
    seen: dict[bytes, int] = {}
    for row in order.tolist():
        seen.setdefault(draws.edges[row].cpu().numpy().tobytes(), row)
        if len(seen) == GRAPHS:
            break
    graphs = [
        GraphRow(draws.edges[row], float(log_graph[row].exp()), _text(draws.edges[row], draws.names))
        for row in seen.values()
    ]
    rows.sort(key=lambda row: -row.probability)
    return GraphSummary(tuple(rows), tuple(graphs), evidence, notes)


def _text(edges: Tensor, names: tuple[str, ...]) -> str:
    pairs = [f"{names[i]} -> {names[j]}" for i, j in edges.nonzero().tolist()]
    return ", ".join(pairs) if pairs else "no edges"
