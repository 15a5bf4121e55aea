"""The way between the coordinates that a flow moves in and those that the user wrote the target in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Counting, Haar, Lebesgue, coordinates
from ctsgfn.target import Target, Transformed


@dataclass(frozen=True)
class Coordinates:
    """Changes of coordinates of a target, undone: flow's z <-> user's x.

    Args:
        target: the target that the flow is trained on, ``Transformed`` any number of times, or not.

    Example:
        >>> import torch
        >>> from torch.distributions.transforms import ExpTransform
        >>> from ctsgfn.measures import Lebesgue
        >>> from ctsgfn.target import as_target, transformed
        >>> gamma = as_target(lambda x: (x.log() - x).sum(-1), Lebesgue(1, 0.0))
        >>> way = Coordinates(transformed(gamma, ExpTransform(), Lebesgue(1)))
        >>> z, log_det = way.encode(torch.tensor([[1.0]]))
        >>> z.tolist(), log_det.tolist(), way.decode(z).tolist()
        ([[0.0]], [0.0], [[1.0]])
    """

    target: Target[Any]

    @property
    def changes(self) -> list[Transformed]:
        """The changes of coordinates, the flow's own first."""
        found: list[Transformed] = []
        target: Any = self.target
        while isinstance(target, Transformed):
            found.append(target)
            target = target.original
        return found

    @property
    def original(self) -> Any:
        """The target as the user wrote it."""
        changes = self.changes
        return changes[-1].original if changes else self.target

    def decode(self, z: Any) -> Any:
        """The user's points, from the flow's."""
        for change in self.changes:
            z = change.decode(z)
        return z

    def encode(self, x: Any) -> tuple[Any, Tensor | float]:
        """The flow's points z, and log |det dx/dz| ([B]; 0 where nothing is transformed).

        Raises:
            InvalidInput: when a point is outside the support of the user's measure.
        """
        measure = self.original.measure
        if isinstance(measure, Lebesgue | Haar | Counting) and x.shape[1:] != (coordinates(measure),):
            raise InvalidInput(
                f"points on {measure} have shape [B, {coordinates(measure)}], one row each, got "
                f"{list(x.shape)}: reshape them."
            )
        inside = measure.contains(x)
        if not bool(inside.all()):
            row = int((~inside).nonzero()[0])
            raise InvalidInput(
                f"row {row} of the points is outside the support of the target's measure, "
                f"{measure}: leave out the {int((~inside).sum())} such points."
            )
        log_det: Tensor | float = 0.0
        for change in reversed(self.changes):
            z = change.transform.inv(x)
            part = change.transform.log_abs_det_jacobian(z, x)
            log_det = log_det + part.expand(len(z))
            x = z
        return x, log_det
