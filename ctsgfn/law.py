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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic

import torch
from torch import Tensor
from torch.distributions import Distribution

from ctsgfn.distributions import CoordinateLaw, choose
from ctsgfn.errors import InvalidInput, NoSuchEdge
from ctsgfn.moves import Draws, Move, Step
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
    def allowed(self) -> Tensor:
        """Which branches have mass, [B, K] bool."""
        return self.kernel.reference.allowed(self.s)

    @cached_property
    def _logits(self) -> Tensor:
        """Log-masses up to a constant per row, -inf where closed."""
        is_open = self.kernel.reference.open(self.s, self.allowed)
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
        return logits.masked_fill(~is_open, -math.inf)

    @cached_property
    def log_mass(self) -> Tensor:
        """Log-masses [B, K + 1] of the branches and, last, of the sink; -inf where closed.

        Raises:
            NoSuchEdge: at a state where nothing is open.
        """
        return self._logits.log_softmax(-1)

    @property
    def log_stop(self) -> Tensor:
        """Log-mass [B] of the sink: 0 where the stop is forced, -inf where it is forbidden."""
        return self.log_mass[:, -1]

    def sample(self) -> Jump[S]:
        """One jump per state."""
        k, target = self._chosen(), self.s
        for i, rows in self._split(k):
            moved, _ = self._draw_on(i, rows)
            target = moved if rows is None else target.put(rows, moved)
        return Jump(target, k == len(self.kernel.heads))

    def draw(self, *, reparameterised: bool = False) -> tuple[Jump[S], Tensor]:
        """One jump per state, and its log-density [B].

        Raises:
            InvalidInput: when a reparameterised draw would have to choose between branches.
        """
        if reparameterised and not self.kernel.reference.forced:
            raise InvalidInput(
                f"{self.kernel.reference.name} chooses between branches or stopping, and a choice has "
                "no pathwise gradient: use the score-function form of the objective."
            )
        k, target = self._chosen(), self.s
        out = self._mass_of(k)
        for i, rows in self._split(k):
            moved, log_density = self._draw_scored_on(i, rows, reparameterised)
            target = moved if rows is None else target.put(rows, moved)
            out = out + log_density if rows is None else out.index_add(0, rows, log_density)
        return Jump(target, k == len(self.kernel.heads)), out

    def draw_move(self, *, reparameterised: bool = False) -> tuple[S, Tensor]:
        """One successor state per state, where no state can stop, and the log-density [B]."""
        if self.single:
            return self._draw_scored_on(0, None, reparameterised)
        jump, log_density = self.draw(reparameterised=reparameterised)
        return jump.target, log_density

    def draw_unscored(self) -> tuple[S, Move]:
        """One successor per state where there is one branch and no choice, and what its density takes."""
        return self._draw_on(0, None)

    def step(self) -> Step[S]:
        """One jump per state, and what their densities take."""
        k = self._chosen()
        targets, moves = [], []
        for i, rows in self._split(k):
            moved, move = self._draw_on(i, rows)
            targets.append(moved)
            moves.append((i, rows, move))
        draws = Draws(k, None if self.kernel.reference.forced else self._logits, moves)
        stop = k == len(self.kernel.heads)
        if len(moves) == 1:
            return Step(stop, moves[0][1], targets[0], draws)
        going = [rows for _, rows, _ in moves if rows is not None]
        target = type(self.s).cat(targets) if targets else self.s[:0]
        return Step(stop, torch.cat([k[:0], *going]), target, draws)

    def log_density(self, jump: Jump[S]) -> Tensor:
        """Log-density [B] of jumps.

        Raises:
            NoSuchEdge: when a jump is not an edge of the reference kernel.
        """
        return self._score_on(self.kernel.reference.locate(self.s, jump, self.allowed), jump.target)

    def log_density_to(self, target: S) -> Tensor:
        """Log-density [B] of the edges to states, none of them to the sink.

        Raises:
            NoSuchEdge: when an edge is not one of the reference kernel.
        """
        if self.single:
            return self._score_branch(0, None, target)
        return self._score_on(self.kernel.reference.locate_move(self.s, target, None, self.allowed), target)

    def _chosen(self) -> Tensor:
        """Draw a branch (K: the sink) per row, [B]; where the masses are forced, take the one with mass."""
        if self.kernel.reference.forced:
            return self.kernel.reference.open(self.s, self.allowed).to(torch.uint8).argmax(-1)
        return choose(self._logits)

    def _mass_of(self, k: Tensor) -> Tensor:
        """Log-masses [B] of branch k per row; 0 where they are forced."""
        if self.kernel.reference.forced:
            return self._zeros(k.shape[0])
        return self.log_mass.gather(-1, k[:, None]).squeeze(-1)

    def _split(self, k: Tensor) -> Iterator[tuple[int, Tensor | None]]:
        """The branches that have rows, and which rows [B'] those are; None for all."""
        branches, every = len(self.kernel.heads), k.shape[0]
        for i, count in enumerate(k.bincount(minlength=branches).tolist()[:branches]):
            if count:
                yield i, None if count == every else (k == i).nonzero().squeeze(-1)

    def _law_on(self, i: int, rows: Tensor | None) -> tuple[S, Distribution]:
        """States of the rows on branch i, and the laws of their coordinates."""
        s, context = self.s, self.context
        if rows is not None:
            s, context = s.index_select(0, rows), context.index_select(0, rows)
        return s, self.kernel.heads[i](context, s, self.kernel.reference.branches[i].live(s))

    def _draw_on(self, i: int, rows: Tensor | None) -> tuple[S, Move]:
        branch, (s, law) = self.kernel.reference.branches[i], self._law_on(i, rows)
        a = law.draw() if isinstance(law, CoordinateLaw) else law.sample()
        return branch.push(s, a), Move(law, a, branch.log_weight(s, a))

    def _draw_scored_on(self, i: int, rows: Tensor | None, reparameterised: bool) -> tuple[S, Tensor]:
        branch, (s, law) = self.kernel.reference.branches[i], self._law_on(i, rows)
        a, log_density = _drawn(law, reparameterised)
        return branch.push(s, a), log_density - branch.log_weight(s, a)

    def _score_branch(self, i: int, rows: Tensor | None, target: S) -> Tensor:
        branch, (s, law) = self.kernel.reference.branches[i], self._law_on(i, rows)
        a = branch.pull(s, target if rows is None else target.index_select(0, rows))
        log_density: Tensor = law.log_prob(a)
        return log_density - branch.log_weight(s, a)

    def _score_on(self, k: Tensor, target: S) -> Tensor:
        """Log-density [B] of edges on branch k per row, K for the sink."""
        out = self._mass_of(k)
        for i, rows in self._split(k):
            log_density = self._score_branch(i, rows, target)
            out = out + log_density if rows is None else out.index_add(0, rows, log_density)
        return out


def _drawn(law: Distribution, reparameterised: bool) -> tuple[Tensor, Tensor]:
    """One draw per row, and its log-density [B]."""
    if isinstance(law, CoordinateLaw) and not torch.is_grad_enabled():
        return law.sample_scored()
    a: Tensor = law.rsample() if reparameterised else law.sample()
    return a, law.log_prob(a)
