"""Every error and warning that ctsgfn raises; each message says what, where, and the remedy."""

from __future__ import annotations


class CtsgfnError(Exception):
    """Base of all errors that ctsgfn raises."""


class InvalidInput(CtsgfnError, ValueError):
    """An argument has a shape, size, dtype or value that makes no sense here."""


class NoExactAnswer(InvalidInput):
    """An exact answer was asked of a problem that is too large for it."""


class MeasureMismatch(CtsgfnError, TypeError):
    """Two objects that must be densities against the same measure are not."""


class NoSuchEdge(CtsgfnError, ValueError):
    """A density was asked for an edge that the reference kernel does not have."""


class NotAbsorbed(CtsgfnError, RuntimeError):
    """A trajectory did not end within the horizon that its space promises."""


class NonFinite(CtsgfnError, ValueError):
    """A density returned NaN, +inf, or -inf inside the support it claims."""


class FailedFactor(NonFinite):
    """A matrix inside a density could not be factorised at a point."""


class BadCheckpoint(CtsgfnError, ValueError):
    """A file is not a checkpoint of this library, is cut short, or belongs to another model."""


class CheckFailed(CtsgfnError, AssertionError):
    """The validator found a hypothesis of the theory violated."""


class MissingExtra(CtsgfnError, ImportError):
    """An optional dependency is needed and not installed."""


class CtsgfnWarning(UserWarning):
    """Base of all warnings that ctsgfn emits."""


class UnreliableEstimate(CtsgfnWarning):
    """An estimate was computed, and its own diagnostics say that it cannot be trusted."""


def whole(name: str, value: object, least: int = 1) -> None:
    """Refuse a size that is not a whole number of at least ``least``.

    Raises:
        InvalidInput: naming the argument.

    Example:
        >>> whole("steps", 0)
        Traceback (most recent call last):
        ctsgfn.errors.InvalidInput: steps must be a whole number of at least 1, got 0.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidInput(f"{name} must be a whole number of at least {least}, got {value!r}.")
