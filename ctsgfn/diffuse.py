"""The kernel without parameters: even masses, uniform or standard normal coordinates.

It is the exploration policy of every space, the fixed backward kernel of most, and what the
validator walks with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ctsgfn.distributions import Independent, MaskedCategorical, Point, StandardNormal, UniformBox
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head, Kernel
from ctsgfn.measures import Atom, Counting, Haar, Lebesgue, Measure, Product
from ctsgfn.networks import NoContext
from ctsgfn.reference import ReferenceKernel
from ctsgfn.states import S


class Diffuse(Head):
    """Uniform where the base is finite, standard normal on R^k, even over live atoms.

    Raises:
        InvalidInput: on a half-line, or a measure that is no coordinate measure.

    Example:
        >>> head = Diffuse(Lebesgue(2, 0.0, 1.0))
        >>> head(torch.zeros(3, 0), None, None).log_prob(torch.rand(3, 2)).tolist()
        [0.0, 0.0, 0.0]
    """

    def __init__(self, base: Measure[Tensor]) -> None:
        super().__init__()
        self.base = base
        one_sided = isinstance(base, Lebesgue) and not base.is_finite and base != Lebesgue(base.dim)
        if one_sided or not isinstance(base, Lebesgue | Counting | Atom | Haar | Product):
            raise InvalidInput(
                f"there is no diffuse law on {base}: give the branch a base of Lebesgue (bounded, or all "
                "of R^k), Haar, Counting, Atom or a Product of these."
            )

    def forward(self, context: Any, s: Any, live: Tensor | None) -> Distribution:
        """Return the law, the same at every state but for ``live``; context is a tensor, or a batch."""
        like = context if isinstance(context, Tensor) else next(iter(context.tensors().values()))
        return _law(self.base, like, live)


def _law(base: Measure[Tensor], context: Tensor, live: Tensor | None) -> Distribution:
    if isinstance(base, Counting):
        return MaskedCategorical(context.new_zeros(len(context), base.size), live)
    if isinstance(base, Haar):
        return UniformBox(context.new_zeros(len(context), base.dim), -torch.pi, torch.pi, live)
    if isinstance(base, Lebesgue):
        if base.is_finite:
            return UniformBox(context.new_zeros(len(context), base.dim), base.low, base.high, live)
        return StandardNormal(context, base.dim, live)
    if isinstance(base, Product):
        if live is not None:
            raise InvalidInput(f"a live mask on {base} is ambiguous: use one branch per factor.")
        return Independent([_law(part, context, None) for part in base.parts])
    return Point(context)


def diffuse(reference: ReferenceKernel[S]) -> Kernel[S]:
    """Return the diffuse kernel of a reference kernel: no parameters, full support."""
    return Kernel(reference, NoContext(), [Diffuse(branch.base) for branch in reference.branches])
