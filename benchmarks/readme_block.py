"""A block of a README that a script makes from result files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Block:
    """What stands between the two comments that bear a name."""

    path: Path
    name: str

    def cut(self) -> tuple[str, str, str]:
        """The file before the block, in it and after it."""
        text, begin = self.path.read_text(), f"<!-- {self.name}: begin -->\n"
        start, end = text.index(begin) + len(begin), text.index(f"<!-- {self.name}: end -->")
        return text[:start], text[start:end], text[end:]

    def write(self, inside: str) -> None:
        """Put the block in the place of the old one."""
        before, _, after = self.cut()
        self.path.write_text(before + inside + after)
