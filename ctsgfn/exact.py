r"""Exact answers on spaces with finitely many states: every state, every edge, and the solved flow.

With all edges listed in order of progress, the flow- and reward-matching conditions are a triangular
linear system, and the terminating law of a kernel is a recursion from s0; both are solved here by
substitution, in log space and double precision.

References:
    GFlowNet foundations (Bengio et al., 2023), arXiv 2111.09266, section 2; A theory of continuous
    generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, Def. 3-4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic

import torch
from torch import Tensor

from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Kernel
from ctsgfn.measures import Atom, Counting
from ctsgfn.reference import ReferenceKernel, describe
from ctsgfn.space import Space
from ctsgfn.states import Jump, S
from ctsgfn.target import Target, evaluate
from ctsgfn.trajectories import Trajectories


@dataclass(frozen=True)
class Graph(Generic[S]):
    """All n states and E edges of a space, made by ``explore``."""

    space: Space[S, Any]
    states: S  # n rows in order of progress, s0 first
    parent: Tensor  # [E] long, rows of states
    child: Tensor  # [E] long
    terminal: Tensor  # [n] bool
    level: Tensor  # [n] long, rising along every edge, 0 at s0
    rows: dict[tuple[int, ...], int] = field(repr=False)  # what identifies a state -> its row

    def __len__(self) -> int:
        return len(self.level)

    def index(self, s: S) -> Tensor:
        """Rows of the graph that hold these states, [B] long.

        Raises:
            InvalidInput: when a state is not one of the graph's.
        """
        found = [self.rows.get(key, -1) for key in _keys(s)]
        if -1 in found:
            raise InvalidInput(
                f"row {found.index(-1)}: {describe(s, found.index(-1))} is not a state of {self.space.name}."
            )
        return torch.tensor(found, device=self.level.device)

    def log_reward(self, target: Target[Any]) -> Tensor:
        """Log r at every state, -inf off X: [n], float64."""
        out = torch.full((len(self),), -math.inf, dtype=torch.float64)
        out[self.terminal] = evaluate(target, self.space.read(self.states[self.terminal])).double()
        return out

    def log_forward(self, kernel: Kernel[S]) -> tuple[Tensor, Tensor]:
        """Log p_F of every edge [E] and of the stop at every state [n], float64."""
        stay = torch.zeros(len(self.parent), dtype=torch.bool)
        with torch.no_grad():
            moves = Jump(self.states[self.child].like(kernel.anchor), stay)
            log_edge = kernel(self.states[self.parent].like(kernel.anchor)).log_density(moves)
            log_stop = kernel(self.states.like(kernel.anchor)).log_stop
        return log_edge.double().cpu(), log_stop.double().cpu()

    def log_backward(self, kernel: Kernel[S]) -> Tensor:
        """Log p_B of every edge, [E], float64."""
        with torch.no_grad():
            law = kernel(self.states[self.child].like(kernel.anchor))
            return law.log_density_to(self.states[self.parent].like(kernel.anchor)).double().cpu()

    def log_visits(self, log_edge: Tensor) -> Tensor:
        r"""Log-probability [n] of visiting each state, :math:`V(s') = \sum_s V(s)\, p_F(s, s')`."""
        visits = torch.full((len(self),), -math.inf, dtype=torch.float64)
        visits[0] = 0.0
        for edges in self._levels(self.child):
            into = visits[self.parent[edges]] + log_edge[edges]
            visits = torch.logaddexp(visits, _log_sums(into, self.child[edges], len(self)))
        return visits

    def terminating_law(self, kernel: Kernel[S]) -> Tensor:
        """Log-probability [n] that a trajectory of the kernel ends at each state, -inf off X, float64."""
        log_edge, log_stop = self.log_forward(kernel)
        return self.log_visits(log_edge) + log_stop

    def total_variation(self, kernel: Kernel[S], target: Target[Any]) -> float:
        """Total variation between the kernel's terminating law and the normalised target."""
        log_reward = self.log_reward(target)
        truth = (log_reward - log_reward.logsumexp(0)).exp()
        return 0.5 * float((self.terminating_law(kernel).exp() - truth).abs().sum())

    def solve(self, target: Target[Any], backward: Kernel[S] | None = None) -> ExactFlow[S]:
        r"""Solve the flow of a target for a backward kernel, the uniform one if None.

        .. math::
            u(s) = r(s) + \sum_{s \to s'} u(s')\, p_B(s', s), \qquad
            p_F(s, s') = \frac{u(s')\, p_B(s', s)}{u(s)}, \quad p_F(s, s_f) = \frac{r(s)}{u(s)}
        """
        log_backward = self.log_backward(diffuse(self.space.kappa_b) if backward is None else backward)
        log_reward = self.log_reward(target)
        log_flow = log_reward
        for edges in reversed(list(self._levels(self.parent))):
            out = log_flow[self.child[edges]] + log_backward[edges]
            log_flow = torch.logaddexp(log_flow, _log_sums(out, self.parent[edges], len(self)))
        return ExactFlow(
            graph=self,
            log_flow=log_flow,
            log_forward=log_flow[self.child] + log_backward - log_flow[self.parent],
            log_stop=log_reward - log_flow,
            log_backward=log_backward,
        )

    def trajectories(self, limit: int = 100_000) -> Trajectories[S]:
        """Every trajectory of the space, once.

        Raises:
            InvalidInput: when there are more than ``limit``.
        """
        children: list[list[int]] = [[] for _ in range(len(self))]
        for p, c in zip(self.parent.tolist(), self.child.tolist(), strict=True):
            children[p].append(c)
        paths, open_paths = [], [[0]]
        while open_paths:
            path = open_paths.pop()
            if bool(self.terminal[path[-1]]):
                paths.append(path)
            open_paths += [[*path, c] for c in children[path[-1]]]
            if len(paths) > limit:
                raise InvalidInput(f"{self.space.name} has more than {limit} trajectories: raise limit.")
        lengths = torch.tensor([len(path) for path in paths])
        last = torch.zeros(int(lengths.sum()), dtype=torch.bool)
        last[lengths.cumsum(0) - 1] = True
        owner = torch.arange(len(paths)).repeat_interleave(lengths)
        return Trajectories(self.states[torch.tensor([row for path in paths for row in path])], owner, last)

    def _levels(self, end: Tensor) -> Iterator[Tensor]:
        """Edges grouped by the level of one of their ends, rising."""
        order = self.level[end].argsort(stable=True)
        counts = torch.bincount(self.level[end], minlength=int(self.level.max()) + 1)
        yield from order.split(counts.tolist())


