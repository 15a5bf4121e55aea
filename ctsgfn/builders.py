"""Builders: from a target and plain options to a flow on the space that the target's measure asks for.

The one file of ctsgfn that knows concrete spaces. Options are plain values and tensors, so a saved
sampler carries them and ``ctsgfn.load`` builds the same flow again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions.transforms import AffineTransform, ComposeTransform, ExpTransform, Transform

from ctsgfn.acyclic import Acyclic
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput
from ctsgfn.gflownet import GFlowNet, state_flow
from ctsgfn.graph_evidence import GraphEvidence
from ctsgfn.kernel import Head, Kernel
from ctsgfn.kernels.default import default_kernels
from ctsgfn.kernels.heads.autoregressive import AutoregressiveMixture
from ctsgfn.kernels.heads.first_step import FirstStep
from ctsgfn.kernels.heads.full_mixture import FullMixture
from ctsgfn.kernels.heads.informed import changes_of, informed_backward, informed_kernel
from ctsgfn.kernels.heads.per_model import OneModel, PerModelHead
from ctsgfn.kernels.heads.straying import straying
from ctsgfn.kernels.spaces.annealed import annealed, annealed_kernels
from ctsgfn.kernels.spaces.cube import cube, cube_kernels
from ctsgfn.kernels.spaces.dag import dag, dag_kernels
from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.kernels.spaces.parameter_kernels import laplace_head, with_parameters_kernels
from ctsgfn.kernels.spaces.subsets import subset_kernels, subsets
from ctsgfn.kernels.spaces.time_grid import cosine_clock
from ctsgfn.kernels.spaces.torus import torus, torus_kernels
from ctsgfn.kernels.spaces.with_parameters import with_parameters
from ctsgfn.laplace import Factored, Laplace, differentiable
from ctsgfn.measures import Counting, Haar, Lebesgue, Measure, Product
from ctsgfn.mixture_fit import Mixture
from ctsgfn.networks import NoContext
from ctsgfn.space import Space
from ctsgfn.subset_evidence import SubsetEvidence
from ctsgfn.subsets import LISTED, Subsets
from ctsgfn.target import HasChanges, Target, as_target, transformed
from ctsgfn.walks import arrivals
from ctsgfn.whitening import Whitening
from ctsgfn.with_parameters import WithParameters

WIDE = 16
"""Most parameters of a block for which every model that is met gets a normal approximation."""

SHARE = 0.003
"""Share of the wide law of each parameter of a model that was fitted alone."""


class Built(NamedTuple):
    """A flow, and the target in the coordinates of its space."""

    gfn: GFlowNet[Any]
    target: Target[Any]
    first: Built | None = None  # a smaller flow whose modules it shares, to be trained before it


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
    step starts from; and autoregressive: None or absent, or components, order and tril of the head that
    takes the only step.
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
    return Built(_assemble(space, (forward, backward), options), inner)


def strayed(gfn: GFlowNet[Any]) -> Kernel[Any]:
    """The forward kernel of a flow that draws coordinate by coordinate, with one that strays: to explore."""
    return straying(gfn.forward_kernel)


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
    return Built(_assemble(space, annealed_kernels(space, inner, first=first, **size), options), inner)


def build_cube(target: Target[Tensor], options: Mapping[str, Any]) -> Built:
    """A bounded box, as the unit cube: option hidden."""
    measure = target.measure
    assert isinstance(measure, Lebesgue)
    unit = Lebesgue(measure.dim, 0.0, 1.0)
    if measure != unit:
        scale: Transform = AffineTransform(measure.low, measure.high - measure.low)
        target = transformed(target, scale, unit)
    space = cube(measure.dim)
    return Built(_assemble(space, cube_kernels(space, hidden=options["hidden"]), options), target)


def build_torus(target: Target[Tensor], options: Mapping[str, Any]) -> Built:
    """Angles: options slices, hidden."""
    assert isinstance(target.measure, Haar)
    space = torus(target.measure.dim, options["slices"])
    return Built(_assemble(space, torus_kernels(space, hidden=options["hidden"]), options), target)


Kernels = tuple[Kernel[Any], Kernel[Any]]
"""A forward and a backward kernel."""


def structures(measure: Measure[Any], target: Target[Any], hidden: int) -> tuple[Space[Any, Any], Kernels]:
    """A space of discrete structures on a measure, and kernels for a target on them.

    The target may be on structures with parameters; where it has ``changes``, it is climbed from the start.
    """
    if isinstance(measure, Acyclic):
        graphs = dag(
            measure.nodes,
            max_parents=measure.max_parents,
            forbidden=measure.forbidden,
            required=measure.required,
        )
        return graphs, dag_kernels(graphs, target, hidden=max(128, hidden))
    if isinstance(measure, Subsets):
        sets = subsets(measure.items, measure.least, measure.most)
        return sets, subset_kernels(sets, target, hidden=max(128, hidden))
    parts = measure.parts if isinstance(measure, Product) else (measure,)
    side = parts[0]
    assert isinstance(side, Counting)
    cells = hypergrid(len(parts), side.size)
    if not isinstance(measure, Product):
        cells = replace(cells, points=measure)
    return cells, hypergrid_kernels(cells, hidden=hidden)


def build_structures(target: Target[Any], options: Mapping[str, Any]) -> Built:
    """Graphs edge by edge, subsets item by item, cells of a grid, or {0, .., n - 1}: option hidden."""
    space, kernels = structures(target.measure, target, options["hidden"])
    return Built(_assemble(space, kernels, options), target)


def build_with_parameters(target: Target[Any], options: Mapping[str, Any]) -> Built:
    """Structures, and parameters once they are complete: options hidden, and fits.

    Where a few models were fitted one by one (``ctsgfn.model_fits``), these fits are the laws of their
    parameters, and a flow of the models alone, on the evidences found, is to be trained.

    Where the target has a gradient, the parameters are drawn near normal approximations that are found for
    each model (``laplace``); structures that grow by one choice at a time climb the evidence that these
    give, and a flow of the structures alone, on that evidence, is to be trained first. Models with many
    parameters in a block would take too long to approximate, and are not.
    """
    measure, hidden = target.measure, options["hidden"]
    assert isinstance(measure, WithParameters)
    inner, kernels = structures(measure.models, target, hidden)
    if options.get("fits") is not None:
        return _build_fitted(target, options)
    blocks = target.blocks if isinstance(target, Factored) else 1
    some = inner.read(arrivals(inner, diffuse(inner.kappa), 4))
    wide = measure.live(some).sum(-1).max() if isinstance(measure.models, Subsets) else measure.size
    if int(wide) > WIDE * blocks or not differentiable(target, some):
        space = with_parameters(inner, measure.size, measure.live)
        kernels = with_parameters_kernels(space, inner, kernels, hidden=hidden)
        return Built(_assemble(space, kernels, options), target)
    laplace = Laplace(target)
    width, evidence = max(128, hidden), _evidence(laplace)
    inner, (forward, backward) = structures(measure.models, evidence, hidden)
    if not isinstance(evidence, HasChanges) and len(inner.kappa.branches) == 1:
        forward = informed_kernel(inner, changes_of(inner, laplace.log_evidence), hidden=width)
        missed = changes_of(inner, laplace.log_evidence, inner.kappa_b)
        backward = informed_backward(inner, missed, hidden=width)
    space = with_parameters(inner, measure.size, measure.live)
    head = laplace_head(laplace, inner, hidden=hidden)
    kernels = with_parameters_kernels(space, inner, (forward, backward), head)
    first = Built(_assemble(inner, (forward, backward), options), evidence)
    return Built(_assemble(space, kernels, options), target, first)


def _evidence(laplace: Laplace) -> Target[Any]:
    """The approximate evidence of models as a target; of many items, with estimates of what each changes."""
    target, models = laplace.target, laplace.measure.models
    if GraphEvidence.serves(target):
        return GraphEvidence(laplace)
    if isinstance(models, Subsets) and models.items > LISTED and SubsetEvidence.serves(target):
        return SubsetEvidence(laplace)
    return as_target(laplace.log_evidence, models)


def one_law(fit: Mapping[str, Any], live: Tensor, hidden: int) -> OneModel:
    """The law of one model's parameters, from the options that ``ctsgfn.model_fits`` found."""
    order, tril = fit["order"], fit["tril"]
    law = AutoregressiveMixture(len(order), 0, hidden=hidden, share=SHARE, order=order, tril=tril)
    law = law.to(fit["location"])
    if "state" in fit:
        law.load_state_dict(fit["state"])
    return OneModel(law, live.nonzero().squeeze(-1), fit["location"], fit["scale"])


