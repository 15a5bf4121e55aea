"""Behaviours with a memory: replay of terminal states or whole trajectories, and local search.

References:
    Improved off-policy training of diffusion samplers (Sendera et al., 2024), arXiv 2402.05098,
    section 4: a replay buffer, and local search by parallel MALA on its terminal states.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from ctsgfn.balance import Balance
from ctsgfn.behaviours import Behaviour, Remembers, on_policy, walk_back
from ctsgfn.errors import InvalidInput, MeasureMismatch
from ctsgfn.gflownet import GFlowNet
from ctsgfn.mala import mala
from ctsgfn.measures import Lebesgue
from ctsgfn.target import Target
from ctsgfn.trajectories import Trajectories

Priority = Literal["uniform", "reward", "loss"]


class Memory:
    """A ring of terminal points with a log-priority each.

    Draws with probability in proportion to ``1 / (0.01 N + rank)``, rank 0 the highest priority, or
    evenly: rank weights do not care about the scale of a log-density.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise InvalidInput(f"capacity must be at least 1, got {capacity}.")
        self.capacity = capacity
        self.points: Tensor | None = None  # [size, ..]
        self.priority = torch.empty(0)  # [size]

    def __len__(self) -> int:
        return 0 if self.points is None else len(self.points)

    def push(self, points: Tensor, priority: Tensor) -> None:
        """Append points [B, ..] with their priorities [B]; the oldest leave first."""
        points, priority = points.detach(), priority.detach()
        if self.points is not None:
            points = torch.cat([self.points, points])
            priority = torch.cat([self.priority, priority])
        self.points, self.priority = points[-self.capacity :], priority[-self.capacity :]

    def reprice(self, rows: Tensor, priority: Tensor) -> None:
        """Give entries other priorities: those of a loss fall as it is learned."""
        self.priority = self.priority.index_copy(0, rows, priority.detach())

    def draw(self, n: int, ranked: bool) -> Tensor:
        """Return the indices of n entries, drawn with replacement."""
        size, device = len(self), self.priority.device
        if not ranked:
            return torch.randint(size, (n,), device=device)
        rank = self.priority.argsort(descending=True).argsort().to(self.priority.dtype)
        return torch.multinomial(1.0 / (0.01 * size + rank), n, replacement=True)


def _replayed(n: int, fraction: float) -> int:
    """How many of n are not fresh; at least one is, or the memory would starve."""
    return min(round(n * fraction), n - 1)


