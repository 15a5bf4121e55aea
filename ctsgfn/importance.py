r"""Trajectories weighed against the target, forwards and backwards, in chunks of bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor

from ctsgfn.balance import Wanted, balance, pieces
from ctsgfn.coordinates import Coordinates
from ctsgfn.errors import InvalidInput, whole
from ctsgfn.evidence import Evidence, estimate_evidence
from ctsgfn.gflownet import GFlowNet
from ctsgfn.psis import psis, systematic
from ctsgfn.states import Batch, S, X
from ctsgfn.target import Target, has_floor
from ctsgfn.trajectories import Trajectories
from ctsgfn.walks import arrivals, backtrack, rollout

NUMBERS = 2**23
"""Numbers held at once while drawing: larger requests are cut into chunks, so memory stays flat."""
ROWS = 2**14
"""Rows per network call."""


@dataclass(frozen=True)
class Importance(Generic[S, X]):
    r"""Importance sampling with a flow as the proposal, on trajectories.

    The weight of a trajectory that ends in x is :math:`w = r(x)\,p_B(\tau | x) / p_F(\tau)`, whose
    mean under the policy is Z whatever the kernels are.

    References:
        A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594.

    Args:
        gfn: the flow.
        target: the target, in the flow's coordinates; points come and go in the user's.

    Raises:
        InvalidInput: from its methods, when a size is not a whole number of at least 1, or a point is
            outside the support.
    """

    gfn: GFlowNet[S]
    target: Target[Any]

    @property
    def coordinates(self) -> Coordinates:
        """From the flow's coordinates to the user's."""
        return Coordinates(self.target)

    def draw(self, n: int) -> X:
        """Draw n points from the policy."""
        whole("n", n)
        at_once = max(1, NUMBERS // (8 * max(64, self.gfn.space.width)))  # only the present states are held
        sizes = [min(at_once, n - start) for start in range(0, n, at_once)]
        return stack([self._decoded(arrivals(self.gfn.space, self.gfn.forward_kernel, k)) for k in sizes])

    def weigh(self, n: int) -> tuple[X, Tensor]:
        """Draw n points from the policy, with their log-weights [n] (float64, not normalised)."""
        whole("n", n)
        points, weights = [], []
        for k in self._chunks(n):
            walk = self._walk(k)
            points.append(self._decoded(walk.final))
            weights.append(self._log_weight(walk))
        return stack(points), torch.cat(weights)

    def weigh_backwards(self, x: X) -> Tensor:
        """Log-weights [B] of one backward trajectory from each point."""
        return self.weigh_ends(self.encode(x))

    def judge(self, log_weight: Tensor) -> Evidence:
        """What log-weights [N] of the flow's draws say about log Z and about themselves."""
        measure = str(self.coordinates.original.measure)
        log_z, max_gap = self.gfn.log_z.item(), self.max_gap
        return estimate_evidence(log_weight, learned_log_z=log_z, measure=measure, max_gap=max_gap)

    @property
    def max_gap(self) -> float:
        """Largest gap in nats between log Z and the lower bound that is called reliable.

        Any, where a floor stands for -inf: one draw in a hundred beyond a wall would cost the bound ten nats.
        """
        return math.inf if has_floor(self.target) else 1.0

    def resample(self, n: int, pool: int | None = None) -> tuple[X, Tensor, Evidence]:
        """Draw n points of the target from a pool of weighted draws, with their log-weights [n].

        Args:
            n: number of points.
            pool: number of weighted draws, by default twice n and at least 4096.

        Returns:
            Points, log-weights, and what the weights of the pool are worth.
        """
        whole("n", n)
        size = max(2 * n, 4096) if pool is None else pool
        whole("pool", size, least=2)
        points: Any
        points, log_weight = self.weigh(size)
        rows = systematic(psis(log_weight).log_weight, n)
        return points[rows], log_weight[rows], self.judge(log_weight)

    def encode(self, x: X) -> Any:
        """The user's points in the flow's own coordinates, dtype and device."""
        return self.coordinates.encode(self._like_flow(x))[0]

    def weigh_ends(self, z: Any) -> Tensor:
        """The same from points in the flow's own coordinates."""
        finals = self.gfn.space.write(z)
        weights = []
        for start in range(0, len(finals), self._chunk):
            part = finals[start : start + self._chunk]
            walk = backtrack(self.gfn.space, self.gfn.backward_kernel, part)
            weights.append(self._log_weight(walk))
        return torch.cat(weights)

    def log_density(self, x: X, n: int) -> Tensor:
        """Log-density [B] of the policy's points, from n backward trajectories each."""
        whole("n", n)
        z, log_det = self.coordinates.encode(self._like_flow(x))
        finals = self.gfn.space.write(z)
        rows = torch.arange(len(finals), device=self.gfn.forward_kernel.anchor.device)
        out = []
        for some in rows.split(max(1, self._chunk // n)):
            parts = []
            for k in self._chunks(n):
                starts = finals[some.repeat_interleave(k)]
                walk = backtrack(self.gfn.space, self.gfn.backward_kernel, starts)
                parts.append(self._log_ratio(walk).unflatten(0, (-1, k)))
            out.append(torch.cat(parts, dim=1).logsumexp(1) - math.log(n))
        return torch.cat(out) - log_det

    @property
    def _chunk(self) -> int:
        """Trajectories at once."""
        space = self.gfn.space
        return max(1, NUMBERS // (space.horizon * max(64, space.width)))

    def _chunks(self, n: int) -> Iterator[int]:
        for start in range(0, n, self._chunk):
            yield min(self._chunk, n - start)

    def _walk(self, n: int) -> Trajectories[S]:
        return rollout(self.gfn.space, self.gfn.forward_kernel, n)

    def _decoded(self, finals: S) -> X:
        with torch.no_grad():
            return self.coordinates.decode(self.gfn.space.read(finals))

    def _like_flow(self, x: Any) -> Any:
        anchor = self.gfn.forward_kernel.anchor
        if isinstance(x, Tensor):
            return x.to(anchor.device, anchor.dtype if x.is_floating_point() else x.dtype)
        if not isinstance(x, Batch):
            raise InvalidInput(
                f"points must be a tensor, got {type(x).__name__}: pass torch.as_tensor(points)."
            )
        return x.like(anchor)

    def _log_weight(self, walk: Trajectories[S]) -> Tensor:
        """Log r + log p_B - log p_F of each trajectory, [N] float64."""
        with torch.no_grad():
            return balance(self.gfn, self.target, walk, wanted=Wanted(), chunk=ROWS).log_weight.double()

    def _log_ratio(self, walk: Trajectories[S]) -> Tensor:
        """Log p_F - log p_B of backward trajectories, [N] float64; the target is not asked."""
        if walk.log_backward is None:
            raise InvalidInput("these trajectories do not know the densities they were drawn backwards with.")
        with torch.no_grad():
            runs = pieces(self.gfn, walk, forward=True, backward=False, flow=False, stop=False, chunk=ROWS)
            log_forward = torch.cat([p.log_forward for _, p in runs if p.log_forward is not None])
        edges = (log_forward - walk.log_backward).double()
        return edges.new_zeros(len(walk)).index_add(0, walk.owner, edges)


def stack(parts: list[Any]) -> Any:
    """Points of several chunks as one batch."""
    return torch.cat(parts) if isinstance(parts[0], Tensor) else type(parts[0]).cat(parts)
