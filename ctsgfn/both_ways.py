r"""A law fitted to points of a density, and to the density at its own draws: both ways of being wrong.

.. math::
    J(q) = -\frac1N \sum_i \log q(x_i) + \lambda\,\mathrm{KL}(q\,\|\,r), \qquad
    \nabla\,\mathrm{KL}(q\,\|\,r) = E_q\Bigl[\Bigl(\log \frac{q}{r} - b\Bigr) \nabla \log q\Bigr]

The first part, maximum likelihood, lets q put mass where r has next to none, for no point tells; the second
finds these places, and the first keeps it from giving up a mode. The baseline b is the mean over the batch,
and what is further than ``FARTHEST`` from the median counts as that.

References:
    Simple statistical gradient-following algorithms for connectionist reinforcement learning (Williams,
    1992), Machine Learning 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ctsgfn.kernel import Head

SHARE = 1.0
"""lambda."""

FARTHEST = 5.0
"""Largest log-ratio, in nats from the median of the batch."""


def fit_both_ways(
    head: Head,
    log_density: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    steps: int = 2500,
    points: int = 256,
    draws: int = 128,
    lr: float = 2e-3,
) -> None:
    """Lower J with Adam.

    Args:
        head: a head whose context has width 0; fitted in place.
        log_density: log r, points [n, k] -> [n].
        x: points [N, k] distributed by r.
        steps: updates; the rate decays over them by a cosine.
        points: of x, in an update.
        draws: of q, in an update.
        lr: Adam's rate at the start.

    Example:
        >>> from ctsgfn.kernels.heads.autoregressive import AutoregressiveMixture
        >>> _ = torch.manual_seed(0)
        >>> head = AutoregressiveMixture(1, width=0, components=1, hidden=4)
        >>> def normal(x):
        ...     return -0.5 * (x[:, 0] - 1).square()
        >>> fit_both_ways(head, normal, torch.randn(500, 1) + 1, steps=100, lr=0.05)
        >>> with torch.no_grad():
        ...     mean = head(torch.zeros(4000, 0), None, None).draw().mean()
        >>> bool((mean - 1).abs() < 0.2)
        True
    """
    parameters = [p for p in head.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=lr, foreach=True)
    for step in range(steps):
        rate = lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = x[torch.randint(len(x), (points,), device=x.device)]
        law = head(x.new_zeros(draws, 0), None, None)
        with torch.no_grad():
            own = law.sample()
            ratio = (law.log_prob(own) - log_density(own)).to(x)
            ratio = (ratio - ratio.median()).clamp(-FARTHEST, FARTHEST)
            ratio = ratio - ratio.mean()
        loss = (
            SHARE * (ratio * law.log_prob(own)).mean() - head(batch[:, :0], None, None).log_prob(batch).mean()
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimiser.step()
