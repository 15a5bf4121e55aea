r"""Learned kernels: masses on branches times densities in chart coordinates.

.. math::
    P(s, \cdot) = \pi_{\mathrm{sink}}(s)\, \delta_{s_f}
        + \sum_k \pi_k(s)\,(\mathrm{push}_k(s, \cdot))_\# (q_k(a | s)\, \mathrm{base}_k).

Its density against the reference kernel is written in ``law``.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, Def. 7.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ctsgfn.errors import InvalidInput, MeasureMismatch
from ctsgfn.law import Bound, Law
from ctsgfn.measures import Measure
from ctsgfn.networks import Encoder
from ctsgfn.reference import ReferenceKernel
from ctsgfn.states import S


class Head(nn.Module, ABC):
    """A density q( . | s) in chart coordinates, against the measure ``base``.

    Implementing a head: set ``base`` in ``__init__`` and return, from ``forward``, a
    ``torch.distributions.Distribution`` with batch shape [B] and event shape [k].

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> from ctsgfn.measures import Lebesgue
        >>> class Shifted(Head):
        ...     def __init__(self, dim: int, width: int) -> None:
        ...         super().__init__()
        ...         self.base, self.mean = Lebesgue(dim), nn.Linear(width, dim)
        ...     def forward(self, context, s, live):
        ...         return Independent(Normal(self.mean(context), 1.0), 1)
        >>> tuple(Shifted(2, width=8)(torch.zeros(5, 8), None, None).sample().shape)
        (5, 2)
    """

    base: Measure[Tensor]

    @abstractmethod
    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> Distribution:
        """Law of the coordinates at states s, given their context [B, width] and live mask."""

    def bind(self) -> Callable[[Any, Any, Tensor | None], Distribution]:
        """``forward`` for many calls: a head that is called often looks its parameters up once."""
        return self


class Kernel(nn.Module, Generic[S]):
    """A Markov kernel that is a density against a reference kernel, by construction.

    Args:
        reference: the reference kernel; take it from the space, ``space.kappa`` or ``space.kappa_b``.
        encoder: states -> context [B, width].
        heads: one per branch, each on its branch's base.
        gate: context -> logits [B, K + 1] of the masses on the K branches and, last, the sink; None
            spreads the mass evenly over what is open.

    Raises:
        MeasureMismatch: when a head is a density against another measure than its branch's base.
        InvalidInput: when the number of heads is wrong, or masses that are forced get a gate.

    Example:
        >>> from ctsgfn.kernels.heads.beta import BetaMixture
        >>> from ctsgfn.kernels.spaces.diffusion import diffusion
        >>> from ctsgfn.networks import NoContext
        >>> Kernel(diffusion(2, steps=5).kappa, NoContext(), [BetaMixture(2, components=3, width=0)])
        Traceback (most recent call last):
        ctsgfn.errors.MeasureMismatch: head 0 (BetaMixture) is a density against Lebesgue measure ...
    """

    anchor: Tensor

    def __init__(
        self,
        reference: ReferenceKernel[S],
        encoder: Encoder,
        heads: Sequence[Head],
        gate: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if len(heads) != len(reference.branches):
            raise InvalidInput(
                f"{reference.name} has {len(reference.branches)} branches and got {len(heads)} heads: give "
                "one head per branch, in their order."
            )
        for i, (branch, head) in enumerate(zip(reference.branches, heads, strict=True)):
            if head.base != branch.base:
                raise MeasureMismatch(
                    f"head {i} ({type(head).__name__}) is a density against {head.base}, but branch {i} "
                    f"({type(branch).__name__}) of {reference.name} has base {branch.base}: give this "
                    "branch a head on its own base."
                )
        if reference.forced and gate is not None:
            raise InvalidInput(
                f"{reference.name} has forced masses (one branch open at every state), so a gate would "
                "learn nothing: leave gate=None."
            )
        self.reference = reference
        self.encoder = encoder
        self.heads = nn.ModuleList(heads)
        self.gate = gate
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def forward(self, s: S, seen: Tensor | None = None) -> Law[S]:
        """Law of the next state from each of s; ``seen`` saves observing the states again."""
        return Law(self.bind(), s, seen)

    def bind(self) -> Bound[S]:
        """The same kernel for many calls, with its parts looked up once."""
        encoder = self.encoder
        heads = tuple(head.bind() for head in self.heads)  # type: ignore[operator]
        return Bound(self.reference, self.anchor, encoder.observe, encoder.bind(), heads, self.gate)

    @property
    def trainable(self) -> bool:
        """Whether any parameter takes a gradient."""
        return any(p.requires_grad for p in self.parameters())
