"""Acyclic graphs: their measure, the linear Gaussian posterior over them, and a flow that samples it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ctsgfn.acyclic import Acyclic, closure, topological_orders
from ctsgfn.api import fit, load
from ctsgfn.builders import choose
from ctsgfn.errors import InvalidInput
from ctsgfn.exact import explore
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.dag import Dag, dag, dag_kernels
from ctsgfn.objectives import log_partition_variance
from ctsgfn.targets import LinearGaussianGraphs, linear_gaussian_network
from ctsgfn.training import train
from ctsgfn.walks import rollout


def acyclic_by_powers(x: Tensor) -> bool:
    """No power of the adjacency has a trace: another way to say that there is no cycle."""
    power = x.double()
    for _ in range(len(x)):
        if float(power.trace()) > 0:
            return False
        power = power @ x.double()
    return True


# ---------------------------------------------------------------- the measure
@pytest.mark.parametrize(("nodes", "count"), [(1, 1), (2, 3), (3, 25), (4, 543)])
def test_the_list_of_acyclic_graphs(nodes: int, count: int) -> None:
    """As many as Robinson counts, each once, none with a cycle."""
    graphs = Acyclic(nodes).all()
    assert len(graphs) == count == len(graphs.flatten(1).unique(dim=0))
    assert all(acyclic_by_powers(g) for g in graphs)


def test_every_graph_is_in_the_support_or_has_a_cycle() -> None:
    bits = torch.tensor(list(itertools.product([False, True], repeat=9))).unflatten(1, (3, 3))
    told = Acyclic(3).contains(bits)
    assert told.tolist() == [acyclic_by_powers(x) for x in bits]
    assert int(told.sum()) == 25


CONSTRAINED = Acyclic(4, max_parents=2, forbidden=[(0, 1), (2, 3)], required=[(1, 2)])


@pytest.mark.parametrize("measure", [Acyclic(3), Acyclic(4), CONSTRAINED, Acyclic(4, max_parents=1)], ids=str)
def test_the_law_of_the_probe(measure: Acyclic) -> None:
    """It sums to 1 over all graphs, and the frequencies of 40,000 probes are its own (|z| < 5.5)."""
    nodes, graphs = measure.nodes, measure.all()
    law = measure.log_probe(graphs).exp()
    torch.testing.assert_close(law.sum(), torch.ones((), dtype=torch.float64))
    x, w = measure.probe(40_000)
    torch.testing.assert_close(w, -measure.log_probe(x))
    key = 1 << torch.arange(nodes * nodes)
    index = {int(k): i for i, k in enumerate((graphs.flatten(1).long() * key).sum(-1))}
    counts = torch.zeros(len(graphs), dtype=torch.float64)
    for k in (x.flatten(1).long() * key).sum(-1).tolist():
        counts[index[k]] += 1
    z = (counts - 40_000 * law) / (40_000 * law * (1 - law)).sqrt()
    assert float(z.abs().max()) < 5.5  # two-sided rate 4e-8 each, 568 of them; counts are in the tens


def test_topological_orders_by_hand() -> None:
    """Every order of the nodes that all edges follow, counted one by one."""
    graphs = Acyclic(4).all()[::7]
    by_hand = [
        sum(all(order.index(i) < order.index(j) for i, j in g.nonzero().tolist()) for order in orders)
        for g in graphs
        for orders in [list(itertools.permutations(range(4)))]
    ]
    assert topological_orders(graphs).tolist() == by_hand
    cycle = torch.tensor([[[False, True], [True, False]]])
    assert topological_orders(cycle).tolist() == [0.0]


def test_too_many_nodes_are_refused_with_a_remedy() -> None:
    with pytest.raises(InvalidInput, match="counted up to 12 nodes"):
        Acyclic(13).probe(2)
    with pytest.raises(InvalidInput, match="listed up to 5 nodes"):
        Acyclic(6).all()
    with pytest.raises(InvalidInput, match="nodes"):
        Acyclic(0)


def test_constraints_keep_the_graphs_that_meet_them() -> None:
    """Those of the whole list, one by one; and no others are in the support."""
    x = Acyclic(4).all()
    kept = ~x[:, 0, 1] & ~x[:, 2, 3] & x[:, 1, 2] & (x.sum(1) <= 2).all(-1)
    assert torch.equal(CONSTRAINED.contains(x), kept)
    assert len(CONSTRAINED.all()) == int(kept.sum()) > 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_parents": 0}, "max_parents must be a whole number of at least 1"),
        ({"forbidden": [(0, 3)]}, r"forbidden holds \(0, 3\): it takes pairs \(i, j\) of two nodes below 3"),
        ({"required": [(1, 1)]}, r"required holds \(1, 1\)"),
        ({"required": [(0, 1)], "forbidden": [(0, 1)]}, r"edge \(0, 1\) is both required and forbidden"),
        ({"required": [(0, 1), (1, 2), (2, 0)]}, "required edges form a cycle"),
        ({"required": [(0, 2), (1, 2)], "max_parents": 1}, "node 2 has 2 required parents"),
        ({"forbidden": list(itertools.permutations(range(3), 2))}, "leave nothing to sample"),
    ],
)
def test_constraints_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        dag(3, **options)


# ---------------------------------------------------------------- the space
@pytest.mark.parametrize(
    "options", [{"max_parents": 1}, {"forbidden": [(0, 1), (2, 3)], "required": [(1, 2)]}]
)
def test_a_constrained_space_reaches_its_graphs_and_no_others(options: dict[str, Any]) -> None:
    space = dag(4, **options)
    found = explore(space).states.edges
    assert len(found) == len(space.points.all())
    assert bool(space.points.contains(found).all())
    assert int(found.sum((1, 2)).max()) - len(space.points.required) + 1 <= space.horizon


def test_the_closure_is_kept_by_adding_and_removing() -> None:
    """Along random walks on six nodes the kept closure is that of the edges."""
    space = dag(6)
    forward, backward = dag_kernels(space, hidden=8)
    torch.manual_seed(0)
    states = rollout(space, forward, 200).states
    assert torch.equal(states.reach, closure(states.edges))
    inner = states[states.edges.flatten(1).any(-1)]
    fewer = backward(inner).draw_move()[0]
    assert torch.equal(fewer.reach, closure(fewer.edges))
    assert torch.equal(fewer.edges.sum((1, 2)), inner.edges.sum((1, 2)) - 1)


def test_legal_edges_are_those_that_close_no_cycle() -> None:
    space = dag(4)
    graphs = Acyclic(4).all()
    s = space.write(graphs)
    live = space.kappa.branches[0].live(s)
    assert live is not None
    for i, j in itertools.product(range(4), repeat=2):
        more = graphs.clone()
        more[:, i, j] = True
        legal = Acyclic(4).contains(more) & ~graphs[:, i, j]
        assert torch.equal(live[:, 4 * i + j], legal)


def test_another_space_is_refused() -> None:
    from ctsgfn.kernels.spaces.hypergrid import hypergrid

    with pytest.raises(InvalidInput, match="no acyclic graphs"):
        dag_kernels(hypergrid(2, 3))  # type: ignore[arg-type]


# ---------------------------------------------------------------- the target
@pytest.fixture(scope="module")
def target() -> LinearGaussianGraphs:
    return linear_gaussian_network(3, rows=12, seed=3)


def test_the_marginal_likelihood_is_a_normal_density(target: LinearGaussianGraphs) -> None:
    """Log p(D | G) is that of the N values of each node under s^2 I + t^2 X_P X_P^T."""
    x = target.data
    for g in target.measure.all():
        total = 0.0
        for j in range(3):
            parents = x[:, g[:, j]]
            noise = target.noise_variance * torch.eye(len(x), dtype=torch.float64)
            covariance = noise + target.weight_variance * parents @ parents.T
            law = MultivariateNormal(torch.zeros(len(x), dtype=torch.float64), covariance)
            total += float(law.log_prob(x[:, j]))
        assert abs(float(target.log_density(g[None])) - total) < 1e-8


def test_the_law_of_the_weights(target: LinearGaussianGraphs) -> None:
    """Log p(D, w | G) - log p(w | G, D) is log p(D | G), whatever the weights: the joint is consistent."""
    torch.manual_seed(1)
    graphs = target.measure.all()
    w = target.sample_weights(graphs)
    assert torch.equal(w != 0, graphs)
    means, covariances = target.weights(graphs)
    x, s2, t2 = target.data, target.noise_variance, target.weight_variance
    noise = x - torch.einsum("ni,gij->gnj", x, w)
    joint = -0.5 * (noise.square() / s2 + math.log(2 * math.pi * s2)).sum((1, 2))
    prior = (-0.5 * (w.square() / t2 + math.log(2 * math.pi * t2)) * graphs).sum((1, 2))
    posterior = torch.zeros(len(graphs), dtype=torch.float64)
    for b, g in enumerate(graphs):
        for j in range(3):
            live = g[:, j].nonzero().squeeze(-1)
            if len(live):
                law = MultivariateNormal(means[b, live, j], covariances[b, j][live][:, live])
                posterior[b] += law.log_prob(w[b, live, j])
    torch.testing.assert_close(joint + prior - posterior, target.log_density(graphs))


def test_changes_are_differences(target: LinearGaussianGraphs) -> None:
    graphs = target.measure.all()
    changes = target.changes(graphs)
    for i, j in itertools.product(range(3), repeat=2):
        more = graphs.clone()
        more[:, i, j] = True
        legal = target.measure.contains(more)
        difference = target.log_density(more) - target.log_density(graphs)
        torch.testing.assert_close(changes[legal, i, j], difference[legal])


def test_samples_are_of_the_posterior(target: LinearGaussianGraphs) -> None:
    """Edge frequencies of 20,000 draws by z-score (|z| < 5: rate 6e-7 each)."""
    torch.manual_seed(2)
    p = target.edge_probabilities()
    seen = target.sample(20_000).double().mean(0)
    z = (seen - p) / (p * (1 - p) / 20_000).sqrt().clamp(min=1e-12)
    assert float(z[~torch.eye(3, dtype=torch.bool)].abs().max()) < 5


def test_rows_that_were_set_say_nothing_of_their_node() -> None:
    """The factor of a node is that of the data without these rows; the others keep all rows."""
    plain = linear_gaussian_network(3, rows=20, seed=5)
    done = torch.zeros(20, 3, dtype=torch.bool)
    done[:6, 1] = True
    set_ = LinearGaussianGraphs(plain.data, interventions=done)
    fewer = LinearGaussianGraphs(plain.data[6:])
    torch.testing.assert_close(set_.scores[1], fewer.scores[1])
    torch.testing.assert_close(set_.scores[[0, 2]], plain.scores[[0, 2]])


def test_priors_on_graphs() -> None:
    """Ratios to the uniform prior, at no, one and two parents of a node of four."""
    data = linear_gaussian_network(4, rows=10).data
    uniform = LinearGaussianGraphs(data).scores[0]
    for prior, expected in (
        ("fair", [0.0, -math.log(3), -math.log(3)]),
        ("erdos_renyi", [math.log((1 / 3) ** k * (2 / 3) ** (3 - k)) for k in range(3)]),
    ):
        scores = LinearGaussianGraphs(data, prior=prior, edges_per_node=0.5).scores[0]
        for parents, want in zip((0b0000, 0b0010, 0b0110), expected, strict=True):
            assert abs(float(scores[parents] - uniform[parents]) - want) < 1e-9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": torch.zeros(5)}, "data \\[N, d\\]"),
        ({"data": torch.full((5, 3), math.nan)}, "row 0 of the data"),
        ({"data": torch.zeros(5, 3), "noise_variance": 0.0}, "variances must be positive"),
        ({"data": torch.zeros(5, 3), "prior": "flat"}, "prior must be one of"),
        (
            {"data": torch.zeros(5, 3), "prior": "erdos_renyi", "edges_per_node": 1.0},
            "edges_per_node must lie",
        ),
        (
            {"data": torch.zeros(5, 3), "interventions": torch.zeros(5, 2, dtype=torch.bool)},
            "shape of the data",
        ),
    ],
)
def test_bad_input_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        LinearGaussianGraphs(**options)  # type: ignore[arg-type]


# ---------------------------------------------------------------- the flow
def exact_distance(gfn: GFlowNet[Dag], target: LinearGaussianGraphs) -> float:
    return explore(gfn.space).total_variation(gfn.forward_kernel, target)


def test_a_flow_learns_the_posterior(target: LinearGaussianGraphs) -> None:
    """Total variation of the exact terminating law: from above .1 to below .03 in 300 updates."""
    space = dag(3)
    torch.manual_seed(0)
    gfn = GFlowNet(space, *dag_kernels(space, target, hidden=32))
    before = exact_distance(gfn, target)
    train(gfn, target, steps=300, objective=log_partition_variance, batch_size=64, lr=1e-2, seed=0,
          progress_bar=False)  # fmt: skip
    assert before > 0.1
    assert exact_distance(gfn, target) < 0.03


def test_fit_takes_graphs(tmp_path: object) -> None:
    """The measure picks the space; the sampler saves, loads and reports edge probabilities."""
    target = linear_gaussian_network(3, rows=12, seed=3)
    assert choose(target.measure) == "dag"
    sampler = fit(
        target, objective=log_partition_variance, steps=200, batch_size=64, seed=0, progress_bar=False
    )
    x = sampler.resample(4000, seed=1)
    error = x.double().mean(0) - target.edge_probabilities()
    assert float(error.abs().max()) < 5 * 0.5 / math.sqrt(1000)  # a quarter of the draws are effective
    assert abs(float(sampler.log_evidence(4000, seed=2)) - target.log_z) < 0.1
    path = f"{tmp_path}/graphs.pt"
    sampler.save(path)
    assert torch.equal(load(path, target).sample(5, seed=3), sampler.sample(5, seed=3))
