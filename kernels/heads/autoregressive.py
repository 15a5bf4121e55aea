r"""Autoregressive mixtures of normals: each coordinate's law is set by the coordinates before it.

.. math::
    q(a | s) = \prod_i \frac{1}{\sigma_i} \sum_c w_{ic}\,
        N\Bigl(\frac{a_i - m_i}{\sigma_i}; \mu_{ic}, \tau_{ic}^2\Bigr)

where :math:`m, \log \sigma, w, \mu, \log \tau` at i are functions of s and of :math:`a_1, .., a_{i-1}`: a
masked network, and for m and :math:`\log \sigma` a masked linear map beside it. So correlated normals and
funnels are exact, and what is independent or has several modes per coordinate is easy.

References:
    MADE: masked autoencoder for distribution estimation (Germain et al., 2015), arXiv 1502.03509; Mixture
    density networks (Bishop, 1994), Aston University NCRG/94/004; Masked autoregressive flow for density
    estimation (Papamakarios et al., 2017), arXiv 1705.07057.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.distributions import CoordinateLaw
from ctsgfn.errors import InvalidInput
from ctsgfn.kernels.heads.autoregressive_density import WIDTH, LogDensity, bounded
from ctsgfn.kernels.heads.masked import MaskedHead, chosen
from ctsgfn.measures import Lebesgue

_EDGE = 8.0
"""Coordinates enter scales and networks as they are up to here, and by their logarithm beyond."""


def tamed(a: Tensor) -> Tensor:
    """The identity up to 8, and logarithmic growth beyond, smooth to first order.

    A log-scale that were linear everywhere could drive itself out of all bounds, coordinate by coordinate.

    Example:
        >>> [round(v, 4) for v in tamed(torch.tensor([-8.0, 1.0, 1007.0])).tolist()]
        [-8.0, 1.0, 14.9078]
    """
    inside = a.clamp(-_EDGE, _EDGE)
    beyond = a - inside
    return inside + beyond.abs().log1p().copysign(beyond)


class AutoregressiveLaw(CoordinateLaw):
    """The law for each row of a context; drawn one coordinate after another, scored in one pass.

    Args:
        head: the head, whose network gives the parameters as the coordinates become known.
        context: [B, width].
    """

    def __init__(self, head: AutoregressiveMixture, context: Tensor) -> None:
        super().__init__(len(context), head.dim)
        self.head, self.context = head, context

    def draw(self) -> Tensor:
        """One draw per row, [B, k]."""
        head, (batch, dim) = self.head, (len(self.context), self.head.dim)
        outputs = head.unrolled(self.context)
        slope, log_slope = head.slope.tril(-1), head.log_slope.tril(-1)
        a, seen = self.context.new_empty(2, dim, batch)
        race = self.context.new_empty(dim, head.components, batch).exponential_().log_()
        noise = self.context.new_empty(dim, batch).normal_()
        for i in range(dim):
            mean, log_scale, parts = head.split(outputs(i, seen[:i]), 0)
            centre, log_width = chosen(race[i], *parts)
            u = torch.addcmul(centre, log_width.exp(), noise[i])
            if head.floor > 0:
                u = torch.where(torch.rand_like(u) < head.floor, noise[i], u)
            mean = torch.addmv(mean, a[:i].t(), slope[i, :i])
            log_scale = torch.addmv(log_scale, seen[:i].t(), log_slope[i, :i])
            torch.addcmul(mean, head.bounded(log_scale).exp(), u, out=a[i])
            if head.share > 0:
                apart = torch.rand_like(u) < head.share
                a[i] = torch.where(apart, WIDTH * torch.randn_like(u), a[i])
            seen[i] = tamed(a[i])
        return a.t()[:, head.order.argsort()]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] at [B, k]."""
        head = self.head
        a = value[:, head.order]
        seen = tamed(a)
        return LogDensity.apply(  # type: ignore[no-untyped-call]
            a.t(),
            head.outputs(seen, self.context),
            head.slope.tril(-1) @ a.t(),
            head.log_slope.tril(-1) @ seen.t(),
            head.floor,
            head.share,
        )


