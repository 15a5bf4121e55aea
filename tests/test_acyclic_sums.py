"""Sums over acyclic graphs and draws from them, against the list of all graphs and against each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ctsgfn.acyclic import Acyclic
from ctsgfn.acyclic_draws import AcyclicDraws
from ctsgfn.acyclic_sums import AcyclicSums
from ctsgfn.errors import InvalidInput


def table(nodes: int, scale: float, seed: int = 0) -> Tensor:
    """Random log-scores, a fifth of the sets of parents ruled out; the empty ones never."""
    generator = torch.Generator().manual_seed(seed)
    scores = scale * torch.randn(nodes, 1 << nodes, generator=generator, dtype=torch.float64)
    out = torch.rand(scores.shape, generator=generator) < 0.2
    out[:, 0] = False
    return scores.masked_fill(out, -math.inf)


def listed(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Every graph, and its log-weight."""
    d = len(scores)
    graphs = Acyclic(d).all()
    parents = (graphs.long() * (1 << torch.arange(d))[:, None]).sum(1)
    return graphs, scores[torch.arange(d), parents].sum(-1)


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("scale", [1.0, 30.0, 3000.0])  # 3000: what 10,000 rows of data bring
def test_sums_against_the_list(nodes: int, scale: float) -> None:
    """Log Z both ways and the edges to the 12th decimal, however far apart the scores."""
    scores = table(nodes, scale)
    graphs, log_weight = listed(scores)
    sums = AcyclicSums(scores)
    for log_z in (sums.log_z, AcyclicDraws(sums).log_z):
        torch.testing.assert_close(log_z, log_weight.logsumexp(0), rtol=1e-13, atol=1e-12)
    expected = torch.einsum("g,gij->ij", log_weight.softmax(0), graphs.double())
    torch.testing.assert_close(sums.edge_probabilities(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_sums_with_signs_agree_with_sums_without(scale: float) -> None:
    """Nine nodes: inclusion and exclusion loses at most the digits that the docstring says."""
    sums = AcyclicSums(table(9, scale, seed=1))
    assert abs(float(sums.log_z - AcyclicDraws(sums).log_z)) < 1e-11
    edges = sums.edge_probabilities()
    assert -1e-9 < float(edges.min()) <= float(edges.max()) < 1 + 1e-9
    if scale == 0.0:  # even weights on the sets that are left: P(i -> j) + P(j -> i) < 1
        assert float((edges + edges.T).max()) < 1


def test_edges_are_slopes_of_log_z() -> None:
    """Seven nodes: P(0 -> 1) is what log Z gains per nat on the sets of parents of 1 that hold 0."""
    scores = table(7, 3.0, seed=2)
    h, has = 1e-5, (torch.arange(1 << 7) & 1).double()
    up, down = scores.clone(), scores.clone()
    up[1] += h * has
    down[1] -= h * has
    slope = (AcyclicSums(up).log_z - AcyclicSums(down).log_z) / (2 * h)
    assert abs(float(AcyclicSums(scores).edge_probabilities()[0, 1] - slope)) < 1e-8


def test_required_edges_leave_some_sets_without_a_graph() -> None:
    """The chain 0 -> 1 -> 2 with nothing else: one graph, though most sums on the way are empty."""
    scores = torch.full((3, 8), -math.inf)
    scores[0, 0b000], scores[1, 0b001], scores[2, 0b010] = -1.0, -2.0, -4.0
    sums = AcyclicSums(scores)
    assert float(sums.log_z) == -7.0
    chain = [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert sums.edge_probabilities().tolist() == chain
    assert bool((AcyclicDraws(sums).sample(5).double() == torch.tensor(chain)).all())


@pytest.mark.parametrize("nodes", [3, 4])
def test_draws_have_the_law_of_the_weights(nodes: int) -> None:
    """Frequencies of single graphs and of edges in 40,000 draws (|z| < 5.5: rate 4e-8, some 600 of them)."""
    torch.manual_seed(0)
    scores = table(nodes, 1.0, seed=3)
    graphs, log_weight = listed(scores)
    law = log_weight.softmax(0)
    x = AcyclicDraws(AcyclicSums(scores)).sample(40_000)
    key = 1 << torch.arange(nodes * nodes)
    of = {int(k): row for row, k in enumerate((graphs.flatten(1).long() * key).sum(-1))}
    rows = torch.tensor([of[int(k)] for k in (x.flatten(1).long() * key).sum(-1)])
    counts = torch.bincount(rows, minlength=len(graphs)).double()
    assert int(counts[law == 0].sum()) == 0
    big = 40_000 * law > 10
    z = (counts - 40_000 * law) / (40_000 * law * (1 - law)).sqrt()
    assert float(z[big].abs().max()) < 5.5


def test_draws_of_many_nodes_have_the_edges_of_the_sums() -> None:
    """Eight nodes, 5000 draws: z-scores of fifty-six edges below 5.5."""
    torch.manual_seed(1)
    sums = AcyclicSums(table(8, 4.0, seed=4))
    p = sums.edge_probabilities()
    x = AcyclicDraws(sums).sample(5000)
    assert bool(Acyclic(8).contains(x).all())
    some = p * 5000 > 10
    z = (x.double().mean(0) - p) / (p * (1 - p) / 5000).sqrt()
    assert float(z[some].abs().max()) < 5.5


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(3, 4), r"log-scores \[d, 2\^d\], d at most 14, got \[3, 4\]"),
        (torch.zeros(2, 4).index_fill(1, torch.tensor([0]), math.nan), "local score of node 0 is NaN"),
        (torch.full((2, 4), -math.inf), "rule out every acyclic graph"),
    ],
)
def test_tables_that_make_no_sense_are_refused(scores: Tensor, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        AcyclicSums(scores)
