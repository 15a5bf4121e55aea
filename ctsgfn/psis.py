r"""Importance weights: effective sample size, and Pareto smoothing with its shape diagnostic.

References:
    Pareto smoothed importance sampling (Vehtari, Simpson, Gelman, Yao, Gabry, 2024), arXiv 1507.02646.
    A new and efficient estimation method for the generalized Pareto distribution (Zhang and
    Stephens, 2009), Technometrics 51(3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput

_SHORTEST_TAIL = 5
"""Fewest weights that a tail is fitted to."""

_EVEN = 1e-3
"""A tail whose logarithms reach no further has no shape but that of rounding."""


@dataclass(frozen=True)
class Smoothed:
    """Pareto-smoothed importance weights."""

    log_weight: Tensor  # [N] float64, log of weights that sum to 1
    pareto_k: float  # shape of the right tail; inf where there are too few weights to fit one


def checked(log_weight: Tensor) -> Tensor:
    """Log-weights [N] in float64; -inf (weight zero) is allowed, but not everywhere.

    Raises:
        InvalidInput: when they are not a vector, or hold NaN or +inf, or no weight is positive.
    """
    if log_weight.dim() != 1 or len(log_weight) == 0:
        raise InvalidInput(f"log-weights must be a non-empty vector [N], got shape {list(log_weight.shape)}.")
    bad = log_weight.isnan() | (log_weight == math.inf)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise InvalidInput(
            f"log-weight {float(log_weight[row])} at row {row}: log-weights must be finite or -inf, so mend "
            "the log-density they come from."
        )
    if bool((log_weight == -math.inf).all()):
        raise InvalidInput("every log-weight is -inf: no draw lies in the support of the target.")
    return log_weight.detach().double()


def effective_sample_size(log_weight: Tensor) -> float:
    r"""Kish's effective sample size :math:`(\sum w)^2 / \sum w^2`, between 1 and N.

    Args:
        log_weight: [N], up to a constant.

    Raises:
        InvalidInput: see ``checked``.

    Example:
        >>> round(effective_sample_size(torch.zeros(10)), 6), effective_sample_size(torch.tensor([0.0, -1e3]))
        (10.0, 1.0)
    """
    w = checked(log_weight)
    return float((2 * w.logsumexp(0) - (2 * w).logsumexp(0)).exp())


def generalised_pareto(excess: Tensor) -> tuple[float, float]:
    r"""Fit :math:`P(Y > y) = (1 + k y / \sigma)^{-1/k}` to excesses over a threshold.

    The quasi-Bayesian estimate of Zhang and Stephens, with the weak prior of Vehtari et al.
    (appendix C: ten observations' worth of k = 1/2).

    Args:
        excess: [n], positive.

    Returns:
        The shape k and the scale sigma.

    Example:
        >>> p = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
        >>> k, sigma = generalised_pareto(((1 - p) ** -0.3 - 1) / 0.3)  # quantiles of k = 0.3, sigma = 1
        >>> round(k, 2), round(sigma, 2)
        (0.3, 1.0)
    """
    y = excess.double().sort().values
    n = len(y)
    points = 30 + math.isqrt(n)
    grid = torch.arange(1, points + 1, dtype=y.dtype, device=y.device)
    quartile = y[max(0, int(n / 4 + 0.5) - 1)]
    theta = 1 / y[-1] + (1 - torch.sqrt(points / (grid - 0.5))) / (3 * quartile)
    shape = torch.log1p(-theta[:, None] * y).mean(1)  # the k of each candidate theta = -k / sigma
    profile = n * (torch.log(-theta / shape) - shape - 1)
    mean_theta = (profile.softmax(0) * theta).sum()
    k = torch.log1p(-mean_theta * y).mean()
    sigma = -k / mean_theta
    return float((k * n + 5.0) / (n + 10.0)), float(sigma)


def convergence_rate(pareto_k: float, n: int) -> float:
    r"""How fast the squared error of a mean of n weights falls: like :math:`n^{-\mathrm{rate}}`.

    1 where the weights have a variance by a margin, 0 where they have no mean, and between them

    .. math::
        \frac{2(k-1)n^{2k+1} + (1-2k)n^{2k} + n^2}{(n-1)(n - n^{2k})}.

    References:
        Pareto smoothed importance sampling (Vehtari et al., 2024), arXiv 1507.02646, on
        pre-asymptotic convergence.

    Example:
        >>> [round(convergence_rate(k, 4096), 2) for k in (-0.1, 0.2, 0.5, 0.7, 1.2)]
        [1.0, 1.0, 0.88, 0.59, 0.0]
    """
    k = pareto_k
    if k <= 0:
        return 1.0
    if k >= 1:
        return 0.0
    if abs(k - 0.5) < 1e-6:
        return 1 - 1 / math.log(n)
    power = float(n) ** (2 * k)
    return max(0.0, (2 * (k - 1) * n * power + (1 - 2 * k) * power + n**2) / ((n - 1) * (n - power)))


def psis(log_weight: Tensor) -> Smoothed:
    r"""Replace the largest weights by the expected order statistics of a fitted Pareto tail.

    The tail holds :math:`\min(N/5, 3\sqrt N)` weights; none is raised above the largest raw weight.
    A shape k-hat below 0.7 says that the weights can be trusted at practical sample sizes; k >= 1
    says that they have no mean.

    Args:
        log_weight: [N], up to a constant.

    Raises:
        InvalidInput: see ``checked``.

    References:
        Pareto smoothed importance sampling (Vehtari et al., 2024), arXiv 1507.02646, algorithm 1.

    Example:
        >>> flat = psis(torch.zeros(100))
        >>> round(float(flat.log_weight.exp().sum()), 6), flat.pareto_k
        (1.0, -inf)
        >>> heavy = -0.9 * torch.log((torch.arange(10_000) + 0.5) / 10_000)  # weights u^-0.9: k = 0.9
        >>> abs(psis(heavy).pareto_k - 0.9) < 0.1
        True
    """
    w = checked(log_weight)
    w = w - w.max()
    n = len(w)
    tail = min(n // 5, math.ceil(3 * math.sqrt(n)))
    order = w.argsort()
    floor = math.log(torch.finfo(w.dtype).tiny)
    k = math.inf
    if tail >= _SHORTEST_TAIL:
        cutoff = w[order[-tail - 1]].clamp(min=floor)
        inside = order[-tail:]
        inside = inside[w[inside] > cutoff]
        even = float(w[order[-1]] - cutoff) <= _EVEN
        k = -math.inf if even else math.inf
        if len(inside) >= _SHORTEST_TAIL and not even:
            k, sigma = generalised_pareto(w[inside].exp() - cutoff.exp())
            w = w.index_copy(0, inside, _order_statistics(k, sigma, cutoff, len(inside)))
    return Smoothed(w - w.logsumexp(0), k)


def _order_statistics(k: float, sigma: float, cutoff: Tensor, n: int) -> Tensor:
    """Log of the n expected order statistics of the fitted tail, at most 0 (the largest raw weight)."""
    p = (torch.arange(n, dtype=cutoff.dtype, device=cutoff.device) + 0.5) / n
    unit = -torch.log1p(-p) if abs(k) < 1e-12 else torch.expm1(-k * torch.log1p(-p)) / k
    return torch.log(sigma * unit + cutoff.exp()).clamp(max=0.0)


def largest(holds: Callable[[float], bool], most: float, *, halvings: int) -> float:
    """Largest number up to ``most`` for which something holds that holds below it, by bisection from 0.

    Example:
        >>> round(largest(lambda x: x * x <= 2.0, 2.0, halvings=40), 6)
        1.414214
    """
    if holds(most):
        return most
    low, high = 0.0, most
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def systematic(log_weight: Tensor, n: int) -> Tensor:
    """Rows [n] drawn in proportion to normalised weights, each floor(n w) or ceil(n w) times, shuffled.

    Example:
        >>> rows = systematic(torch.tensor([0.25, 0.5, 0.25]).log(), 8)
        >>> torch.bincount(rows).tolist()
        [2, 4, 2]
    """
    w = log_weight.double().exp()
    comb = (
        torch.arange(n, dtype=w.dtype, device=w.device) + torch.rand((), dtype=w.dtype, device=w.device)
    ) / n
    cumulative = w.cumsum(0)
    rows = torch.searchsorted(cumulative / cumulative[-1], comb, right=True).clamp(max=len(w) - 1)
    return rows[torch.randperm(n, device=w.device)]
