r"""Gaussians fitted along dispersed ascents of a log-density on R^d.

References:
    Pathfinder (Zhang et al., 2022), arXiv 2108.03782: Gaussians along optimisation paths, chosen by
    their evidence bound.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctsgfn.ascent import ascend
from ctsgfn.counted import CountedTarget
from ctsgfn.errors import InvalidInput
from ctsgfn.variational import climb, fit_normal

WIDE = 250
"""Above this dimension only the best modes are fitted, each at its own expense."""

_CLIMBED = 3
"""Ascents that are followed to their modes there."""

_MOST = 64
"""Most fits kept: the best by evidence bound."""


def widening(dim: int) -> float:
    """How much wider the fits are than the curvature says, so that annealing starts from enough.

    Less in many dimensions, where each of them adds to the distance that annealing has to go.

    Example:
        >>> widening(2), widening(200)
        (1.2, 1.01)
    """
    return 1.0 + 2.0 / max(10, dim)


class GaussianFits:
    """A mixture of Gaussians with full covariances: the fits."""

    def __init__(self, mean: Tensor, tril: Tensor, log_share: Tensor) -> None:
        self.mean, self.tril, self.log_share = mean, tril, log_share  # [K, d], [K, d, d], [K]
        self.log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        eye = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        self.inverse = torch.linalg.solve_triangular(tril, eye.expand_as(tril), upper=False)

    def each(self, x: Tensor) -> Tensor:
        """Log-density [B, K] of each component."""
        z = torch.einsum("kij,bkj->bki", self.inverse, x[:, None] - self.mean)
        d = x.shape[-1]
        return -0.5 * z.square().sum(-1) - self.log_det - 0.5 * d * math.log(2 * math.pi)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density [B] of the mixture."""
        return (self.each(x) + self.log_share).logsumexp(-1)

    def score(self, x: Tensor) -> Tensor:
        """Gradient [B, d] of the log-density."""
        share = (self.each(x) + self.log_share).softmax(-1)
        z = torch.einsum("kij,bkj->bki", self.inverse, x[:, None] - self.mean)
        return -torch.einsum("bk,kij,bki->bj", share, self.inverse, z)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean [d] and covariance [d, d] of the mixture."""
        share = self.log_share.exp()
        mean = share @ self.mean
        away = share.sqrt()[:, None] * (self.mean - mean)
        within = share.sqrt()[:, None, None] * self.tril
        return mean, away.T @ away + torch.einsum("kij,klj->il", within, within)

    def sample(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw points [n, d], and the component [n] of each."""
        k = torch.multinomial(self.log_share.exp(), n, replacement=True)
        return self.mean[k] + self.moves(k, torch.randn(n, self.mean.shape[-1]).to(self.mean)), k

    def moves(self, k: Tensor, z: Tensor) -> Tensor:
        """Scale noise [n, d] by the factor of component k of each row."""
        return _by_component(self.tril, k, z)

    def pulled(self, k: Tensor, slope: Tensor) -> Tensor:
        """A gradient [n, d] in the coordinates of the factor of component k of each row."""
        return _by_component(self.tril.transpose(-1, -2), k, slope)


