r"""Spaces: measurable pointed graphs as values.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, Def. 1-2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic

from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Measure
from ctsgfn.reference import ReferenceKernel
from ctsgfn.states import S, X


@dataclass(frozen=True)
class Space(Generic[S, X]):
    r"""A measurable pointed graph :math:`(S, s_0, s_f, \kappa, \kappa_b, \nu)`.

    Conventions: :math:`\nu(\{s_0\}) = 1`, so the source's flow is Z; the sink has kernel mass 1 on
    terminal states, so the terminal equation is exactly :math:`r(x) = u(x)\,p_F(x, s_f)`; and
    :math:`\nu \otimes \kappa = \nu \otimes \kappa_b` on pairs of states (eq. 4), which
    ``ctsgfn.check`` tests.

    Args:
        name: used in messages and tables.
        source: n -> n copies of s0 (default dtype, CPU; the library moves them).
        nu: the reference measure on S.
        kappa: the forward reference kernel; its ``sink`` is the indicator of X.
        kappa_b: the backward reference kernel; nothing is open at s0.
        progress: states -> [B], 0 at s0 alone, rising by at least 1 along every edge.
        horizon: most edges of a trajectory, the one to the sink included.
        points: nu on terminal states, in the coordinates that the target sees.
        read: terminal states -> what the target sees.
        write: and back.
        features: states -> [B, F], a state as numbers for a network.
        width: F; what ``features`` gives where it is not said.
        synchronous: True when every trajectory has exactly ``horizon`` edges.

    Raises:
        InvalidInput: when the horizon is below 2 or kappa has no sink.

    Example:
        >>> from ctsgfn.kernels.spaces.torus import torus
        >>> space = torus(dim=2, steps=5)
        >>> space.horizon, str(space.points), space.progress(space.source(1)).tolist()
        (6, 'arc length on 2 circles', [0.0])
    """

    name: str
    source: Callable[[int], S] = field(repr=False)
    nu: Measure[S] = field(repr=False)
    kappa: ReferenceKernel[S] = field(repr=False)
    kappa_b: ReferenceKernel[S] = field(repr=False)
    progress: Callable[[S], Tensor] = field(repr=False)
    horizon: int
    points: Measure[X]
    read: Callable[[S], X] = field(repr=False)
    write: Callable[[X], S] = field(repr=False)
    features: Callable[[S], Tensor] = field(repr=False)
    width: int = 0
    synchronous: bool = False

    def __post_init__(self) -> None:
        if self.width == 0:
            object.__setattr__(self, "width", self.features(self.source(1)).shape[-1])
        if self.horizon < 2:
            raise InvalidInput(
                f"space {self.name!r}: horizon {self.horizon} is too short, a trajectory has at least one "
                "edge from s0 and one to the sink."
            )
        if self.kappa.sink is None:
            raise InvalidInput(
                f"space {self.name!r}: kappa has no sink, so no process on it can stop: give its "
                "ReferenceKernel sink=, the indicator of the terminal states."
            )
        if self.kappa_b.sink is not None:
            raise InvalidInput(f"space {self.name!r}: kappa_b must not have a sink.")
