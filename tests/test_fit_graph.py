"""``fit_graph``: from tables of any kind to a posterior over graphs, its features and its effects."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ctsgfn
from ctsgfn import GraphPosterior, fit_graph
from ctsgfn.acyclic import Acyclic
from ctsgfn.errors import CtsgfnWarning, InvalidInput, NoExactAnswer, UnreliableEstimate
from ctsgfn.graph_draws import GraphDraws, markov_blankets, paths
from ctsgfn.graph_sources import ExactGraphs
from ctsgfn.targets import BGeGraphs, LinearGaussianGraphs

NAMES = ("rain", "crop", "price", "wage")


def chain(rows: int = 150, seed: int = 0) -> np.ndarray[Any, Any]:
    """Rain -> crop -> price, wage apart; in units that differ by thousands."""
    rng = np.random.default_rng(seed)
    rain = rng.normal(size=rows)
    crop = 0.8 * rain + 0.5 * rng.normal(size=rows)
    price = -1.5 * crop + 0.5 * rng.normal(size=rows)
    return np.stack([rain, 10 + crop, 1000 * price, rng.normal(size=rows)], -1)


@pytest.fixture(scope="module")
def posterior() -> GraphPosterior:
    return fit_graph(chain(), names=NAMES, forbidden=[("crop", "rain")], seed=0)


def listed(posterior: GraphPosterior) -> tuple[Tensor, Tensor]:
    """All graphs of four nodes that meet the constraints, and their exact probabilities."""
    source = posterior.source
    assert isinstance(source, ExactGraphs)
    graphs = source.graphs.all()
    return graphs, source.target.log_density(graphs).softmax(0)


# ---------------------------------------------------------------- answers
def test_features_are_those_of_the_list(posterior: GraphPosterior) -> None:
    """Edges exactly; paths and Markov blankets within 5 standard errors of the list of graphs."""
    graphs, p = listed(posterior)
    for found, feature, error in (
        (posterior.edge_probabilities(), graphs, torch.full((4, 4), 1e-12)),
        (posterior.path_probabilities(), paths(graphs), None),
        (posterior.markov_blanket_probabilities(), markov_blankets(graphs), None),
    ):
        exact = torch.einsum("g,gij->ij", p, feature.double())
        bound = 5 * (exact * (1 - exact) / 4096).sqrt() + 1e-9 if error is None else error
        assert bool(((found - exact).abs() <= bound).all())
    assert float(posterior.edge_probabilities()[1, 0]) == 0.0, "forbidden"
    assert float(posterior.edge_probabilities()[0, 1]) > 0.95


def test_the_effect_is_in_the_units_of_the_data(posterior: GraphPosterior) -> None:
    """Rain on price: 0.8 x (-1.5) x 1000, where the graph says that rain comes first."""
    effect = posterior.effects("rain", "price", 2000, seed=1)
    onward = effect[effect != 0]
    assert len(onward) > 500
    assert abs(float(onward.mean()) + 1200) < 250
    assert float(posterior.effects("crop", "rain", 500, seed=1).abs().max()) == 0.0, "it is forbidden"


def test_log_prob_is_normalised_and_joint(posterior: GraphPosterior) -> None:
    graphs, p = listed(posterior)
    torch.testing.assert_close(posterior.log_prob(graphs).exp(), p)
    draws = posterior.sample(6, seed=2)
    together = posterior.log_prob(draws.edges, draws.weights) - posterior.log_prob(draws.edges)
    source = posterior.source
    assert isinstance(source, ExactGraphs)
    # against the same weights, fitted to data in other units: a density per unit of the weights
    spread = posterior.data.spread
    unit = (spread / spread[:, None]) * draws.edges + ~draws.edges
    direct = source.target.log_weights(draws.edges, draws.weights / unit) - unit.log().sum((1, 2))
    torch.testing.assert_close(together, direct)
    assert tuple(posterior.log_prob(np.zeros((4, 4)), np.zeros((4, 4))).shape) == (1,)


def test_averages_have_errors(posterior: GraphPosterior) -> None:
    mean, stderr = posterior.average(lambda draws: draws.edges.sum((1, 2)))
    graphs, p = listed(posterior)
    assert abs(float(mean - (p * graphs.sum((1, 2))).sum())) < 5 * float(stderr) < 0.2


def test_exact_evidence_and_flow_agree() -> None:
    """500 updates on three columns: edges within 0.03 of the exact ones, evidence within 0.05."""
    data = chain()[:, :3]
    exact = fit_graph(data, seed=0)
    flow = fit_graph(data, method="flow", steps=500, seed=0, progress_bar=False)
    assert float((flow.edge_probabilities() - exact.edge_probabilities()).abs().max()) < 0.03
    assert abs(flow.evidence().log_z - exact.evidence().log_z) < 0.05
    assert exact.evidence().stderr == 0.0
    assert "exact" in exact.evidence().method
    assert "flow" in flow.notes[0]
    assert tuple(flow.sample(7, seed=1).weights.shape) == (7, 3, 3)


def test_an_untrained_flow_says_so() -> None:
    flow = fit_graph(chain(2000), method="flow", steps=1, batch_size=4, pool=200, seed=0, progress_bar=False)
    with pytest.warns(UnreliableEstimate, match="averages over graphs are not reliable"):
        flow.path_probabilities()


def test_same_seed_same_answers() -> None:
    one, two = (fit_graph(chain(), seed=3) for _ in range(2))
    assert torch.equal(one.path_probabilities(), two.path_probabilities())
    assert torch.equal(one.sample(5, seed=1).weights, two.sample(5, seed=1).weights)


def test_student_noise_is_fitted_together_with_the_graph() -> None:
    """No closed form: graph and weights of one flow, behind the same answers."""
    rng = np.random.default_rng(0)
    cause = rng.standard_t(3, size=80)
    data = np.stack([cause, 40 * cause + 20 * rng.standard_t(3, size=80)], -1)
    posterior = fit_graph(
        data, names=["a", "b"], likelihood="student_t", forbidden=[("b", "a")], steps=60, seed=0,
        progress_bar=False,
    )  # fmt: skip
    assert "student_t; graphs and parameters drawn by a flow" in posterior.notes[0]
    assert float(posterior.edge_probabilities()[0, 1]) > 0.99
    assert abs(float(posterior.effects("a", "b", 500, seed=1).mean()) - 40) < 5
    assert posterior.summary().graphs[0].text == "a -> b"
    with pytest.raises(NoExactAnswer, match="not integrated out"):
        posterior.log_prob(np.array([[0, 1], [0, 0]]))


# ---------------------------------------------------------------- options
def test_interventions_direct_an_edge() -> None:
    """Rows in which crop was set break its tie with rain and keep that with price: the arrows are known."""
    data = chain(200)[:, :3]
    rng = np.random.default_rng(5)
    crop = rng.normal(size=200) * 2
    price = 1000 * (-1.5 * crop + 0.5 * rng.normal(size=200))
    done = np.stack([rng.normal(size=200), 10 + crop, price], -1)
    both = np.concatenate([data, done])
    set_rows = [None] * 200 + ["crop"] * 200
    plain = fit_graph(data, names=NAMES[:3], seed=0).edge_probabilities()
    known = fit_graph(both, names=NAMES[:3], interventions=set_rows, seed=0).edge_probabilities()
    assert float(plain[1, 2]) < 0.9
    assert float(known[1, 2]) > 0.99
    assert float(known[0, 1]) > 0.95
    mask = np.zeros((400, 3), dtype=bool)
    mask[200:, 1] = True
    for same in (mask, torch.from_numpy(mask), [()] * 200 + [(1,)] * 200):
        again = fit_graph(both, names=NAMES[:3], interventions=same, seed=0).edge_probabilities()
        torch.testing.assert_close(again, known)


def test_likelihoods_priors_and_constraints_reach_the_target() -> None:
    known = fit_graph(
        chain()[:, [0, 1, 3]], likelihood="linear_gaussian", noise_variance=0.25, weight_variance=4.0,
        prior="erdos_renyi", edges_per_node=0.5, required=[(0, 1)], max_parents=1, seed=0,
    )  # fmt: skip
    source = known.source
    assert isinstance(source, ExactGraphs)
    target = source.target
    assert isinstance(target, LinearGaussianGraphs)
    assert (target.noise_variance, target.weight_variance, target.prior) == (0.25, 4.0, "erdos_renyi")
    assert target.measure == Acyclic(3, 1, (), [(0, 1)])
    assert abs(float(known.edge_probabilities()[0, 1]) - 1) < 1e-9
    assert bool((known.data.spread == 1).all()), "not scaled: the noise variance is in the units of the data"
    assert abs(float(target.data.mean(0).abs().max())) < 1e-9
    scaled = fit_graph(chain(), seed=0).source
    assert isinstance(scaled, ExactGraphs)
    assert isinstance(scaled.target, BGeGraphs)
    torch.testing.assert_close(scaled.target.data.std(0), torch.ones(4).double())


class Table:
    """What this library asks of a data frame."""

    def __init__(self, values: Any, columns: list[str]) -> None:
        self._values, self.columns = values, columns

    def to_numpy(self) -> Any:
        return self._values


def test_tables_of_any_kind_are_read_alike() -> None:
    wanted = fit_graph(chain(), names=NAMES, seed=0).edge_probabilities()
    for data, options in (
        (Table(chain(), list(NAMES)), {}),
        (torch.from_numpy(chain()), {"names": NAMES}),
        (chain().tolist(), {"names": list(NAMES)}),
        (chain().astype(object), {"names": NAMES}),
    ):
        found = fit_graph(data, seed=0, **options)  # type: ignore[arg-type]
        assert found.data.names == NAMES
        torch.testing.assert_close(found.edge_probabilities(), wanted)


def test_a_pandas_frame_names_the_nodes() -> None:
    pandas = pytest.importorskip("pandas")
    found = fit_graph(pandas.DataFrame(chain(), columns=NAMES), seed=0)
    assert found.data.names == NAMES


# ---------------------------------------------------------------- reports
def test_the_summary_and_the_figure(posterior: GraphPosterior) -> None:
    summary = posterior.summary()
    row = next(row for row in summary.edges if (row.source, row.target) == ("rain", "crop"))
    assert abs(row.probability - float(posterior.edge_probabilities()[0, 1])) < 1e-12
    assert abs(row.weight - 0.8) < 2 * row.sd < 0.6
    graphs, p = listed(posterior)
    best = graphs[p.argmax()]
    assert torch.equal(summary.graphs[0].edges, best)
    assert abs(summary.graphs[0].probability - float(p.max())) < 1e-9
    text = str(posterior)
    assert "rain -> crop" in text
    assert "150 rows of 4 columns, centred and divided by their standard deviations" in text
    figure = posterior.plot()
    assert len(figure.axes) >= 3
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == list(NAMES)


def test_exports(posterior: GraphPosterior) -> None:
    graph = posterior.sample(3, seed=0).to_networkx()[0]
    assert list(graph.nodes) == list(NAMES)
    draws = posterior.sample(3, seed=0)
    for i, j, w in graph.edges(data="weight"):
        assert w == float(draws.weights[0, NAMES.index(i), NAMES.index(j)])
    assert graph.number_of_edges() == int(draws.edges[0].sum())
    pytest.importorskip("arviz")
    data = posterior.to_arviz(50, seed=0)
    assert tuple(data["posterior"]["edge"].shape) == (1, 50, 4, 4)
    assert math.isclose(data.attrs["log_evidence"], posterior.evidence().log_z)


def test_effects_sum_over_paths() -> None:
    """Two ways from 0 to 3, of products 2 x 3 and 5 x 7."""
    w = torch.zeros(1, 4, 4, dtype=torch.float64)
    w[0, 0, 1], w[0, 1, 3], w[0, 0, 2], w[0, 2, 3] = 2.0, 3.0, 5.0, 7.0
    draws = GraphDraws(w != 0, w, NAMES)
    torch.testing.assert_close(draws.effects[0, 0], torch.tensor([0.0, 2.0, 5.0, 41.0]).double())


# ---------------------------------------------------------------- the door
def with_bad_cell(value: Any) -> Any:
    data = chain().astype(object)
    data[7, 2] = value
    return data


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "shape": (
        lambda: fit_graph(np.zeros(5)),
        r"data \[N, d\] of at least 2 rows and 2 columns, got shape \[5\]",
    ),
    "one column": (lambda: fit_graph(np.zeros((5, 1))), r"2 columns, got shape \[5, 1\]"),
    "nan": (lambda: fit_graph(with_bad_cell(math.nan), names=NAMES), "are nan at row 7, column 'price'"),
    "text": (
        lambda: fit_graph(with_bad_cell("high"), names=NAMES),
        "column 'price' holds values that are no num",
    ),
    "constant": (lambda: fit_graph(np.ones((5, 2)) * [1, 3]), "column 'x0' is constant"),
    "names": (lambda: fit_graph(chain(), names=["a", "a", "b", "c"]), "names must be 4 different ones"),
    "two names": (lambda: fit_graph(Table(chain(), list(NAMES)), names=NAMES), "names its own columns"),
    "likelihood": (
        lambda: fit_graph(chain(), likelihood="bic"),
        "must be one of bge, linear_gaussian, student_t, laplace, got 'bic'",
    ),
    "noise": (lambda: fit_graph(chain(), likelihood="linear_gaussian"), "pass noise_variance="),
    "noise of bge": (
        lambda: fit_graph(chain(), noise_variance=1.0),
        "noise_variance belongs to the likelihood 'linear_gaussian'",
    ),
    "negative": (
        lambda: fit_graph(chain(), likelihood="linear_gaussian", noise_variance=-1.0),
        "variances must be positive",
    ),
    "prior of a flow": (
        lambda: fit_graph(chain(), likelihood="laplace", prior="fair"),
        "priors uniform and erdos",
    ),
    "exact laplace": (lambda: fit_graph(chain(), likelihood="laplace", method="exact"), "has no closed form"),
    "weights of bge": (lambda: fit_graph(chain(), weight_variance=2.0), "leave weight_variance out"),
    "prior": (lambda: fit_graph(chain(), prior="flat"), "prior must be one of uniform"),
    "edges": (lambda: fit_graph(chain(), edges_per_node=1.0), "belongs to the prior 'erdos_renyi'"),
    "method": (lambda: fit_graph(chain(), method="mcmc"), "method must be one of auto, exact, flow"),
    "exact steps": (lambda: fit_graph(chain(), method="exact", steps=5), "method='exact' trains nothing"),
    "too many": (
        lambda: fit_graph(np.random.default_rng(0).normal(size=(30, 13)), method="exact"),
        "exact up to 12 nodes",
    ),
    "column": (
        lambda: fit_graph(chain(), names=NAMES, forbidden=[("rain", "snow")]),
        "forbidden names the column 'snow', and the data have rain, crop, price, wage",
    ),
    "number": (lambda: fit_graph(chain(), required=[(0, 4)]), "required names the column 4"),
    "pair": (lambda: fit_graph(chain(), names=NAMES, required=["rain"]), "give each edge as a pair"),
    "cycle": (lambda: fit_graph(chain(), required=[(0, 1), (1, 0)]), "required edges form a cycle"),
    "mask": (
        lambda: fit_graph(chain(), interventions=np.zeros((3, 4))),
        "shape of the data, .150, 4., got .3, 4.",
    ),
    "mask of twos": (lambda: fit_graph(chain(), interventions=2 * np.ones((150, 4))), "must be 0 or 1"),
    "entries": (lambda: fit_graph(chain(), interventions=[None] * 9), "has 9 entries for 150 rows"),
    "entry": (lambda: fit_graph(chain(), interventions=["x9"] * 150), "interventions names the column 'x9'"),
    "pool": (lambda: fit_graph(chain(), pool=1), "pool must be a whole number of at least 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case: str) -> None:
    build, message = BAD[case]
    with pytest.raises(InvalidInput, match=message):
        build()


def test_bad_questions_are_refused(posterior: GraphPosterior) -> None:
    cycle = np.zeros((4, 4))
    cycle[0, 1] = cycle[1, 2] = cycle[2, 0] = 1
    with pytest.raises(InvalidInput, match="graph 0 has a cycle or breaks a constraint"):
        posterior.log_prob(cycle)
    with pytest.raises(InvalidInput, match="be 0 where there is no edge"):
        posterior.log_prob(np.zeros((4, 4)), np.ones((4, 4)))
    with pytest.raises(InvalidInput, match=r"graph must have shape \[4, 4\]"):
        posterior.log_prob(np.zeros((3, 3)))
    with pytest.raises(InvalidInput, match="cause and effect are the same column, 'crop'"):
        posterior.effects("crop", 1)
    with pytest.raises(InvalidInput, match="effect names the column 'snow'"):
        posterior.effects("crop", "snow")
    with pytest.raises(InvalidInput, match="n must be a whole number"):
        posterior.sample(0)


def test_doubts_are_said() -> None:
    with pytest.warns(CtsgfnWarning, match="column 'wage' has variance .*, less than the noise variance 4"):
        fit_graph(
            chain()[:, [2, 3]], names=["price", "wage"], likelihood="linear_gaussian", noise_variance=4.0
        )
    with pytest.warns(CtsgfnWarning, match="column 'x1' was set in every row"):
        fit_graph(chain()[:, :2], interventions=["x1"] * 150)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_graph(chain()[:, [0, 3]], likelihood="linear_gaussian", noise_variance=1.0)
    assert ctsgfn.fit_graph is fit_graph
