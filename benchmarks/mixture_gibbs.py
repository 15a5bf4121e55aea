r"""Posterior of the number of normals in a mixture by Gibbs sampling alone: a reference without any fit.

Given K, the Gibbs sampler draws labels, weights, means, precisions and the rate in turn. Neighbouring K are
tied by how often a component is empty. With weights Dirichlet(1, .., 1) and n numbers,

.. math::
    P(n_k = 0 \mid y, K) = \frac{p(y \mid K - 1)}{p(y \mid K)} \cdot \frac{K - 1}{n + K - 1},

for labels that leave one of K components empty are labels of K - 1 components. The left side is the average
over k and over draws of :math:`\prod_i (1 - r_{ik})`, where r are the responsibilities.

References:
    On finite mixtures with an unknown number of components (Nobile, 2004), Annals of Statistics 32, section 3
    (the identity); On Bayesian analysis of mixtures with an unknown number of components (Richardson and
    Green, 1997), JRSS B 59, section 3.2 (the Gibbs steps).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def empty(y: Array, k: int, *, chains: int, sweeps: int, burn: int, seed: int = 0) -> tuple[float, float]:
    """Posterior probability that a given one of k components is empty, and its standard error.

    Args:
        y: the numbers [n].
        k: components, at least 2.
        chains: independent chains; the standard error is from the spread of their means.
        sweeps: kept, of each chain.
        burn: sweeps before.
        seed: of the draws.
    """
    rng, n, span = np.random.default_rng(seed), len(y), float(np.ptp(y))
    middle, h = 0.5 * float(y.max() + y.min()), 10 / span**2
    log_weight = np.full((chains, k), -np.log(k))
    mean, tau = rng.choice(y, (chains, k)), np.full((chains, k), (2 * k / span) ** 2)
    total = np.zeros(chains)
    for sweep in range(burn + sweeps):
        z2 = tau[:, None] * (y[:, None] - mean[:, None]) ** 2
        log_r = log_weight[:, None] + 0.5 * np.log(tau)[:, None] - 0.5 * z2  # [chains, n, k]
        r = np.exp(log_r - log_r.max(-1, keepdims=True))
        r /= r.sum(-1, keepdims=True)
        if sweep >= burn:
            total += np.prod(1 - r, axis=1).mean(-1)
        label = (r.cumsum(-1) < rng.random((chains, n, 1))).sum(-1).clip(max=k - 1)
        of = label[:, :, None] == np.arange(k)
        count = of.sum(1)
        share = rng.standard_gamma(1.0 + count)
        log_weight = np.log(share / share.sum(-1, keepdims=True))
        precision = count * tau + span**-2.0
        centre = (tau * (of * y[:, None]).sum(1) + middle / span**2) / precision
        mean = centre + rng.standard_normal((chains, k)) / np.sqrt(precision)
        beta = rng.standard_gamma(0.2 + 2 * k, chains) / (h + tau.sum(-1))
        squares = (of * (y[:, None] - mean[:, None]) ** 2).sum(1)
        tau = rng.standard_gamma(2 + 0.5 * count) / (beta[:, None] + 0.5 * squares)
    each = total / sweeps
    return float(each.mean()), float(each.std(ddof=1) / np.sqrt(chains))


def evidence_ratio(y: Array, k: int, **size: int) -> tuple[float, float]:
    """p(y | k - 1) / p(y | k) and its standard error."""
    share, stderr = empty(y, k, **size)
    factor = (len(y) + k - 1) / (k - 1)
    return share * factor, stderr * factor
