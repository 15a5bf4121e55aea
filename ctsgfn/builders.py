"""Builders: from a target and plain options to a flow on the space that the target's measure asks for.

Only this file and ``ctsgfn.structure_builders`` know concrete spaces. Options are plain values and
tensors, so a saved sampler carries them and ``ctsgfn.load`` builds the same flow again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    SigmoidTransform,
    Transform,
)

from ctsgfn.acyclic import Acyclic
from ctsgfn.circle_clusters import Clusters
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernel import Head, Kernel
from ctsgfn.kernels.default import default_kernels
from ctsgfn.kernels.heads.autoregressive import AutoregressiveMixture
from ctsgfn.kernels.heads.autoregressive_von_mises import AutoregressiveVonMises
from ctsgfn.kernels.heads.first_step import FirstStep
from ctsgfn.kernels.heads.full_mixture import FullMixture
from ctsgfn.kernels.heads.joint_von_mises import JointVonMises
from ctsgfn.kernels.spaces.annealed import annealed, annealed_kernels
from ctsgfn.kernels.spaces.cells import cells, cells_kernels, listing, listing_kernels
from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels
from ctsgfn.kernels.spaces.time_grid import cosine_clock
from ctsgfn.kernels.spaces.torus import torus, torus_kernels
from ctsgfn.measures import Counting, Haar, Lebesgue, Measure, Product, sizes_of
from ctsgfn.mixture_fit import Mixture
from ctsgfn.networks import NoContext
from ctsgfn.space import Space
from ctsgfn.structure_builders import Built, assemble, build_structures, build_with_parameters
from ctsgfn.subsets import Subsets
from ctsgfn.target import Target, transformed
from ctsgfn.whitening import Whitening
from ctsgfn.with_parameters import WithParameters


def on_line(target: Target[Tensor]) -> Target[Tensor]:
    """A target on a half-line or a bounded box, carried to all of R^d: by the exponential, or by the sigmoid.

    Other measures are returned as they are.

    Example:
        >>> import torch
        >>> from ctsgfn.target import as_target
        >>> gamma = as_target(lambda x: (x.log() - x).sum(-1), Lebesgue(1, 0.0))
        >>> str(on_line(gamma).measure)
        'Lebesgue measure on R^1'
        >>> even = on_line(as_target(lambda x: 0 * x.sum(-1), Lebesgue(1, 2.0, 6.0)))
        >>> round(float(even.log_density(torch.zeros(1, 1)).exp()), 4)  # 4 s (1 - s) at s = 1/2
        1.0
    """
    measure = target.measure
    if not isinstance(measure, Lebesgue) or measure == Lebesgue(measure.dim):
        return target
    bent: Transform = ExpTransform()
    if measure.is_finite:
        bent, affine = SigmoidTransform(), AffineTransform(measure.low, measure.high - measure.low)
    elif math.isfinite(measure.low):
        affine = AffineTransform(measure.low, 1.0)
    else:
        affine = AffineTransform(measure.high, -1.0)
    return transformed(target, ComposeTransform([bent, affine]), Lebesgue(measure.dim))


def chain_clock(first: float, steps: int) -> list[float]:
    """Times of a chain: one step to ``first``, then ``steps`` that get shorter towards 1.

    Example:
        >>> chain_clock(0.5, 1)
        [0.0, 0.5, 1.0]
    """
    return [0.0, *(first + t for t in cosine_clock(steps, 1 - first, floor=0.02)[:-1]), 1.0]


def build_diffusion(target: Target[Tensor], options: Mapping[str, Any]) -> Built:
    """Whitened, time-sliced R^d.

    Options: dim, slices, clock (None for the default), sigma, hidden, layers, langevin, location and
    scale_tril of the whitening; mixture: None, or share, mean and tril of the normals that the first
    step starts from; and autoregressive: None or absent, or components, order, tril and (optional) floor of
    the head that takes the only step.
    """
    whitening = Whitening(options["location"], options["scale_tril"])
    inner = transformed(on_line(target), whitening, Lebesgue(options["dim"]))
    space = diffusion(options["dim"], options["slices"], options["sigma"], options["clock"])
    mixture, autoregressive = options["mixture"], options.get("autoregressive")
    forward, backward = diffusion_kernels(
        space, inner, hidden=options["hidden"], layers=options["layers"], langevin=options["langevin"]
    )
    if mixture is not None:
        first = FullMixture(Mixture(**mixture))
        if options["slices"] == 1:
            forward = Kernel(space.kappa, NoContext(), [first])
        else:
            later = forward.heads[0]
            assert isinstance(later, Head)
            forward = Kernel(space.kappa, forward.encoder, [FirstStep(first, later)])
    elif autoregressive is not None:
        size = {"hidden": options["hidden"], "layers": options["layers"]}
        only = AutoregressiveMixture(options["dim"], 0, **autoregressive, **size)
        forward = Kernel(space.kappa, NoContext(), [only])
    return Built(assemble(space, (forward, backward), options), inner)


def set_floor(gfn: GFlowNet[Any], options: dict[str, Any], share: float) -> None:
    """Give the mixture of each coordinate a floor, in the flow and in the options it is built again from."""
    head = gfn.forward_kernel.heads[0]
    assert isinstance(head, AutoregressiveMixture)
    head.floor = options["autoregressive"]["floor"] = share


def build_annealed(target: Target[Tensor], options: Mapping[str, Any]) -> Built:
    """Whitened R^d, annealed Langevin moves after a mixture of normals.

    Options: dim, moves, time, hidden, layers, location and scale_tril of the whitening; mixture: share, mean
    and tril of the normals; and wide: more dimensions than networks and normals can be trained in.
    """
    whitening = Whitening(options["location"], options["scale_tril"])
    inner = transformed(on_line(target), whitening, Lebesgue(options["dim"]))
    space = annealed(options["dim"], options["moves"], options["time"])
    first = FullMixture(Mixture(**options["mixture"])).requires_grad_(not options["wide"])
    size = {"hidden": options["hidden"], "layers": options["layers"], "networks": not options["wide"]}
    return Built(assemble(space, annealed_kernels(space, inner, first=first, **size), options), inner)


def build_torus(target: Target[Tensor], options: Mapping[str, Any]) -> Built:
    """Angles: options slices, hidden; and clusters or autoregressive, where a law of all takes the only step.

    They are None or absent: clusters, the share, loc and concentration that a mixture starts from, or
    autoregressive, the components and order of the law.
    """
    assert isinstance(target.measure, Haar)
    dim = target.measure.dim
    space, clusters, autoregressive = (
        torus(dim, options["slices"]),
        options.get("clusters"),
        options.get("autoregressive"),
    )
    if clusters is None and autoregressive is None:
        forward, backward = torus_kernels(space, hidden=options["hidden"])
        return Built(assemble(space, (forward, backward), options), target)
    only: Head
    if autoregressive is not None:
        only = AutoregressiveVonMises(dim, 0, **autoregressive, hidden=options["hidden"])
    else:
        only = JointVonMises.at(Clusters(**options["clusters"]))
    kernels = Kernel(space.kappa, NoContext(), [only]), diffuse(space.kappa_b)
    return Built(assemble(space, kernels, options), target)


def build_cells(target: Target[Tensor], options: Mapping[str, Any]) -> Built:
    """Coordinate after coordinate of a product of counting measures: option hidden."""
    space = cells(sizes_of(target.measure))
    return Built(assemble(space, cells_kernels(space, hidden=options["hidden"]), options), target)


def build_listed(target: Target[Tensor], options: Mapping[str, Any]) -> Built:
    """A table of all points, to be filled by ``ctsgfn.listed``."""
    space = listing(target.measure)
    return Built(assemble(space, listing_kernels(space), options), target)


def build_on(space: Space[Any, Any], options: Mapping[str, Any]) -> GFlowNet[Any]:
    """A flow with default kernels on a space that the caller made."""
    return assemble(space, default_kernels(space, hidden=options["hidden"]), options)


BUILDERS: dict[str, Callable[[Target[Any], Mapping[str, Any]], Built]] = {
    "diffusion": build_diffusion,
    "annealed": build_annealed,
    "torus": build_torus,
    "cells": build_cells,
    "listed": build_listed,
    "hypergrid": build_structures,
    "dag": build_structures,
    "subsets": build_structures,
    "with_parameters": build_with_parameters,
}


def choose(measure: Measure[Any]) -> str:
    """Name the builder for a measure.

    Raises:
        InvalidInput: when there is none.

    Example:
        >>> choose(Lebesgue(3)), choose(Haar(2)), choose(Counting(7))
        ('diffusion', 'torus', 'cells')
    """
    if isinstance(measure, WithParameters):
        choose_structures(measure.models)
        return "with_parameters"
    if isinstance(measure, Lebesgue):
        return "diffusion"
    if isinstance(measure, Haar):
        return "torus"
    if math.prod(sizes_of(measure)) > 1:
        return "cells"
    return choose_structures(measure)


def choose_structures(measure: Measure[Any]) -> str:
    """Name the builder for a measure on discrete structures.

    Raises:
        InvalidInput: when there is none.
    """
    if isinstance(measure, Acyclic):
        return "dag"
    if isinstance(measure, Subsets):
        return "subsets"
    parts = measure.parts if isinstance(measure, Product) else (measure,)
    if len(set(parts)) == 1 and isinstance(parts[0], Counting) and parts[0].size > 1:
        return "hypergrid"
    raise InvalidInput(
        f"fit has no default space for {measure}: pass space= or gfn= on points of this measure, or write "
        "the target against Lebesgue, Haar, Counting or a Product of Counting measures; a choice together "
        "with real numbers is ctsgfn.as_model_target(log_density, models=Counting(n), size=...)."
    )
