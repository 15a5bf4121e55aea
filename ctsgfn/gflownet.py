r"""The learned flow: two kernels on one space, the log-partition, and (where used) a state flow.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, Def. 3-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic

import torch
from torch import Tensor, nn

from ctsgfn.errors import InvalidInput, MeasureMismatch
from ctsgfn.kernel import Kernel
from ctsgfn.measures import Counting
from ctsgfn.networks import MLP, FeatureEncoder, StateFunction
from ctsgfn.space import Space
from ctsgfn.states import Jump, S


class GFlowNet(nn.Module, Generic[S]):
    r"""A flow on a space: p_F against kappa, p_B against kappa_b, u against nu.

    Args:
        space: the space.
        forward_kernel: a kernel built on ``space.kappa`` itself.
        backward_kernel: a kernel built on ``space.kappa_b`` itself.
        log_flow: states -> log u(s), [B]; needed by detailed and sub-trajectory balance.
        log_z: the parameter to use for log Z; a new one, at 0, if None.

    Raises:
        MeasureMismatch: when a kernel is a density against another reference than the space's.
        InvalidInput: when log_z is not a 0-dimensional parameter.

    Example:
        >>> from ctsgfn.diffuse import diffuse
        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid
        >>> space, other = hypergrid(2, 4), hypergrid(2, 4)
        >>> gfn = GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b))
        >>> GFlowNet(space, diffuse(other.kappa), diffuse(space.kappa_b))
        Traceback (most recent call last):
        ctsgfn.errors.MeasureMismatch: the kernel given for kappa is a density against ...
    """

    def __init__(
        self,
        space: Space[S, Any],
        forward_kernel: Kernel[S],
        backward_kernel: Kernel[S],
        log_flow: nn.Module | None = None,
        log_z: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        for kernel, reference, name in (
            (forward_kernel, space.kappa, "kappa"),
            (backward_kernel, space.kappa_b, "kappa_b"),
        ):
            if kernel.reference is not reference:
                raise MeasureMismatch(
                    f"the kernel given for {name} is a density against {kernel.reference.name!r} of another "
                    f"space, not against {name} of {space.name!r}: build it as Kernel(space.{name}, ..) from "
                    "the same space object."
                )
        if log_z is not None and not (isinstance(log_z, nn.Parameter) and log_z.dim() == 0):
            raise InvalidInput("log_z must be a 0-dimensional nn.Parameter: nn.Parameter(torch.tensor(0.0)).")
        self.space = space
        self.forward_kernel = forward_kernel
        self.backward_kernel = backward_kernel
        self.log_flow = log_flow
        self.log_z = nn.Parameter(torch.zeros(())) if log_z is None else log_z

    def log_u(self, s: S, source: Tensor) -> Tensor:
        """Log-flow [B] of the states; ``log_z`` on the rows marked as source.

        Raises:
            InvalidInput: when the flow was built without ``log_flow``.
        """
        if self.log_flow is None:
            raise InvalidInput(
                "this objective needs the flow of states: build GFlowNet(.., log_flow=StateFunction(..)), or "
                "use an objective without it, such as trajectory_balance."
            )
        return torch.where(source, self.log_z, self.log_flow(s))

    def log_inflow(self, s: S, source: Tensor) -> Tensor:
        r"""Log of the flow into each state, :math:`\log \sum_{s \to s'} u(s)\, p_F(s, s')`, [B].

        -inf at the source, which has no parents. One call of the forward kernel and one of the state
        flow, on all parents at once.

        Raises:
            InvalidInput: when the parents of a state cannot be listed.
        """
        reference = self.space.kappa_b
        branch = reference.branches[0]
        if len(reference.branches) != 1 or not isinstance(branch.base, Counting):
            raise InvalidInput(
                f"flow matching sums over the parents of a state, and {reference.name} of {self.space.name} "
                "does not list them (one branch with a Counting base): use detailed_balance instead."
            )
        inside = (reference.allowed(s) & ~source[:, None]).expand(-1, branch.base.size)
        live = branch.live(s)
        edges = inside if live is None else inside & live
        row, atom = edges.nonzero(as_tuple=True)
        child = s[row]
        parent = branch.push(child, atom[:, None])
        law = self.forward_kernel(parent)
        into = law.log_density(Jump(child, torch.zeros_like(row, dtype=torch.bool)))
        into = into + self.log_u(parent, self.space.progress(parent) == 0)
        table = into.new_full(edges.shape, -math.inf).index_put((row, atom), into)
        inner = (~source).nonzero().squeeze(-1)  # where every term is -inf, logsumexp has no gradient
        return into.new_full((len(s),), -math.inf).index_copy(0, inner, table[inner].logsumexp(-1))

    def extra_repr(self) -> str:
        """Name of the space."""
        return f"space={self.space.name!r}"


def state_flow(space: Space[Any, Any], *, hidden: int = 64, layers: int = 2) -> StateFunction:
    """A network for log u(s) on the features of a space: what detailed balance asks for.

    Args:
        space: the space.
        hidden: width of the network.
        layers: its hidden layers.

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid
        >>> space = hypergrid(2, 4)
        >>> tuple(state_flow(space, hidden=8)(space.source(5)).shape)
        (5,)
    """
    return StateFunction(FeatureEncoder(space.features, MLP(space.width, hidden, layers), hidden))


class ForwardLooking(nn.Module):
    r"""A state flow that starts from what is already known: log u(s) = potential(s) + learned(s).

    Detailed or sub-trajectory balance with this flow is their forward-looking variant.

    References:
        Better training of GFlowNets with local credit and incomplete trajectories (Pan et al., 2023),
        arXiv 2302.01687, eq. 8.

    Args:
        potential: states -> [B], the log-reward accumulated so far; no gradient flows through it.
        learned: states -> [B], the log-flow that remains.
    """

    def __init__(self, potential: Callable[[Any], Tensor], learned: nn.Module) -> None:
        super().__init__()
        self.potential, self.learned = potential, learned

    def forward(self, s: Any) -> Tensor:
        """Log-flow, [B]."""
        return self.potential(s).detach() + self.learned(s)
