r"""The law of the next state, as a density against a reference kernel.

If :math:`P(s, \cdot) = \sum_k \pi_k(s)\,(\mathrm{push}_k(s, \cdot))_\# (q_k(a | s)\, \mathrm{base}_k)`
then, at :math:`s' = \mathrm{push}_k(s, a)`, the density against the reference kernel is

.. math::
    \log p(s, s') = \log \pi_k(s) + \log q_k(a | s) - w_k(s, a), \qquad
    \log p(s, s_f) = \log \pi_{\mathrm{sink}}(s).

That line exists once in the package: here.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, Def. 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from ctsgfn.distributions import CoordinateLaw, choose
from ctsgfn.errors import InvalidInput, NoSuchEdge
from ctsgfn.reference import ReferenceKernel, describe
from ctsgfn.states import Jump, S


@dataclass(frozen=True)
class Bound(Generic[S]):
    """The parts of a kernel, looked up once for the many calls of a walk or of a gradient in runs.

    Valid while the parameters of the kernel keep their values.
    """

    reference: ReferenceKernel[S]
    anchor: Tensor
    observe: Callable[[S], Tensor | None]
    encode: Callable[[S, Tensor | None], Any]
    heads: tuple[Callable[[Any, S, Tensor | None], Distribution], ...]
    gate: Callable[[Any], Tensor] | None

    def __call__(self, s: S, seen: Tensor | None = None) -> Law[S]:
        """Law of the next state from each of s."""
        return Law(self, s, seen)


class Law(Generic[S]):
    """P(s, .) for a batch of states, as a density against the reference kernel."""

    def __init__(
        self, kernel: Bound[S], s: S, seen: Tensor | None = None, context: Tensor | None = None
    ) -> None:
        self.kernel = kernel
        self.s = s
        self.seen = kernel.observe(s) if seen is None else seen
        self.context: Any = kernel.encode(s, self.seen) if context is None else context

    @property
    def single(self) -> bool:
        """Whether all states move, on the only branch: no mass is ever chosen."""
        return self.kernel.reference.forced and len(self.kernel.heads) == 1

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
        if self.single:
            return self._draw_on(None, reparameterised)
        jump, log_density = self.draw(reparameterised=reparameterised)
        return jump.target, log_density

    def draw_unscored(self) -> tuple[S, Move]:
        """One successor per state where there is one branch and no choice, and what its density takes.

        A density costs less when those of many steps are computed at once: see ``log_densities``.
        """
        branch = self.kernel.reference.branches[0]
        law = self.kernel.heads[0](self.context, self.s, branch.live(self.s))
        a = law.draw() if isinstance(law, CoordinateLaw) else law.sample()
        return branch.push(self.s, a), Move(law, a, branch.log_weight(self.s, a))

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
        if self.single:
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


class Move(NamedTuple):
    """A step that was drawn and not scored."""

    law: Distribution
    a: Tensor  # [B, k] the coordinates drawn from it
    log_weight: Tensor  # [B] or [1], of the chart


def log_densities(moves: Sequence[Move]) -> Tensor:
    """Log-densities [T B] of moves of B rows each, the first move first."""
    out = []
    for kind, group in groupby(moves, key=lambda move: type(move.law)):
        run = list(group)
        laws = [move.law for move in run if isinstance(move.law, CoordinateLaw)]
        if issubclass(kind, CoordinateLaw):
            out.append(kind.score(laws, [move.a for move in run]))
        else:
            out += [move.law.log_prob(move.a) for move in run]
    weight, rows = torch.cat([move.log_weight for move in moves]), moves[0].a.shape[0]
    return torch.cat(out) - (weight.repeat_interleave(rows) if len(weight) == len(moves) else weight)


def _drawn(law: Distribution, reparameterised: bool) -> tuple[Tensor, Tensor]:
    """One draw per row, and its log-density [B]."""
    if isinstance(law, CoordinateLaw) and not torch.is_grad_enabled():
        return law.sample_scored()
    a: Tensor = law.rsample() if reparameterised else law.sample()
    return a, law.log_prob(a)
