"""Rows of the README's table of measured numbers, and what they are made with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Row = tuple[str, str, str]
"""What, how much, and the script."""


def read(name: str) -> Any:
    """A result file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def worst(runs: list[dict[str, Any]], key: str) -> float:
    """Largest absolute value over runs."""
    return max(abs(float(run[key])) for run in runs)
