r"""Choices that know what each would change: the discrete counterpart of a score in the drift.

With :math:`\Delta_i(s)` the change of log r when atom i is chosen, and h the hidden layer of a network,

.. math::
    q(i | s) \propto e^{\ell_i(h) + a\,\Delta_i(s)}, \qquad
    \frac{P(\text{go on} | s)}{P(\text{stop} | s)} = e^{g(h) + b \log \sum_i e^{\Delta_i(s)}}

over the live atoms, with a and b 1/2 at the start and the networks 0: a walk climbs the target from the
first step on, without haste, and what is learned is the rest.

References:
    Informed proposals for local MCMC in discrete spaces (Zanella, 2020), arXiv 1711.07424;
    Joint Bayesian inference of graphical structure and parameters with a single generative flow network
    (Deleu et al., 2023), arXiv 2305.19366, section 3 (the space it is used on).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.distributions import MaskedCategorical
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head, Kernel
from ctsgfn.measures import Counting
from ctsgfn.networks import MLP, Encoder, FeatureEncoder, zero_init
from ctsgfn.reference import ReferenceKernel
from ctsgfn.space import Space
from ctsgfn.states import Batch

START = 0.5
"""Gain of the changes at the start: the square root of the ratio, as in locally balanced proposals."""


@dataclass(frozen=True)
class Informed(Batch):
    """Context of a choice: a hidden layer, and what each atom would change."""

    hidden: Tensor  # [B, width]
    change: Tensor  # [B, size], -inf where the atom is not live


class InformedEncoder(Encoder):
    """A hidden layer of a state, beside the changes of log r that its atoms would make.

    Args:
        inner: the encoder of the hidden layer.
        change: states -> [B, size], the change of log r by each atom, anything where it is not live;
            evaluated once per visited state, without gradient.
        live: states -> [B, size] bool.
    """

    def __init__(
        self, inner: FeatureEncoder, change: Callable[[Any], Tensor], live: Callable[[Any], Tensor]
    ) -> None:
        super().__init__()
        self.inner, self.width = inner, inner.width
        self.change, self.live = change, live

    def observe(self, s: Any) -> Tensor:
        """The changes [B, size], -inf where not live."""
        with torch.no_grad():
            return self.change(s).to(self.inner.anchor.dtype).masked_fill(~self.live(s), -math.inf)

    def forward(self, s: Any, seen: Tensor | None) -> Informed:
        """Hidden layer and changes."""
        change = self.observe(s) if seen is None else seen
        return Informed(self.inner(s, None), change)


class InformedCategorical(Head):
    """Categorical whose logits are a linear layer on the hidden layer plus a times the changes.

    Args:
        size: number of atoms.
        width: of the hidden layer.

    Example:
        >>> head = InformedCategorical(3, width=4)
        >>> context = Informed(torch.ones(1, 4), torch.tensor([[0.0, math.log(9.0), -math.inf]]))
        >>> live = torch.tensor([[True, True, False]])
        >>> law = head(context, None, live)
        >>> [round(law.log_prob(torch.tensor([[i]])).exp().item(), 4) for i in range(3)]
        [0.25, 0.75, 0.0]
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.base = Counting(size)
        self.logits = zero_init(nn.Linear(width, size))
        self.gain = nn.Parameter(torch.full((), START))

    def forward(self, context: Any, s: Any, live: Tensor | None) -> MaskedCategorical:
        """Law of the atom, [B, 1] long."""
        del s
        finite = context.change.masked_fill(context.change == -math.inf, 0.0)  # masked again by live
        return MaskedCategorical(self.logits(context.hidden) + self.gain * finite, live)


class InformedGate(nn.Module):
    """Logits [B, 2] of going on and of stopping: the first knows how much the best changes promise.

    Args:
        width: of the hidden layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = zero_init(nn.Linear(width, 2))
        self.gain = nn.Parameter(torch.full((), START))

    def forward(self, context: Informed) -> Tensor:
        """Logits; where no atom is live the first is closed by the kernel's own mask."""
        total = context.change.logsumexp(-1)
        promise = self.gain * total.masked_fill(total == -math.inf, 0.0)
        return self.linear(context.hidden) + torch.stack([promise, torch.zeros_like(promise)], -1)


