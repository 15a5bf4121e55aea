r"""How fast a log-density falls far out: whether its integral can be finite at all.

Where :math:`r(x) \sim |x|^{-p}` over a cone of directions of R^d, the integral over that cone is finite
only if p > d. The exponent is read off two distances, far beyond where the mass is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

RAYS, NEAR, FAR = 64, 1e3, 1e4
"""Directions, and the two distances in standard deviations."""

_ROUNDING, _RISING = 0.05, -0.5


def tail_exponents(log_density: Callable[[Tensor], Tensor], location: Tensor, scale_tril: Tensor) -> Tensor:
    """Exponents p [RAYS] along random directions; NaN where the density is 0 at both distances.

    Args:
        log_density: [B, d] -> [B]; -inf is allowed.
        location: [d], where the mass is.
        scale_tril: [d, d], Cholesky factor of its covariance.

    Example:
        >>> cauchy = lambda x: -1.5 * x.square().sum(-1).log1p()  # |x|^-3 in the plane
        >>> [round(float(p), 2) for p in tail_exponents(cauchy, torch.zeros(2), torch.eye(2))[:2]]
        [3.0, 3.0]
    """
    fixed = torch.Generator().manual_seed(0)  # nobody's random numbers change
    direction = torch.randn(RAYS, len(location), generator=fixed).to(location)
    direction = direction / direction.norm(dim=-1, keepdim=True) @ scale_tril.T
    points = torch.cat([location + NEAR * direction, location + FAR * direction])
    near, far = log_density(points).double().chunk(2)
    return (near - far) / math.log(FAR / NEAR)


def diverges(exponents: Tensor, dim: int) -> bool:
    """Whether at least a quarter of the directions fall too slowly for a finite integral.

    A density that rises this far out says nothing: it may be the floating-point noise of one that is 0.

    Example:
        >>> diverges(torch.full((64,), 2.0), 2), diverges(torch.full((64,), 3.0), 2)
        (True, False)
    """
    slow = (exponents > _RISING) & (exponents <= dim + _ROUNDING)
    return float(slow.double().mean()) >= 0.25
