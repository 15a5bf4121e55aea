"""Local scores of Gaussian networks: formulas, changes, look-ups of many nodes, the law of the weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal

from ctsgfn.acyclic import Acyclic
from ctsgfn.checks import check
from ctsgfn.errors import InvalidInput, NoExactAnswer, UnreliableEstimate
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.dag import dag, dag_kernels
from ctsgfn.sampler import Sampler
from ctsgfn.targets import BGeGraphs, GramGraphs, LinearGaussianGraphs, linear_gaussian_network, score_cache

MODELS: dict[str, Callable[..., GramGraphs]] = {
    "linear_gaussian": lambda data, **options: LinearGaussianGraphs(data, 0.3, 2.0, **options),
    "bge": lambda data, **options: BGeGraphs(data, 0.7, data.shape[1] + 3.0, **options),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Callable[..., GramGraphs]:
    return MODELS[request.param]


def data_of(nodes: int, rows: int = 12, seed: int = 0) -> Tensor:
    return linear_gaussian_network(nodes, rows, seed=seed).data


# ---------------------------------------------------------------- the BGe score
def test_bge_is_a_density_of_the_data() -> None:
    """One node, three rows: the score is the t density that the prior implies, by two integrals."""
    x = torch.tensor([[0.3, 9.0], [-1.2, 9.0], [0.5, 9.0]]).double()
    target = BGeGraphs(x, 0.5, 4.0)
    t = 0.5 * (4.0 - 3) / 1.5
    # node 0 alone: W_00 is the precision of a Wishart marginal with alpha_w - d + 1 degrees of freedom
    w = torch.linspace(1e-3, 60, 12_001, dtype=torch.float64)[:, None]
    mu = torch.linspace(-12, 12, 801, dtype=torch.float64)
    prior = torch.from_numpy(stats.gamma(1.5, scale=2 / t).pdf(w.numpy()))  # chi2 with 3 degrees, over t
    total = torch.zeros(())
    for part in range(0, len(w), 6000):
        here = w[part : part + 6000]
        like = (here / (2 * math.pi)) ** 1.5 * (
            -0.5 * here * (x[:, 0, None, None] - mu).square().sum(0)
        ).exp()
        centre = (0.5 * here / (2 * math.pi)).sqrt() * (-0.25 * here * mu.square()).exp()
        total = total + (prior[part : part + 6000] * like * centre).sum()
    value = total * float(w[1, 0] - w[0, 0]) * float(mu[1] - mu[0])
    assert abs(float(value.log()) - float(target.scores[0, 0])) < 1e-4


def test_bge_of_two_nodes_by_sampling_the_prior() -> None:
    """The complete graph's score is the likelihood averaged over the normal-Wishart prior (|z| < 5)."""
    torch.manual_seed(0)
    x = torch.tensor([[0.3, 0.1], [-0.6, -0.4]]).double()
    target = BGeGraphs(x, 1.0, 6.0)
    t = (6.0 - 3) / 2
    n = 400_000
    precision = torch.from_numpy(stats.wishart(6.0, torch.eye(2) / t).rvs(n, random_state=0))
    mean = MultivariateNormal(torch.zeros(2).double(), precision_matrix=precision).sample()
    gap = x[:, None] - mean
    quadratic = torch.einsum("rni,nij,rnj->n", gap, precision, gap)
    like = (precision.logdet() - 0.5 * quadratic).exp() / (2 * math.pi) ** 2
    edge = torch.tensor([[[0, 1], [0, 0]]])
    z = (like.mean() - target.log_density(edge).exp()) / (like.std() / math.sqrt(n))
    assert abs(float(z)) < 5


