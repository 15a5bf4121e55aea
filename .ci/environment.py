"""Say which torch was installed; fail when it is not the pinned one or when CUDA packages came along."""

from __future__ import annotations

import re
import sys
from importlib import metadata


def main() -> None:
    """Compare what is installed with the pin in the dev extra."""
    requirements = metadata.requires("ctsgfn") or []
    pins = [found.group(1) for r in requirements if (found := re.match(r"torch==([\d.]+)", r))]
    if len(pins) != 1:
        sys.exit(f"the dev extra must pin torch exactly once, found {pins}")
    installed = metadata.version("torch")
    if installed.split("+")[0] != pins[0]:
        sys.exit(f"torch {installed} is installed, the dev extra pins {pins[0]}")
    names = sorted(d.metadata["Name"] for d in metadata.distributions())
    strangers = [name for name in names if name.lower().startswith("nvidia")]
    if strangers:
        sys.exit(f"CUDA packages were pulled on a CPU machine: {', '.join(strangers)}")
    print(f"Python {sys.version.split()[0]}, torch {installed}, {len(names)} distributions, no CUDA packages")


if __name__ == "__main__":
    main()
