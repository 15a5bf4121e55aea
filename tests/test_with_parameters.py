"""Structures with parameters: the measure, the states, the untrained evidence of a joint graph posterior."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ctsgfn
from ctsgfn.acyclic import Acyclic, EdgeWeights
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput, NoSuchEdge
from ctsgfn.gflownet import GFlowNet
from ctsgfn.importance import Importance
from ctsgfn.kernels.heads.gaussian import GaussianStep
from ctsgfn.kernels.spaces.dag import dag, dag_kernels
from ctsgfn.kernels.spaces.parameter_kernels import GivenStructure, with_parameters_kernels
from ctsgfn.kernels.spaces.with_parameters import with_parameters
from ctsgfn.measures import Counting
from ctsgfn.networks import MLP, FeatureEncoder
from ctsgfn.states import Jump
from ctsgfn.target import as_target
from ctsgfn.targets import LinearGaussianGraphs
from ctsgfn.with_parameters import Parameterised, WithParameters

D = 3


def first(m: Tensor) -> Tensor:
    """Model m has its first m parameters."""
    return torch.arange(3) < m


def test_measure_is_a_value() -> None:
    assert WithParameters(Acyclic(3), 9, EdgeWeights(3)) == WithParameters(Acyclic(3), 9, EdgeWeights(3))
    assert WithParameters(Acyclic(3), 9, EdgeWeights(3)) != WithParameters(Acyclic(4), 9, EdgeWeights(3))
    assert hash(WithParameters(Counting(4), 3, first)) == hash(WithParameters(Counting(4), 3, first))
    with pytest.raises(InvalidInput, match="size"):
        WithParameters(Counting(4), 0, first)


def test_support_of_the_measure() -> None:
    measure = WithParameters(Counting(3), 3, first)
    models = torch.tensor([[0], [1], [1], [2], [7]])
    theta = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, math.inf, 0], [0, 0, 0]])
    assert measure.contains(Parameterised(models, theta)).tolist() == [True, True, False, False, False]


def test_dead_coordinates_are_zero_and_weigh_nothing() -> None:
    """Log-densities sum over live coordinates only: a head of nine axes at a graph with one edge is 1-d."""
    structure = dag(D)
    space = with_parameters(structure, D * D, EdgeWeights(D))
    head = GivenStructure(
        FeatureEncoder(structure.features, MLP(structure.width, 4), 4), GaussianStep(D * D, 4)
    )
    forward, _ = with_parameters_kernels(space, structure, dag_kernels(structure, hidden=8), head)
    edges = torch.zeros(2, D, D, dtype=torch.bool)
    edges[0, 0, 1] = True
    points = Parameterised(edges, torch.zeros(2, D * D))
    sealed = space.write(points)
    s = space.kappa_b.branches[-1].push(sealed, torch.zeros(2, 0))
    law = forward(s)
    log_density = law.log_density(Jump(sealed, torch.zeros(2, dtype=torch.bool)))
    expected = law.log_mass[:, 1] + torch.tensor([-0.5 * math.log(2 * math.pi), 0.0])
    torch.testing.assert_close(log_density, expected, atol=1e-6, rtol=0.0)
    t = forward(s).sample().target
    assert bool((t.theta[t.sealed].reshape(-1, D, D)[~t.structure.edges[t.sealed]] == 0).all())


def test_parameters_do_not_change_the_structure() -> None:
    space = with_parameters(dag(2), 4, EdgeWeights(2))
    graphs = Acyclic(2).all()
    sealed = space.write(Parameterised(graphs, torch.zeros(3, 4)))
    s = space.kappa_b.branches[-1].push(sealed, torch.zeros(3, 0))
    assert space.kappa.locate_move(s, sealed).tolist() == [1, 1, 1]
    with pytest.raises(NoSuchEdge):
        space.kappa.locate_move(s, sealed[torch.tensor([1, 2, 0])])


def few_rows() -> tuple[LinearGaussianGraphs, Any]:
    """The posterior of graphs of three nodes with four rows of data, without and with their weights."""
    generator = torch.Generator().manual_seed(0)
    data, variance = 0.8 * torch.randn(4, D, generator=generator, dtype=torch.float64), 1.0

    def log_density(x: Parameterised) -> Tensor:
        w = x.theta.reshape(-1, D, D).double()
        residual = data - torch.einsum("ni,bij->bnj", data, w)
        level = data.numel() * math.log(2 * math.pi * variance)
        fit = -0.5 * (residual.square().sum((1, 2)) / variance + level)
        return fit - 0.5 * ((w.square() + math.log(2 * math.pi)) * x.model.double()).sum((1, 2))

    measure = WithParameters(Acyclic(D), D * D, EdgeWeights(D))
    return LinearGaussianGraphs(data, noise_variance=variance), as_target(log_density, measure)


def test_untrained_evidence_of_graphs_and_weights() -> None:
    """E[r p_B / p_F] = Z for any kernels: weights and graphs of three nodes, |z| < 5 (false alarms 6e-7)."""
    marginal, target = few_rows()
    space = with_parameters(dag(D), D * D, EdgeWeights(D))
    gfn = GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b)).double()
    torch.manual_seed(0)
    ratio = (Importance(gfn, target).weigh(40_000)[1] - marginal.log_z).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert abs(float(ratio.mean()) - 1) / error < 5
    assert error < 0.05, "too few walks to see anything"


def test_fit_builds_the_structure_and_its_parameters(tmp_path: Path) -> None:
    """The measure alone says what to build; 120 steps bring log Z within 0.1; a file builds it again."""
    marginal, target = few_rows()
    sampler = ctsgfn.fit(target, steps=120, batch_size=128, seed=0, progress_bar=False)
    torch.manual_seed(1)
    log_weight = Importance(sampler.gfn, target).weigh(4096)[1]
    assert abs(float(log_weight.logsumexp(0)) - math.log(4096) - marginal.log_z) < 0.1
    sampler.save(tmp_path / "graphs.pt")
    twin = ctsgfn.load(tmp_path / "graphs.pt", target)
    same, again = sampler.sample(50, seed=2), twin.sample(50, seed=2)
    assert torch.equal(same.model, again.model)
    assert torch.equal(same.theta, again.theta)


def test_cells_may_have_parameters_too() -> None:
    """Three models with 0, 1 and 2 parameters: sampled in proportion to their evidence, within 0.03."""

    def log_density(x: Parameterised) -> Tensor:
        return -(0.5 * (x.theta - 1).square() + 0.25).mul(pair(x.model)).sum(-1)

    target = as_target(log_density, WithParameters(Counting(3), 2, pair))
    sampler = ctsgfn.fit(target, steps=150, batch_size=128, seed=0, progress_bar=False)
    share = torch.bincount(sampler.sample(20_000, seed=1).model[:, 0], minlength=3) / 20_000
    each = torch.arange(3) * (0.5 * math.log(2 * math.pi) - 0.25)
    torch.testing.assert_close(share, each.softmax(0), atol=0.03, rtol=0.0)


def pair(m: Tensor) -> Tensor:
    """Model m of {0, 1, 2} has its first m parameters."""
    return torch.arange(2) < m
