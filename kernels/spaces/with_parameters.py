r"""Any space of structures, with parameters on top: the structure grows, and then all of theta is drawn.

.. math::
    \kappa(G, \cdot) = \kappa_{\text{structure}}(G, \cdot) + 1[G \in X]\,\delta_G \otimes \mathrm{Leb}^{k_G},
    \qquad \kappa((G, \theta), \cdot) = \delta_{s_f}, \qquad
    \nu = \nu_{\text{structure}} + \sum_{G \in X} \delta_G \otimes \mathrm{Leb}^{k_G}

Backwards, theta is dropped and the structure goes the way of its own kappa_b. Where a structure may stop,
its parameters may be drawn: the mass of that branch is the stop probability of the structure.

References:
    Joint Bayesian inference of graphical structure and parameters with a single generative flow network
    (Deleu et al., 2023), arXiv 2305.19366, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ctsgfn.measures import Atom, Lebesgue, Pushforward, Sum
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.space import Space
from ctsgfn.states import Batch, S, X
from ctsgfn.with_parameters import Parameterised, WithParameters


@dataclass(frozen=True)
class Growing(Batch):
    """A structure, and its parameters once it is sealed."""

    structure: Any  # [B] a state of the space of structures
    theta: Tensor  # [B, size], 0 until the structure is sealed, and where it has no such parameter
    sealed: Tensor  # [B] bool


class OnStructure(Branch[Growing]):
    """A branch of the space of structures, among those that are not sealed."""

    def __init__(self, inner: Branch[Any]) -> None:
        self.inner, self.base = inner, inner.base

    def push(self, s: Growing, a: Tensor) -> Growing:
        """Push the structure."""
        return replace(s, structure=self.inner.push(s.structure, a))

    def pull(self, s: Growing, t: Growing) -> Tensor:
        """Pull the structure."""
        return self.inner.pull(s.structure, t.structure)

    def log_weight(self, s: Growing, a: Tensor) -> Tensor:
        """Weight of the structure's chart."""
        return self.inner.log_weight(s.structure, a)

    def live(self, s: Growing) -> Tensor | None:
        """Atoms or axes that are live at the structure."""
        return self.inner.live(s.structure)

    def owns(self, s: Growing, t: Growing) -> Tensor:
        """Edges of the space of structures."""
        return ~s.sealed & ~t.sealed & self.inner.owns(s.structure, t.structure)

    def intrinsic(self, t: Growing) -> Tensor | None:
        """Coordinates of the structure."""
        return self.inner.intrinsic(t.structure)


class DrawParameters(Branch[Growing]):
    """Seal a structure with its parameters; a parameter that it lacks is a dead axis.

    Args:
        points: the measure of models and parameters.
        read: structures -> models.
    """

    def __init__(self, points: WithParameters[Any], read: Callable[[Any], Any]) -> None:
        self.base: Lebesgue = Lebesgue(points.size)
        self.points, self.read = points, read

    def push(self, s: Growing, a: Tensor) -> Growing:
        """Set theta."""
        return Growing(s.structure, a, torch.ones_like(s.sealed))

    def pull(self, s: Growing, t: Growing) -> Tensor:
        """Read theta."""
        return t.theta

    def live(self, s: Growing) -> Tensor:
        """Parameters that the structure has, [B, size]."""
        return self.points.live(self.read(s.structure))

    def owns(self, s: Growing, t: Growing) -> Tensor:
        """Edges that seal a structure and leave it as it is."""
        return ~s.sealed & t.sealed & _same(s.structure, t.structure)

    def intrinsic(self, t: Growing) -> Tensor:
        """Length, area or volume is measured in theta."""
        return t.theta


class Unseal(Branch[Growing]):
    """Drop the parameters."""

    base = Atom()

    def push(self, s: Growing, a: Tensor) -> Growing:
        """Set theta to 0."""
        return Growing(s.structure, torch.zeros_like(s.theta), torch.zeros_like(s.sealed))

    def pull(self, s: Growing, t: Growing) -> Tensor:
        """No coordinates."""
        return s.theta[:, :0]

    def owns(self, s: Growing, t: Growing) -> Tensor:
        """Edges from a sealed structure to itself."""
        return s.sealed & ~t.sealed & _same(s.structure, t.structure)


