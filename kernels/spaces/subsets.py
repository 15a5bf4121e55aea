r"""Subsets, built item by item in any order; those of an allowed size are terminal.

.. math::
    \kappa(m, \cdot) = \sum_{j \notin m} \delta_{m + j} + 1[|m| \ge \text{least}]\,\delta_{s_f}, \qquad
    \kappa^b(m, \cdot) = \sum_{j \in m} \delta_{m - j}, \qquad \nu = \text{counting measure}

Nothing is added to a subset of ``most`` items.

References:
    Flow network based generative models for non-iterative diverse candidate generation (Bengio et al.,
    2021), arXiv 2106.04399, section 2 (objects built in any order).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Kernel
from ctsgfn.kernels.heads.categorical import Categorical
from ctsgfn.kernels.heads.informed import changes_of, informed_backward, informed_kernel
from ctsgfn.measures import Counting, Pushforward
from ctsgfn.networks import MLP, FeatureEncoder, zero_init
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.space import Space
from ctsgfn.states import Batch
from ctsgfn.subsets import LISTED, Subsets
from ctsgfn.target import HasChanges, HasLosses, Target


@dataclass(frozen=True)
class Subset(Batch):
    """A subset, as its indicator."""

    members: Tensor  # [B, items] bool


class AddItem(Branch[Subset]):
    """Add an item that is not there; counting measure on the items."""

    def __init__(self, points: Subsets) -> None:
        self.base: Counting = Counting(points.items)
        self.most = points.sizes[-1]

    def push(self, s: Subset, a: Tensor) -> Subset:
        """Add the item."""
        return Subset(s.members.scatter(1, a, True))

    def pull(self, s: Subset, t: Subset) -> Tensor:
        """Number of the item that is new."""
        return (t.members & ~s.members).to(torch.uint8).argmax(-1, keepdim=True)

    def live(self, s: Subset) -> Tensor:
        """Items that may be added, [B, items]."""
        return ~s.members & (s.members.sum(-1, keepdim=True) < self.most)

    def owns(self, s: Subset, t: Subset) -> Tensor:
        """Edges along which one item is added."""
        changed = s.members ^ t.members
        return (changed.sum(-1) == 1) & (changed & self.live(s)).any(-1)


class RemoveItem(Branch[Subset]):
    """Remove an item; counting measure on the items."""

    def __init__(self, points: Subsets) -> None:
        self.base: Counting = Counting(points.items)

    def push(self, s: Subset, a: Tensor) -> Subset:
        """Remove the item."""
        return Subset(s.members.scatter(1, a, False))

    def pull(self, s: Subset, t: Subset) -> Tensor:
        """Number of the item that is gone."""
        return (s.members & ~t.members).to(torch.uint8).argmax(-1, keepdim=True)

    def live(self, s: Subset) -> Tensor:
        """Items of the subset, [B, items]."""
        return s.members

    def owns(self, s: Subset, t: Subset) -> Tensor:
        """Edges along which one item is removed."""
        changed = s.members ^ t.members
        return (changed.sum(-1) == 1) & (changed & s.members).any(-1)


def subsets(items: int, least: int = 0, most: int | None = None) -> Space[Subset, Tensor]:
    """Subsets of {0, .., items - 1}, from the empty one by adding items.

    Args:
        items: how many there are.
        least: fewest items of a terminal subset.
        most: most items of a subset; all of them if None.

    Raises:
        InvalidInput: when the sizes make no sense.

    Example:
        >>> space = subsets(4, most=2)
        >>> space.horizon, str(space.points)
        (3, 'counting measure on subsets of 0 to 2 of 4 items')
        >>> s = space.write(torch.tensor([[True, False, False, True], [True, False, False, False]]))
        >>> space.kappa.open(s).tolist(), space.kappa_b.branches[0].live(s).sum(-1).tolist()
        ([[False, True], [True, True]], [2, 1])
    """
    points = Subsets(items, least, most)
    add, remove = AddItem(points), RemoveItem(points)
    most = points.sizes[-1]
    return Space(
        name=f"subsets(items={items}, least={least}, most={most})",
        source=lambda n: Subset(torch.zeros(n, items, dtype=torch.bool)),
        nu=Pushforward(
            Subsets(items, 0, most),
            push=Subset,
            pull=lambda s: s.members,
            owns=lambda s: s.members.sum(-1) <= most,
        ),
        kappa=ReferenceKernel(
            (add,),
            allowed=lambda s: add.live(s).any(-1, keepdim=True),
            sink=lambda s: s.members.sum(-1) >= least,
            name="kappa of the subsets",
        ),
        kappa_b=ReferenceKernel(
            (remove,),
            allowed=lambda s: s.members.any(-1, keepdim=True),
            forced=True,
            name="kappa_b of the subsets",
        ),
        progress=lambda s: s.members.sum(-1).to(torch.get_default_dtype()),
        horizon=most + 1,
        points=points,
        read=lambda s: s.members,
        write=lambda x: Subset(x.bool()),
        features=lambda s: s.members.to(torch.get_default_dtype()),
    )


def subset_kernels(
    space: Space[Subset, Any],
    target: Target[Any] | None = None,
    *,
    hidden: int = 128,
    layers: int = 2,
) -> tuple[Kernel[Subset], Kernel[Subset]]:
    """A learned categorical over the items to add, with a learned stop, and one over those to remove.

    Args:
        space: of subsets.
        target: where it has ``changes``, or there are so few items that its neighbours are simply evaluated,
            the forward kernel starts as a climb of the target by single items, and the backward kernel takes
            away first what is missed least.
        hidden: width of each network.
        layers: hidden layers of each network.

    Raises:
        InvalidInput: when the space has no subsets.

    Example:
        >>> space = subsets(3)
        >>> forward, backward = subset_kernels(space, hidden=8)
        >>> forward(space.source(1)).log_stop.exp().tolist(), backward.trainable
        ([0.5], True)
    """
    add = space.kappa.branches[0]
    if not isinstance(add, AddItem):
        raise InvalidInput(f"space {space.name!r} has no subsets: build it with subsets(..).")
    size = add.base.size

    sizes = {"hidden": hidden, "layers": layers}
    change: Callable[[Subset], Tensor] | None = None
    if isinstance(target, HasChanges):
        changes = target.changes
        change = lambda s: changes(s.members)  # noqa: E731
    elif target is not None and target.measure == space.points and size <= LISTED:
        change = changes_of(space, target.log_density)
    if change is not None:
        assert target is not None
        if isinstance(target, HasLosses):
            losses = target.losses
            missed: Callable[[Subset], Tensor] = lambda s: losses(s.members)  # noqa: E731
        else:
            missed = changes_of(space, target.log_density, space.kappa_b)
        return informed_kernel(space, change, **sizes), informed_backward(space, missed, **sizes)

    def plain() -> FeatureEncoder:
        return FeatureEncoder(space.features, MLP(space.width, hidden, layers), hidden)

    forward = Kernel(space.kappa, plain(), [Categorical(size, hidden)], zero_init(nn.Linear(hidden, 2)))
    return forward, Kernel(space.kappa_b, plain(), [Categorical(size, hidden)])
