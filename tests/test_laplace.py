"""Normal approximations of the parameters of models: exact where they should be, and near elsewhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ctsgfn.acyclic import Acyclic
from ctsgfn.errors import InvalidInput
from ctsgfn.graph_evidence import GraphEvidence
from ctsgfn.laplace import Factored, Laplace, differentiable
from ctsgfn.measures import Counting
from ctsgfn.normal_fits import Normals, normals
from ctsgfn.target import as_target
from ctsgfn.targets import (
    JointGraphs,
    LaplaceNoise,
    LinearGaussianGraphs,
    NormalNoise,
    StudentNoise,
    linear_gaussian_network,
)
from ctsgfn.with_parameters import Parameterised, WithParameters

NODES = 4


@pytest.fixture(scope="module")
def marginal() -> LinearGaussianGraphs:
    return linear_gaussian_network(NODES, 60, seed=2)


def effective(target: JointGraphs, x: Tensor, fit: Normals, draws: int = 1000) -> tuple[Tensor, Tensor]:
    """Log-evidence of each node of graphs by importance sampling from the normals, and the ESS of that."""
    part, d = target.parts(x).flatten(0, 1), target.blocks
    live, block = target.block_live(part), torch.arange(d).repeat(len(x))
    noise = torch.randn(draws, len(part), fit.loc.shape[-1], dtype=torch.float64) * live
    loc, tril = fit.loc.flatten(0, 1), fit.scale_tril.flatten(0, 1)
    theta = (loc + torch.einsum("rij,krj->kri", tril, noise)) * live
    log_scale = tril.diagonal(dim1=1, dim2=2).log() + 0.5 * math.log(2 * math.pi)
    log_q = -(0.5 * noise.square() + log_scale * live).sum(-1)
    w = torch.stack([target.log_block(block, part, t) for t in theta]) - log_q
    ess = (2 * w.logsumexp(0) - (2 * w).logsumexp(0)).exp() / draws
    return (w.logsumexp(0) - math.log(draws)).reshape(len(x), d), ess.reshape(len(x), d)


# ------------------------------------------------------------------ where it is exact
@pytest.mark.parametrize("factored", [True, False])
def test_linear_gaussian_evidence_and_law_are_exact(marginal: LinearGaussianGraphs, factored: bool) -> None:
    joint = JointGraphs(marginal.data)
    target: Any = joint if factored else as_target(joint.log_density, joint.measure)
    assert isinstance(target, Factored) == factored
    x = Acyclic(NODES).all()[::9]
    fit = Laplace(target)(x)
    torch.testing.assert_close(fit.log_evidence.sum(-1), marginal.log_density(x), atol=1e-8, rtol=0.0)
    assert not bool(fit.share.any()), "an exact law needs no wider one"
    means, covariances = marginal.weights(x)
    loc = fit.loc.reshape(len(x), NODES, NODES).transpose(1, 2)
    torch.testing.assert_close(loc, means, atol=1e-8, rtol=0.0)
    if factored:
        dead = torch.diag_embed((~x.transpose(1, 2)).double())
        covariance = fit.scale_tril @ fit.scale_tril.transpose(2, 3)
        torch.testing.assert_close(covariance, covariances + dead, atol=1e-8, rtol=0.0)


def test_each_set_of_parents_is_solved_once(marginal: LinearGaussianGraphs) -> None:
    """543 graphs ask for 32 approximations; asked again, the answers are the same to the bit."""
    laplace = Laplace(JointGraphs(marginal.data))
    x = Acyclic(NODES).all()
    whole = laplace.log_evidence(x)
    assert len(laplace._known.loc) == NODES * 2 ** (NODES - 1)
    assert torch.equal(laplace.log_evidence(x.flip(0)).flip(0), whole)
    bits = torch.cat([Laplace(JointGraphs(marginal.data)).log_evidence(some) for some in x.split(100)])
    torch.testing.assert_close(bits, whole, atol=1e-9, rtol=0.0)


def test_changes_are_differences_of_evidence(marginal: LinearGaussianGraphs) -> None:
    target = GraphEvidence(Laplace(JointGraphs(marginal.data)))
    assert GraphEvidence.serves(target.target)
    x = Acyclic(NODES).all()[::20]
    off = ~torch.eye(NODES, dtype=torch.bool)
    torch.testing.assert_close(target.changes(x)[:, off], marginal.changes(x)[:, off], atol=1e-8, rtol=0.0)


def test_losses_undo_changes(marginal: LinearGaussianGraphs) -> None:
    """What an edge adds is what it takes when it goes; where there is none, nothing is lost."""
    target = GraphEvidence(Laplace(JointGraphs(marginal.data)))
    x = Acyclic(NODES).all()[::40]
    losses = target.losses(x)
    assert not bool(losses[~x].any())
    for row, i, j in x.nonzero().tolist():
        without = x[row : row + 1].clone()
        without[0, i, j] = False
        assert float(losses[row, i, j]) == pytest.approx(-float(target.changes(without)[0, i, j]), abs=1e-9)


# ------------------------------------------------------------------ where it is not
@pytest.mark.parametrize(
    "noise",
    [NormalNoise(), StudentNoise(0.3), StudentNoise(), LaplaceNoise(0.3), LaplaceNoise()],
    ids=["normal of unknown scale", "student", "student of unknown scale", "laplace", "laplace of unknown"],
)
def test_other_noise_is_met_closely(marginal: LinearGaussianGraphs, noise: Any) -> None:
    """Draws of the normals stand for the posterior of a node with an ESS above 0.4; the evidence is near."""
    target = JointGraphs(marginal.data, noise=noise)
    x = Acyclic(NODES).all()[5::60]
    torch.manual_seed(0)
    fit = Laplace(target)(x)
    log_evidence, ess = effective(target, x, fit)
    assert float(ess.min()) > 0.4
    assert bool((fit.share > 0).any()), "these laws are not normal"
    assert float((log_evidence - fit.log_evidence).abs().max()) < 0.3


def test_a_kink_is_no_curvature() -> None:
    """The Hessian of -10 |theta| is 0 off the kink; the normal law is still as wide as the density."""
    fit = normals(lambda rows, t: -10 * t.abs().sum(-1) - 0.5 * t.square().sum(-1), torch.ones(3, 1) > 0)
    assert bool((fit.scale_tril > 0.05).all())
    assert bool((fit.scale_tril < 0.2).all())
    assert bool((fit.loc.abs() < 0.05).all())


def test_no_live_parameter_and_dead_ones() -> None:
    live = torch.tensor([[False, False], [True, False]])
    fit = normals(lambda rows, t: 3.0 - (t.square() * live[rows]).sum(-1), live)
    assert fit.loc.abs().max() < 1e-8
    assert fit.scale_tril[0].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    expected = torch.tensor([3.0, 3.0 + 0.5 * math.log(math.pi)], dtype=torch.float64)
    torch.testing.assert_close(fit.log_evidence, expected, atol=1e-8, rtol=0.0)


def test_where_log_r_is_not_finite_the_law_is_standard() -> None:
    def density(rows: Tensor, t: Tensor) -> Tensor:
        return torch.where(rows == 0, -math.inf, -t.square().sum(-1))

    fit = normals(density, torch.ones(2, 1, dtype=torch.bool))
    assert fit.loc.abs().max() < 1e-6
    torch.testing.assert_close(fit.scale_tril.flatten(), torch.tensor([1.0, 0.5]).sqrt().double())
    assert bool(fit.log_evidence.isfinite().all())


# ------------------------------------------------------------------ refusals
def test_refusals() -> None:
    def first(m: Tensor) -> Tensor:
        return torch.arange(2) < m

    with pytest.raises(InvalidInput, match="WithParameters"):
        Laplace(as_target(lambda x: x.double().sum(-1), Counting(3)))
    measure = WithParameters(Counting(3), 2, first)
    flat: Any = as_target(lambda x: -x.theta.detach().square().sum(-1), measure)
    x = Parameterised(torch.tensor([[1]]), torch.ones(1, 2))
    assert not differentiable(flat, x.model)
    assert differentiable(as_target(lambda x: -x.theta.square().sum(-1), measure), x.model)
    assert flat.log_density(x).tolist() == [-2.0]
