"""Rows of the table of the paper's figures and tables, and what they are made with."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

HERE = Path(__file__).parent
README = HERE / "README.md"
sys.path.append(str(HERE.parent / "benchmarks"))
from readme_block import Block as Block  # noqa: E402

Runs = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """A cell of the paper."""

    item: str
    script: str
    published: str
    ours: str
    runs: int
    cpu: float  # seconds a run
    verdict: str

    def __str__(self) -> str:
        script = f"[`{self.script}`]({self.script})" if self.script else ""
        work = (str(self.runs), f"{self.cpu:.0f} s") if self.runs else ("", "")
        cells = (self.item, script, self.published, self.ours, *work, self.verdict)
        return f"| {' | '.join(cells)} |"


def read(name: str) -> Runs:
    """Runs of an experiment; none where it has not been made."""
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text())["runs"] if path.exists() else {}


def spread(values: list[float], form: str) -> str:
    """Mean +- standard deviation."""
    each = format(mean(values), form)
    return f"{each} ± {format(stdev(values), form)}" if len(values) > 1 else each


def judged(ours: float, published: float, error: float) -> str:
    """How an error of ours compares with a published one of a known spread."""
    if abs(ours) <= abs(published):
        return "equal or better"
    return "within 2 sd" if abs(ours) <= abs(published) + 2 * error else "**short**"
