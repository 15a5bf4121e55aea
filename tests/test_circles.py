"""Fitting on circles: every mode is found, by a warm-up, whatever the flow would have found alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ctsgfn
from ctsgfn.circle_clusters import Clusters
from ctsgfn.circle_warmup import warm_up_circles
from ctsgfn.circles import AUTOREGRESSIVE
from ctsgfn.kernels.heads.joint_von_mises import JointVonMises, spread
from ctsgfn.kernels.heads.von_mises import log_von_mises
from ctsgfn.measures import Haar, wrap
from ctsgfn.target import as_target

SHARE = torch.tensor([0.55, 0.25, 0.15, 0.05], dtype=torch.float64)


def modes(dim: int) -> Tensor:
    """Four places far from each other, [4, dim]."""
    return spread(4, dim).double()


def mixture(dim: int, concentration: float) -> Callable[[Tensor], Tensor]:
    """Normalised log-density of four unequal modes, so that log Z = 0."""

    def log_density(x: Tensor) -> Tensor:
        away = x[:, None] - modes(dim).to(x)
        each = log_von_mises(away, torch.full_like(away, concentration)).sum(-1)
        return (SHARE.log().to(x) + each).logsumexp(-1)

    return log_density


def shares(x: Tensor) -> Tensor:
    """Part of the points nearest to each mode, [4]."""
    nearest = wrap(x[:, None] - modes(x.shape[1]).to(x)).norm(dim=-1).argmin(-1)
    return torch.bincount(nearest, minlength=4).double() / len(x)


@pytest.mark.parametrize("dim", [2, 3, 5])
@pytest.mark.parametrize("concentration", [20.0, 300.0])
def test_the_warm_up_finds_unequal_modes(dim: int, concentration: float) -> None:
    """Within a fifth of their shares: 8,000 particles that descend from fewer."""
    torch.manual_seed(0)
    target = as_target(mixture(dim, concentration), Haar(dim))
    found = warm_up_circles(target, dim, like=torch.zeros(0)).points
    assert float((shares(found) / SHARE - 1).abs().max()) < 0.2


@pytest.mark.parametrize(("dim", "concentration"), [(2, 40.0), (5, 20.0)])
def test_fit_keeps_every_mode(dim: int, concentration: float) -> None:
    """On its own draws alone a flow had lost all modes but one or two; |z| < 4.9."""
    sampler = ctsgfn.fit(
        mixture(dim, concentration), measure=Haar(dim), steps=100, seed=0, progress_bar=False
    )
    evidence = sampler.evidence(seed=1)
    assert abs(evidence.log_z) < 4.9 * evidence.stderr
    assert evidence.ess > 0.9
    error = (SHARE * (1 - SHARE) / (4000 * evidence.ess)).sqrt()
    assert float(((shares(sampler.resample(4000, seed=2)) - SHARE) / error).abs().max()) < 4.9


def test_a_density_without_gradient_and_with_zeros() -> None:
    """Even on a square of side 2, nothing elsewhere but a floor."""

    def square(x: Tensor) -> Tensor:
        return torch.where((x.abs() < 1).all(-1), 0.0, -math.inf)

    target = as_target(square, Haar(2))
    found = warm_up_circles(target, 2, like=torch.zeros(0)).points
    assert bool((found.abs() < 1).all())
    sampler = ctsgfn.fit(square, measure=Haar(2), floor=-30.0, steps=100, seed=0, progress_bar=False)
    evidence = sampler.evidence(seed=1)
    assert abs(evidence.log_z - math.log(4)) < 4.9 * evidence.stderr


def wells(x: Tensor) -> Tensor:
    """Log-density of 3^d modes, a product."""
    return 2.5 * (3 * x).cos().sum(-1)


def coupled(x: Tensor) -> Tensor:
    """Log-density of a chain of angles with three wells each, which draw their neighbours along."""
    return 2.0 * (3 * x).cos().sum(-1) + 1.5 * (x[:, 1:] - x[:, :-1]).cos().sum(-1)


def coupled_log_z(dim: int, nodes: int = 720) -> float:
    """Its log Z by the transfer operator on a grid, exact to rounding for functions so smooth."""
    x, h = torch.arange(nodes, dtype=torch.float64) * 2 * math.pi / nodes, 2 * math.pi / nodes
    alone, pair = (2.0 * (3 * x).cos()).exp() * h, (1.5 * (x[:, None] - x).cos()).exp()
    message, log_z = alone, 0.0
    for _ in range(dim - 1):
        message = (pair @ message) * alone
        log_z, message = log_z + math.log(float(message.sum())), message / message.sum()
    return log_z


WELLS = math.log(2 * math.pi * float(torch.special.i0(torch.tensor(2.5))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("log_density", "dim", "log_z", "least"),
    [
        (wells, 5, 5 * WELLS, 0.9),
        (coupled, 10, coupled_log_z(10), 0.8),
        (coupled, 20, coupled_log_z(20), 0.3),
    ],
    ids=["wells 5", "coupled 10", "coupled 20"],
)
def test_modes_beyond_the_components_of_a_mixture(
    log_density: Callable[[Tensor], Tensor], dim: int, log_z: float, least: float
) -> None:
    """3^5 to 3^20 of them; a joint mixture had an ESS of 0 to 9 %; |z| < 4.9."""
    sampler = ctsgfn.fit(log_density, measure=Haar(dim), seed=0, progress_bar=False)
    assert sampler.notes[0].startswith(AUTOREGRESSIVE)
    evidence = sampler.evidence(seed=1)
    assert abs(evidence.log_z - log_z) < 4.9 * evidence.stderr
    assert evidence.ess > least


def test_clusters_are_where_the_points_are() -> None:
    torch.manual_seed(0)
    x = wrap(torch.tensor([[3.1, 0.0], [0.0, 2.0]]).repeat(500, 1) + 0.1 * torch.randn(1000, 2))
    found = Clusters.of(x, 2)
    centres = found.loc[found.loc[:, 1].argsort()]
    assert float(wrap(centres - torch.tensor([[3.1, 0.0], [0.0, 2.0]])).abs().max()) < 0.03
    assert float((found.concentration / 100).log().abs().max()) < 0.3  # 1 / 0.1^2
    law = JointVonMises.at(found)(torch.zeros(1000, 0), None, None)
    assert law.log_prob(x).mean().item() > -0.5 * 2 * (1 + math.log(2 * math.pi * 0.01)) - math.log(2) - 0.1
    with pytest.raises(ctsgfn.errors.InvalidInput, match="3 clusters need"):
        Clusters.of(x[:2], 3)
