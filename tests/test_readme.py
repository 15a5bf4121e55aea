"""The code blocks of the README run as they are printed, each on its own."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from scripts import script

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks() -> list[tuple[int, str]]:
    """Line and source of every python block."""
    return [
        (TEXT[: found.start()].count("\n") + 2, found.group(1))
        for found in re.finditer(r"^```python\n(.*?)^```$", TEXT, re.S | re.M)
    ]


def test_there_are_blocks() -> None:
    assert len(blocks()) >= 3


@pytest.mark.parametrize(
    ("line", "source"), blocks(), ids=lambda value: f"line{value}" if isinstance(value, int) else ""
)
def test_block_runs(line: int, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what a block writes does not land in the repository
    code = compile("\n" * (line - 1) + source, str(ROOT / "README.md"), "exec")
    exec(code, {"__name__": "readme"})
    plt.close("all")


def test_relative_links_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


def test_measured_numbers_are_those_of_the_result_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """``python benchmarks/table.py`` was run after the last benchmark."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = script(ROOT / "benchmarks" / "table.py")
    assert module.BLOCK.cut()[1] == module.table()