def changes_of(
    space: Space[Any, Any],
    log_density: Callable[[Any], Tensor],
    reference: ReferenceKernel[Any] | None = None,
) -> Callable[[Any], Tensor]:
    """What each atom would change of a log-density: states -> [B, size], 0 where a state is not terminal.

    Args:
        space: of structures, with one branch on a counting measure.
        log_density: what ``space.read`` returns -> [B].
        reference: the kernel whose atoms they are, by default ``space.kappa``; ``space.kappa_b`` for what is
            taken away.

    Raises:
        InvalidInput: when the kernel has several branches, or another base.

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import Cell, hypergrid
        >>> space, level = hypergrid(2, 3), lambda x: x.double() @ torch.tensor([1.0, 2.0]).double()
        >>> s = Cell(torch.tensor([[0, 0], [2, 1]]))
        >>> changes_of(space, level)(s).tolist(), changes_of(space, level, space.kappa_b)(s).tolist()
        ([[1.0, 2.0], [0.0, 2.0]], [[0.0, 0.0], [-1.0, -2.0]])
    """
    kernel = space.kappa if reference is None else reference
    branch, _ = _counted(kernel)
    live = _live(kernel)

    def change(s: Any) -> Tensor:
        edges = live(s)
        row, atom = edges.nonzero(as_tuple=True)
        both = type(s).cat([s, branch.push(s[row], atom[:, None])])
        known = space.kappa.open(both)[:, -1].nonzero().squeeze(-1)  # the others have no density
        value = log_density(space.read(both[known]))
        level = value.new_zeros(len(both)).index_copy(0, known, value)
        sound = torch.zeros(len(both), dtype=torch.bool, device=row.device).index_fill(0, known, True)
        after, level_after = sound[len(s) :], level[len(s) :]
        gain = torch.where(sound[row] & after, level_after - level[row], 0.0)
        return value.new_zeros(edges.shape).index_put((row, atom), gain)

    return change


def informed_kernel(
    space: Space[Any, Any], change: Callable[[Any], Tensor], *, hidden: int = 128, layers: int = 2
) -> Kernel[Any]:
    """A forward kernel whose choices, and whose stop, know what each choice would change.

    Args:
        space: of structures, with one branch on a counting measure, whose states may stop.
        change: states -> [B, size], such as ``changes_of``.
        hidden: width of the network on the space's features.
        layers: its hidden layers.

    Raises:
        InvalidInput: when the space has several branches, or another base.

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid
        >>> space = hypergrid(2, 3)
        >>> forward = informed_kernel(space, changes_of(space, lambda x: 2 * x.double()[:, 0]), hidden=8)
        >>> [round(p, 2) for p in forward(space.source(1)).log_mass[0].exp().tolist()]
        [0.74, 0.26]
    """
    return _informed(space, space.kappa, change, hidden, layers)


def informed_backward(
    space: Space[Any, Any], change: Callable[[Any], Tensor], *, hidden: int = 128, layers: int = 2
) -> Kernel[Any]:
    r"""A backward kernel that rather takes away what is missed least.

    A forward kernel that climbs adds first what helps most, and would have to unlearn that under a backward
    kernel that takes away evenly: the orders it never draws hold much of the flow, and neither its weights
    nor its bounds say that they are missing. These two kernels agree on the order from the start.

    Args:
        space: of structures whose kappa_b has one branch on a counting measure.
        change: states -> [B, size], such as ``changes_of(space, log_density, space.kappa_b)``.
        hidden: width of the network on the space's features.
        layers: its hidden layers.

    Raises:
        InvalidInput: when kappa_b has several branches, or another base.

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import Cell, hypergrid
        >>> space = hypergrid(2, 3)
        >>> missed = changes_of(space, lambda x: 2 * x.double()[:, 0], space.kappa_b)
        >>> law = informed_backward(space, missed, hidden=8)(Cell(torch.tensor([[1, 1]])))
        >>> to = Cell(torch.tensor([[1, 0]]))
        >>> round(float(law.log_density_to(to).exp().detach()), 2)  # 1 / (1 + 1 / e)
        0.73
    """
    return _informed(space, space.kappa_b, change, hidden, layers)


def _informed(
    space: Space[Any, Any],
    reference: ReferenceKernel[Any],
    change: Callable[[Any], Tensor],
    hidden: int,
    layers: int,
) -> Kernel[Any]:
    _, size = _counted(reference)
    plain = FeatureEncoder(space.features, MLP(space.width, hidden, layers), hidden)
    gate = None if reference.forced else InformedGate(hidden)
    head = InformedCategorical(size, hidden)
    return Kernel(reference, InformedEncoder(plain, change, _live(reference)), [head], gate)


def _live(reference: ReferenceKernel[Any]) -> Callable[[Any], Tensor]:
    """States -> [B, size], the atoms of the one branch that are live where it is open."""
    branch, size = _counted(reference)

    def live(s: Any) -> Tensor:
        some = branch.live(s)
        return reference.allowed(s).expand(-1, size) if some is None else some

    return live


def _counted(reference: ReferenceKernel[Any]) -> tuple[Any, int]:
    """The one branch of a kernel, and its number of atoms."""
    branch = reference.branches[0]
    if len(reference.branches) != 1 or not isinstance(branch.base, Counting):
        raise InvalidInput(
            f"{reference.name} does not move by one choice among atoms (one branch with a Counting base): "
            "give it a kernel of its own."
        )
    return branch, branch.base.size