def _same(a: Any, b: Any) -> Tensor:
    """Whether two batches of structures agree, row by row: [B]."""
    pairs = zip(a.tensors().values(), b.tensors().values(), strict=True)
    return torch.stack([(u == v).flatten(1).all(-1) if u.dim() > 1 else u == v for u, v in pairs]).all(0)


def with_parameters(
    space: Space[S, X], size: int, live: Callable[[X], Tensor]
) -> Space[Growing, Parameterised]:
    """Structures of a space, each sealed with its parameters at the end.

    Args:
        space: of the structures; its terminal states are the models.
        size: most parameters that a model can have.
        live: models (what ``space.read`` returns) -> [B, size] bool, which parameters each of them has.

    Raises:
        InvalidInput: when size < 1.

    Example:
        Cells of a 3 x 3 grid, where a cell that is not at 0 along an axis has a parameter for it.

        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid
        >>> space = with_parameters(hypergrid(2, 3), 2, lambda cell: cell > 0)
        >>> space.horizon, [type(b).__name__ for b in space.kappa.branches]
        (6, ['OnStructure', 'DrawParameters'])
        >>> s = space.write(Parameterised(torch.tensor([[0, 2]]), torch.tensor([[0.0, 1.5]])))
        >>> space.points.contains(space.read(s)).tolist(), space.progress(s).tolist()
        ([True], [3.0])
    """
    points = WithParameters(space.points, size, live)
    draw = DrawParameters(points, space.read)
    may_stop = space.kappa.sink
    assert may_stop is not None  # Space refuses a kappa without sink

    def sealed(s: Growing) -> Tensor:
        return s.sealed

    def growing(structure: S) -> Growing:
        like = structure.anchor
        none = torch.zeros(len(structure), dtype=torch.bool, device=like.device)
        return Growing(structure, like.new_zeros(len(structure), size), none)

    def write(x: Parameterised) -> Growing:
        every = torch.ones(len(x), dtype=torch.bool, device=x.theta.device)
        return Growing(space.write(x.model), x.theta, every)

    def read(s: Growing) -> Parameterised:
        return Parameterised(space.read(s.structure), s.theta)

    def features(s: Growing) -> Tensor:
        phi = space.features(s.structure)
        return torch.cat([phi, s.theta.to(phi), s.sealed[:, None].to(phi)], -1)

    def extended(
        reference: ReferenceKernel[S],
        last: Branch[Growing],
        where: Callable[[Growing], Tensor],
        sink: Callable[[Growing], Tensor] | None = None,
    ) -> ReferenceKernel[Growing]:
        def allowed(s: Growing) -> Tensor:
            return torch.cat([reference.allowed(s.structure) & ~s.sealed[:, None], where(s)[:, None]], -1)

        branches = (*[OnStructure(branch) for branch in reference.branches], last)
        name = f"{reference.name} with parameters"
        return ReferenceKernel(branches, allowed, sink, reference.forced, name)

    def complete(s: Growing) -> Tensor:
        return ~s.sealed & may_stop(s.structure)

    return Space(
        name=f"{space.name} with parameters",
        source=lambda n: growing(space.source(n)),
        nu=Sum(
            (
                Pushforward(space.nu, push=growing, pull=lambda s: s.structure, owns=lambda s: ~s.sealed),
                Pushforward(points, push=write, pull=read, owns=sealed),
            )
        ),
        kappa=extended(space.kappa, draw, complete, sink=sealed),
        kappa_b=extended(space.kappa_b, Unseal(), sealed),
        progress=lambda s: space.progress(s.structure) + s.sealed,
        horizon=space.horizon + 1,
        points=points,
        read=read,
        write=write,
        features=features,
        synchronous=space.synchronous,
    )
