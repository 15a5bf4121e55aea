"""Builders: from a target and plain options to a flow on the space that the target's measure asks for.

The one file of ctsgfn, with ``api``, that knows concrete spaces. Options are plain values and tensors, so
a saved sampler carries them and ``ctsgfn.load`` builds the same flow again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.distributions.transforms import AffineTransform, ComposeTransform, ExpTransform, Transform

from ctsgfn.errors import InvalidInput
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.cube import cube, cube_kernels
from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.kernels.spaces.torus import torus, torus_kernels
from ctsgfn.measures import Counting, Haar, Lebesgue, Measure, Product
from ctsgfn.target import Target, transformed
from ctsgfn.whitening import Whitening

Built = tuple[GFlowNet[Any], Target[Any]]
"""A flow, and the target in the coordinates of its space."""


def on_line(target: Target[Tensor]) -> Target[Tensor]:
    """A target on a half-line (or its powers), carried to all of R^d by the exponential.

    Other measures are returned as they are.

    Example:
        >>> from ctsgfn.target import as_target
        >>> gamma = as_target(lambda x: (x.log() - x).sum(-1), Lebesgue(1, 0.0))
        >>> str(on_line(gamma).measure)
        'Lebesgue measure on R^1'
    """
    measure = target.measure
    if not isinstance(measure, Lebesgue) or measure.is_finite or measure == Lebesgue(measure.dim):
        return target
    above = math.isfinite(measure.low)
    affine = AffineTransform(measure.low, 1.0) if above else AffineTransform(measure.high, -1.0)
    return transformed(target, ComposeTransform([ExpTransform(), affine]), Lebesgue(measure.dim))


def build_diffusion(target: Target[Tensor], options: Mapping[str, Any]) -> Built:
    """Whitened, time-sliced R^d: options dim, slices, sigma, hidden, layers, langevin, and the whitening."""
    target = on_line(target)
    whitening = Whitening(options["location"], options["scale_tril"])
    inner = transformed(target, whitening, Lebesgue(options["dim"]))
    space = diffusion(options["dim"], options["slices"], options["sigma"])
    forward, backward = diffusion_kernels(
        space, inner, hidden=options["hidden"], layers=options["layers"], langevin=options["langevin"]
    )
    return GFlowNet(space, forward, backward), inner


def build_cube(target: Target[Tensor], options: Mapping[str, Any]) -> Built:
    """A bounded box, as the unit cube: options dim, hidden."""
    measure: Lebesgue = target.measure
    unit = Lebesgue(measure.dim, 0.0, 1.0)
    if measure != unit:
        scale: Transform = AffineTransform(measure.low, measure.high - measure.low)
        target = transformed(target, scale, unit)
    space = cube(measure.dim)
    forward, backward = cube_kernels(space, hidden=options["hidden"])
    return GFlowNet(space, forward, backward), target


def build_torus(target: Target[Tensor], options: Mapping[str, Any]) -> Built:
    """Angles: options steps, hidden."""
    space = torus(target.measure.dim, options["slices"])
    gfn = torus_kernels(space, hidden=options["hidden"])
    return gfn, target


def build_hypergrid(target: Target[Tensor], options: Mapping[str, Any]) -> Built:
    """Cells of a grid, or {0, .., n - 1}: options hidden."""
    parts: Any = target.measure.parts if isinstance(target.measure, Product) else (target.measure,)
    space = hypergrid(len(parts), parts[0].size)
    if not isinstance(target.measure, Product):
        space = replace(space, points=target.measure)
    return hypergrid_kernels(space, hidden=options["hidden"]), target


BUILDERS: dict[str, Callable[[Target[Any], Mapping[str, Any]], Built]] = {
    "diffusion": build_diffusion,
    "cube": build_cube,
    "torus": build_torus,
    "hypergrid": build_hypergrid,
}


def choose(measure: Measure[Any]) -> str:
    """Name the builder for a measure.

    Raises:
        InvalidInput: when there is none.

    Example:
        >>> choose(Lebesgue(3)), choose(Lebesgue(3, 0.0, 1.0)), choose(Haar(2)), choose(Counting(7))
        ('diffusion', 'cube', 'torus', 'hypergrid')
    """
    if isinstance(measure, Lebesgue):
        return "cube" if measure.is_finite else "diffusion"
    if isinstance(measure, Haar):
        return "torus"
    if isinstance(measure, Counting) and measure.size > 1:
        return "hypergrid"
    if (
        isinstance(measure, Product)
        and isinstance(measure.parts[0], Counting)
        and len(set(measure.parts)) == 1
    ):
        return choose(measure.parts[0])
    raise InvalidInput(
        f"fit has no default space for {measure}: pass gfn= (a GFlowNet on a space whose points have "
        "this measure), or write the target against Lebesgue, Haar, Counting or a power of a Counting measure."
    )


def anchored(built: Built, like: Tensor) -> Built:
    """Move a flow to the dtype and device of ``like``."""
    return built[0].to(like), built[1]
