r"""Mixtures of normals fitted to points: what the first step of a sampler starts from.

References:
    Maximum likelihood from incomplete data via the EM algorithm (Dempster et al., 1977), JRSS B 39;
    k-means++ (Arthur and Vassilvitskii, 2007), SODA.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput


@dataclass(frozen=True)
class Mixture:
    """A mixture of C normals on R^d."""

    share: Tensor  # [C], sums to 1
    mean: Tensor  # [C, d]
    tril: Tensor  # [C, d, d] Cholesky factors of the covariances

    def __len__(self) -> int:
        return len(self.share)

    def each(self, x: Tensor) -> Tensor:
        """Log-density [B, C] of every component at points [B, d], its share included."""
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        inverse = torch.linalg.solve_triangular(self.tril, eye.expand_as(self.tril), upper=False)
        shift = torch.einsum("kij,kj->ki", inverse, self.mean)
        z = torch.einsum("kij,bj->bki", inverse, x) - shift
        log_det = self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * x.shape[-1] * math.log(2 * math.pi)
        return self.share.log() - 0.5 * z.square().sum(-1) - log_det - constant

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density [B] at points [B, d]."""
        return self.each(x).logsumexp(-1)

    def split(self, least: int) -> Mixture:
        """Cut every component in two along a random axis of its own, until there are ``least`` of them.

        Means and covariances stay what they are: the halves sit half a standard deviation to either side.

        Example:
            >>> one = Mixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
            >>> len(one.split(3)), one.split(3).share.tolist()
            (4, [0.25, 0.25, 0.25, 0.25])
        """
        mixture = self
        while len(mixture) < least:
            rows = torch.arange(len(mixture), device=self.mean.device)
            values, axes = torch.linalg.eigh(mixture.tril @ mixture.tril.transpose(-1, -2))
            axis = torch.randint(self.mean.shape[-1], (len(mixture),)).to(rows)
            shift = 0.5 * values[rows, axis].sqrt()[:, None] * axes[rows, :, axis]
            values = values.scatter_add(1, axis[:, None], -0.25 * values[rows, axis][:, None])
            _, upper = torch.linalg.qr(values.sqrt()[:, :, None] * axes.transpose(-1, -2))
            sign = upper.diagonal(dim1=-2, dim2=-1).sign()
            tril = (sign[:, :, None] * upper).transpose(-1, -2)
            mixture = Mixture(
                mixture.share.repeat(2) / 2,
                torch.cat([mixture.mean + shift, mixture.mean - shift]),
                tril.repeat(2, 1, 1),
            )
        return mixture


def expectation_maximisation(
    x: Tensor, start: Mixture, iterations: int = 15, weight: Tensor | None = None
) -> Mixture:
    r"""Climb the likelihood of points [B, d] from a starting mixture.

    Covariances are shrunk towards the pooled one, :math:`(n_k S_k + d\,W) / (n_k + d)`, so that a component
    with few points keeps a sensible shape.

    Args:
        x: the points.
        start: the mixture.
        iterations: how many.
        weight: how many points each stands for, [B]; 1 each if None.
    """
    n, dim = len(x) if weight is None else float(weight.sum()), x.shape[1]
    mixture = start
    for _ in range(iterations):
        owned = mixture.each(x).softmax(-1)
        owned = owned if weight is None else owned * weight[:, None]
        count = owned.sum(0) + 1e-9
        mean = (owned.T @ x) / count[:, None]
        second = torch.einsum("bk,bi,bj->kij", owned, x, x) if dim <= 4 else _second(owned, x)
        scatter = second - count[:, None, None] * mean[:, :, None] * mean[:, None, :]
        pooled = scatter.sum(0) / n
        covariance = (scatter + dim * pooled) / (count + dim)[:, None, None]
        covariance = 0.5 * (covariance + covariance.transpose(-1, -2))
        jitter = 1e-6 * pooled.diagonal().mean() * torch.eye(dim, dtype=x.dtype, device=x.device)
        mixture = Mixture(count / count.sum(), mean, torch.linalg.cholesky(covariance + jitter))
    return mixture


def _second(owned: Tensor, x: Tensor) -> Tensor:
    """Weighted second moments [C, d, d], one component at a time: less memory in many dimensions."""
    return torch.stack([(w[:, None] * x).T @ x for w in owned.T])


def fit_mixture(x: Tensor, start: Mixture, *, most: int = 64) -> Mixture:
    """Fit mixtures of several sizes to points [B, d]; keep the one that best predicts a held-out third.

    The start itself is one of them. A later one must be better by more than the error of the comparison.

    Args:
        x: points, in coordinates where their spread is about 1.
        start: a mixture whose components may be good starts, such as one per known mode.
        most: largest number of components tried.

    Raises:
        InvalidInput: with fewer than 10 points.

    Example:
        >>> x = torch.cat([torch.randn(500, 1) - 5, torch.randn(500, 1) + 5])
        >>> one = Mixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> bool(fit_mixture(x, one).log_prob(x).mean() > -2.3)
        True
    """
    n, dim = x.shape
    if n < 10:
        raise InvalidInput(f"a mixture is fitted to at least 10 points, got {n}.")
    order = torch.randperm(n, device=x.device)
    held, kept = x[order[: n // 3]], x[order[n // 3 :]]
    starts = [start] if len(start) <= most else []
    size = 1
    while size <= min(most, len(kept) // (2 * (dim + 1))) or size == 1:
        starts.append(_spread(kept, size))
        if len(start) < size:
            starts.append(_grown(kept, start, size))
        size *= 2
    best, score, climbed = start, start.log_prob(held), False
    for candidate in starts:
        fitted = expectation_maximisation(kept, candidate)
        gain = fitted.log_prob(held) - score
        if float(gain.mean()) > float(gain.std()) / math.sqrt(len(held)):  # more than its own error
            best, score, climbed = fitted, score + gain, True
    return expectation_maximisation(x, best, iterations=5) if climbed else best


def _spread(x: Tensor, size: int) -> Mixture:
    """Components at points far from each other, each as wide as the whole divided by the size."""
    centre = [int(torch.randint(len(x), ()))]
    gap = (x - x[centre[0]]).square().sum(-1)
    for _ in range(size - 1):
        centre.append(int(torch.multinomial(gap.clamp(min=1e-30), 1)))
        gap = torch.minimum(gap, (x - x[centre[-1]]).square().sum(-1))
    dim = x.shape[-1]
    covariance = torch.cov(x.T).reshape(dim, dim)
    jitter = 1e-6 * covariance.diagonal().mean() * torch.eye(dim, dtype=x.dtype, device=x.device)
    tril = torch.linalg.cholesky(covariance + jitter) / size ** (1.0 / dim)
    share = x.new_full((size,), 1.0 / size)
    return Mixture(share, x[centre], tril.expand(size, dim, dim))


def _grown(x: Tensor, start: Mixture, size: int) -> Mixture:
    """The given components, and more at points far from them."""
    more = _spread(x, size - len(start))
    return Mixture(
        x.new_full((size,), 1.0 / size),
        torch.cat([start.mean, more.mean]),
        torch.cat([start.tril, more.tril]),
    )