class AutoregressiveMixture(MaskedHead):
    """Learned autoregressive mixture of C normals per coordinate, on R^dim.

    At the start the network gives 0 and the coordinates are about normal with the covariance L L^T.

    Args:
        dim: number of coordinates.
        width: width of the context.
        components: C.
        hidden: width of the network.
        layers: its hidden layers.
        share: of a defensive mixture, per coordinate: with this probability it is drawn from N(0, 3^2),
            whatever those before it are, so that weights against other laws stay bounded.
        floor: share of one more normal in each coordinate's mixture, N(m, sigma^2), that nothing changes: in
            the valley between two modes the learned ones hand over to each other's tails, which fall far
            below the target before a draw that would tell comes along.
        order: the coordinates in the order in which they are drawn; as they stand if None.
        tril: L [dim, dim], the coordinates taken in that order; the identity if None.

    Raises:
        InvalidInput: on sizes below 1, an order that is no permutation, or an L without positive diagonal.

    Example:
        >>> head = AutoregressiveMixture(3, width=2, components=4, order=[2, 0, 1])
        >>> law = head(torch.zeros(5, 2), None, None)
        >>> tuple(law.sample().shape), tuple(law.log_prob(torch.zeros(5, 3)).shape)
        ((5, 3), (5,))
    """

    def __init__(
        self,
        dim: int,
        width: int,
        components: int = 8,
        *,
        hidden: int = 64,
        layers: int = 2,
        share: float = 0.0,
        floor: float = 0.0,
        order: Sequence[int] | None = None,
        tril: Tensor | None = None,
    ) -> None:
        super().__init__(
            Lebesgue(dim),
            width,
            features=1,
            outputs=2 + 3 * components,
            hidden=hidden,
            layers=layers,
            order=order,
        )
        if components < 1:
            raise InvalidInput(f"an autoregressive mixture needs at least one component, got {components}.")
        if not 0 <= share < 1:
            raise InvalidInput(f"the share of the wide law must be at least 0 and below 1, got {share}.")
        if not 0 <= floor < 1:
            raise InvalidInput(f"the floor's share must be at least 0 and below 1, got {floor}.")
        self.components, self.share, self.floor = components, share, floor
        lower = torch.eye(dim) if tril is None else tril
        self._start(lower)

    def _start(self, tril: Tensor) -> None:
        """Regress each coordinate on those before it; spread the components evenly."""
        dim, scale = self.dim, tril.diagonal()
        if tril.shape != (dim, dim) or not bool((scale > 0).all()):
            raise InvalidInput(f"tril must be [{dim}, {dim}] with a positive diagonal.")
        eye = torch.eye(dim, dtype=tril.dtype, device=tril.device)
        inverse = torch.linalg.solve_triangular(tril, eye, upper=False)
        self.slope = nn.Parameter(-(scale[:, None] * inverse).tril(-1))
        self.log_slope = nn.Parameter(torch.zeros_like(tril))
        with torch.no_grad():
            _, log_scale, (_, centre, log_width) = self.split(self.out.bias.unflatten(0, (dim, -1)), 1)
            log_scale.copy_(scale.log())
            if self.components > 1:
                centre.copy_(torch.linspace(-1.5, 1.5, self.components) + 0.1 * torch.randn(centre.shape))
                log_width.fill_(-math.log(2.0))

    def split(self, outputs: Tensor, axis: int) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Part 2 + 3 C outputs on an axis: m, log sigma; the logits, means and log-scales of C components."""
        mean, log_scale, *_ = outputs.unbind(axis)
        parts = outputs.narrow(axis, 2, 3 * self.components).chunk(3, axis)
        return mean, log_scale, parts

    def bounded(self, log_scale: Tensor) -> Tensor:
        """The log-scales; beside a wide law, which leads to places unknown, smoothly bounded."""
        return log_scale if self.share == 0 else bounded(log_scale)

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> AutoregressiveLaw:
        """Law of the coordinates, [B, dim].

        Raises:
            InvalidInput: when a live mask is given: a coordinate that is switched off has no order.
        """
        if live is not None:
            raise InvalidInput(
                "AutoregressiveMixture has no dead axes: use GaussianMixture on a base with a live mask."
            )
        del s
        return AutoregressiveLaw(self, context)
