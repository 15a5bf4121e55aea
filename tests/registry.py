"""One line per space, head, target and objective: each inherits the whole conformance suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ctsgfn.kernels.spaces.hypergrid import hypergrid
from ctsgfn.space import Space

# ---------------------------------------------------------------- spaces: name -> constructor
SPACES: dict[str, Callable[[], Space[Any, Any]]] = {
    "hypergrid": lambda: hypergrid(2, 4),
}


# ---------------------------------------------------------------- heads
@dataclass(frozen=True)
class HeadCase:
    """How to build a head of context width ``width``, and which state type it reads (None: any)."""

    build: Callable[[int], Any]
    live: bool = False  # whether the head honours a live mask


HEADS: dict[str, HeadCase] = {}

# ---------------------------------------------------------------- targets: name -> constructor
TARGETS: dict[str, Callable[[], Any]] = {}
