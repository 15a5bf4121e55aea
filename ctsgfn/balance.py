r"""The waist: from trajectories to arrays of log-densities.

Everything below this module knows measures and no loss; everything above it sees arrays of
log-densities and no measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.gflownet import GFlowNet
from ctsgfn.law import Bound, Law
from ctsgfn.target import Target, evaluate
from ctsgfn.trajectories import Trajectories


@dataclass(frozen=True)
class Balance:
    """Everything an objective may look at; row i is the edge that leaves states[i].

    Example:
        Two trajectories of two edges; log Z is right for the first.

        >>> owner, last = torch.tensor([0, 0, 1, 1]), torch.tensor([False, True, False, True])
        >>> log_forward = torch.tensor([-1.0, 0.0, -2.0, 0.0])
        >>> reward = torch.tensor([2.0, 2.0])
        >>> b = Balance(log_forward, torch.zeros(4), reward, torch.tensor(3.0), owner, last, ~last)
        >>> (b.log_z - b.log_weight).tolist()
        [0.0, -1.0]
    """

    log_forward: Tensor  # [M] log p_F of the edge, the one to the sink included
    log_backward: Tensor  # [M] log p_B of the edge, 0 on sink edges
    log_reward: Tensor  # [N] log r of the terminal states
    log_z: Tensor  # []
    owner: Tensor  # [M] long
    last: Tensor  # [M] bool
    source: Tensor  # [M] bool
    log_flow: Tensor | None = None  # [M] log u, equal to log_z on source rows
    log_stop: Tensor | None = None  # [M] log p_F(s, s_f), -inf off X
    log_terminal: Tensor | None = None  # [M] log r of every state of X that was visited, -inf off X
    log_inflow: Tensor | None = None  # [M] log of the flow into the state, -inf at the source

    @property
    def size(self) -> int:
        """N, the number of trajectories."""
        return len(self.log_reward)

    def total(self, v: Tensor) -> Tensor:
        """Sum of v [M] over the edges of each trajectory, [N]."""
        return v.new_zeros(self.size).index_add(0, self.owner, v)

    @property
    def log_weight(self) -> Tensor:
        """Log r + log p_B(trajectory) - log p_F(trajectory), [N]: the log importance weight."""
        return self.log_reward - self.total(self.log_forward - self.log_backward)


@dataclass(frozen=True)
class Wanted:
    """Which optional arrays an objective reads."""

    flow: bool = False
    stop: bool = False
    terminal: bool = False
    inflow: bool = False


@dataclass(frozen=True)
class Piece:
    """Arrays of a run of rows; what is not wanted is None."""

    log_forward: Tensor | None
    log_backward: Tensor | None
    log_flow: Tensor | None
    log_stop: Tensor | None
    log_inflow: Tensor | None


def pieces(
    gfn: GFlowNet[Any],
    trajectories: Trajectories[Any],
    *,
    forward: bool,
    backward: bool,
    flow: bool,
    stop: bool,
    inflow: bool = False,
    chunk: int | None,
) -> Iterator[tuple[slice, Piece]]:
    """Log-densities of the edges, run of rows by run of rows, with gradient where it is enabled."""
    rows = len(trajectories.owner)
    source = trajectories.source
    step = rows if chunk is None else chunk
    if gfn.space.synchronous:  # whole trajectories: their rows line up
        step = max(1, step // gfn.space.horizon) * gfn.space.horizon
    edges = (_Synchronous if gfn.space.synchronous else _General)(gfn, trajectories)
    for start in range(0, rows, step):
        where = slice(start, min(start + step, rows))
        log_forward, log_stop = edges.forward(where, forward, stop) if forward or stop else (None, None)
        log_backward = edges.backward(where) if backward else None
        log_flow = into = None
        if flow or inflow:
            s = trajectories.states[where]
            log_flow = gfn.log_u(s, source[where]) if flow else None
            into = gfn.log_inflow(s, source[where]) if inflow else None
        yield where, Piece(log_forward, log_backward, log_flow, log_stop, into)


class _General:
    """Edges of trajectories of any lengths."""

    def __init__(self, gfn: GFlowNet[Any], trajectories: Trajectories[Any]) -> None:
        self.gfn, self.trajectories = gfn, trajectories
        self._encoded: tuple[slice, Any] | None = None

    @cached_property
    def forward_kernel(self) -> Bound[Any]:
        """The forward kernel, bound when first asked."""
        return self.gfn.forward_kernel.bind()

    @cached_property
    def backward_kernel(self) -> Bound[Any]:
        """The backward kernel, bound when first asked."""
        return self.gfn.backward_kernel.bind()

    def forward(self, where: slice, density: bool, stop: bool) -> tuple[Tensor | None, Tensor | None]:
        """Log p_F of the edges, and the log-mass of the sink, where asked for."""
        s, jump = self.trajectories.edges(where.start, where.stop)
        seen = self.trajectories.seen
        context = self._context(where)[: len(s)] if self._tied else None
        law = Law(self.forward_kernel, s, None if seen is None else seen[where], context)
        return law.log_density(jump) if density else None, law.log_stop if stop else None

    def backward(self, where: slice) -> Tensor:
        """Log p_B of the edges, 0 on those to the sink."""
        move = (~self.trajectories.last[where]).nonzero().squeeze(-1)
        s = self.trajectories.states.index_select(0, move + where.start)
        t = self.trajectories.states.index_select(0, move + (where.start + 1))
        context = self._context(where).index_select(0, move + 1) if self._tied else None
        moved = Law(self.backward_kernel, t, None, context).log_density_to(s)
        return moved.new_zeros(where.stop - where.start).index_copy(0, move, moved)

    @cached_property
    def _tied(self) -> bool:
        """Whether one network serves both kernels: a state then passes through it once."""
        return self.gfn.backward_kernel.encoder is self.gfn.forward_kernel.encoder

    def _context(self, where: slice) -> Any:
        """Context of the states of a run and of the one after it, for both kernels."""
        if self._encoded is None or self._encoded[0] != where:
            rows = slice(where.start, where.stop + 1)
            s, seen, kernel = self.trajectories.states[rows], self.trajectories.seen, self.forward_kernel
            self._encoded = where, kernel.encode(s, kernel.observe(s) if seen is None else seen[rows])
        return self._encoded[1]


class _Synchronous(_General):
    """Edges of trajectories that all have ``horizon`` of them, the last to the sink with mass 1."""

    def __init__(self, gfn: GFlowNet[Any], trajectories: Trajectories[Any]) -> None:
        super().__init__(gfn, trajectories)
        self.length = gfn.space.horizon
        self.s, self.t, self.seen = trajectories.moves

    def forward(self, where: slice, density: bool, stop: bool) -> tuple[Tensor | None, Tensor | None]:
        """Log p_F of the edges, and the log-mass of the sink, where asked for."""
        log_density = log_stop = None
        if density:
            at = self._moves(where)
            law = self.forward_kernel(self.s[at], None if self.seen is None else self.seen[at])
            log_density = self._padded(law.log_density_to(self.t[at]))
        if stop:
            last = self.trajectories.last[where]
            log_stop = torch.where(last, 0.0, -math.inf).to(self.gfn.log_z.dtype)
        return log_density, log_stop

    def backward(self, where: slice) -> Tensor:
        """Log p_B of the edges, 0 on those to the sink."""
        at = self._moves(where)
        law = self.backward_kernel(self.t[at], None if self._seen_after is None else self._seen_after[at])
        return self._padded(law.log_density_to(self.s[at]))

    @cached_property
    def _seen_after(self) -> Tensor | None:
        """What was observed of the states that the edges lead to, if the backward kernel wants the same.

        The walk observed all of these states but the last ones.
        """
        ours, forward = self.gfn.backward_kernel.encoder, self.gfn.forward_kernel.encoder
        if self.seen is None or not ours.observes_as(forward):
            return None
        last = forward.observe(self.trajectories.final)
        assert last is not None
        walks = self.seen.unflatten(0, (len(last), -1))
        return torch.cat([walks[:, 1:], last[:, None]], dim=1).flatten(0, 1)

    def _moves(self, where: slice) -> slice:
        """The same trajectories, among the edges that do not stop."""
        walks = slice(where.start // self.length, where.stop // self.length)
        return slice(walks.start * (self.length - 1), walks.stop * (self.length - 1))

    def _padded(self, v: Tensor) -> Tensor:
        return torch.nn.functional.pad(v.unflatten(0, (-1, self.length - 1)), (0, 1)).flatten()


def balance(
    gfn: GFlowNet[Any],
    target: Target[Any],
    trajectories: Trajectories[Any],
    *,
    wanted: Wanted | None = None,
    chunk: int | None = None,
) -> Balance:
    """Log-densities of trajectories under a flow and a target: three network calls at any lengths.

    Densities that the trajectories already know are reused where no gradient is being recorded, or
    where they carry one themselves (reparameterised walks).

    Args:
        gfn: the flow.
        target: the target; its density must be against ``gfn.space.points``.
        trajectories: complete trajectories on the flow's space, from any behaviour.
        wanted: the optional arrays; by default log_flow if the flow has one.
        chunk: rows per network call, None for all.
    """
    wanted = Wanted(flow=gfn.log_flow is not None) if wanted is None else wanted
    reuse = not torch.is_grad_enabled() or trajectories.pathwise
    known_forward = trajectories.log_forward if reuse else None
    known_backward = trajectories.log_backward if reuse else None
    parts = []
    if known_forward is None or known_backward is None or wanted.flow or wanted.stop or wanted.inflow:
        parts = [
            piece
            for _, piece in pieces(
                gfn,
                trajectories,
                forward=known_forward is None,
                backward=known_backward is None,
                flow=wanted.flow,
                stop=wanted.stop,
                inflow=wanted.inflow,
                chunk=chunk,
            )
        ]

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(p, name) for p in parts])

    log_reward = evaluate(target, gfn.space.read(trajectories.final))
    dtype = gfn.log_z.dtype
    return Balance(
        log_forward=joined("log_forward") if known_forward is None else known_forward,
        log_backward=joined("log_backward") if known_backward is None else known_backward,
        log_reward=log_reward.to(dtype),
        log_z=gfn.log_z,
        owner=trajectories.owner,
        last=trajectories.last,
        source=trajectories.source,
        log_flow=joined("log_flow") if wanted.flow else None,
        log_stop=joined("log_stop") if wanted.stop else None,
        log_terminal=_terminal(gfn, target, trajectories, log_reward) if wanted.terminal else None,
        log_inflow=joined("log_inflow") if wanted.inflow else None,
    )


def _terminal(
    gfn: GFlowNet[Any], target: Target[Any], trajectories: Trajectories[Any], log_reward: Tensor
) -> Tensor:
    """Log r at every visited state of X, -inf elsewhere."""
    sink = gfn.space.kappa.sink
    if sink is None:
        raise InvalidInput(f"space {gfn.space.name!r} has no terminal states.")
    out = torch.full((len(trajectories.owner),), -math.inf, dtype=gfn.log_z.dtype, device=log_reward.device)
    out[trajectories.last] = log_reward.detach().to(out.dtype)
    inner = (sink(trajectories.states) & ~trajectories.last).nonzero().squeeze(-1)
    if len(inner):
        with torch.no_grad():
            out[inner] = evaluate(target, gfn.space.read(trajectories.states[inner])).to(out.dtype)
    return out
