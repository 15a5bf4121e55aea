r"""Mixtures of normals with diagonal covariance, on R^k.

.. math::
    q(a | s) = \sum_c w_c(s) \prod_j N(a_j; m_{cj}(s), \sigma_{cj}^2(s))

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, section 4.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.distributions import CoordinateLaw, choose
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head
from ctsgfn.measures import Lebesgue

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class GaussianMixtureLaw(CoordinateLaw):
    """Mixture of diagonal normals on the live axes.

    Args:
        log_weight: [B, C] normalised over the components.
        loc: [B, C, k].
        log_scale: [B, C, k].
        live: [B, k] or [B, 1] bool, or None.

    Example:
        >>> law = GaussianMixtureLaw(torch.zeros(1, 1), torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))
        >>> round(float(law.log_prob(torch.zeros(1, 2))), 4)
        -1.8379
    """

    def __init__(
        self, log_weight: Tensor, loc: Tensor, log_scale: Tensor, live: Tensor | None = None
    ) -> None:
        super().__init__(len(loc), loc.shape[-1])
        self.log_weight, self.loc, self.log_scale, self.live = log_weight, loc, log_scale, live

    def draw(self) -> Tensor:
        """A component, then a normal draw; 0 on dead axes."""
        c = choose(self.log_weight)
        rows = torch.arange(len(c), device=c.device)
        loc, scale = self.loc[rows, c], self.log_scale[rows, c].exp()
        a = loc + scale * torch.randn_like(loc)
        return a if self.live is None else a * self.live

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] at [B, k]."""
        z = (value.unsqueeze(1) - self.loc) * (-self.log_scale).exp()
        each = -0.5 * z.square() - self.log_scale - _HALF_LOG_TWO_PI
        if self.live is None:
            return (self.log_weight + each.sum(-1)).logsumexp(-1)
        each = torch.where(self.live.unsqueeze(1), each, 0.0)
        out = (self.log_weight + each.sum(-1)).logsumexp(-1)
        return torch.where(self.live.any(-1), out, 0.0)  # exactly 0, not the rounded sum of the weights


class GaussianMixture(Head):
    """Learned mixture of C diagonal normals.

    A linear layer gives each component a logit, a mean and log-scales. At the start all scales are
    about 1 and the means about 0, set apart by random offsets of size ``spread``.

    Args:
        dim: k.
        width: width of the context.
        components: C.
        spread: standard deviation of the offsets between the components' means at the start.

    Raises:
        InvalidInput: when components < 1.

    Example:
        >>> law = GaussianMixture(2, width=3, components=4)(torch.zeros(5, 3), None, None)
        >>> tuple(law.sample().shape), tuple(law.log_prob(torch.zeros(5, 2)).shape)
        ((5, 2), (5,))
    """

    base: Lebesgue

    def __init__(self, dim: int, width: int, components: int = 5, spread: float = 0.5) -> None:
        super().__init__()
        if components < 1:
            raise InvalidInput(f"a Gaussian mixture needs at least one component, got {components}.")
        self.base = Lebesgue(dim)
        self.components = components
        self.logits = nn.Linear(width, components)
        self.moments = nn.Linear(width, components * 2 * dim)
        with torch.no_grad():
            for layer in (self.logits, self.moments):
                layer.weight.mul_(0.1)
                layer.bias.zero_()
            self.moments.bias.view(components, 2, dim)[:, 0].normal_(0.0, spread)

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> GaussianMixtureLaw:
        """Law of the coordinates, [B, dim]."""
        del s
        moments = self.moments(context).reshape(len(context), self.components, 2, self.base.dim)
        loc, log_scale = moments.unbind(2)
        return GaussianMixtureLaw(self.logits(context).log_softmax(-1), loc, log_scale, live)
