"""Laws of blocks with equal copies and linear parts: identities, densities, evidences, and what fit makes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ctsgfn
from ctsgfn.mixture_fit import Mixture, expectation_maximisation
from ctsgfn.nested_fits import NestedFits
from ctsgfn.symmetric_mixture import SymmetricMixture, fit_symmetric
from ctsgfn.targets import HiddenLayer, JointGraphs, Linear, NormalNoise, StudentNoise

D = 3


def curved(nodes: int = 2, rows: int = 30, seed: int = 0) -> Tensor:
    """Rows [N, nodes] in which node 1 is a bent function of node 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, nodes, generator=generator, dtype=torch.float64)
    x[:, 1] = x[:, 0].tanh() + 0.3 * x[:, 1]
    return x


def some_blocks(target: JointGraphs, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes, parents, and standard normal parameters, 0 where they are dead."""
    block = torch.arange(n) % target.blocks
    part = (torch.rand(n, target.blocks) < 0.5) & ~torch.eye(target.blocks, dtype=torch.bool)[block]
    live = target.block_live(part)
    return block, part, torch.randn(live.shape, dtype=torch.float64) * live


def quadrature(target: JointGraphs, parent: bool) -> float:
    """Evidence of node 1 of two under known noise: the intercept and the weight of one unit on a grid."""
    fits = NestedFits(target)
    block, part = torch.tensor([1]), torch.tensor([[parent, False]])
    if not parent:
        return float(fits.log_outer(block, part, torch.zeros(1, 5, dtype=torch.float64)))
    grid = torch.linspace(-6, 6, 241, dtype=torch.float64)
    w, a = torch.meshgrid(grid, grid, indexing="ij")
    theta = torch.zeros(grid.numel() ** 2, 5, dtype=torch.float64)
    theta[:, 0], theta[:, 2] = w.flatten(), a.flatten()
    n = len(theta)
    value = fits.log_outer(block.expand(n), part.expand(n, -1), theta)
    return float(value.logsumexp(0)) + 2 * math.log(float(grid[1] - grid[0]))


# ------------------------------------------------------------------ identities
@pytest.mark.parametrize("units", [1, 2, 3])
def test_copies_leave_the_density_alone_and_are_a_group(units: int) -> None:
    torch.manual_seed(0)
    target = JointGraphs(torch.randn(7, D), HiddenLayer(units), NormalNoise())
    index, sign = target.copies
    assert len(torch.cat([index, sign], 1).unique(dim=0)) == len(index) == 2**units * math.factorial(units)
    block, part, theta = some_blocks(target, 40)
    value = target.log_block(block, part, theta)
    for i, s in zip(index, sign, strict=True):
        torch.testing.assert_close(target.log_block(block, part, theta[:, i] * s), value)
    found = {tuple(torch.cat(pair).tolist()) for pair in zip(index, sign, strict=True)}
    after = {
        tuple(torch.cat([i[j], s[j] * t]).tolist())
        for i, s in zip(index, sign, strict=True)
        for j, t in zip(index, sign, strict=True)
    }
    assert after == found


@pytest.mark.parametrize("noise", [NormalNoise(0.4), NormalNoise()], ids=["known", "unknown"])
def test_inner_law_is_that_given_the_rest(noise: NormalNoise) -> None:
    """Log r - log N(u; mu, precision) does not depend on u, and is the log of the integral over u."""
    torch.manual_seed(0)
    data = torch.randn(8, D, dtype=torch.float64)
    target = JointGraphs(
        data, HiddenLayer(2), noise, weight_variance=1.7, interventions=torch.rand(8, D) < 0.3, row_weight=1.5
    )
    fits = NestedFits(target)
    block, part, theta = some_blocks(target, 30)
    outer = fits.log_outer(block, part, theta)
    live = target.block_live(part)[:, target.inner]
    for _ in range(3):
        u = torch.randn(live.shape, dtype=torch.float64) * live
        at = theta.clone()
        at[:, target.inner] = u
        mean, factor = target.inner_law(block, part, at)
        away = (factor.transpose(1, 2) @ (u - mean)[..., None]).squeeze(-1)
        scale = (factor.diagonal(dim1=1, dim2=2).log() - 0.5 * math.log(2 * math.pi)) * live
        log_normal = scale.sum(-1) - 0.5 * away.square().sum(-1)
        torch.testing.assert_close(target.log_block(block, part, at) - log_normal, outer)


def test_only_blocks_with_copies_are_served() -> None:
    data = torch.randn(9, D)
    assert NestedFits.serves(JointGraphs(data, HiddenLayer()))
    assert NestedFits.serves(JointGraphs(data, HiddenLayer(), StudentNoise()))
    assert not NestedFits.serves(JointGraphs(data, Linear()))
    assert not NestedFits.serves(ctsgfn.targets.SpikeAndSlab(data, data[:, 0]))


# ------------------------------------------------------------------ the mixture
def swapped() -> SymmetricMixture:
    """Two components in the plane, the order and the signs of whose axes do not matter."""
    mixture = Mixture(
        torch.tensor([0.3, 0.7]),
        torch.tensor([[2.0, -1.0], [0.2, 0.5]]),
        torch.tensor([[[0.5, 0.0], [0.2, 0.4]], [[1.0, 0.0], [-0.5, 0.6]]]),
    )
    index = torch.tensor([[0, 1], [0, 1], [0, 1], [0, 1], [1, 0], [1, 0], [1, 0], [1, 0]])
    sign = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(2, 1)
    return SymmetricMixture(mixture, index, sign, torch.tensor([2.0, 2.0]))


def test_symmetric_mixture_integrates_to_one_is_invariant_and_draws_from_itself() -> None:
    torch.manual_seed(0)
    law = swapped()
    grid = torch.linspace(-12, 12, 601)
    plane = torch.cartesian_prod(grid, grid)
    log_q = law.log_prob(plane)
    cell = float(grid[1] - grid[0]) ** 2
    assert float(log_q.exp().sum()) * cell == pytest.approx(1.0, abs=1e-4)
    for image in law.images(plane[::997]):
        torch.testing.assert_close(law.log_prob(image), log_q[::997])
    x = law.draw(200_000)  # every moment below within 4.5 standard errors
    for name, f in {"square": lambda v: v.square(), "fourth": lambda v: v**4, "mean": lambda v: v}.items():
        exact = (f(plane) * log_q.exp()[:, None]).sum(0) * cell
        error = f(x).std(0) / math.sqrt(len(x))
        assert bool(((f(x).mean(0) - exact).abs() < 4.5 * error + 1e-3).all()), name


def test_folded_points_are_copies_that_the_mixture_has() -> None:
    """Of points of one component and their images, the copies near it come back."""
    torch.manual_seed(0)
    law = swapped()
    one = Mixture(torch.ones(1), law.mixture.mean[:1], 0.1 * law.mixture.tril[:1])
    law = SymmetricMixture(one, law.index, law.sign, law.wide)
    x = law.draw(500)
    near = law.folded(x)
    assert bool((law.images(x) == near).all(-1).any(0).all())
    inside = (near - one.mean[0]).norm(dim=-1) < 0.5
    assert float(inside.double().mean()) > 0.9  # but for the wide normal's


def test_weights_of_expectation_maximisation_count_points() -> None:
    """A weight of 2 is a point twice; without shrinkage that means anything, of many points."""
    torch.manual_seed(0)
    x = torch.randn(400, 2, dtype=torch.float64)
    start = Mixture(torch.ones(1).double(), torch.zeros(1, 2).double(), torch.eye(2).double()[None])
    weight = torch.ones(400, dtype=torch.float64)
    weight[:100] = 2.0
    a = expectation_maximisation(x, start, 3, weight)
    b = expectation_maximisation(torch.cat([x, x[:100]]), start, 3)
    torch.testing.assert_close(a.mean, b.mean)
    torch.testing.assert_close(a.tril, b.tril)


def test_fit_finds_what_its_points_miss() -> None:
    """Points of one of two unequal modes; weights of the wide normal find the other."""
    torch.manual_seed(0)
    modes = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([0.7, 0.3]).double()),
        torch.distributions.Independent(
            torch.distributions.Normal(
                torch.tensor([[1.5, 1.5], [-1.5, 1.5]]).double(), torch.full((2, 2), 0.3).double()
            ),
            1,
        ),
    )
    points = 1.5 + 0.3 * torch.randn(200, 2, dtype=torch.float64)
    index, sign = torch.tensor([[0, 1]]), torch.ones(1, 2).double()
    found = fit_symmetric(modes.log_prob, points, index, sign, torch.full((2,), 1.5).double())
    assert found.ess > 0.8
    assert abs(found.log_z) < 0.05


# ------------------------------------------------------------------ fits
def test_evidence_and_law_against_quadrature() -> None:
    """The estimate, and weights of draws of the whole law, bias of either being seen at 4.5 errors."""
    torch.manual_seed(0)
    target = JointGraphs(curved(), HiddenLayer(1), NormalNoise(0.3))
    fits = NestedFits(target)
    for parent in (True, False):
        exact = quadrature(target, parent)
        block, part = torch.tensor([1]), torch.tensor([[parent, False]])
        assert float(fits.log_evidence_of(block, part)) == pytest.approx(exact, abs=0.02)
        many = block.expand(4000), part.expand(4000, -1)
        theta = fits.draw(*many)
        assert not bool(theta[:, ~target.block_live(part)[0]].any())
        w = (target.log_block(*many, theta) - fits.log_prob(*many, theta) - exact).exp()
        assert abs(float(w.mean()) - 1) < 4.5 * float(w.std()) / math.sqrt(4000) + 1e-9
        assert float(w.mean() ** 2 / w.square().mean()) > 0.7


def test_a_block_gets_the_same_law_whenever_it_is_met() -> None:
    target = JointGraphs(curved(3), HiddenLayer(1), NormalNoise(0.3))
    block, part = torch.tensor([1, 2, 1]), torch.eye(3, dtype=torch.bool)[[0, 1, 2]]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    together = NestedFits(target).log_evidence_of(block, part)
    assert torch.equal(torch.get_rng_state(), before)
    alone = NestedFits(target)
    found = [alone.log_evidence_of(block[i : i + 1], part[i : i + 1]) for i in (2, 0, 1)]
    assert torch.equal(together, torch.cat([found[1], found[2], found[0]]))


def test_other_noise_has_no_inner_part_and_still_a_sound_law() -> None:
    torch.manual_seed(0)
    target = JointGraphs(curved(), HiddenLayer(1), StudentNoise(0.3))
    assert target.inner == []
    fits = NestedFits(target)
    block, part = torch.ones(4000, dtype=torch.long), torch.tensor([[True, False]]).expand(4000, -1)
    theta = fits.draw(block, part)
    w = (target.log_block(block, part, theta) - fits.log_prob(block, part, theta)).exp()
    log_z = float(fits.log_evidence_of(block[:1], part[:1]))
    assert float((w / math.exp(log_z)).mean()) == pytest.approx(1.0, abs=0.1)


# ------------------------------------------------------------------ fit
@pytest.fixture(scope="module")
def fitted() -> tuple[JointGraphs, Any]:
    target = JointGraphs(0.4 * curved(rows=10), HiddenLayer(1), NormalNoise(0.5))  # any of three graphs
    return target, ctsgfn.fit(target, steps=60, batch_size=64, seed=0, progress_bar=False)


def test_fit_of_networks_against_quadrature(fitted: tuple[JointGraphs, Any]) -> None:
    """Log Z and the probability of each graph of two nodes; a high ESS."""
    target, sampler = fitted
    mirrored = JointGraphs(target.data.flip(1), HiddenLayer(1), NormalNoise(0.5))
    of = {(j, p): quadrature(t, p) for j, t in ((1, target), (0, mirrored)) for p in (True, False)}
    each = torch.tensor([of[0, False] + of[1, False], of[0, False] + of[1, True], of[0, True] + of[1, False]])
    evidence = sampler.evidence(4096, seed=1)
    assert evidence.ess > 0.6
    assert evidence.reliable
    assert abs(evidence.log_z - float(each.logsumexp(0))) < 4 * evidence.stderr + 0.005
    draws = sampler.resample(4000, seed=2).model
    forth, back = (float(draws[:, i, j].double().mean()) for i, j in ((0, 1), (1, 0)))
    exact = each.softmax(0)
    assert forth == pytest.approx(float(exact[1]), abs=0.04)
    assert back == pytest.approx(float(exact[2]), abs=0.04)
    assert "fitted laws" in sampler.notes[0]


def test_a_saved_sampler_draws_the_same(fitted: tuple[JointGraphs, Any], tmp_path: Path) -> None:
    target, sampler = fitted
    sampler.save(tmp_path / "networks.pt")
    twin = ctsgfn.load(tmp_path / "networks.pt", target)
    a, b = twin.sample(50, seed=1), sampler.sample(50, seed=1)
    assert torch.equal(a.model, b.model)
    assert torch.equal(a.theta, b.theta)
