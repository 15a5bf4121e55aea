r"""Mixtures of Betas on the unit cube.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, C.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ctsgfn.distributions import CoordinateLaw, choose
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head
from ctsgfn.measures import Lebesgue, coordinates


class _LogDensity(torch.autograd.Function):
    r"""Log-density [B] at value [B, k], one node of the graph with its gradient in closed form.

    With r the shares of the components in the density at a, :math:`\partial \log q / \partial e_{cj} = r_c
    (\log a_j - \psi(1 + e_{cj}) + \psi(2 + e_{cj} + f_{cj}))` and :math:`\partial \log q / \partial
    \log w_c = r_c`.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, logits: Tensor, excess: Tensor) -> Tensor:
        logs = torch.cat([value.log(), (-value).log1p()], dim=-1)
        shape = excess + 1.0
        up, down = shape.chunk(2, -1)
        log_weight = logits.log_softmax(-1)
        each = (up + down).lgamma_().sum(-1).sub_(shape.lgamma().sum(-1)).add_(log_weight)
        each = (excess * logs[:, None]).sum(-1).add_(each)
        out = each.logsumexp(-1)
        ctx.save_for_backward(value, logs, excess, log_weight, each, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, logs, excess, log_weight, each, out = ctx.saved_tensors
        column = gradient[:, None]
        share = (each - out[:, None]).exp_().mul_(column)
        shape = excess + 1.0
        up, down = shape.chunk(2, -1)
        whole = (up + down).digamma_()
        slope = torch.cat([whole, whole], -1).sub_(shape.digamma_())
        for_value = for_logits = for_excess = None
        if ctx.needs_input_grad[0]:
            up, down = (share[..., None] * excess).sum(1).chunk(2, -1)
            for_value = up / value - down / (1 - value)
        if ctx.needs_input_grad[1]:
            for_logits = (share - log_weight.exp() * column).sum_to_size(log_weight.shape)
        if ctx.needs_input_grad[2]:
            for_excess = (share[..., None] * (slope + logs[:, None])).sum_to_size(excess.shape)
        return for_value, for_logits, for_excess


class BetaMixtureLaw(CoordinateLaw):
    r"""Mixture over c of products over the axes of :math:`\mathrm{Beta}(1 + e_{cj}, 1 + f_{cj})`.

    .. math::
        q(a) = \sum_c w_c \prod_j \frac{a_j^{e_{cj}} (1 - a_j)^{f_{cj}}}{B(1 + e_{cj}, 1 + f_{cj})}

    Densities are bounded (no concentration is below 1), so what rounding does near a wall has
    mass of the order of the dtype's precision; a draw that would round onto a wall is rounded to
    the nearest number inside, and scored where it lies.

    Args:
        logits: unnormalised log-weights [B, C], or [1, C] for the same law on every row.
        excess: concentrations minus 1 [B or 1, C, 2 k]: those of the k axes, then their twins.
        batch: B.

    Example:
        >>> law = BetaMixtureLaw(torch.zeros(1, 2), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), 3)
        >>> law.log_prob(torch.tensor([[0.1], [0.5], [0.9]])).exp().tolist()  # (2 a + 2 (1 - a)) / 2
        [1.0, 1.0, 1.0]
    """

    def __init__(self, logits: Tensor, excess: Tensor, batch: int) -> None:
        super().__init__(batch, excess.shape[-1] // 2)
        self.logits, self.excess = logits, excess
        self.base = Lebesgue(excess.shape[-1] // 2, 0.0, 1.0)

    def draw(self) -> Tensor:
        """Choose a component per row by the exponential race, then a ratio of Gammas per axis."""
        batch = self.batch_shape[0]
        chosen = choose(self.logits.expand(batch, -1))
        if self.excess.shape[0] == 1:
            excess = self.excess[0].index_select(0, chosen)
        else:
            excess = self.excess[torch.arange(batch, device=chosen.device), chosen]
        up, down = torch._standard_gamma(excess + 1.0).chunk(2, dim=-1)
        return self.base.interior(up / (up + down))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] at points [B, k] of the open cube."""
        return _LogDensity.apply(value, self.logits, self.excess)  # type: ignore[no-untyped-call]

    @classmethod
    def score(cls, laws: Sequence[BetaMixtureLaw], draws: Sequence[Tensor]) -> Tensor:
        """Log-densities [sum of B] of the draws of several laws, in one call."""
        if len(laws) == 1:
            return laws[0].log_prob(draws[0])
        logits = torch.cat([law.logits.expand(len(a), -1) for law, a in zip(laws, draws, strict=True)])
        excess = torch.cat([law.excess.expand(len(a), -1, -1) for law, a in zip(laws, draws, strict=True)])
        return cls(logits, excess, len(logits)).log_prob(torch.cat(list(draws)))


class BetaMixture(Head):
    r"""Mixture of products of Betas on (0, 1)^dim, with concentrations in (1, 1 + spread).

    The mixture is joint: a component fixes the law of all axes, so axes may depend on each other
    (the reference mixes each axis on its own). A linear layer on the context gives the weights and
    :math:`\mathrm{spread}\cdot\mathrm{sigmoid}(\cdot)`, the concentrations less 1. At the start the
    law is the same everywhere, its components spread over the cube like Bernstein polynomials:
    nearly uniform on one axis.

    Why no concentration below 1: a Beta(0.1, .) draw rounds to a wall in float32 with probability
    of the order of 0.1, and a density scored there is not that of the draw. From 1 on, a draw
    within float32's precision of a wall has probability below ``1.2e-7 * (1 + spread)``.

    Args:
        dim: number of axes.
        components: number of mixture components.
        width: width of the context; 0 makes the parameters free, the same at every state.
        spread: bound on the concentrations, less 1.

    Raises:
        InvalidInput: when a size is below 1, the width is negative or spread is not positive.

    Example:
        >>> head = BetaMixture(2, components=8, width=4)
        >>> law = head(torch.randn(3, 4), None, None)
        >>> tuple(law.sample().shape), tuple(law.log_prob(torch.full((3, 2), 0.5)).shape)
        ((3, 2), (3,))
    """

    def __init__(self, dim: int, components: int, width: int, spread: float = 100.0) -> None:
        super().__init__()
        if components < 1 or width < 0 or not 0 < spread < math.inf:
            raise InvalidInput(
                f"BetaMixture needs components >= 1, width >= 0 and spread > 0, got components={components}, "
                f"width={width}, spread={spread}."
            )
        self.base = Lebesgue(dim, 0.0, 1.0)
        self.components, self.spread = components, spread
        start = self._start(dim)
        self.free: nn.Parameter | None = None
        self.linear: nn.Linear | None = None
        if width == 0:
            self.free = nn.Parameter(start)
        else:
            self.linear = nn.Linear(width, len(start))
            with torch.no_grad():
                self.linear.weight.zero_()
                self.linear.bias.copy_(start)

    def _start(self, dim: int) -> Tensor:
        """Weights even, component c at the c-th Bernstein polynomial, in another order on each axis."""
        step = torch.arange(self.components, dtype=torch.float64)
        up = torch.stack([(step * math.sqrt(j) / math.sqrt(2)).frac().argsort().double() if j else step
                          for j in range(dim)], dim=-1)  # fmt: skip
        excess = torch.cat([up, self.components - 1 - up], dim=-1)
        fraction = (excess / self.spread).clamp(0.05 / self.spread, 0.9)
        flat = torch.cat([torch.zeros(self.components, dtype=torch.float64), fraction.logit().flatten()])
        return flat.to(torch.get_default_dtype())

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> BetaMixtureLaw:
        """Law of the coordinates, [B, dim].

        Raises:
            InvalidInput: when asked to switch axes off.
        """
        del s
        if live is not None:
            raise InvalidInput(
                "BetaMixture has no dead axes: give the branch a base of its own per dimension."
            )
        if self.linear is not None:
            flat = self.linear(context)
        else:
            assert self.free is not None
            flat = self.free[None]
        excess = flat[:, self.components :].sigmoid().mul(self.spread)
        excess = excess.view(flat.shape[0], self.components, 2 * coordinates(self.base))
        return BetaMixtureLaw(flat[:, : self.components], excess, context.shape[0])
