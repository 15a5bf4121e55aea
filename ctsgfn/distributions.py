"""Plain densities in chart coordinates: what the heads of the library return.

Each is a ``torch.distributions.Distribution`` with batch shape [B] and event shape [k], drawn and
scored in as few tensor operations as the formula allows. ``live`` masks atoms or switches axes off:
a dead axis is a unit mass at 0, its coordinate is 0 and its log-density 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import Self

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def choose(log_mass: Tensor) -> Tensor:
    """Draw an index of the last axis with probability exp(log_mass), by the exponential race.

    A choice of mass 0 (log_mass -inf) is never drawn, whatever the rounding.

    Example:
        >>> choose(torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])).tolist()
        [0, 1]
    """
    race = torch.empty_like(log_mass, requires_grad=False).exponential_().log_()
    return race.sub_(log_mass.detach()).argmin(-1)


class CoordinateLaw(Distribution):
    """Base of the laws below: no argument validation, one draw per row.

    ``sample(torch.Size())`` gives [B, k], as every law of a batch of states does; other sample
    shapes are refused, because a kernel has no use for them.
    """

    has_rsample = False

    def __init__(self, batch: int, width: int) -> None:
        super().__init__(torch.Size((batch,)), torch.Size((width,)), validate_args=False)

    def draw(self) -> Tensor:
        """One draw per row, [B, k], differentiable where the law is."""
        raise NotImplementedError

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """One differentiable draw per row."""
        if not self.has_rsample:
            raise NotImplementedError(f"{type(self).__name__} has no reparameterised draw.")
        return self._one(sample_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """One draw per row, without gradient."""
        with torch.no_grad():
            return self._one(sample_shape)

    def sample_scored(self) -> tuple[Tensor, Tensor]:
        """One draw per row and its log-density [B], where no gradient is recorded."""
        a = self.draw()
        return a, self.log_prob(a)

    @classmethod
    def score(cls, laws: Sequence[Self], draws: Sequence[Tensor]) -> Tensor:
        """Log-densities [sum of B] of the last draw of each law, without gradient, those of the first first.

        A walk scores the draws of many steps at once, which a class may do in few operations.
        """
        return torch.cat([law.log_prob(a) for law, a in zip(laws, draws, strict=True)])

    def _one(self, sample_shape: Any) -> Tensor:
        if len(sample_shape):
            raise NotImplementedError(f"{type(self).__name__} draws once per row: repeat the states instead.")
        return self.draw()


class DiagonalNormal(CoordinateLaw):
    r"""Independent normals on the live axes: :math:`\sum_j \log N(a_j; m_j, \sigma_j^2)`.

    Args:
        mean: [B, k].
        log_scale: log sigma, [B, k] or anything that broadcasts to it; None means 0.
        live: [B, k] or [B, 1] bool, or None.

    Example:
        >>> law = DiagonalNormal(torch.zeros(4, 2), None, torch.tensor([[True, False]]).expand(4, 2))
        >>> law.sample()[:, 1].abs().tolist(), round(float(law.log_prob(torch.zeros(4, 2))[0]), 4)
        ([0.0, 0.0, 0.0, 0.0], -0.9189)
    """

    has_rsample = True

    def __init__(self, mean: Tensor, log_scale: Tensor | None = None, live: Tensor | None = None) -> None:
        super().__init__(*mean.shape)
        self.loc, self.log_scale, self.live = mean, log_scale, live

    @property
    def mean(self) -> Tensor:
        """The mean, [B, k]."""
        return self.loc

    def draw(self) -> Tensor:
        """Return mean + scale * standard normal, 0 on dead axes."""
        return self._place(torch.randn_like(self.loc))

    def sample_scored(self) -> tuple[Tensor, Tensor]:
        """Draw without gradient; the noise gives the log-density without the mean."""
        noise = torch.randn_like(self.loc)
        if self.live is not None:
            noise = noise * self.live
        return self._place(noise), self._log_density(noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] at [B, k]."""
        z = value - self.loc
        return self._log_density(z if self.log_scale is None else z * (-self.log_scale).exp())

    def _place(self, noise: Tensor) -> Tensor:
        a = self.loc + noise if self.log_scale is None else self.loc.addcmul(self.log_scale.exp(), noise)
        return a if self.live is None else a * self.live

    def _log_density(self, z: Tensor) -> Tensor:
        """Log-density [B] of the standardised coordinates z."""
        if self.live is None and self.log_scale is None:
            return z.square().sum(-1).mul(-0.5).sub(z.shape[-1] * _HALF_LOG_TWO_PI)
        each = 0.5 * z.square() + _HALF_LOG_TWO_PI
        if self.log_scale is not None:
            each = each + self.log_scale
        return -(each if self.live is None else each * self.live).sum(-1)


