r"""The reference process of a time-sliced space: a linear Gaussian chain and its reversal.

.. math::
    x_{t+1} = A_t x_t + \sigma_t a, \qquad
    x_t = A_t \frac{V_t}{V_{t+1}} x_{t+1} + \sigma_t \sqrt{\frac{V_t}{V_{t+1}}}\, a,
    \qquad a \sim N(0, I),

started at :math:`x_0 = 0`, with marginal variances :math:`V_{t+1} = A_t^2 V_t + \sigma_t^2`. Both
kernels draw the same law of paths, which is what makes the closed form below exact:

.. math::
    \sum_t \log p_F - \sum_t \log p_B = \log N(x_T; 0, V_T I).

References:
    Path integral sampler (Zhang and Chen, 2022), arXiv 2111.15141 (pinned Brownian motion);
    Denoising diffusion samplers (Vargas et al., 2023), arXiv 2302.13834 (Ornstein-Uhlenbeck).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput, whole
from ctsgfn.kernels.heads.encoders import shared


class TimeGrid:
    """Coefficients of a linear Gaussian chain, and of its reversal, per step.

    Args:
        decay: A_0 .. A_{T-1}.
        noise: sigma_0 .. sigma_{T-1}, positive.

    Raises:
        InvalidInput: when the lengths differ, nothing is given, a decay is not finite, or a noise is not
            positive.

    Example:
        >>> TimeGrid([1.0, 1.0], [1.0, 1.0]).variance.tolist()
        [0.0, 1.0, 2.0]
    """

    def __init__(self, decay: Sequence[float], noise: Sequence[float]) -> None:
        if not len(decay) == len(noise) >= 1:
            raise InvalidInput(
                f"a time grid needs one decay and one noise per step, got {len(decay)} and {len(noise)}."
            )
        if not all(math.isfinite(a) for a in decay):
            raise InvalidInput("every step of a time grid needs a finite decay.")
        if not all(0.0 < n < math.inf for n in noise):
            raise InvalidInput("every step of a time grid needs a positive noise: its times must increase.")
        self.steps = len(noise)
        carried, std = torch.tensor(decay, dtype=torch.float64), torch.tensor(noise, dtype=torch.float64)
        variance = [0.0]
        for a, n in zip(decay, noise, strict=True):
            variance.append(a * a * variance[-1] + n * n)
        self.variance = torch.tensor(variance, dtype=torch.float64)  # [T + 1]
        shrink = self.variance[:-1] / self.variance[1:]
        nowhere = torch.full((1, 5), math.nan, dtype=torch.float64)  # no step leaves T, none enters s0
        home = torch.zeros(1, 5, dtype=torch.float64)  # one step after s0 the way back has no freedom
        ahead, back = self._columns(carried, std), self._columns(carried * shrink, std * shrink.sqrt())
        self.ahead = torch.cat([ahead, nowhere])  # [T + 1, 5]; row t is the step that leaves slice t
        self.back = torch.cat([nowhere, home, back[1:]])

    def _columns(self, factor: Tensor, std: Tensor) -> Tensor:
        return torch.stack([factor, std, 1 / std, std / self.sigma, std.log()], dim=-1)

    @property
    def sigma(self) -> float:
        """Standard deviation of each coordinate at the end."""
        return math.sqrt(float(self.variance[-1]))


class StepTable:
    """Coefficients of one direction: factor, std, 1 / std, std / sigma (the pace), and dim log std.

    Args:
        table: ``ahead`` or ``back`` of a time grid.
        dim: d.
        direction: +1 for ahead, -1 for back.
    """

    def __init__(self, table: Tensor, dim: int, direction: int) -> None:
        self.table = table * torch.tensor([1.0, 1.0, 1.0, 1.0, dim], dtype=table.dtype)
        self.direction = direction
        self._following = list(torch.arange(direction, len(table) + direction).split(1))
        self._placed: dict[tuple[torch.dtype, torch.device], tuple[Tensor, list[tuple[Tensor, ...]]]] = {}
        self._last: tuple[Tensor, Tensor, tuple[Tensor, ...]] | None = None

    def following(self, step: Tensor) -> Tensor:
        """The slices [B] that the steps [B] lead to."""
        at = shared(step)
        if at.shape[0] == 1 and at.device.type == "cpu":
            return self._following[int(at)].expand(step.shape[0])
        return step + self.direction

    def rows(self, step: Tensor, like: Tensor) -> tuple[Tensor, ...]:
        """The coefficients, [B, 1] each and the last [B], of the steps [B], in the dtype of ``like``.

        There is one row of each where all states are on one slice. The chart, its weight and the head
        ask in turn for the same rows: the last ones are kept.
        """
        key = (like.dtype, like.device)
        if key not in self._placed:
            placed = self.table.to(like.device, like.dtype)
            self._placed[key] = placed, [_columns(row) for row in placed.split(1)]
        table, single = self._placed[key]
        if self._last is None or self._last[0] is not step or self._last[1] is not table:
            at = shared(step)
            if len(at) == 1 and at.device.type == "cpu":  # elsewhere the number would have to be waited for
                rows = single[int(at)]
            else:
                rows = _columns(table.index_select(0, at))
            self._last = (step, table, rows)
        return self._last[2]


def _columns(rows: Tensor) -> tuple[Tensor, ...]:
    *columns, weight = rows.split(1, dim=-1)
    return (*columns, weight.squeeze(-1))


def uniform_clock(steps: int, total: float = 1.0) -> list[float]:
    """Times 0 .. total in equal steps.

    Example:
        >>> uniform_clock(4)
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    whole("steps", steps)
    return [total * t / steps for t in range(steps + 1)]


def cosine_clock(steps: int, total: float = 1.0, floor: float = 0.01) -> list[float]:
    r"""Times 0 .. total in steps proportional to :math:`\cos^2(\pi t / 2T) + \mathrm{floor}`.

    Large steps first, while the process is far from its end, and small ones at the end, where the
    details of the target are.

    Example:
        >>> [round(t, 3) for t in cosine_clock(4)]
        [0.0, 0.398, 0.738, 0.938, 1.0]
    """
    whole("steps", steps)
    if floor <= 0:
        raise InvalidInput(f"floor must be positive, or the last step would be too small, got {floor!r}.")
    sizes = [math.cos(0.5 * math.pi * t / steps) ** 2 + floor for t in range(steps)]
    times = [0.0]
    for size in sizes:
        times.append(times[-1] + total * size / sum(sizes))
    return [*times[:-1], total]