class Replay:
    """Mix fresh trajectories with walks back from remembered terminal states.

    Terminal states are remembered, and walked back with the present backward kernel each time: no
    trajectory is ever stale.

    Args:
        capacity: terminal states kept.
        priority: "uniform"; "reward", by log r; or "loss", by the squared trajectory-balance residual.
        fraction: part of a batch that is replayed.
        fresh: the behaviour that draws the rest.

    Raises:
        InvalidInput: on a size, fraction or priority that makes no sense.
    """

    def __init__(
        self,
        capacity: int,
        *,
        priority: Priority = "uniform",
        fraction: float = 0.5,
        fresh: Behaviour = on_policy,
    ) -> None:
        if priority not in ("uniform", "reward", "loss"):
            raise InvalidInput(f"priority must be 'uniform', 'reward' or 'loss', got {priority!r}.")
        if not 0.0 < fraction < 1.0:
            raise InvalidInput(f"fraction must be in (0, 1), got {fraction!r}: the rest feeds the memory.")
        self.memory = Memory(capacity)
        self.priority, self.fraction, self.fresh = priority, fraction, fresh
        self._drawn = 0
        self._rows: Tensor | None = None  # of the memory, that the rest of the batch was walked back from

    def __call__(self, gfn: GFlowNet[Any], n: int) -> Trajectories[Any]:
        """Return n trajectories, the fresh ones first."""
        old = _replayed(n, self.fraction) if len(self.memory) else 0
        self._drawn, self._rows = n - old, None
        new = self.fresh(gfn, self._drawn)
        if old == 0 or self.memory.points is None:
            return new
        self._rows = self.memory.draw(old, self.priority != "uniform")
        walked = walk_back(gfn, self.memory.points[self._rows])
        return Trajectories.cat([new, walked])

    def remember(self, gfn: GFlowNet[Any], trajectories: Trajectories[Any], arrays: Balance) -> None:
        """Keep the terminal states of the fresh part of a batch; correct the losses of the rest."""
        residual = (arrays.log_z - arrays.log_weight).square()
        value = residual if self.priority == "loss" else arrays.log_reward
        if self.priority == "loss" and self._rows is not None:
            self.memory.reprice(self._rows, value[self._drawn :])
        points: Any = gfn.space.read(trajectories.final)
        self.memory.push(points[: self._drawn], value[: self._drawn])
        if isinstance(self.fresh, Remembers):
            self.fresh.remember(gfn, trajectories, arrays)

    def state_dict(self) -> dict[str, Any]:
        """Return the memory."""
        inner: dict[str, Any] = self.fresh.state_dict() if isinstance(self.fresh, Remembers) else {}
        return {"points": self.memory.points, "priority": self.memory.priority, "fresh": inner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the memory."""
        self.memory.points, self.memory.priority = state["points"], state["priority"]
        if isinstance(self.fresh, Remembers):
            self.fresh.load_state_dict(state["fresh"])


class ReplayTrajectories:
    """Mix fresh trajectories with remembered whole trajectories, drawn evenly.

    Args:
        capacity: trajectories kept.
        fraction: part of a batch that is replayed.
        fresh: the behaviour that draws the rest.

    Raises:
        InvalidInput: on a size or fraction that makes no sense.
    """

    def __init__(self, capacity: int, *, fraction: float = 0.5, fresh: Behaviour = on_policy) -> None:
        if capacity < 1 or not 0.0 < fraction < 1.0:
            raise InvalidInput(
                f"ReplayTrajectories needs capacity >= 1 and fraction in (0, 1), got {capacity}, {fraction}."
            )
        self.capacity, self.fraction, self.fresh = capacity, fraction, fresh
        self.memory: Trajectories[Any] | None = None
        self._saved: dict[str, Any] = {}
        self._drawn = 0

    def __call__(self, gfn: GFlowNet[Any], n: int) -> Trajectories[Any]:
        """Return n trajectories, the fresh ones first."""
        if self._saved:  # only now is the space's own class of states at hand
            states = gfn.space.source(1).of(self._saved["states"].values())
            self.memory = Trajectories(states, self._saved["owner"], self._saved["last"])
            self._saved = {}
        old = 0 if self.memory is None else _replayed(n, self.fraction)
        self._drawn = n - old
        new = self.fresh(gfn, self._drawn)
        if old == 0 or self.memory is None:
            return new
        rows = torch.randint(len(self.memory), (old,), device=new.owner.device)
        return Trajectories.cat([replace(new.forget(), own=new.own), self.memory.select(rows)])

    def remember(self, gfn: GFlowNet[Any], trajectories: Trajectories[Any], arrays: Balance) -> None:
        """Keep the fresh part of a batch."""
        rows = torch.arange(self._drawn, device=trajectories.owner.device)
        fresh = trajectories.forget().select(rows)
        kept = fresh if self.memory is None else Trajectories.cat([self.memory, fresh])
        if len(kept) > self.capacity:
            kept = kept.select(torch.arange(len(kept) - self.capacity, len(kept), device=rows.device))
        self.memory = kept
        if isinstance(self.fresh, Remembers):
            self.fresh.remember(gfn, trajectories, arrays)

    def state_dict(self) -> dict[str, Any]:
        """Return the memory, as plain tensors."""
        inner: dict[str, Any] = self.fresh.state_dict() if isinstance(self.fresh, Remembers) else {}
        if self.memory is None:  # nothing yet, or restored and not used since
            return {"memory": self._saved, "fresh": inner}
        states = dict(self.memory.states.tensors())
        saved = {"states": states, "owner": self.memory.owner, "last": self.memory.last}
        return {"memory": saved, "fresh": inner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the memory at the next call."""
        self.memory, self._saved = None, state["memory"]
        if isinstance(self.fresh, Remembers):
            self.fresh.load_state_dict(state["fresh"])


class LocalSearch:
    """Mix fresh trajectories with walks back from MALA-improved terminal points.

    Every ``every`` batches, chains start at remembered points (drawn by rank of reward), run MALA on the
    target, and their states become the pool that is walked back from.

    Args:
        target: the target, with a gradient, on R^d.
        capacity: terminal points remembered.
        chains: parallel chains of a search.
        steps: MALA steps of a search, the first half discarded.
        every: batches between searches.
        fraction: part of a batch that is walked back.
        fresh: the behaviour that draws the rest.

    Raises:
        InvalidInput: on sizes that make no sense.
        MeasureMismatch: when the target is not on all of R^d.
    """

    def __init__(
        self,
        target: Target[Tensor],
        *,
        capacity: int = 100_000,
        chains: int = 256,
        steps: int = 60,
        every: int = 50,
        fraction: float = 0.5,
        fresh: Behaviour = on_policy,
    ) -> None:
        if min(chains, steps, every) < 1 or not 0.0 < fraction < 1.0:
            raise InvalidInput("LocalSearch needs chains, steps, every >= 1 and fraction in (0, 1).")
        measure = target.measure
        if not (isinstance(measure, Lebesgue) and measure == Lebesgue(measure.dim)):
            raise MeasureMismatch(
                f"LocalSearch moves in all of R^d, and its target is a density against {measure}: change its "
                "coordinates with ctsgfn.transformed, or use Replay."
            )
        self.target = target
        self.memory, self.pool = Memory(capacity), Memory(chains * steps)
        self.chains, self.steps, self.every = chains, steps, every
        self.fraction, self.fresh = fraction, fresh
        self.step_size, self.batches, self._drawn = 0.1, 0, 0

    def __call__(self, gfn: GFlowNet[Any], n: int) -> Trajectories[Any]:
        """Return n trajectories, the fresh ones first."""
        old = _replayed(n, self.fraction) if len(self.pool) else 0
        self._drawn = n - old
        new = self.fresh(gfn, self._drawn)
        if old == 0 or self.pool.points is None:
            return new
        rows = self.pool.draw(old, ranked=False)
        walked = walk_back(gfn, self.pool.points[rows])
        return Trajectories.cat([new, walked])

    def remember(self, gfn: GFlowNet[Any], trajectories: Trajectories[Any], arrays: Balance) -> None:
        """Keep the terminal states of the fresh part of a batch, and search from time to time."""
        points: Any = gfn.space.read(trajectories.final)
        self.memory.push(points[: self._drawn], arrays.log_reward[: self._drawn])
        if self.batches % self.every == 0 and self.memory.points is not None:
            start = self.memory.points[self.memory.draw(self.chains, ranked=True)]
            found = mala(self.target, start, steps=self.steps, step_size=self.step_size)
            self.step_size = found.step_size
            kept = found.path[self.steps // 2 :].flatten(0, 1)
            self.pool.push(kept, kept.new_zeros(len(kept)))
        self.batches += 1
        if isinstance(self.fresh, Remembers):
            self.fresh.remember(gfn, trajectories, arrays)

    def state_dict(self) -> dict[str, Any]:
        """Return memory, pool and step size."""
        inner: dict[str, Any] = self.fresh.state_dict() if isinstance(self.fresh, Remembers) else {}
        return {
            "points": self.memory.points, "priority": self.memory.priority, "pool": self.pool.points,
            "pool_priority": self.pool.priority, "step_size": self.step_size, "batches": self.batches,
            "fresh": inner,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore memory, pool and step size."""
        self.memory.points, self.memory.priority = state["points"], state["priority"]
        self.pool.points, self.pool.priority = state["pool"], state["pool_priority"]
        self.step_size, self.batches = float(state["step_size"]), int(state["batches"])
        if isinstance(self.fresh, Remembers):
            self.fresh.load_state_dict(state["fresh"])
