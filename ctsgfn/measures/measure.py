"""What a measure is."""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

T = TypeVar("T")


@runtime_checkable
class Measure(Protocol[T]):
    """A sigma-finite measure on points of type ``T``; implementations are frozen and hashable.

    Example:
        >>> from ctsgfn.measures import Haar
        >>> isinstance(Haar(2), Measure)
        True
    """

    def probe(self, n: int) -> tuple[T, Tensor]:
        """Draw n points (float64) and log-weights [n]: mean(exp(w) f(x)) estimates the integral."""
        ...

    def log_probe(self, x: T) -> Tensor:
        """Log-density [B] of the law of ``probe`` with respect to this measure."""
        ...

    def contains(self, x: T) -> Tensor:
        """Which points [B] lie in the support."""
        ...
