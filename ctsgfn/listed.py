r"""Lists of points that are weighed one by one: the exact law in the place of a trained one.

.. math:: q(x) = \frac{r(x)}{\sum_{x'} r(x')}
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.sampler import Sampler
from ctsgfn.target import Target, batched, evaluate

LISTED = 2**18
"""Most points that are weighed one by one: a training run evaluates more."""

CHUNK = 2**14
"""Points that are evaluated at once."""


def log_densities(target: Target[Tensor], sizes: tuple[int, ...], like: Tensor) -> Tensor:
    """Log-density [n] in float64 of all points of a grid, the last coordinate fastest; -inf is allowed.

    Raises:
        NonFinite: where it is NaN or +inf.
        InvalidInput: when it is -inf at every point.

    Example:
        >>> from ctsgfn.measures import Counting
        >>> from ctsgfn.target import as_target
        >>> steps = as_target(lambda x: x[:, 0].float(), Counting(3))
        >>> log_densities(steps, (3,), torch.zeros(0)).tolist()
        [0.0, 1.0, 2.0]
    """
    values = []
    for rows in torch.arange(math.prod(sizes), device=like.device).split(CHUNK):
        x = torch.stack(torch.unravel_index(rows, sizes), -1)
        with torch.no_grad():
            value = batched(target, x)
        wrong = value.isnan() | (value == math.inf)
        if bool(wrong.any()):
            evaluate(target, x[wrong])
        values.append(value.double())
    found = torch.cat(values)
    if not bool(torch.isfinite(found).any()):
        raise InvalidInput(f"the log-density is -inf at all {len(found)} points: there is nothing to sample.")
    return found


def weigh(sampler: Sampler[Any, Tensor], sizes: tuple[int, ...], like: Tensor) -> None:
    """Set the table of the only step, and log Z, to the exact ones."""
    log_r = log_densities(sampler.target, sizes, like)
    log_z = log_r.logsumexp(0)
    with torch.no_grad():
        sampler.gfn.forward_kernel.heads[0].logits.copy_(log_r - log_z)  # type: ignore[operator]
        sampler.gfn.log_z.copy_(log_z)
    sampler.notes = (
        f"all {len(log_r)} points were weighed one by one: the law is exact, nothing is trained.",
    )