def test_bge_scores_equivalent_graphs_the_same() -> None:
    """A chain reads the same backwards and from its middle; a collider does not."""
    target = MODELS["bge"](data_of(3, seed=4))
    chain, back, fork, collider = torch.zeros(4, 3, 3, dtype=torch.bool)
    chain[0, 1] = chain[1, 2] = back[2, 1] = back[1, 0] = fork[1, 0] = fork[1, 2] = True
    collider[0, 1] = collider[2, 1] = True
    value = target.log_density(torch.stack([chain, back, fork, collider]))
    assert float((value[:3] - value[0]).abs().max()) < 1e-10
    assert abs(float(value[3] - value[0])) > 0.01
    complete = Acyclic(3).all()
    complete = complete[complete.sum((1, 2)) == 3]
    assert len(complete) == 6
    assert float((target.log_density(complete) - target.log_density(complete[:1])).abs().max()) < 1e-10


# ---------------------------------------------------------------- changes, look-ups, constraints
def test_changes_are_differences(model: Callable[..., GramGraphs]) -> None:
    """By table and computed: the same scores, and the same differences."""
    target = model(data_of(4))
    graphs = Acyclic(4).all()
    score, change = target._cache(graphs)
    torch.testing.assert_close(score.sum(-1), target.log_density(graphs))
    for i, j in itertools.permutations(range(4), 2):
        more = graphs.clone()
        more[:, i, j] = True
        good = Acyclic(4).contains(more)
        difference = target.log_density(more[good]) - target.log_density(graphs[good])
        torch.testing.assert_close(change[good, i, j], difference, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(target.changes(graphs)[good, i, j], difference, rtol=1e-9, atol=1e-9)


def test_many_nodes_are_scored_when_asked(model: Callable[..., GramGraphs]) -> None:
    """Seventy nodes: the score of a graph is that of its few nodes with parents among themselves."""
    data = data_of(70, rows=30)
    big, small = model(data, prior="fair"), model(data[:, :4])
    x = torch.zeros(2, 70, 70, dtype=torch.bool)
    x[0, 0, 1] = x[0, 0, 2] = x[0, 1, 2] = x[1, 69, 3] = True
    value, change = big.log_density(x), big.changes(x)
    assert tuple(change.shape) == (2, 70, 70)
    more = x.clone()
    more[:, 0, 3] = True
    torch.testing.assert_close(change[:, 0, 3], big.log_density(more) - value)
    assert len(big._cache) <= 70 + 2 + 1 + 2
    if isinstance(small, LinearGaussianGraphs):  # its scores do not know how many other nodes there are
        gain = small.log_density(x[:1, :4, :4]) - small.log_density(torch.zeros(1, 4, 4))
        prior = -math.log(69) - math.log(69 * 68 / 2)
        assert (
            abs(float(big.log_density(x[:1]) - big.log_density(torch.zeros(1, 70, 70)) - gain) - prior) < 1e-8
        )
    assert tuple(big.log_density(x[:0]).shape) == (0,)


def test_a_full_memory_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_cache, "MOST", 20)
    target = MODELS["linear_gaussian"](data_of(14, rows=20))
    graphs = torch.zeros(13, 14, 14, dtype=torch.bool)
    graphs[torch.arange(13), torch.arange(13), torch.arange(13) + 1] = True
    one_by_one = torch.cat([target.log_density(g[None]) for g in graphs])
    assert len(target._cache) <= 20
    torch.testing.assert_close(one_by_one, target.log_density(graphs))


def test_constraints_bound_the_exact_answers(model: Callable[..., GramGraphs]) -> None:
    options = {"max_parents": 2, "forbidden": [(0, 1)], "required": [(2, 3)]}
    target = model(data_of(4), **options)
    graphs = Acyclic(4, **options).all()
    assert target.measure == Acyclic(4, **options)
    value = target.log_density(graphs)
    assert abs(target.log_z - float(value.logsumexp(0))) < 1e-9
    edges = torch.einsum("g,gij->ij", value.softmax(0), graphs.double())
    torch.testing.assert_close(target.edge_probabilities(), edges, rtol=0, atol=1e-10)
    assert bool(target.measure.contains(target.sample(50)).all())


