"""One line per space, head, target and objective: each inherits the whole conformance suite."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctsgfn import targets
from ctsgfn.acyclic import Acyclic
from ctsgfn.exact import explore
from ctsgfn.gflownet import GFlowNet, state_flow
from ctsgfn.kernel import Head
from ctsgfn.kernels.heads.autoregressive import AutoregressiveMixture
from ctsgfn.kernels.heads.autoregressive_von_mises import AutoregressiveVonMises
from ctsgfn.kernels.heads.beta import BetaMixture
from ctsgfn.kernels.heads.block_normal import BlockNormalHead
from ctsgfn.kernels.heads.categorical import Categorical
from ctsgfn.kernels.heads.encoders import Steered
from ctsgfn.kernels.heads.flows import spline_flow
from ctsgfn.kernels.heads.gaussian import GaussianStep, LangevinStep, Widened
from ctsgfn.kernels.heads.gaussian_mixture import GaussianMixture
from ctsgfn.kernels.heads.joint_von_mises import JointVonMises
from ctsgfn.kernels.heads.tempered import Tempered
from ctsgfn.kernels.heads.von_mises import VonMisesMixture
from ctsgfn.kernels.spaces.annealed import annealed, annealed_kernels
from ctsgfn.kernels.spaces.box import box, box_kernels
from ctsgfn.kernels.spaces.cells import cells, cells_kernels
from ctsgfn.kernels.spaces.cube import cube, cube_kernels
from ctsgfn.kernels.spaces.dag import dag, dag_kernels
from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels, ornstein_uhlenbeck
from ctsgfn.kernels.spaces.finite import Vertex, finite, rewards, tabular_kernels
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.kernels.spaces.parameter_kernels import with_parameters_kernels
from ctsgfn.kernels.spaces.subsets import subset_kernels, subsets
from ctsgfn.kernels.spaces.torus import torus, torus_kernels
from ctsgfn.kernels.spaces.with_parameters import with_parameters
from ctsgfn.normal_fits import Normals
from ctsgfn.space import Space
from ctsgfn.target import Density, Target, as_target


# ---------------------------------------------------------------- spaces
@dataclass(frozen=True)
class SpaceCase:
    """A space, its default learned kernels (small), and a target on it whose log Z is known."""

    space: Callable[[], Space[Any, Any]]
    kernels: Callable[[Space[Any, Any]], GFlowNet[Any]]
    target: Callable[[Space[Any, Any]], Target[Any]]
    log_z: Callable[[Space[Any, Any]], float]


def ramp(space: Space[Any, Tensor]) -> Density[Tensor]:
    """On cells: log r = half the sum of the coordinates."""
    return as_target(lambda x: 0.5 * x.sum(-1).to(torch.get_default_dtype()), space.points)


def sparse(space: Space[Any, Tensor]) -> Density[Tensor]:
    """On graphs: log r = -0.7 times the number of edges, and 1 more with the edge 0 -> 1."""
    return as_target(lambda x: x[:, 0, 1].double() - 0.7 * x.flatten(1).sum(-1).double(), space.points)


def log_sparse(space: Space[Any, Tensor]) -> float:
    """Log Z of ``sparse``, by listing the graphs."""
    return float(sparse(space).log_density(space.points.all()).logsumexp(0))  # type: ignore[attr-defined]


def small(space: Space[Any, Tensor]) -> Density[Tensor]:
    """On subsets: log r = -0.7 times the size, and 1 more with item 0."""
    return as_target(lambda x: x[:, 0].double() - 0.7 * x.sum(-1).double(), space.points)


def log_small(space: Space[Any, Tensor]) -> float:
    """Log Z of ``small``, by listing the subsets."""
    return float(small(space).log_density(space.points.all()).logsumexp(0))  # type: ignore[attr-defined]


def log_sum(space: Space[Any, Tensor], side: int, dim: int) -> float:
    """Log Z of ``ramp`` in closed form: the coordinates are independent."""
    del space
    return dim * float((0.5 * torch.arange(side, dtype=torch.float64)).logsumexp(0))


def ladder() -> Space[Vertex, Tensor]:
    """Seven vertices: paths of several lengths, a terminal state with children, one without."""
    edges = [(0, 1), (0, 2), (1, 3), (2, 3), (2, 4), (3, 5), (4, 5), (4, 6), (1, 6)]
    return finite(edges, terminal=[3, 5, 6])


def swirl(space: Space[Any, Tensor]) -> Density[Tensor]:
    """On angles: log r = 2 sum cos(angle - 1)."""
    return as_target(lambda x: 2.0 * (x - 1.0).cos().sum(-1), space.points)


def log_swirl(dim: int) -> float:
    """Log Z of ``swirl``: (2 pi I_0(2))^dim."""
    return dim * float((2 * torch.pi * torch.special.i0(torch.tensor(2.0, dtype=torch.float64))).log())


def bell(space: Space[Any, Tensor]) -> Density[Tensor]:
    """On R^d: log r = -|x - 1/2|^2."""
    return as_target(lambda x: -(x - 0.5).square().sum(-1), space.points)


def log_bell(dim: int) -> float:
    """Log Z of ``bell``: pi^(dim / 2)."""
    return 0.5 * dim * math.log(math.pi)


def hill(space: Space[Any, Tensor]) -> Density[Tensor]:
    """On the unit cube: log r = sum of the coordinates."""
    return as_target(lambda x: x.sum(-1), space.points)


def log_hill(dim: int) -> float:
    """Log Z of ``hill``: (e - 1)^dim."""
    return dim * math.log(math.e - 1)


def positive(cell: Tensor) -> Tensor:
    """On cells: a parameter for each axis along which the cell is not at 0."""
    return cell > 0


def off_diagonal(graph: Tensor) -> Tensor:
    """On graphs of two nodes: a parameter for each of the two edges."""
    return graph.flatten(1)[:, 1:3]


def shaded(space: Space[Any, Any]) -> Density[Any]:
    """On cells or graphs with parameters: log r = minus half of their number, less |theta - 1/2|^2 / 2."""

    def log_density(x: Any) -> Tensor:
        live = space.points.live(x.model)  # type: ignore[attr-defined]
        each = 0.5 * (x.theta - 0.5).square() + 0.5
        return -(each * live).sum(-1)

    return as_target(log_density, space.points)


def log_shaded(models: Tensor, live: Callable[[Tensor], Tensor]) -> float:
    """Log Z of ``shaded``: each model has (sqrt(2 pi / e))^k."""
    return float((live(models).sum(-1) * (0.5 * math.log(2 * math.pi) - 0.5)).double().logsumexp(0))


def parameterised(
    kernels: Callable[..., Any], structure: Space[Any, Any], space: Space[Any, Any], **options: Any
) -> GFlowNet[Any]:
    """Kernels of the structure, a small mixture for its parameters, and log u."""
    inner = kernels(structure, hidden=16, **options)
    pair = with_parameters_kernels(space, structure, inner, hidden=16, components=2)
    return GFlowNet(space, *pair, log_flow=state_flow(space, hidden=16))


def flow(kernels: Callable[..., Any], space: Space[Any, Any], **options: Any) -> GFlowNet[Any]:
    """The default kernels of a space, and a network for log u."""
    return GFlowNet(space, *kernels(space, **options), log_flow=state_flow(space, hidden=16))


def sliced(space: Space[Any, Tensor]) -> GFlowNet[Any]:
    """A time-sliced space with small learned kernels, a learned bridge, the score of ``bell`` and log u."""
    forward, backward = diffusion_kernels(space, bell(space), hidden=16, learned_backward=True)
    return GFlowNet(space, forward, backward, state_flow(space, hidden=16))


SPACES: dict[str, SpaceCase] = {
    "box": SpaceCase(
        space=lambda: box(0.3),
        kernels=lambda space: flow(box_kernels, space, hidden=16, layers=2, harmonics=2),
        target=hill,
        log_z=lambda space: log_hill(2),
    ),
    "cells": SpaceCase(
        space=lambda: cells((2, 3)),
        kernels=lambda space: flow(cells_kernels, space, hidden=16),
        target=ramp,
        log_z=lambda space: sum(log_sum(space, side, 1) for side in (2, 3)),
    ),
    "cube": SpaceCase(
        space=lambda: cube(2),
        kernels=lambda space: flow(cube_kernels, space, hidden=16, layers=2, harmonics=2),
        target=hill,
        log_z=lambda space: log_hill(2),
    ),
    "dag": SpaceCase(
        space=lambda: dag(3),
        kernels=lambda space: flow(dag_kernels, space, hidden=16, learned_backward=True),
        target=sparse,
        log_z=log_sparse,
    ),
    "constrained_dag": SpaceCase(
        space=lambda: dag(4, max_parents=1, forbidden=[(3, 0)], required=[(1, 2)]),
        kernels=lambda space: flow(dag_kernels, space, hidden=16, learned_backward=True),
        target=sparse,
        log_z=log_sparse,
    ),
    "diffusion": SpaceCase(
        space=lambda: diffusion(2, steps=4, sigma=1.5),
        kernels=sliced,
        target=bell,
        log_z=lambda space: log_bell(2),
    ),
    "ornstein_uhlenbeck": SpaceCase(
        space=lambda: ornstein_uhlenbeck(2, steps=4),
        kernels=sliced,
        target=bell,
        log_z=lambda space: log_bell(2),
    ),
    "annealed": SpaceCase(
        space=lambda: annealed(2, moves=3),
        kernels=lambda space: GFlowNet(
            space, *annealed_kernels(space, bell(space), hidden=16), state_flow(space, hidden=16)
        ),
        target=bell,
        log_z=lambda space: log_bell(2),
    ),
    "dag_with_parameters": SpaceCase(
        space=lambda: with_parameters(dag(2), 2, off_diagonal),
        kernels=lambda space: parameterised(dag_kernels, dag(2), space),
        target=shaded,
        log_z=lambda space: log_shaded(Acyclic(2).all(), off_diagonal),
    ),
    "grid_with_parameters": SpaceCase(
        space=lambda: with_parameters(hypergrid(2, 3), 2, positive),
        kernels=lambda space: parameterised(hypergrid_kernels, hypergrid(2, 3), space),
        target=shaded,
        log_z=lambda space: log_shaded(torch.cartesian_prod(torch.arange(3), torch.arange(3)), positive),
    ),
    "hypergrid": SpaceCase(
        space=lambda: hypergrid(2, 4),
        kernels=lambda space: flow(hypergrid_kernels, space, hidden=16),
        target=ramp,
        log_z=lambda space: log_sum(space, side=4, dim=2),
    ),
    "finite": SpaceCase(
        space=ladder,
        kernels=lambda space: tabular_kernels(explore(space)),
        target=lambda space: rewards(space, [0.0, 1.0, 2.0]),
        log_z=lambda space: math.log(1.0 + math.e + math.e**2),
    ),
    "subsets": SpaceCase(
        space=lambda: subsets(3, least=1, most=2),
        kernels=lambda space: flow(subset_kernels, space, hidden=16),
        target=small,
        log_z=log_small,
    ),
    "torus": SpaceCase(
        space=lambda: torus(dim=2, steps=4),
        kernels=lambda space: flow(torus_kernels, space, hidden=16, layers=2, components=3),
        target=swirl,
        log_z=lambda space: log_swirl(2),
    ),
}


# ---------------------------------------------------------------- heads
@dataclass(frozen=True)
class HeadCase:
    """How to build a head of context width ``width``, and what it may be asked.

    Args:
        build: context width -> head.
        live: whether it honours a live mask.
        states: n -> the n states to pass to it; None where it does not look at them.
    """

    build: Callable[[int], Head]
    live: bool = False
    states: Callable[[int], Any] = lambda n: None


def tilted_normals(s: Tensor) -> Normals:
    """The same correlated normal approximation for each of some states."""
    tril = torch.tensor([[0.5, 0.0], [0.7, 0.4]], dtype=torch.float64)
    loc = torch.tensor([1.0, -0.5], dtype=torch.float64)
    count = len(s)
    share = torch.full((count, 1), 0.2)
    return Normals(loc.expand(count, 1, 2), tril.expand(count, 1, 2, 2), torch.zeros(count, 1), share)


class Unpacked(Head):
    """A head on a steered context, asked with its hidden layer and its drift side by side."""

    def __init__(self, head: LangevinStep) -> None:
        super().__init__()
        self.base, self.head = head.base, head

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> Any:
        return self.head(Steered(context[:, :-2], context[:, -2:]), s, live)


HEADS: dict[str, HeadCase] = {
    "autoregressive": HeadCase(lambda width: AutoregressiveMixture(2, width, 3, hidden=16, order=[1, 0])),
    "defensive autoregressive": HeadCase(
        lambda width: AutoregressiveMixture(2, width, 3, hidden=16, share=0.1, floor=0.1)
    ),
    "beta": HeadCase(lambda width: BetaMixture(2, components=3, width=width)),
    "block_normal": HeadCase(lambda width: BlockNormalHead(1, 2, width), live=True),
    "block_normal_near": HeadCase(
        lambda width: BlockNormalHead(1, 2, width, tilted_normals), live=True, states=torch.zeros
    ),
    "categorical": HeadCase(lambda width: Categorical(5, width), live=True),
    "autoregressive_von_mises": HeadCase(
        lambda width: AutoregressiveVonMises(2, width, 3, hidden=16, order=[1, 0])
    ),
    "joint_von_mises": HeadCase(lambda width: JointVonMises(2, width, components=3), live=True),
    "von_mises": HeadCase(lambda width: VonMisesMixture(2, width, components=3), live=True),
    "gaussian_mixture": HeadCase(lambda width: GaussianMixture(2, width, components=3), live=True),
    "gaussian_step": HeadCase(lambda width: GaussianStep(2, width), live=True),
    "langevin_step": HeadCase(lambda width: Unpacked(LangevinStep(GaussianStep(2, width - 2))), live=True),
    "widened": HeadCase(lambda width: Widened(GaussianStep(2, width), 1.5), live=True),
    "tempered_normal": HeadCase(lambda width: Tempered(GaussianStep(2, width), 2.0), live=True),
    "tempered_categorical": HeadCase(lambda width: Tempered(Categorical(5, width), 0.5), live=True),
    "spline_flow": HeadCase(lambda width: spline_flow(1, width, transforms=2, hidden=16)),
}

UNEVEN = torch.tensor([0.2, 0.6])

# ---------------------------------------------------------------- targets: name -> constructor
TARGETS: dict[str, Callable[[], Any]] = {
    "banana": targets.Banana,
    "double_well": lambda: targets.ManyWell(2),
    "easy_funnel": targets.easy_funnel,
    "forty_gaussians": targets.forty_gaussians,
    "four_squares": targets.FourSquares,
    "funnel_plane": lambda: targets.Funnel(2, 9.0),
    "gaussians_3d": lambda: targets.GaussianGrid(side=2, dim=3, spacing=3.0),
    "hard_funnel": targets.hard_funnel,
    "hypergrid": targets.HypergridReward,
    "hypergrid_4d": lambda: targets.HypergridReward(4, 6, r0=0.01),
    "linear_gaussian": targets.linear_gaussian_toy,
    "linear_gaussian_plane": lambda: targets.linear_gaussian_toy(2, seed=1),
    "many_well": lambda: targets.ManyWell(32),
    "nine_gaussians": targets.nine_gaussians,
    "ring": targets.Ring,
    "ring_without_hole": lambda: targets.Ring(0.4, 1.0),
    "student_mixture": targets.StudentMixture,
    "torus_six_modes": targets.TorusSixModes,
    "twenty_five_gaussians": targets.twenty_five_gaussians,
    "uneven_gaussians": lambda: targets.GaussianMixture(torch.tensor([[0.0, 1], [4, -2]]), 0.8, UNEVEN),
    "von_mises_product": targets.VonMisesProduct,
}
