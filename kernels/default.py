"""Learned kernels for any space: one head per branch, chosen by the measure of its base."""

from __future__ import annotations

from typing import Any

from torch import nn

from ctsgfn.diffuse import Diffuse, diffuse
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head, Kernel
from ctsgfn.kernels.heads.beta import BetaMixture
from ctsgfn.kernels.heads.categorical import Categorical
from ctsgfn.kernels.heads.gaussian_mixture import GaussianMixture
from ctsgfn.kernels.heads.von_mises import VonMisesMixture
from ctsgfn.measures import Atom, Counting, Haar, Lebesgue, Measure
from ctsgfn.networks import MLP, FeatureEncoder, zero_init
from ctsgfn.reference import ReferenceKernel
from ctsgfn.space import Space


def default_kernels(
    space: Space[Any, Any],
    *,
    hidden: int = 64,
    layers: int = 2,
    components: int = 4,
    learned_backward: bool = True,
) -> tuple[Kernel[Any], Kernel[Any]]:
    """Mixtures of normals, Betas or von Mises and categoricals on the charts of a space, with a gate.

    Args:
        space: any space.
        hidden: width of each network.
        layers: hidden layers of each network.
        components: components of each mixture.
        learned_backward: learn the backward kernel; otherwise it has no parameters.

    Returns:
        The forward and the backward kernel.

    Raises:
        InvalidInput: when a branch has a base that no head is known for, or bounds other than [0, 1].

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid
        >>> forward, backward = default_kernels(hypergrid(2, 4), hidden=8)
        >>> [type(head).__name__ for head in forward.heads], forward.gate is None
        (['Categorical'], False)
    """

    def kernel(reference: ReferenceKernel[Any]) -> Kernel[Any]:
        encoder = FeatureEncoder(space.features, MLP(space.width, hidden, layers), hidden)
        heads = [
            _head(branch.base, hidden, components, f"branch {k} of {reference.name}")
            for k, branch in enumerate(reference.branches)
        ]
        gate = None if reference.forced else zero_init(nn.Linear(hidden, len(heads) + 1))
        return Kernel(reference, encoder, heads, gate)

    return kernel(space.kappa), kernel(space.kappa_b) if learned_backward else diffuse(space.kappa_b)


def _head(base: Measure[Any], width: int, components: int, where: str) -> Head:
    if isinstance(base, Atom):
        return Diffuse(base)
    if isinstance(base, Counting):
        return Categorical(base.size, width)
    if isinstance(base, Haar):
        return VonMisesMixture(base.dim, width, components)
    if isinstance(base, Lebesgue) and base == Lebesgue(base.dim):
        return GaussianMixture(base.dim, width, components)
    if isinstance(base, Lebesgue) and base == Lebesgue(base.dim, 0.0, 1.0):
        return BetaMixture(base.dim, components, width)
    raise InvalidInput(
        f"there is no default head for {base}, the base of {where}: build the kernels and pass gfn=, "
        "or use a base of R^d, [0, 1]^d, circles, Counting or Atom."
    )