def test_ten_thousand_rows_stay_in_range() -> None:
    """Scores 100,000 nats below 0: the sums over all graphs are those of the list."""
    for target in (linear_gaussian_network(5, 10_000, seed=2), BGeGraphs(data_of(5, 10_000, seed=2))):
        value = target.log_density(Acyclic(5).all())
        assert float(value.max()) < -5000
        assert abs(target.log_z - float(value.logsumexp(0))) < 1e-9
        edges = torch.einsum("g,gij->ij", value.softmax(0), Acyclic(5).all().double())
        torch.testing.assert_close(target.edge_probabilities(), edges, rtol=0, atol=1e-9)


def test_exact_answers_end_at_twelve_nodes() -> None:
    target = linear_gaussian_network(13, 20)
    for ask in (lambda: target.log_z, target.edge_probabilities, lambda: target.sample(3)):
        with pytest.raises(NoExactAnswer, match="exact up to 12 nodes, and the data have 13"):
            ask()


def test_the_evidence_of_many_nodes_has_no_upper_bound() -> None:
    """The target cannot draw its own samples there, and the evidence does without."""
    target = LinearGaussianGraphs(data_of(13, rows=8), 5.0, max_parents=1)
    space = dag(13, max_parents=1)
    sampler: Sampler[Any, Any] = Sampler(GFlowNet(space, *dag_kernels(space, target, hidden=8)), target)
    with pytest.warns(UnreliableEstimate):
        assert sampler.evidence(200, seed=0).upper_bound is None
    assert check(space, target, n=1000, only=["gradients"]).ok  # it asks for log Z, and gets none


# ---------------------------------------------------------------- weights
def test_weights_have_their_law(model: Callable[..., GramGraphs]) -> None:
    """Means and covariances of 20,000 draws by z-score (|z| < 5), and the density by an integral."""
    torch.manual_seed(0)
    target = model(data_of(4))
    graph = torch.zeros(1, 4, 4, dtype=torch.bool)
    graph[0, [0, 1, 3], [2, 2, 1]] = True
    mean, covariance = target.weights(graph)
    w = target.sample_weights(graph.expand(20_000, -1, -1))
    assert bool(((w != 0) == graph).all())
    z = (w.mean(0) - mean[0]) / (w.std(0) / math.sqrt(20_000))
    assert float(z[graph[0]].abs().max()) < 5
    product = (w[:, 0, 2] - mean[0, 0, 2]) * (w[:, 1, 2] - mean[0, 1, 2])
    z = (product.mean() - covariance[0, 2, 0, 1]) / (product.std() / math.sqrt(20_000))
    assert abs(float(z)) < 5
    side = torch.linspace(-8, 8, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    only = torch.zeros(4, 4, dtype=torch.bool)
    only[0, 2] = only[1, 2] = True
    point = torch.zeros(len(grid), 4, 4, dtype=torch.float64)
    point[:, 0, 2], point[:, 1, 2] = mean[0, 0, 2] + grid[:, 0], mean[0, 1, 2] + grid[:, 1]
    density = target.log_weights(only.expand(len(grid), -1, -1), point).exp()
    assert abs(float(density.sum()) * float(side[1] - side[0]) ** 2 - 1) < 0.002


def test_bge_weights_are_a_student_t() -> None:
    target = MODELS["bge"](data_of(3))
    edge = torch.zeros(1, 3, 3)
    edge[0, 0, 1] = 1
    mean, covariance = target.weights(edge)
    degrees = 12 + 3.0 + 2
    scale = math.sqrt(float(covariance[0, 1, 0, 0]) * (degrees - 2) / degrees)
    w = edge * 0.375
    wanted = stats.t(degrees, float(mean[0, 0, 1]), scale).logpdf(0.375)
    assert abs(float(target.log_weights(edge, w)) - wanted) < 1e-9


def test_settings_of_the_wishart_prior_are_refused() -> None:
    with pytest.raises(InvalidInput, match="mean_weight > 0 and degrees above d \\+ 1 = 4"):
        BGeGraphs(torch.zeros(5, 3), degrees=4.0)