@dataclass(frozen=True)
class ExactFlow(Generic[S]):
    """A flow that meets every balance condition exactly, made by ``Graph.solve``; all float64."""

    graph: Graph[S]
    log_flow: Tensor  # [n] log u(s)
    log_forward: Tensor  # [E] log p_F of the edges
    log_stop: Tensor  # [n] log p_F(s, s_f), -inf off X
    log_backward: Tensor  # [E] log p_B of the edges

    @property
    def log_z(self) -> Tensor:
        """Log of the total flow, 0-d."""
        return self.log_flow[0]


def explore(space: Space[S, Any], limit: int = 1_000_000) -> Graph[S]:
    """List every state that can be reached from s0, and every edge.

    Args:
        space: a space of integer states whose kappa has ``Counting`` or ``Atom`` bases.
        limit: most states to list.

    Raises:
        InvalidInput: when the space is not of that kind, has a dead end, or more than ``limit`` states.

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid
        >>> graph = explore(hypergrid(2, 4))
        >>> len(graph), len(graph.parent), len(graph.trajectories())
        (16, 24, 69)
        >>> walk = diffuse(graph.space.kappa)
        >>> round(graph.terminating_law(walk).exp().sum().item(), 6)
        1.0
    """
    frontier = space.source(1)
    if any(t.is_floating_point() for t in frontier.tensors().values()):
        raise InvalidInput(f"{space.name} has states of real numbers: only integer states can be listed.")
    rows: dict[tuple[int, ...], int] = {}
    found: list[S] = []
    while len(frontier):
        fresh = []
        for i, key in enumerate(_keys(frontier)):
            if key not in rows:
                rows[key] = len(rows)
                fresh.append(i)
        if len(rows) > limit:
            raise InvalidInput(f"{space.name} has more than {limit} states: raise limit, or sample instead.")
        frontier = frontier[torch.tensor(fresh, dtype=torch.long)]
        found.append(frontier)
        frontier = _successors(space.kappa, frontier)[1]
    states = type(frontier).cat(found)
    progress = space.progress(states)
    order = progress.argsort(stable=True)
    states = states[order]
    rows = {key: row for row, key in enumerate(_keys(states))}
    parent, children = _successors(space.kappa, states)
    child = torch.tensor([rows[key] for key in _keys(children)], dtype=torch.long)
    terminal = space.kappa.open(states)[:, -1]
    dead = ~terminal & (torch.bincount(parent, minlength=len(states)) == 0)
    if bool(dead.any()):
        where = describe(states, int(dead.nonzero()[0]))
        raise InvalidInput(f"{space.name} has a dead end at {where}: give it a child, or make it terminal.")
    level = progress[order].unique(return_inverse=True)[1]
    return Graph(space, states, parent, child, terminal, level, rows)


def _successors(reference: ReferenceKernel[S], s: S) -> tuple[Tensor, S]:
    """Rows of s and the states that an edge leads to from them."""
    allowed = reference.allowed(s)
    parents, children = [], []
    for k, branch in enumerate(reference.branches):
        if isinstance(branch.base, Counting):
            edges = allowed[:, k : k + 1].expand(-1, branch.base.size)
            live = branch.live(s)
            row, atom = (edges if live is None else edges & live).nonzero(as_tuple=True)
            children.append(branch.push(s[row], atom[:, None]))
        elif isinstance(branch.base, Atom):
            row = allowed[:, k].nonzero().squeeze(-1)
            children.append(branch.push(s[row], torch.zeros(len(row), 0)))
        else:
            raise InvalidInput(
                f"branch {k} of {reference.name} has base {branch.base}: only edges of Counting and Atom "
                "bases can be listed."
            )
        parents.append(row)
    return torch.cat(parents), type(s).cat(children)


def _keys(s: Any) -> list[tuple[int, ...]]:
    """What identifies each state: all of its integers."""
    columns = [t.flatten(1) if t.dim() > 1 else t[:, None] for t in s.tensors().values()]
    return [tuple(row) for row in torch.cat([c.long() for c in columns], dim=1).tolist()]


def _log_sums(v: Tensor, index: Tensor, n: int) -> Tensor:
    """Log of the sum of exp(v) over equal indices, [n]; -inf where there is none."""
    top = v.new_full((n,), -math.inf).scatter_reduce(0, index, v, "amax")
    shift = torch.where(top == -math.inf, 0.0, top)
    return v.new_zeros(n).index_add(0, index, (v - shift[index]).exp()).log() + shift