class StandardNormal(CoordinateLaw):
    r"""Independent standard normals on the live axes.

    Args:
        like: any tensor [B, ..] of the dtype and on the device of the draws.
        width: k.
        live: [B, k] or [B, 1] bool, or None.

    Example:
        >>> law = StandardNormal(torch.zeros(4, 1), 2, torch.tensor([[True], [True], [False], [False]]))
        >>> [round(v, 4) for v in law.log_prob(torch.zeros(4, 2)).tolist()]
        [-1.8379, -1.8379, 0.0, 0.0]
    """

    has_rsample = True

    def __init__(self, like: Tensor, width: int, live: Tensor | None = None) -> None:
        super().__init__(len(like), width)
        self.like, self.live = like, live

    def draw(self) -> Tensor:
        """Return standard normals, 0 on dead axes."""
        noise = self.like.new_empty(len(self.like), self.event_shape[0]).normal_()
        return noise if self.live is None else noise * self.live

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] at [B, k]."""
        if self.live is None or self.live.shape[-1] == 1:  # whole rows: mask the sum, not each term
            whole = value.square().sum(-1).mul(-0.5).sub(value.shape[-1] * _HALF_LOG_TWO_PI)
            return whole if self.live is None else torch.where(self.live[:, 0], whole, 0.0)
        return -((0.5 * value.square() + _HALF_LOG_TWO_PI) * self.live).sum(-1)


class UniformBox(CoordinateLaw):
    """Uniform on [low, high]^k, on the live axes.

    Example:
        >>> round(float(UniformBox(torch.zeros(3, 2), 0.0, 2.0).log_prob(torch.ones(3, 2))[0]), 4)
        -1.3863
    """

    has_rsample = True

    def __init__(self, like: Tensor, low: float, high: float, live: Tensor | None = None) -> None:
        super().__init__(*like.shape)
        self.like, self.low, self.high, self.live = like, low, high, live

    def draw(self) -> Tensor:
        """Uniform coordinates, 0 on dead axes; never on the lower wall, where a chart may be singular."""
        a = self.low + (self.high - self.low) * torch.rand_like(self.like).clamp_(min=2.0**-25)
        return a if self.live is None else a * self.live

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the log-volume inside the box, -inf outside, [B]."""
        inside = (value >= self.low) & (value <= self.high)
        level = self.like.new_full((), -math.log(self.high - self.low))  # a number would be float32
        each = torch.where(inside, level, -math.inf)
        return (each if self.live is None else torch.where(self.live, each, 0.0)).sum(-1)


class MaskedCategorical(CoordinateLaw):
    """Categorical on the live atoms of {0, .., size - 1}; draws [B, 1] long.

    Args:
        logits: [B, size].
        live: [B, size] bool, or None; every row needs at least one live atom.

    Example:
        >>> law = MaskedCategorical(torch.zeros(1, 3), torch.tensor([[True, False, True]]))
        >>> [round(float(law.log_prob(torch.tensor([[i]]))), 4) for i in range(3)]
        [-0.6931, -inf, -0.6931]
    """

    def __init__(self, logits: Tensor, live: Tensor | None = None) -> None:
        super().__init__(len(logits), 1)
        masked = logits if live is None else logits.masked_fill(~live, -math.inf)
        self.logits = masked.log_softmax(-1)

    def draw(self) -> Tensor:
        """One atom per row, never a dead one."""
        return choose(self.logits).unsqueeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability [B] of atoms [B, 1]."""
        return self.logits.gather(-1, value.long()).squeeze(-1)


class Point(CoordinateLaw):
    """The only law on one point; coordinates [B, 0]."""

    has_rsample = True

    def __init__(self, like: Tensor) -> None:
        super().__init__(len(like), 0)
        self.like = like

    def draw(self) -> Tensor:
        """Return the empty coordinates, [B, 0]."""
        return self.like.new_empty(len(self.like), 0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Zero, [B]."""
        return self.like.new_zeros(len(value))


class Independent(CoordinateLaw):
    """Product of laws whose coordinates stand side by side.

    Example:
        >>> law = Independent([UniformBox(torch.zeros(2, 1), 0.0, 1.0), DiagonalNormal(torch.zeros(2, 2))])
        >>> tuple(law.sample().shape)
        (2, 3)
    """

    def __init__(self, parts: list[Distribution]) -> None:
        self.parts = parts
        self.widths = [int(p.event_shape[0]) for p in parts]
        super().__init__(int(parts[0].batch_shape[0]), sum(self.widths))
        self.has_rsample = all(p.has_rsample for p in parts)

    def draw(self) -> Tensor:
        """Draw every factor."""
        draws = [p.rsample() if p.has_rsample else p.sample() for p in self.parts]
        return torch.cat(draws, dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Sum over the factors, [B]."""
        columns = value.split(self.widths, dim=-1)
        terms: list[Tensor] = [p.log_prob(c) for p, c in zip(self.parts, columns, strict=True)]
        return torch.stack(terms).sum(0)
