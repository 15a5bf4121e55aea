"""How long training goes on: to a number of steps, a time, or whichever comes first."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field

from ctsgfn.errors import InvalidInput

_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def seconds(budget: float | str) -> float:
    """Read a time: a number of seconds, or words such as "90s", "2min" and "1h".

    Raises:
        InvalidInput: when it is no positive time.

    Example:
        >>> seconds("2min"), seconds("90s"), seconds("1.5 h"), seconds(20)
        (120.0, 90.0, 5400.0, 20.0)
        >>> seconds("soon")
        Traceback (most recent call last):
        ctsgfn.errors.InvalidInput: budget must be a time such as "90s", "2min", "1h" or 90, got 'soon'.
    """
    value = math.nan
    if isinstance(budget, int | float) and not isinstance(budget, bool):
        value = float(budget)
    elif isinstance(budget, str):
        found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]+)\s*", budget)
        if found and found.group(2) in _UNITS:
            value = float(found.group(1)) * _UNITS[found.group(2)]
    if not 0 < value < math.inf:
        raise InvalidInput(f'budget must be a time such as "90s", "2min", "1h" or 90, got {budget!r}.')
    return value


@dataclass(frozen=True)
class Budget:
    """A time that runs from when this is made.

    Example:
        >>> budget = Budget(100.0)
        >>> 99 < budget.left <= 100
        True
    """

    seconds: float
    start: float = field(default_factory=lambda: time.monotonic())

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self.start + self.seconds - time.monotonic())


@dataclass
class Pace:
    """Where a run of training stands between its start and its end.

    Args:
        steps: updates in all, if they are limited.
        seconds: time in all, if it is limited.
        spent: seconds spent before, by the part of the run that a checkpoint holds.

    Raises:
        InvalidInput: when neither is limited.

    Example:
        >>> pace = Pace(steps=5)
        >>> pace.progress(2), pace.over(4), pace.over(5)
        (0.5, False, True)
    """

    steps: int | None = None
    seconds: float | None = None
    spent: float = 0.0
    _start: float = field(default_factory=lambda: time.monotonic(), repr=False)

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise InvalidInput("training needs steps= or seconds=, or it would never end.")

    @property
    def elapsed(self) -> float:
        """Seconds spent so far, the earlier part of the run included."""
        return self.spent + time.monotonic() - self._start

    def progress(self, step: int) -> float:
        """Fraction of the run that lies behind a step, by steps or by time, whichever is further."""
        by_steps = 0.0 if self.steps is None else step / max(1, self.steps - 1)
        by_time = 0.0 if self.seconds is None else self.elapsed / max(self.seconds, 1e-9)
        return min(1.0, max(by_steps, by_time))

    def over(self, step: int) -> bool:
        """Whether ``step`` updates are enough; one is always made."""
        if self.steps is not None and step >= self.steps:
            return True
        return self.seconds is not None and step > 0 and self.elapsed >= self.seconds
