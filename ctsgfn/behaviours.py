"""Behaviours: who draws the trajectories that an objective learns from.

A behaviour maps a flow and a number to complete trajectories. Off-policy learning costs nothing
here: trajectories store states, and every density is recomputed or recorded under the flow's own
kernels.

References:
    Trajectory balance (Malkin et al., 2022), arXiv 2201.13259, section 3.2; Improved off-policy
    training of diffusion samplers (Sendera et al., 2024), arXiv 2402.05098.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ctsgfn.balance import Balance, pieces
from ctsgfn.diffuse import Diffuse, diffuse
from ctsgfn.errors import InvalidInput
from ctsgfn.gflownet import GFlowNet
from ctsgfn.gradient import CHUNK
from ctsgfn.kernel import Head, Kernel
from ctsgfn.law import Law
from ctsgfn.measures import Counting, Haar, Lebesgue, Product, coordinates
from ctsgfn.moves import Step
from ctsgfn.states import Jump
from ctsgfn.trajectories import Trajectories
from ctsgfn.walks import arrivals, backtrack, rollout


class Behaviour(Protocol):
    """Any callable (flow, n) -> n complete trajectories."""

    def __call__(self, gfn: GFlowNet[Any], n: int, /) -> Trajectories[Any]:
        """Draw n trajectories."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """A behaviour with a memory: it is shown every batch, and saved in checkpoints."""

    def remember(self, gfn: GFlowNet[Any], trajectories: Trajectories[Any], arrays: Balance) -> None:
        """Look at a batch and its log-densities."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the memory."""
        ...


def on_policy(gfn: GFlowNet[Any], n: int) -> Trajectories[Any]:
    """Draw from the flow's own forward kernel."""
    return rollout(gfn.space, gfn.forward_kernel, n)


def reparameterised(gfn: GFlowNet[Any], n: int) -> Trajectories[Any]:
    """Draw from the flow's own forward kernel, with the pathwise gradient."""
    return rollout(gfn.space, gfn.forward_kernel, n, reparameterised=True)


class Guided:
    """A walker that draws with one kernel and records the density under another.

    Args:
        kernel: the flow's forward kernel, whose log-densities are recorded.
        guide: the kernel that draws, on the same reference.
        rate: fraction of the states at which the guide draws; elsewhere the kernel itself does.

    Raises:
        InvalidInput: when the kernels have different references, or the rate is not in [0, 1].
    """

    def __init__(self, kernel: Kernel[Any], guide: Kernel[Any], rate: float = 1.0) -> None:
        if kernel.reference is not guide.reference:
            raise InvalidInput(
                f"the guide walks on {guide.reference.name!r} and the flow on {kernel.reference.name!r}: "
                "build the guide on the same reference kernel."
            )
        _fraction("rate", rate)
        self.kernel, self.guide, self.rate = kernel, guide, rate
        self.anchor = kernel.anchor

    def modules(self) -> Iterator[nn.Module]:
        """The modules of both kernels."""
        yield from self.kernel.modules()
        yield from self.guide.modules()

    def bind(self) -> Callable[[Any], GuidedLaw]:
        """States -> law of the next state from each of them."""
        kernel, guide = self.kernel.bind(), self.guide.bind()
        shared = self.guide.encoder is self.kernel.encoder

        def law(s: Any) -> GuidedLaw:
            own = kernel(s)
            return GuidedLaw(own, Law(guide, s, own.seen, own.context) if shared else guide(s), self.rate)

        return law


class GuidedLaw:
    """The law of a ``Guided`` walker: draws by the guide, densities of the flow's own kernel."""

    single = False  # what is drawn is not what is scored

    def __init__(self, own: Law[Any], guide: Law[Any], rate: float) -> None:
        self.own, self.guide, self.rate = own, guide, rate
        self.seen = own.seen

    def draw(self, *, reparameterised: bool = False) -> tuple[Jump[Any], Tensor]:
        """One jump per state, and its log-density under the flow's own kernel."""
        self._refuse(reparameterised)
        jump = self.guide.sample()
        if self.rate < 1.0:
            other = self.own.sample()
            swap = torch.rand(len(self.own.s), device=jump.stop.device) >= self.rate
            rows = swap.nonzero().squeeze(-1)
            jump = Jump(jump.target.put(rows, other.target[rows]), torch.where(swap, other.stop, jump.stop))
        return jump, self.own.log_density(jump)

    def step(self) -> Step[Any]:
        """One jump per state, scored under the flow's own kernel."""
        return Step.of(*self.draw())

    def draw_move(self, *, reparameterised: bool = False) -> tuple[Any, Tensor]:
        """One successor per state, where no state can stop, and its log-density."""
        self._refuse(reparameterised)
        target, _ = self.guide.draw_move()
        if self.rate < 1.0:
            other, _ = self.own.draw_move()
            device = self.own.kernel.anchor.device
            rows = (torch.rand(len(self.own.s), device=device) >= self.rate).nonzero().squeeze(-1)
            target = target.put(rows, other[rows])
        return target, self.own.log_density_to(target)

    @staticmethod
    def _refuse(reparameterised: bool) -> None:
        if reparameterised:
            raise InvalidInput("a guided walk has no pathwise gradient: use on-policy trajectories.")


def guided(guide: Callable[[GFlowNet[Any]], Kernel[Any]], rate: float = 1.0) -> Behaviour:
    """Draw with another kernel on the same reference: tempered, widened, or anything else.

    Args:
        guide: flow -> the kernel that draws (it may share the flow's modules).
        rate: fraction of the states at which it draws.

    Raises:
        InvalidInput: when the rate is not in [0, 1].

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid
        >>> space = hypergrid(2, 4)
        >>> gfn = GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b))
        >>> len(guided(lambda g: g.forward_kernel, 0.5)(gfn, 7))
        7
    """
    _fraction("rate", rate)

    def behave(gfn: GFlowNet[Any], n: int) -> Trajectories[Any]:
        return replace(rollout(gfn.space, Guided(gfn.forward_kernel, guide(gfn), rate), n), own=None)

    return behave


