r"""Distances between samples, and counts of modes: how benchmarks score a sampler."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput

_PAIRS = 2**22
"""Distances held at once."""


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> float:
    r"""Jensen-Shannon divergence of two probability vectors, in nats: between 0 and log 2.

    .. math::
        \tfrac12 KL(p \,\|\, m) + \tfrac12 KL(q \,\|\, m), \qquad m = (p + q) / 2

    Args:
        log_p: [K], up to a constant; -inf where p is 0.
        log_q: [K].

    Example:
        >>> a = torch.tensor([0.0, 0.0, -torch.inf])
        >>> round(jensen_shannon(a, a), 6), round(jensen_shannon(a, a.flip(0)), 4)
        (0.0, 0.3466)
    """
    p, q = log_p.double().log_softmax(-1), log_q.double().log_softmax(-1)
    m = torch.logaddexp(p, q) - math.log(2.0)

    def divergence(v: Tensor) -> Tensor:
        on = v > -math.inf
        return (v[on].exp() * (v[on] - m[on])).sum()

    return float((divergence(p) + divergence(q)) / 2)


def kde_log_density(samples: Tensor, at: Tensor, *, bandwidth: float = 0.1) -> Tensor:
    r"""Log of :math:`\sum_i e^{-\|x - x_i\| / h}`, a kernel density up to a constant, at points [G].

    Args:
        samples: [N, d].
        at: [G, d].
        bandwidth: h.

    Raises:
        InvalidInput: without samples, with samples of another dimension, or bandwidth <= 0.

    Example:
        >>> kde_log_density(torch.zeros(1, 2), torch.tensor([[0.0, 0.3]])).round(decimals=4).tolist()
        [-3.0]
    """
    samples, at = _points("samples", samples), _points("at", at)
    if samples.shape[1] != at.shape[1] or not bandwidth > 0:
        raise InvalidInput(
            f"the density of samples in {samples.shape[1]} dimensions was asked for at points in "
            f"{at.shape[1]} and with bandwidth {bandwidth}: the dimensions must agree, and it be positive."
        )
    rows = max(1, _PAIRS // len(samples))
    return torch.cat([(-_distances(some, samples) / bandwidth).logsumexp(1) for some in at.split(rows)])


def kde_jsd(
    x: Tensor, y: Tensor, *, low: float = 0.001, high: float = 1.0, side: int = 100, bandwidth: float = 0.1
) -> float:
    r"""Jensen-Shannon divergence between kernel densities of two samples of the plane, on a grid.

    An exponential kernel of bandwidth 0.1, scored on a 100 x 100 grid of the unit square and
    normalised to a probability vector there. Two samples of 10,000 points of one density score about
    1e-4, not 0.

    References:
        A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, C.1.

    Args:
        x: [N, 2].
        y: [M, 2].
        low: first grid line.
        high: last grid line.
        side: grid lines.
        bandwidth: of the kernel.

    Raises:
        InvalidInput: when the points are not of the plane.

    Example:
        >>> x = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
        >>> kde_jsd(x, x, side=20), kde_jsd(x, x.square(), side=20) > 0.01
        (0.0, True)
    """
    line = torch.linspace(low, high, side, dtype=x.dtype, device=x.device)
    grid = torch.cartesian_prod(line, line)
    return jensen_shannon(
        kde_log_density(x, grid, bandwidth=bandwidth), kde_log_density(y, grid, bandwidth=bandwidth)
    )


def mode_counts(x: Tensor, centres: Tensor, *, radius: float = math.inf) -> Tensor:
    """Points nearest to each centre, and within ``radius`` of it: [K] long.

    Args:
        x: [N, d].
        centres: [K, d].
        radius: points farther from every centre are not counted.

    Raises:
        InvalidInput: on points or centres that are not [.., d] of one d.

    Example:
        >>> mode_counts(torch.tensor([[0.1], [0.2], [5.0], [50.0]]), torch.tensor([[0.0], [5.0]]), radius=1.0)
        tensor([2, 1])
    """
    x, centres = _points("x", x), _points("centres", centres)
    if x.shape[1] != centres.shape[1]:
        raise InvalidInput(
            f"points in {x.shape[1]} dimensions cannot be assigned to centres in {centres.shape[1]}."
        )
    found = torch.zeros(len(centres), dtype=torch.long, device=x.device)
    for some in x.split(max(1, _PAIRS // len(centres))):
        distance, nearest = _distances(some, centres.to(some)).min(1)
        found += torch.bincount(nearest[distance <= radius], minlength=len(centres))
    return found


def mode_total_variation(
    x: Tensor, centres: Tensor, weights: Tensor | None = None, *, radius: float = math.inf
) -> float:
    r"""Total variation :math:`\tfrac12 \sum_k |f_k - w_k|` between mode frequencies and weights.

    Points farther than ``radius`` from every centre count as one more mode, of weight 0. With n exact
    draws and K even modes it is about :math:`\sqrt{K / (2 \pi n)}`, not 0.

    Args:
        x: [N, d].
        centres: [K, d].
        weights: [K], even if None.
        radius: see ``mode_counts``.

    Example:
        >>> two = torch.tensor([[0.0], [5.0]])
        >>> round(mode_total_variation(torch.tensor([[0.1], [0.2], [5.0], [4.0]]), two), 6)
        0.0
    """
    share = mode_counts(x, centres, radius=radius).double() / len(x)
    expected = (
        torch.full_like(share, 1 / len(share)) if weights is None else weights.to(share) / weights.sum()
    )
    return float(((share - expected).abs().sum() + (1 - share.sum())) / 2)


def mmd(x: Tensor, y: Tensor, *, scale: float | None = None) -> float:
    r"""Squared maximum mean discrepancy of two samples, unbiased (so it can fall below 0).

    .. math::
        E\,k(x, x') + E\,k(y, y') - 2 E\,k(x, y), \qquad k(a, b) = e^{-\|a - b\|^2 / (2 s^2)}

    References:
        A kernel two-sample test (Gretton et al., 2012), Journal of Machine Learning Research 13, Lemma 6.

    Args:
        x: [N, d].
        y: [M, d].
        scale: s; by default the median distance between (up to 1000 each of) the points of x and y.

    Raises:
        InvalidInput: with fewer than two points on a side, or of another dimension.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(2, 400, 2, generator=g)
        >>> abs(mmd(x, y)) < 0.01 < mmd(x, y + 1)
        True
    """
    x, y = _points("x", x).double(), _points("y", y).double()
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise InvalidInput(
            f"the discrepancy needs two samples of one dimension with at least 2 points each, got shapes "
            f"{list(x.shape)} and {list(y.shape)}."
        )
    s = float(torch.cdist(x[:1000], y[:1000]).median()) if scale is None else scale
    if not s > 0:
        raise InvalidInput(f"the scale of the kernel must be positive, got {s}.")

    def total(a: Tensor, b: Tensor) -> float:
        rows = max(1, _PAIRS // len(b))
        return sum(
            float((-torch.cdist(some, b).square() / (2 * s * s)).exp().sum()) for some in a.split(rows)
        )

    n, m = len(x), len(y)
    within = (total(x, x) - n) / (n * (n - 1)) + (total(y, y) - m) / (m * (m - 1))
    return within - 2 * total(x, y) / (n * m)


def _points(name: str, x: Tensor) -> Tensor:
    if x.dim() != 2 or x.numel() == 0 or not bool(x.isfinite().all()):
        raise InvalidInput(f"{name} must be finite points [N, d] with N, d >= 1, got shape {list(x.shape)}.")
    return x.detach()


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Distances [N, M], term by term: the expanded square loses small ones to rounding."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
