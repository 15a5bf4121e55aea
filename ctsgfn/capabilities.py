r"""What a target is, and what a target may offer besides.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, Def. 4.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

X_contra = TypeVar("X_contra", contravariant=True)


@runtime_checkable
class Target(Protocol[X_contra]):
    """What a user brings: a measure, and an unnormalised log-density against it.

    Both are batched: ``log_density`` maps points [B, ..] to [B].

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> class Laplace:
        ...     measure = Lebesgue(3)
        ...     def log_density(self, x):
        ...         return -x.abs().sum(-1)
        >>> isinstance(Laplace(), Target)
        True
    """

    @property
    def measure(self) -> Any:
        """What the log-density is a density against."""

    def log_density(self, x: X_contra) -> Tensor:
        """Unnormalised log-density [B] of the points, against ``measure``."""


@runtime_checkable
class HasScore(Protocol):
    """A target with an analytic score."""

    def score(self, x: Tensor) -> Tensor:
        """Gradient [B, d] of the log-density, detached."""


@runtime_checkable
class HasSamples(Protocol):
    """A target with exact, independent samples."""

    def sample(self, n: int) -> Any:
        """Draw n points from the normalised density with torch's global generator.

        Raises:
            NoExactAnswer: where it is too large for that.
        """


@runtime_checkable
class HasChanges(Target[Tensor], Protocol):
    """A target on graphs or subsets that knows what each edge or item would change."""

    def changes(self, x: Tensor) -> Tensor:
        """Log r with one more edge or item, less log r, [B, ..] as x; anything where none can be added."""


@runtime_checkable
class HasChain(Protocol):
    """A target on models with parameters that knows a Markov chain of the parameters of each."""

    def chain(self, x: Any) -> Any:
        """One step from every point [B], the model kept, that leaves r(model, .) invariant."""


@runtime_checkable
class HasLosses(Target[Tensor], Protocol):
    """A target on graphs that knows what taking each edge away would change."""

    def losses(self, x: Tensor) -> Tensor:
        """Log r with one edge less, less log r, [B, ..] as x; anything where none can be taken away."""


@runtime_checkable
class HasLogZ(Protocol):
    """A target whose log-normaliser is known."""

    @property
    def log_z(self) -> float:
        """Log of the integral of exp(log_density) against ``measure``."""


@runtime_checkable
class HasConstrain(Protocol):
    """A target in unconstrained coordinates that can name its variables in their own supports."""

    def constrain(self, x: Tensor) -> dict[str, Tensor]:
        """Map points [B, d] to a tensor [B, ..] per variable."""


@runtime_checkable
class HasReason(Protocol):
    """A target that can say why it is not finite at a point."""

    def reason(self, x: Tensor) -> str:
        """Return why the log-density of a point [d] is not finite, and the remedy."""


@runtime_checkable
class HasFloor(Protocol):
    """A target whose values may be raised to a floor."""

    def unfloored(self) -> Target[Any]:
        """Return the target with -inf where the floor stands."""