def epsilon_uniform(epsilon: float) -> Behaviour:
    """At each state, draw from the diffuse kernel with probability epsilon, else from the flow.

    Raises:
        InvalidInput: when epsilon is not in [0, 1].
    """
    return guided(lambda gfn: diffuse(gfn.space.kappa).to(gfn.log_z), epsilon)


def epsilon_choices(epsilon: float) -> Behaviour:
    """At each state, choose evenly with probability epsilon, else as the flow does; coordinates are its own.

    Only what is counted is explored: branches, and the atoms of counting measures. Parameters that were
    drawn without a thought would be far out in every tail of the target.

    Raises:
        InvalidInput: when epsilon is not in [0, 1].
    """

    def walker(gfn: GFlowNet[Any]) -> Kernel[Any]:
        own = gfn.forward_kernel
        heads: list[Head] = [
            Diffuse(head.base) if isinstance(head.base, Counting) else head  # type: ignore[misc]
            for head in own.heads
        ]
        return Kernel(own.reference, own.encoder, heads).to(own.anchor)

    return guided(walker, epsilon)


@dataclass(frozen=True)
class FromData:
    """Walks back from given points, drawn with replacement; made by ``from_data``."""

    x: Any
    reparameterised: bool

    def __call__(self, gfn: GFlowNet[Any], n: int) -> Trajectories[Any]:
        """Draw n trajectories."""
        x = self.x
        first: Tensor = x if isinstance(x, Tensor) else next(iter(x.tensors().values()))
        chosen = x[torch.randint(len(x), (n,), device=first.device)]
        _require_inside(gfn, chosen)
        if self.reparameterised:
            return backtrack(gfn.space, gfn.backward_kernel, gfn.space.write(chosen), reparameterised=True)
        return walk_back(gfn, chosen)


def from_data(x: Any, *, reparameterised: bool = False) -> FromData:
    """Walk back from given points of the target's space, drawn with replacement.

    Args:
        x: points in the space's own coordinates (what its ``read`` gives).
        reparameterised: with the pathwise gradient, for ``maximum_likelihood``.

    Raises:
        InvalidInput: without points; and, when drawn from, if a point is outside the space.
    """
    if len(x) == 0:
        raise InvalidInput("from_data needs at least one point.")
    return FromData(x, reparameterised)


def there_and_back(gfn: GFlowNet[Any], n: int) -> Trajectories[Any]:
    """Draw points from the flow, and walk back from them.

    Where many trajectories lead to a point, a learned backward kernel may believe in some that the forward
    kernel never takes: no draw of the flow says so, and its weights lack their share of Z. These walks do.
    """
    return walk_back(gfn, gfn.space.read(arrivals(gfn.space, gfn.forward_kernel, n)))


def mixed(first: Behaviour, second: Behaviour, fraction: float) -> Behaviour:
    """Draw a fraction of every batch with the second behaviour, the rest with the first.

    Raises:
        InvalidInput: when the fraction is not in [0, 1], or a behaviour has a memory of its own.
    """
    _fraction("fraction", fraction)
    for part in (first, second):
        if isinstance(part, Remembers):
            raise InvalidInput(
                f"{type(part).__name__} has a memory, which mixed would never fill: it mixes by itself, so "
                "pass it the other behaviour as fresh= and its share as fraction=."
            )

    def behave(gfn: GFlowNet[Any], n: int) -> Trajectories[Any]:
        rest = round(n * fraction)
        parts = [b(gfn, k) for b, k in ((first, n - rest), (second, rest)) if k]
        return parts[0] if len(parts) == 1 else Trajectories.cat(parts)

    return behave


def walk_back(gfn: GFlowNet[Any], x: Any) -> Trajectories[Any]:
    """Trajectories from s0 to given points, by the backward kernel; log p_F is computed when asked for."""
    walked = backtrack(gfn.space, gfn.backward_kernel, gfn.space.write(x))
    with torch.no_grad():
        walked = replace(walked, seen=gfn.forward_kernel.encoder.observe(walked.states))

    @torch.no_grad()
    def log_forward() -> Tensor:
        runs = pieces(gfn, walked, forward=True, backward=False, flow=False, stop=False, chunk=4 * CHUNK)
        return torch.cat([piece.log_forward for _, piece in runs if piece.log_forward is not None])

    return replace(walked, log_forward=log_forward)


def _require_inside(gfn: GFlowNet[Any], x: Any) -> None:
    """Refuse points that the space does not have: no flow could be learned there."""
    points = gfn.space.points
    wide = isinstance(x, Tensor) and isinstance(points, Lebesgue | Haar | Counting | Product)
    if wide and x.shape[1:] != (coordinates(points),):
        raise InvalidInput(
            f"the data are points of shape {list(x.shape[1:])}, but {gfn.space.name} has points [B, "
            f"{coordinates(points)}]: pass one row per point, in the space's own coordinates."
        )
    inside = points.contains(x)
    if not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        where = x[row].tolist() if isinstance(x, Tensor) else x[row]
        raise InvalidInput(
            f"the data hold the point {where}, outside the {points} of {gfn.space.name}: leave such points "
            "out, or transform the data into the space's own coordinates."
        )


def _fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise InvalidInput(f"{name} must be in [0, 1], got {value!r}.")