def _build_fitted(target: Target[Any], options: Mapping[str, Any]) -> Built:
    """A list of models, and a fitted law of the parameters of each."""
    measure, fits, hidden = target.measure, options["fits"], options["hidden"]
    assert isinstance(measure, WithParameters)
    inner, kernels = structures(measure.models, target, hidden)
    space = with_parameters(inner, measure.size, measure.live)
    live = measure.live(torch.arange(len(fits))[:, None])
    laws = [
        one_law(fit, some, hidden) if "order" in fit else None for fit, some in zip(fits, live, strict=True)
    ]
    head = PerModelHead(measure.size, laws, lambda s: inner.read(s.structure)[:, 0])
    log_z = torch.tensor([fit["log_z"] for fit in fits])
    evidence = as_target(lambda m: log_z.to(m.device)[m[:, 0]], measure.models)
    first = Built(_assemble(inner, kernels, options), evidence)
    whole = with_parameters_kernels(space, inner, kernels, head)
    return Built(_assemble(space, whole, options), target, first)


def build_on(space: Space[Any, Any], options: Mapping[str, Any]) -> GFlowNet[Any]:
    """A flow with default kernels on a space that the caller made."""
    return _assemble(space, default_kernels(space, hidden=options["hidden"]), options)


def _assemble(space: Space[Any, Any], kernels: Kernels, options: Mapping[str, Any]) -> GFlowNet[Any]:
    flow = state_flow(space, hidden=options["hidden"]) if options["flow"] else None
    return GFlowNet(space, *kernels, log_flow=flow)


BUILDERS: dict[str, Callable[[Target[Any], Mapping[str, Any]], Built]] = {
    "diffusion": build_diffusion,
    "annealed": build_annealed,
    "cube": build_cube,
    "torus": build_torus,
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
        >>> choose(Lebesgue(3)), choose(Lebesgue(3, 0.0, 1.0)), choose(Haar(2)), choose(Counting(7))
        ('diffusion', 'cube', 'torus', 'hypergrid')
    """
    if isinstance(measure, WithParameters):
        choose_structures(measure.models)
        return "with_parameters"
    if isinstance(measure, Lebesgue):
        return "cube" if measure.is_finite else "diffusion"
    if isinstance(measure, Haar):
        return "torus"
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
        "the target against Lebesgue, Haar, Counting or a power of a Counting measure."
    )
