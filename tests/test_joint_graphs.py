"""Joint posteriors of graph and parameters: formulas, identities, and the known defects of other code.

The identities are those of Deleu et al. (2023), arXiv 2305.19366: with the exact law of the parameters,
log r(G, theta) - log p(theta | G) is the evidence of G at every theta, and its gradient in theta is 0.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import ctsgfn
from ctsgfn.acyclic import Acyclic
from ctsgfn.balance import balance
from ctsgfn.behaviours import on_policy
from ctsgfn.builders import BUILDERS
from ctsgfn.errors import InvalidInput
from ctsgfn.exact import explore
from ctsgfn.gflownet import GFlowNet
from ctsgfn.gradient import backpropagate
from ctsgfn.importance import Importance
from ctsgfn.kernels.spaces.dag import dag
from ctsgfn.kernels.spaces.parameter_kernels import SealedFlow, structure_kernel
from ctsgfn.laplace import Laplace
from ctsgfn.nested_fits import NestedFits
from ctsgfn.objectives import detailed_balance, log_partition_variance
from ctsgfn.states import Jump
from ctsgfn.targets import (
    Affine,
    BinaryNodes,
    HiddenLayer,
    JointGraphs,
    LaplaceNoise,
    Linear,
    LinearGaussianGraphs,
    NormalNoise,
    RandomRows,
    StudentNoise,
    linear_gaussian_network,
)
from ctsgfn.with_parameters import Parameterised

D = 3
OPTIONS = {"hidden": 16, "flow": False, "dtype": "float64"}
EMPTY = torch.zeros(1, D, D, dtype=torch.bool)
COMPLETE = torch.ones(1, D, D, dtype=torch.bool).triu(1)


@pytest.fixture(scope="module")
def marginal() -> LinearGaussianGraphs:
    return linear_gaussian_network(D, 30, seed=1)


def points(target: JointGraphs, n: int) -> Parameterised:
    """Graphs at random, with standard normal parameters where they have any."""
    x = target.measure.models.probe(n)[0]
    live = target.measure.live(x)
    return Parameterised(x, torch.randn(live.shape, dtype=torch.float64) * live)


NOISES: dict[str, tuple[Any, Any]] = {
    "normal": (NormalNoise(0.4), lambda scale: stats.norm(0, scale)),
    "student": (StudentNoise(0.4, freedom=4.0), lambda scale: stats.t(4.0, 0, scale)),
    "laplace": (LaplaceNoise(0.4), lambda scale: stats.laplace(0, scale)),
    "normal of unknown scale": (NormalNoise(), lambda scale: stats.norm(0, scale)),
    "student of unknown scale": (StudentNoise(freedom=4.0), lambda scale: stats.t(4.0, 0, scale)),
}


# ------------------------------------------------------------------ formulas
@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("edges_per_node", [None, 0.7])
def test_formula(name: str, edges_per_node: float | None) -> None:
    """Node by node and row by row in scipy; interventions leave their rows out of one factor alone."""
    noise, law = NOISES[name]
    torch.manual_seed(0)
    data = torch.randn(6, D, dtype=torch.float64)
    was_set = torch.rand(6, D) < 0.3
    target = JointGraphs(
        data, noise=noise, weight_variance=2.0, edges_per_node=edges_per_node, interventions=was_set
    )
    x = points(target, 8)
    for row, value in enumerate(target.log_density(x).tolist()):
        weights = target.weights(x.theta)[row].numpy()
        total = 0.0
        for j in range(D):
            parents = x.model[row, :, j].numpy()
            scale = noise.scale
            if scale is None:
                z = float(x.theta[row].reshape(D, -1)[j, -1])
                scale = math.exp(noise.log_centre + noise.log_spread * z)
                total += stats.norm.logpdf(z)
            residual = data[:, j].numpy() - data.numpy() @ weights[:, j]
            total += law(scale).logpdf(residual)[~was_set[:, j].numpy()].sum()
            total += stats.norm(0, math.sqrt(2.0)).logpdf(weights[parents, j]).sum()
            if edges_per_node is not None:
                total += stats.binom.logpmf(parents.sum(), D - 1, 2 * edges_per_node / (D - 1))
                total -= math.log(math.comb(D - 1, int(parents.sum())))
        assert value == pytest.approx(total, abs=1e-9)


def test_hidden_layer_formula() -> None:
    """Unit by unit in numpy; a node without parents is its intercept."""
    torch.manual_seed(0)
    target = JointGraphs(torch.randn(6, D, dtype=torch.float64), HiddenLayer(3), NormalNoise(0.5))
    x, data = points(target, 20), target.data.numpy()
    for row, value in enumerate(target.log_likelihood(x, target.data).sum(-1).tolist()):
        total = 0.0
        for j, theta in enumerate(x.theta[row].reshape(D, -1).numpy()):
            w, a, v, b = theta[:9].reshape(3, 3), theta[9:12], theta[12:15], theta[15]
            mean = np.full(len(data), b)
            if bool(x.model[row, :, j].any()):
                for u in range(3):
                    mean = mean + v[u] * np.tanh(a[u] + data @ w[u])
            total += stats.norm(mean, 0.5).logpdf(data[:, j]).sum()
        assert value == pytest.approx(total, abs=1e-9)
    with pytest.raises(InvalidInput, match="no one weight"):
        target.weights(x.theta)


def test_hidden_layer_sees_what_a_line_cannot() -> None:
    """A parabola: the evidence of its edge under the network is far above that under a line."""
    torch.manual_seed(1)
    x = torch.randn(60, 1)
    data = torch.cat([x, x.square() - 1 + 0.2 * torch.randn(60, 1)], 1).double()
    edge = torch.tensor([[[False, True], [False, False]]])
    line = float(Laplace(JointGraphs(data, Linear(), NormalNoise())).log_evidence(edge))
    network = float(NestedFits(JointGraphs(data, HiddenLayer(), NormalNoise())).log_evidence(edge))
    assert network > line + 20


@pytest.mark.parametrize("name", NOISES)
def test_batches_kinds_and_blocks(name: str) -> None:
    """Rows do not see each other, the dtype is that of theta, and blocks add up."""
    target = JointGraphs(torch.randn(9, D), noise=NOISES[name][0])
    x = points(target, 7)
    value = target.log_density(x)
    alone = torch.cat([target.log_density(x[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(alone, value)
    single = target.log_density(x.like(torch.zeros(0)))
    assert (single.dtype, value.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), value, rtol=1e-4, atol=1e-3)
    rows = target.log_likelihood(x, target.data)
    assert rows.shape == (7, 9)
    live = target.measure.live(x.model)
    prior = -((0.5 * x.theta.square() + 0.5 * math.log(2 * math.pi)) * live).sum(-1)
    torch.testing.assert_close(rows.sum(-1) + prior, value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["normal", "student", "laplace"])
def test_noise_draws_follow_the_law(name: str) -> None:
    """Kolmogorov-Smirnov, p > 1e-5 is the false-alarm rate."""
    noise, law = NOISES[name]
    draws = noise.draw((4000,), torch.Generator().manual_seed(0))
    assert stats.kstest(draws.numpy(), law(1.0).cdf).pvalue > 1e-5


def test_binary_nodes_formula() -> None:
    """Node by node and row by row in numpy, with an intercept at every node."""
    torch.manual_seed(0)
    data = (torch.rand(6, D) < 0.5).double()
    target = JointGraphs(data, Affine(), BinaryNodes(), weight_variance=2.0)
    x = points(target, 12)
    for row, value in enumerate(target.log_density(x).tolist()):
        total = 0.0
        for j, theta in enumerate(x.theta[row].reshape(D, -1).numpy()):
            parents = x.model[row, :, j].numpy()
            odds = data.numpy() @ (theta[:D] * parents) + theta[D]
            p = 1 / (1 + np.exp(-odds))
            total += stats.bernoulli(p).logpmf(data[:, j].numpy()).sum()
            total += stats.norm(0, math.sqrt(2.0)).logpdf(theta[:D][parents]).sum()
            total += stats.norm(0, math.sqrt(2.0)).logpdf(theta[D])
        assert value == pytest.approx(total, abs=1e-9)
    torch.testing.assert_close(target.weights(x.theta)[0], x.theta[0].reshape(D, -1)[:, :D].T)


def test_binary_evidence_against_quadrature() -> None:
    """Two nodes, three parameters: normal approximations within 0.05 nats of a grid."""
    generator = torch.Generator().manual_seed(3)
    a = (torch.rand(40, generator=generator) < 0.4).double()
    b = (torch.rand(40, generator=generator) < torch.where(a > 0, 0.8, 0.3)).double()
    target = JointGraphs(torch.stack([a, b], 1), Affine(), BinaryNodes())
    edge = torch.tensor([[[False, True], [False, False]]])
    grid = torch.linspace(-6, 6, 241, dtype=torch.float64)
    w, c = (v.flatten() for v in torch.meshgrid(grid, grid, indexing="ij"))
    zero = torch.zeros_like(w)
    first = torch.stack([zero[:241], zero[:241], grid], -1)
    second = torch.stack([w, zero, c], -1)
    parents = edge[0].T
    step = math.log(float(grid[1] - grid[0]))
    exact = [
        float(target.log_block(torch.full((len(v),), j), parents[j].expand(len(v), -1), v).logsumexp(0))
        + k * step
        for j, (v, k) in enumerate(((first, 1), (second, 2)))
    ]
    assert float(Laplace(target).log_evidence(edge)) == pytest.approx(sum(exact), abs=0.05)


def test_few_rows_estimate_without_bias() -> None:
    """Mean over 4000 draws of the rows, |z| < 5; all rows at once are the target; interventions go along."""
    torch.manual_seed(0)
    was_set = torch.rand(12, D) < 0.3
    target = JointGraphs(torch.randn(12, D, dtype=torch.float64), interventions=was_set)
    x = points(target, 5)
    draws = torch.stack([RandomRows(target, 4).log_density(x) for _ in range(4000)])
    z = (draws.mean(0) - target.log_density(x)) / (draws.std(0) / math.sqrt(4000))
    assert float(z.abs().max()) < 5
    assert float(draws.std(0).min()) > 0.1
    torch.testing.assert_close(RandomRows(target, 12).log_density(x), target.log_density(x))
    with pytest.raises(InvalidInput, match="between 1 and 12"):
        RandomRows(target, 13)


def test_few_rows_leave_the_gradient_unbiased() -> None:
    """Of the variance of log Z on given walks: mean over 200 draws of the rows, |z| < 5 for each network."""
    target = JointGraphs(torch.randn(30, D, dtype=torch.float64), noise=StudentNoise(0.4))
    torch.manual_seed(0)
    gfn = BUILDERS["with_parameters"](target, OPTIONS).gfn.double()
    walk = on_policy(gfn, 16)
    parameters = [p for p in gfn.parameters() if p.requires_grad]

    def gradient(of: Any) -> Tensor:
        for p in parameters:
            p.grad = None
        backpropagate(gfn, of, walk, log_partition_variance)
        return torch.stack([p.grad.sum() for p in parameters if p.grad is not None])

    exact = gradient(target)
    draws = torch.stack([gradient(RandomRows(target, 10)) for _ in range(200)])
    z = (draws.mean(0) - exact) / (draws.std(0) / math.sqrt(200)).clamp(min=1e-12)
    assert float(z.abs().max()) < 5


def test_scale_against_an_independent_formula(marginal: LinearGaussianGraphs) -> None:
    """Sign and scale of the score: the evidence of each node is a normal density of N dimensions."""
    data = marginal.data.numpy()
    for x in Acyclic(D).all()[::5]:
        total = 0.0
        for j in range(D):
            inputs = data[:, x[:, j].numpy()]
            covariance = 0.1 * np.eye(len(data)) + inputs @ inputs.T
            total += stats.multivariate_normal(np.zeros(len(data)), covariance).logpdf(data[:, j])
        assert float(marginal.log_density(x[None])) == pytest.approx(total, abs=1e-6)


def test_refusals() -> None:
    data = torch.randn(5, D)
    with pytest.raises(InvalidInput, match="d >= 2"):
        JointGraphs(data[:, :1])
    with pytest.raises(InvalidInput, match="row 2 of the data"):
        JointGraphs(data.index_fill(0, torch.tensor([2]), math.nan))
    with pytest.raises(InvalidInput, match="edges_per_node"):
        JointGraphs(data, edges_per_node=5.0)
    with pytest.raises(InvalidInput, match="interventions"):
        JointGraphs(data, interventions=torch.zeros(5, 2, dtype=torch.bool))
    with pytest.raises(InvalidInput, match="weight_variance"):
        JointGraphs(data, weight_variance=0.0)
    with pytest.raises(InvalidInput, match="3 columns"):
        JointGraphs(data, graphs=Acyclic(4))
    with pytest.raises(InvalidInput, match="at row 0, column 0, which BinaryNodes rules out"):
        JointGraphs(data, Affine(), BinaryNodes())
    with pytest.raises(InvalidInput, match="scales"):
        NormalNoise(-1.0)
    with pytest.raises(InvalidInput, match="freedom"):
        StudentNoise(1.0, freedom=0.0)


# ------------------------------------------------------------------ the flow that fit builds
def unsealed(gfn: Any, edges: Tensor) -> Any:
    space = gfn.space
    sealed = space.write(
        Parameterised(edges, torch.zeros(len(edges), space.points.size, dtype=torch.float64))
    )
    return space.kappa_b.branches[-1].push(sealed, torch.zeros(len(edges), 0))


def parameter_law(gfn: Any, edges: Tensor) -> Any:
    s = unsealed(gfn, edges)
    return gfn.forward_kernel.heads[-1](None, s, gfn.space.kappa.branches[-1].live(s))


def test_log_r_less_log_q_is_the_evidence_at_every_theta(marginal: LinearGaussianGraphs) -> None:
    """Untrained already; at random theta, on every graph; and its gradient in theta is 0."""
    target = JointGraphs(marginal.data)
    gfn = BUILDERS["with_parameters"](target, OPTIONS).gfn.double()
    x = Acyclic(D).all()
    live = target.measure.live(x)
    theta = (2 * torch.randn(live.shape, dtype=torch.float64) * live).requires_grad_()
    difference = target.log_density(Parameterised(x, theta)) - parameter_law(gfn, x).log_prob(theta)
    torch.testing.assert_close(difference, marginal.log_density(x), atol=1e-7, rtol=0.0)
    (gradient,) = torch.autograd.grad(difference.sum(), theta)
    assert float((gradient * live).abs().max()) < 1e-6


def test_empty_and_complete_graphs_give_finite_gradients(marginal: LinearGaussianGraphs) -> None:
    """No parameter at one end, no legal edge at the other: nothing is divided by 0, no softmax empty."""
    target = JointGraphs(marginal.data)
    gfn = BUILDERS["with_parameters"](target, OPTIONS).gfn.double()
    both = torch.cat([EMPTY, COMPLETE])
    s = unsealed(gfn, both)
    law = gfn.forward_kernel(s)
    assert law.log_mass[1].exp().tolist() == [0.0, 1.0, 0.0]  # only the parameters are left to draw
    t = gfn.space.write(Parameterised(both, parameter_law(gfn, both).sample()))
    log_density = law.log_density(Jump(t, torch.zeros(2, dtype=torch.bool)))
    torch.testing.assert_close(log_density[0], law.log_mass[0, 1])  # no coordinate: no density
    log_density.sum().backward()
    for name, p in gfn.forward_kernel.named_parameters():
        assert p.grad is None or bool(p.grad.isfinite().all()), name
    assert parameter_law(gfn, EMPTY).sample().abs().max() == 0.0


def test_every_part_of_the_policy_learns(marginal: LinearGaussianGraphs) -> None:
    """Batches full of empty graphs included: the head of the parameters and the encoder have gradients."""
    target = JointGraphs(marginal.data, noise=StudentNoise(0.4))
    torch.manual_seed(0)
    gfn = BUILDERS["with_parameters"](target, OPTIONS).gfn.double()
    backpropagate(gfn, target, on_policy(gfn, 64), log_partition_variance)
    for name, p in gfn.forward_kernel.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.isfinite().all()), name
    assert float(gfn.forward_kernel.heads[-1].head.moments.weight.grad.abs().sum()) > 0


def test_weights_do_not_depend_on_theta(marginal: LinearGaussianGraphs) -> None:
    """A walk keeps its importance weight when its parameters are replaced by any others."""
    target = JointGraphs(marginal.data)
    gfn = BUILDERS["with_parameters"](target, OPTIONS).gfn.double()
    torch.manual_seed(1)
    walk = on_policy(gfn, 100).forget()
    noise = torch.randn_like(walk.states.theta) * gfn.space.points.live(walk.states.structure.edges)
    theta = torch.where(walk.states.sealed[:, None], noise, 0.0)
    other = replace(walk, states=replace(walk.states, theta=theta))
    weights = [balance(gfn, target, w).log_weight.detach() for w in (walk, other)]
    torch.testing.assert_close(weights[0], weights[1], atol=1e-6, rtol=0.0)


def test_structures_and_joint_end_alike(marginal: LinearGaussianGraphs) -> None:
    """The law over graphs of the joint flow is that of the kernel of structures inside it: |z| < 5."""
    target = JointGraphs(marginal.data)
    torch.manual_seed(2)
    gfn = BUILDERS["with_parameters"](target, OPTIONS).gfn.double()
    graph = explore(dag(D))
    law = graph.terminating_law(structure_kernel(graph.space, gfn.forward_kernel)).exp()
    drawn = Importance(gfn, target).draw(20_000).model
    keys = {tuple(e.flatten().tolist()): k for k, e in enumerate(graph.states.edges)}
    count = torch.bincount(
        torch.tensor([keys[tuple(e.flatten().tolist())] for e in drawn]), minlength=len(law)
    )
    z = (count - 20_000 * law) / (20_000 * law * (1 - law)).clamp(min=1.0).sqrt()
    assert float(z.abs().max()) < 5


def test_constraints_and_many_nodes() -> None:
    """Forbidden edges are never drawn; with 13 nodes nothing is listed or probed on the way."""
    torch.manual_seed(4)
    target = JointGraphs(torch.randn(20, D), graphs=Acyclic(D, max_parents=1, forbidden=[(0, 1)]))
    built = BUILDERS["with_parameters"](target, OPTIONS)
    draws = Importance(built.gfn.double(), target).draw(300)
    assert not bool(draws.model[:, 0, 1].any())
    assert int(draws.model.sum(1).max()) == 1
    wide = JointGraphs(torch.randn(20, 13), graphs=Acyclic(13, max_parents=2))
    gfn = BUILDERS["with_parameters"](wide, OPTIONS).gfn.double()
    assert bool(Importance(gfn, wide).weigh(8)[1].isfinite().all())


# ------------------------------------------------------------------ modified detailed balance
def with_sealed_flow(target: JointGraphs) -> GFlowNet[Any]:
    """The untrained flow of ``fit``, with the flow of states that the terminal equation gives."""
    gfn = BUILDERS["with_parameters"](target, OPTIONS).gfn.double()
    forward = gfn.forward_kernel
    flow = SealedFlow(gfn.space, forward, target)
    return GFlowNet(gfn.space, forward, gfn.backward_kernel, flow).double()


def test_flow_of_the_terminal_equation(marginal: LinearGaussianGraphs) -> None:
    """With the exact law of theta, u(G) P(stop | G) is the evidence of G, and u(G, theta) is r."""
    target = JointGraphs(marginal.data)
    gfn = with_sealed_flow(target)
    x = Acyclic(D).all()
    s = unsealed(gfn, x)
    log_stop = gfn.forward_kernel(s).log_mass[:, 1]
    torch.testing.assert_close(gfn.log_flow(s) + log_stop, marginal.log_density(x), atol=1e-7, rtol=0.0)
    some = points(target, 9)
    torch.testing.assert_close(gfn.log_flow(gfn.space.write(some)), target.log_density(some))
    assert len(list(gfn.log_flow.parameters())) == 0


def test_modified_balance_is_zero_where_the_flow_balances(marginal: LinearGaussianGraphs) -> None:
    """Residuals of detailed balance with that flow are those of graphs alone, and 0 on edges that seal."""
    target = JointGraphs(marginal.data)
    gfn = with_sealed_flow(target)
    torch.manual_seed(3)
    walk = on_policy(gfn, 50)
    with torch.no_grad():
        b = balance(gfn, target, walk, wanted=detailed_balance.wanted)
    assert b.log_flow is not None
    residual = b.log_flow + b.log_forward - b.log_flow.roll(-1) - b.log_backward
    seals = ~walk.states.sealed & walk.states.sealed.roll(-1)
    assert float(residual[seals & ~b.source].abs().max()) < 1e-7
    inner = (~walk.states.sealed & ~seals & ~b.source).nonzero().squeeze(-1)
    graphs = walk.states.structure.edges
    stop = gfn.forward_kernel(walk.states[inner]).log_mass[:, 1]
    later = gfn.forward_kernel(walk.states[inner + 1]).log_mass[:, 1]
    change = marginal.log_density(graphs[inner]) - marginal.log_density(graphs[inner + 1])
    expected = change - stop + later + b.log_forward[inner] - b.log_backward[inner]
    torch.testing.assert_close(residual[inner], expected, atol=1e-7, rtol=0.0)


def test_modified_balance_trains_every_part(marginal: LinearGaussianGraphs) -> None:
    """The gradient is finite with empty graphs in the batch, and reaches the head of the parameters."""
    target = JointGraphs(marginal.data, noise=StudentNoise(0.4))
    gfn = with_sealed_flow(target)
    torch.manual_seed(0)
    walk = on_policy(gfn, 64)
    assert bool((~walk.states.structure.edges.flatten(1).any(-1)).any())
    backpropagate(gfn, target, walk, detailed_balance, wanted=detailed_balance.wanted)
    for name, p in gfn.forward_kernel.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.isfinite().all()), name


# ------------------------------------------------------------------ fit
@pytest.mark.slow
def test_fit_finds_the_joint_posterior(marginal: LinearGaussianGraphs) -> None:
    """Log Z, edges and weights: within 0.02, 0.02 and 0.05 of the closed form."""
    sampler = ctsgfn.fit(JointGraphs(marginal.data), steps=800, batch_size=128, seed=0, progress_bar=False)
    torch.manual_seed(1)
    draws, log_weight = Importance(sampler.gfn, sampler.target).weigh(20_000)
    assert abs(float(log_weight.logsumexp(0)) - math.log(20_000) - marginal.log_z) < 0.02
    weight = log_weight.softmax(0)
    edges = torch.einsum("n,nij->ij", weight, draws.model.double())
    torch.testing.assert_close(edges, marginal.edge_probabilities(), atol=0.02, rtol=0.0)
    graphs = marginal.measure.all()
    mean = torch.einsum("g,gij->ij", marginal.log_density(graphs).softmax(0), marginal.weights(graphs)[0])
    weights = torch.einsum("n,nij->ij", weight, sampler.target.weights(draws.theta).double())
    torch.testing.assert_close(weights, mean, atol=0.05, rtol=0.0)
