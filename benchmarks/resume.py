"""Runs of a benchmark made one after another, each saved when it has ended."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

Rows = list[dict[str, Any]]


def resume(
    out: Path,
    jobs: Mapping[str, Sequence[Callable[[], dict[str, Any]]]],
    about: Callable[..., dict[str, Any]],
) -> None:
    """Make the rows that a result file does not have yet, at most as many as the command line says.

    Args:
        out: the file; its stem is the script's.
        jobs: for each list of the record what makes its rows, in their order.
        about: what the record says besides, from the lists by their names.
    """
    torch.set_num_threads(1)
    old = json.loads(out.read_text()) if out.exists() else {}
    rows: dict[str, Rows] = {name: old.get(name, []) for name in jobs}
    todo = [(name, job) for name, each in jobs.items() for job in each[len(rows[name]) :]]
    for name, job in todo[: int(sys.argv[1]) if len(sys.argv) > 1 else None]:
        rows[name].append(job())
        print(rows[name][-1], flush=True)
        record = {"command": f"python benchmarks/{out.stem}.py", **provenance(), **about(**rows), **rows}
        out.write_text(json.dumps(record, indent=1) + "\n")
