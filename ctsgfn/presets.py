"""Named options of ``fit`` for those who want more than its defaults give."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

THOROUGH: Mapping[str, Any] = MappingProxyType({"steps": 4000, "hidden": 128, "average": 0.99})
"""More updates of a wider network, and the average of its last hundred: minutes in the place of seconds.

Example:
    >>> import ctsgfn
    >>> sorted(ctsgfn.THOROUGH)
    ['average', 'hidden', 'steps']
    >>> well = lambda x: -x.square().sum(-1)
    >>> options = {**ctsgfn.THOROUGH, "steps": 5}  # a dict like any other
    >>> sampler = ctsgfn.fit(well, 2, **options, seed=0, progress_bar=False)
"""
