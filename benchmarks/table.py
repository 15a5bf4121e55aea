"""The table of measured numbers in the README, made from the result files.

python benchmarks/table.py
"""

from __future__ import annotations

from pathlib import Path

import measured_densities
import measured_flows
import measured_graphs
import measured_models
from readme_block import Block

BLOCK = Block(Path(__file__).parents[1] / "README.md", "measured")
SUBJECTS = (measured_densities, measured_graphs, measured_models, measured_flows)


def table() -> str:
    """The rows as a table in Markdown."""
    rows = [row for subject in SUBJECTS for part in subject.PARTS for row in part()]
    lines = [f"| {what} | {number} | [`{script}`](benchmarks/{script}) |\n" for what, number, script in rows]
    return "".join(["| what | measured | script |\n|---|---|---|\n", *lines])


if __name__ == "__main__":
    BLOCK.write(table())
