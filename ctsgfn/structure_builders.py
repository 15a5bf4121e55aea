"""Builders of structures, with and without parameters: from a target to a flow on the space it asks for.

Options are plain values and tensors, see ``ctsgfn.builders``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ctsgfn.acyclic import Acyclic
from ctsgfn.diffuse import diffuse
from ctsgfn.gflownet import GFlowNet, state_flow
from ctsgfn.graph_evidence import GraphEvidence
from ctsgfn.kernel import Kernel
from ctsgfn.kernels.heads.autoregressive import AutoregressiveMixture
from ctsgfn.kernels.heads.informed import changes_of, informed_backward, informed_kernel
from ctsgfn.kernels.heads.nested import NestedHead
from ctsgfn.kernels.heads.per_model import OneModel, PerModelHead
from ctsgfn.kernels.spaces.dag import dag, dag_kernels
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.kernels.spaces.parameter_kernels import laplace_head, with_parameters_kernels
from ctsgfn.kernels.spaces.subsets import subset_kernels, subsets
from ctsgfn.kernels.spaces.with_parameters import with_parameters
from ctsgfn.laplace import Factored, Laplace, differentiable
from ctsgfn.measures import Counting, Measure, Product
from ctsgfn.nested_fits import NestedFits
from ctsgfn.space import Space
from ctsgfn.subset_evidence import SubsetEvidence
from ctsgfn.subsets import LISTED, Subsets
from ctsgfn.target import HasChanges, Target, as_target
from ctsgfn.walks import arrivals
from ctsgfn.with_parameters import WithParameters

WIDE = 16
"""Most parameters of a block for which every model that is met gets a normal approximation."""

FLOOR = 0.005
"""Share of draws with a parameter from the floor of its mixture, to first order, of a model fitted alone."""


class Built(NamedTuple):
    """A flow, and the target in the coordinates of its space."""

    gfn: GFlowNet[Any]
    target: Target[Any]
    first: Built | None = None  # a smaller flow whose modules it shares, to be trained before it
    frozen: bool = False  # laws of parameters were fitted: the smaller flow is all that is trained


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
    return Built(assemble(space, kernels, options), target)


def build_with_parameters(target: Target[Any], options: Mapping[str, Any]) -> Built:
    """Structures, and parameters once they are complete: options hidden, and fits.

    Where a few models were fitted one by one (``ctsgfn.model_fits``), these fits are the laws of their
    parameters, and a flow of the models alone, on the evidences found, is to be trained.

    Where a block has equal copies of its parameters, as small networks do, mixtures are fitted to each block
    that is met (``ctsgfn.nested_fits``), and a flow of the graphs alone, on their evidences, is trained.

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
    if NestedFits.serves(target) and GraphEvidence.serves(target) and _most_live(target) <= WIDE:
        return _build_nested(target, options)
    blocks = target.blocks if isinstance(target, Factored) else 1
    some = inner.read(arrivals(inner, diffuse(inner.kappa), 4))
    wide = measure.live(some).sum(-1).max() if isinstance(measure.models, Subsets) else measure.size
    if int(wide) > WIDE * blocks or not differentiable(target, some):
        space = with_parameters(inner, measure.size, measure.live)
        kernels = with_parameters_kernels(space, inner, kernels, hidden=hidden)
        return Built(assemble(space, kernels, options), target)
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
    first = Built(assemble(inner, (forward, backward), options), evidence)
    return Built(assemble(space, kernels, options), target, first)


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
    floor = FLOOR / len(order)
    law = AutoregressiveMixture(len(order), 0, hidden=hidden, floor=floor, order=order, tril=tril)
    law = law.to(fit["location"])
    if "state" in fit:
        law.load_state_dict(fit["state"])
    return OneModel(law, live.nonzero().squeeze(-1), fit["location"], fit["scale"])


def _most_live(target: Any) -> int:
    """Most parameters that a node of a target on graphs can have."""
    graphs = target.measure.models
    parents = torch.zeros(1, graphs.nodes, dtype=torch.bool)
    parents[0, : graphs.nodes - 1 if graphs.max_parents is None else graphs.max_parents] = True
    return int(target.block_live(parents).sum())


def _build_nested(target: Target[Any], options: Mapping[str, Any]) -> Built:
    """Graphs, and the fitted laws of the parameters of their nodes."""
    measure, fits = target.measure, NestedFits(target)  # type: ignore[arg-type]
    assert isinstance(measure, WithParameters)
    evidence = GraphEvidence(fits)
    inner, kernels = structures(measure.models, evidence, options["hidden"])
    space = with_parameters(inner, measure.size, measure.live)
    head = NestedHead(fits, lambda s: inner.read(s.structure))
    whole = with_parameters_kernels(space, inner, kernels, head)
    first = Built(assemble(inner, kernels, options), evidence)
    return Built(assemble(space, whole, options), target, first, frozen=True)


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
    first = Built(assemble(inner, kernels, options), evidence)
    whole = with_parameters_kernels(space, inner, kernels, head)
    return Built(assemble(space, whole, options), target, first, frozen=True)


def assemble(space: Space[Any, Any], kernels: Kernels, options: Mapping[str, Any]) -> GFlowNet[Any]:
    """A flow of kernels on a space, with a flow of states where options ask for it."""
    flow = state_flow(space, hidden=options["hidden"]) if options["flow"] else None
    return GFlowNet(space, *kernels, log_flow=flow)
