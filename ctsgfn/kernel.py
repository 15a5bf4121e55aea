r"""Learned kernels: masses on branches times densities in chart coordinates.

If :math:`P(s, \cdot) = \sum_k \pi_k(s)\,(\mathrm{push}_k(s, \cdot))_\# (q_k(a | s)\, \mathrm{base}_k)`
then, at :math:`s' = \mathrm{push}_k(s, a)`, the density against the reference kernel is

.. math::
    \log p(s, s') = \log \pi_k(s) + \log q_k(a | s) - w_k(s, a), \qquad
    \log p(s, s_f) = \log \pi_{\mathrm{sink}}(s).

That line exists once in the package: in ``Law``.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, Def. 7.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Generic

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ctsgfn.distributions import CoordinateLaw, choose
from ctsgfn.errors import InvalidInput, MeasureMismatch, NoSuchEdge
from ctsgfn.measures import Measure
from ctsgfn.networks import Encoder
from ctsgfn.reference import ReferenceKernel, describe
from ctsgfn.states import Jump, S


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
        return Law(self, s, seen)

    def from_context(self, s: S, seen: Tensor | None, context: Tensor) -> Law[S]:
        """Law at states whose context a kernel with the same encoder has already computed."""
        return Law(self, s, seen, context)

    @property
    def trainable(self) -> bool:
        """Whether any parameter takes a gradient."""
        return any(p.requires_grad for p in self.parameters())


class Law(Generic[S]):
    """P(s, .) for a batch of states, as a density against the reference kernel."""

    def __init__(
        self, kernel: Kernel[S], s: S, seen: Tensor | None = None, context: Tensor | None = None
    ) -> None:
        self.kernel = kernel
        self.s = s
        self.seen = kernel.encoder.observe(s) if seen is None else seen
        self.context: Any = kernel.encoder(s, self.seen) if context is None else context

    def _zeros(self, *size: int) -> Tensor:
        """Zeros in the dtype and on the device of the densities."""
        context = self.context
        like: Tensor = context if isinstance(context, Tensor) else next(iter(context.tensors().values()))
        return like.new_zeros(size)

    @cached_property
    def log_mass(self) -> Tensor:
        """Log-masses [B, K + 1] of the branches and, last, of the sink; -inf where closed.

        Raises:
            NoSuchEdge: at a state where nothing is open.
        """
        is_open = self.kernel.reference.open(self.s)
        if not bool(is_open.any(-1).all()):
            row = int((~is_open.any(-1)).nonzero()[0])
            raise NoSuchEdge(
                f"row {row}: {self.kernel.reference.name} has no edge out of {describe(self.s, row)}: only "
                "ask for the law of a state that has a successor."
            )
        if self.kernel.gate is None:
            logits = self._zeros(*is_open.shape)
        else:
            logits = self.kernel.gate(self.context)
        return logits.masked_fill(~is_open, -math.inf).log_softmax(-1)

    @property
    def log_stop(self) -> Tensor:
        """Log-mass [B] of the sink: 0 where the stop is forced, -inf where it is forbidden."""
        return self.log_mass[:, -1]

    def sample(self) -> Jump[S]:
        """One jump per state."""
        return self.draw()[0]

    def draw(self, *, reparameterised: bool = False) -> tuple[Jump[S], Tensor]:
        """One jump per state, and its log-density [B].

        Raises:
            InvalidInput: when a reparameterised draw would have to choose between branches.
        """
        sink = len(self.kernel.heads)
        if self.kernel.reference.forced:
            k = self.kernel.reference.open(self.s).to(torch.uint8).argmax(-1)
            target, log_density = self._draw_on(k, reparameterised)
        else:
            if reparameterised:
                raise InvalidInput(
                    f"{self.kernel.reference.name} chooses between branches or stopping, and a choice has "
                    "no pathwise gradient: use the score-function form of the objective."
                )
            k = choose(self.log_mass)
            target, log_density = self._draw_on(k, reparameterised)
            log_density = log_density + self.log_mass.gather(-1, k[:, None]).squeeze(-1)
        return Jump(target, k == sink), log_density

    def draw_move(self, *, reparameterised: bool = False) -> tuple[S, Tensor]:
        """One successor state per state, where no state can stop, and the log-density [B]."""
        if self.kernel.reference.forced and len(self.kernel.heads) == 1:
            return self._draw_on(None, reparameterised)
        jump, log_density = self.draw(reparameterised=reparameterised)
        return jump.target, log_density

    def log_density(self, jump: Jump[S]) -> Tensor:
        """Log-density [B] of jumps.

        Raises:
            NoSuchEdge: when a jump is not an edge of the reference kernel.
        """
        k = self.kernel.reference.locate(self.s, jump)
        out = self._score_on(k, jump.target)
        if not self.kernel.reference.forced:
            out = out + self.log_mass.gather(-1, k[:, None]).squeeze(-1)
        return out

    def log_density_to(self, target: S) -> Tensor:
        """Log-density [B] of the edges to states, none of them to the sink.

        Raises:
            NoSuchEdge: when an edge is not one of the reference kernel.
        """
        if self.kernel.reference.forced and len(self.kernel.heads) == 1:
            return self._score_on(None, target)
        k = self.kernel.reference.locate_move(self.s, target)
        out = self._score_on(k, target)
        if not self.kernel.reference.forced:
            out = out + self.log_mass.gather(-1, k[:, None]).squeeze(-1)
        return out

    @staticmethod
    def _rows(k: Tensor, i: int) -> Tensor | None:
        """Rows on branch i, or None for all of them."""
        on = k == i
        return None if bool(on.all()) else on.nonzero().squeeze(-1)

    def _draw_on(self, k: Tensor | None, reparameterised: bool) -> tuple[S, Tensor]:
        """Draw on branch k per row (all on the only branch if None); sink rows keep s, density 1."""
        if k is None:
            return self._draw_branch(0, self.s, self.context, reparameterised)
        target, out = self.s, self._zeros(len(self.s))
        for i in range(len(self.kernel.heads)):
            rows = self._rows(k, i)
            if rows is None:
                return self._draw_branch(i, self.s, self.context, reparameterised)
            if len(rows):
                moved, log_density = self._draw_branch(i, self.s[rows], self.context[rows], reparameterised)
                target = target.put(rows, moved)
                out = out.index_copy(0, rows, log_density)
        return target, out

    def _score_on(self, k: Tensor | None, target: S) -> Tensor:
        """Density part [B] of edges on branch k per row (None as above); 0 on sink rows."""
        if k is None:
            return self._score_branch(0, self.s, target, self.context)
        out = self._zeros(len(self.s))
        for i in range(len(self.kernel.heads)):
            rows = self._rows(k, i)
            if rows is None:
                return self._score_branch(i, self.s, target, self.context)
            if len(rows):
                log_density = self._score_branch(i, self.s[rows], target[rows], self.context[rows])
                out = out.index_add(0, rows, log_density)
        return out

    def _draw_branch(self, i: int, s: S, context: Any, reparameterised: bool) -> tuple[S, Tensor]:
        branch = self.kernel.reference.branches[i]
        a, log_density = _drawn(self.kernel.heads[i](context, s, branch.live(s)), reparameterised)
        return branch.push(s, a), log_density - branch.log_weight(s, a)

    def _score_branch(self, i: int, s: S, target: S, context: Any) -> Tensor:
        branch = self.kernel.reference.branches[i]
        a = branch.pull(s, target)
        law: Distribution = self.kernel.heads[i](context, s, branch.live(s))
        return law.log_prob(a) - branch.log_weight(s, a)


def _drawn(law: Distribution, reparameterised: bool) -> tuple[Tensor, Tensor]:
    """One draw per row, and its log-density [B]."""
    if isinstance(law, CoordinateLaw) and not torch.is_grad_enabled():
        return law.sample_scored()
    a: Tensor = law.rsample() if reparameterised else law.sample()
    return a, law.log_prob(a)
