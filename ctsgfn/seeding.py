"""Reproducible randomness that leaves the caller's generators as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Run a block from a seed, then put torch's generators back; None changes nothing at all.

    Torch's distributions take no generator, so the global ones (of the CPU, and of every CUDA
    device once CUDA is in use) are forked.

    Raises:
        InvalidInput: when the seed is not a whole number in [0, 2^63).

    Example:
        >>> with seeded(7):
        ...     a = torch.rand(3)
        >>> with seeded(7):
        ...     b = torch.rand(3)
        >>> bool((a == b).all())
        True
    """
    if seed is None:
        yield
        return
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise InvalidInput(f"seed must be a whole number in [0, 2^63) or None, got {seed!r}.")
    before = generator_states()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        restore_generators(before)


def generator_states() -> dict[str, Tensor]:
    """States of torch's global generators, by device; plain tensors, fit for a checkpoint.

    Example:
        >>> states = generator_states()
        >>> a = torch.rand(2)
        >>> restore_generators(states)
        >>> bool((torch.rand(2) == a).all())
        True
    """
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        for i in range(torch.cuda.device_count()):
            states[f"cuda:{i}"] = torch.cuda.get_rng_state(i)
    return states


def restore_generators(states: Mapping[str, Tensor]) -> None:
    """Put back what ``generator_states`` returned; devices that this machine lacks are left out."""
    torch.set_rng_state(states["cpu"].cpu())
    for i in range(torch.cuda.device_count() if len(states) > 1 else 0):
        if f"cuda:{i}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{i}"].cpu(), i)
