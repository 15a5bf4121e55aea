"""What the validator found: named results, and the table they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ctsgfn.errors import CheckFailed, InvalidInput

Verdict = Literal["pass", "FAIL", "inconclusive", "skipped"]


@dataclass(frozen=True)
class Result:
    """The outcome of one check."""

    name: str
    verdict: Verdict
    found: str  # what was measured
    allowed: str = ""  # the threshold it was held against
    remedy: str = ""  # what to look at where it failed, one sentence
    cause: Exception | None = None  # what was raised, where the check could not be finished


@dataclass(frozen=True, repr=False)
class Report:
    """The results of ``ctsgfn.check``, in an order in which each check relies on those above it.

    So where several fail, start with the first.

    Example:
        >>> report = Report("my space", (Result("pairing", "pass", "max |z| = 1.2", "4.5"),))
        >>> report.ok, report["pairing"].verdict
        (True, 'pass')
        >>> print(report)
        checks of my space: passed
          pairing  pass  max |z| = 1.2 (allowed: 4.5)
    """

    subject: str
    results: tuple[Result, ...]

    @property
    def failures(self) -> tuple[Result, ...]:
        """The checks that failed."""
        return tuple(r for r in self.results if r.verdict == "FAIL")

    @property
    def ok(self) -> bool:
        """Whether no check failed; what is inconclusive or skipped does not count against it."""
        return not self.failures

    def __getitem__(self, name: str) -> Result:
        """The result of one check.

        Raises:
            InvalidInput: when no check has that name.
        """
        for result in self.results:
            if result.name == name:
                return result
        raise InvalidInput(f"there is no check {name!r}: the names are {[r.name for r in self.results]}.")

    def raise_if_failed(self) -> Report:
        """Return the report, or raise with the table if a check failed.

        Raises:
            CheckFailed: with the whole table as its message.
        """
        if not self.ok:
            raise CheckFailed(str(self)) from next((r.cause for r in self.failures if r.cause), None)
        return self

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        head = "passed" if self.ok else f"{len(self.failures)} of {len(self.results)} FAILED"
        name = max(len(r.name) for r in self.results)
        verdict = max(len(r.verdict) for r in self.results)
        lines = [f"checks of {self.subject}: {head}"]
        for r in self.results:
            allowed = f" (allowed: {r.allowed})" if r.allowed else ""
            lines.append(f"  {r.name:<{name}}  {r.verdict:<{verdict}}  {r.found}{allowed}")
            if r.verdict == "FAIL" and r.remedy:
                lines.append(f"  {'':<{name}}  remedy: {r.remedy}.")
        return "\n".join(lines)
