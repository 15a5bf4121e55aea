"""When, where and with what a result was made: the same fields in every result file."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyro
import torch

import ctsgfn


def provenance() -> dict[str, Any]:
    """Date, machine and versions."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {platform.system()}, {_processor()}, one thread",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "ctsgfn": ctsgfn.__version__,
        },
    }


def _processor() -> str:
    """Model of the processor, where the system says it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"
