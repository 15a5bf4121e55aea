"""When, where and with what a result was made: the same fields in every result file."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyro
import torch

import ctsgfn


def commit() -> str:
    """The commit that the code stands at."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def provenance(device: torch.device | None = None) -> dict[str, Any]:
    """Date, commit, machine and versions; the graphics card where the device is one."""
    card = f", {torch.cuda.get_device_name(device)}" if device is not None and device.type == "cuda" else ""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": f"{platform.machine()}, {platform.system()}, {_processor()}, one thread{card}",
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