def _by_component(matrix: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Matrix k of each row [K, d, d] times its vector, [n, d]; no matrix is repeated where they are large."""
    if v.numel() * v.shape[-1] <= 4_000_000:
        return torch.einsum("nij,nj->ni", matrix[k], v)
    out = torch.empty_like(v)
    for component in k.unique().tolist():
        rows = (k == component).nonzero().squeeze(-1)
        out[rows] = v[rows] @ matrix[component].T
    return out


def fit_gaussians(counted: CountedTarget, start: Tensor) -> GaussianFits:
    """Gaussians along the ascents: per path the snapshot of the best evidence bound.

    Where more than one mode is found, a second round of ascents starts from the region they span.
    """
    path = ascend(counted.value_and_score, start, steps=60)
    if start.shape[-1] > WIDE:
        return _wide(counted, path[-1])
    fits = [laplace_fits(counted, snapshot) for snapshot in (path[9], path[24], path[59])]
    bound = torch.stack([fit[2] for fit in fits])
    best, rows = bound.argmax(0), torch.arange(len(start), device=start.device)
    mean, tril = (torch.stack([fit[i] for fit in fits])[best, rows] for i in (0, 1))
    bound = bound[best, rows]
    keep = _distinct(mean, tril, bound)
    if len(keep) > 1:
        centre, spread = mean[keep].mean(0), torch.cov(mean[keep].T).reshape(2 * [start.shape[-1]])
        wide = cholesky(1.5 * spread + (tril[keep] @ tril[keep].transpose(-1, -2)).mean(0))
        again = centre + torch.randn(4 * len(start), start.shape[-1]).to(start) @ wide.T
        again = ascend(counted.value_and_score, again, steps=60)[-1]
        new = again[~_near(again, mean[keep], tril[keep]).any(-1)]
        if len(new):
            more = laplace_fits(counted, new)
            mean, tril, bound = (torch.cat(pair) for pair in zip((mean, tril, bound), more, strict=True))
            keep = _distinct(mean, tril, bound)
    return _shared(mean[keep], tril[keep], bound[keep])


def _wide(counted: CountedTarget, ends: Tensor) -> GaussianFits:
    """The best normals around the modes that the best ascents lead to, in many dimensions."""
    best = counted.value(ends).argsort(descending=True)[:_CLIMBED]
    climbed = [climb(counted, ends[i]) for i in best]
    modes, factors = (torch.stack(part) for part in zip(*climbed, strict=True))
    fits: list[tuple[Tensor, Tensor, Tensor]] = []
    for i in counted.value(modes).argsort(descending=True).tolist():
        if not any(_near(modes[i : i + 1], mean[None], tril[None]).any() for mean, tril, _ in fits):
            fits.append(fit_normal(counted, modes[i], factors[i]))
    return _shared(*(torch.stack(part) for part in zip(*fits, strict=True)))


def _shared(mean: Tensor, tril: Tensor, bound: Tensor) -> GaussianFits:
    """The mixture of fits, each with its evidence bound [K]."""
    good = torch.isfinite(bound)
    mean, tril, bound = mean[good], tril[good], bound[good]
    if len(mean) == 0:
        raise InvalidInput(
            "the warm-up found no place around which the log-density is finite: give the target its true "
            "bounds with measure=, more digits with dtype=torch.float64, or a scale nearer to 1."
        )
    log_share = (0.5 * bound).log_softmax(0)  # flattened: a bad bound does not lose a mode
    log_share = torch.logaddexp(log_share, log_share.new_tensor(-math.log(len(mean)))) - math.log(2.0)
    return GaussianFits(mean, widening(mean.shape[-1]) * tril, log_share)


def laplace_fits(counted: CountedTarget, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussians at points [B, d]: means, factors and evidence bounds.

    Where part of a Gaussian has no mass under the target, the bound is that of the Gaussian cut off there.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> from ctsgfn.target import as_target
        >>> bowl = CountedTarget(as_target(lambda x: -2.0 * x.square().sum(-1), Lebesgue(1)))
        >>> laplace_fits(bowl, torch.zeros(1, 1))[1]
        tensor([[[0.5000]]])
    """
    dim = x.shape[-1]
    tril = _curvature(counted, x)
    z = torch.randn(16, *x.shape).to(x)
    draws = x + torch.einsum("bij,sbj->sbi", tril, z)
    value = counted.value(draws.reshape(-1, dim)).reshape(16, -1)
    inside = torch.isfinite(value).sum(0).to(x.dtype)
    value = torch.where(torch.isfinite(value), value, 0.0).sum(0) / inside + (inside / 16).log()
    entropy = 0.5 * dim * (1 + math.log(2 * math.pi)) + tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    bound = value + entropy
    return x, tril, torch.where(torch.isfinite(bound), bound, -math.inf)


def _near(x: Tensor, mean: Tensor, tril: Tensor) -> Tensor:
    """Which points [B] lie within one standard deviation of which centres: [B, K] bool."""
    z = torch.linalg.solve_triangular(tril, (x[:, None] - mean).permute(1, 2, 0), upper=False)
    return (z.square().sum(1) < 1.0).T


def _distinct(mean: Tensor, tril: Tensor, bound: Tensor) -> Tensor:
    """Rows whose fit is not within one standard deviation of a better one's centre."""
    kept: list[int] = []
    for row in bound.argsort(descending=True).tolist():
        if not math.isfinite(float(bound[row])) or len(kept) == _MOST:
            break
        if not kept or not bool(_near(mean[row : row + 1], mean[kept], tril[kept]).any()):
            kept.append(row)
    return torch.tensor(kept, dtype=torch.long, device=mean.device)


def _curvature(counted: CountedTarget, x: Tensor) -> Tensor:
    """Cholesky factors [B, d, d] of the saddle-free inverse Hessian, by differences of the score."""
    batch, dim = x.shape
    step = 1e-4 * x.abs().clamp(min=1.0)
    for _ in range(2):  # once to find the scale of each axis, once at that scale
        shift = torch.diag_embed(step)  # [B, d, d]
        _, ahead = counted.value_and_score((x[:, None] + shift).reshape(-1, dim))
        _, behind = counted.value_and_score((x[:, None] - shift).reshape(-1, dim))
        hessian = -(ahead - behind).reshape(batch, dim, dim) / (2 * step[:, :, None])
        step = 0.05 / hessian.diagonal(dim1=-2, dim2=-1).abs().clamp(min=1e-12).sqrt()
    hessian = 0.5 * (hessian + hessian.transpose(-1, -2))
    hessian = torch.where(
        torch.isfinite(hessian).all(-1).all(-1)[:, None, None], hessian, torch.eye(dim).to(x)
    )
    values, vectors = (v.to(x) for v in torch.linalg.eigh(hessian.double()))  # far out it may be ill-scaled
    floor = 1e-10 * values.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    half = vectors / values.abs().clamp(min=floor).sqrt()[:, None, :]  # half half^T = inverse Hessian
    _, upper = torch.linalg.qr(half.transpose(-1, -2))
    lower = upper.transpose(-1, -2)
    return lower * lower.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]


def cholesky(covariance: Tensor) -> Tensor:
    """Cholesky factor, with the least jitter that makes the matrix definite."""
    scale = covariance.diagonal().clamp(min=torch.finfo(covariance.dtype).tiny)
    for jitter in (0.0, 1e-6, 1e-4, 1e-2):
        factor, info = torch.linalg.cholesky_ex(covariance + jitter * torch.diag(scale))
        if int(info) == 0:
            return factor
    return torch.diag(scale.sqrt())
