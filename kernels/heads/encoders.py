"""Encoders of time-sliced states: a network of the point, shifted by an embedding of its step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.errors import InvalidInput
from ctsgfn.networks import MLP, Encoder, zero_init
from ctsgfn.target import Target, score


class TimeTable(nn.Module):
    """A learned function of the step alone: evaluated once per step, never once per state.

    Where no gradient is recorded the table is kept until a parameter changes.

    Args:
        waves: features of the steps, [T + 1, F].
        width: width of the output.
        hidden: width of the hidden layer.

    Example:
        >>> table = TimeTable(torch.rand(11, 4), width=3)
        >>> tuple(table(torch.tensor([0, 10])).shape)
        (2, 3)
    """

    waves: Tensor

    def __init__(self, waves: Tensor, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.register_buffer("waves", waves, persistent=False)
        self.network = MLP(waves.shape[1], hidden, layers=1)
        self.output = nn.Linear(hidden, width)
        self._kept: tuple[tuple[int, ...], Tensor] | None = None

    def table(self) -> Tensor:
        """The function at every step, [T + 1, width]."""
        if torch.is_grad_enabled():
            return self.output(self.network(self.waves))
        stamp = tuple(x for p in self.parameters() for x in (p._version, p.data_ptr()))
        if self._kept is None or self._kept[0] != stamp:
            self._kept = (stamp, self.output(self.network(self.waves)))
        return self._kept[1]

    def forward(self, step: Tensor) -> Tensor:
        """Rows [B, width] of the table."""
        return nn.functional.embedding(step, self.table())


class SlicedEncoder(Encoder):
    """Context of a point x on slice t: an MLP of x / scale whose first layer is shifted by t.

    Args:
        dim: d.
        waves: features of the steps, [T + 1, F].
        scale: typical size of a coordinate.
        hidden: width of the layers and of the context.
        layers: hidden layers.

    Raises:
        InvalidInput: when layers < 1.
    """

    def __init__(self, dim: int, waves: Tensor, scale: float, hidden: int = 64, layers: int = 2) -> None:
        super().__init__()
        if layers < 1:
            raise InvalidInput(f"a sliced encoder needs at least one hidden layer, got layers={layers}.")
        self.width, self.scale = hidden, scale
        self.point = nn.Linear(dim, hidden)
        self.time = TimeTable(waves, hidden, hidden)
        self.rest = nn.Sequential(nn.GELU(), MLP(hidden, hidden, layers - 1))

    def forward(self, s: Any, seen: Tensor | None) -> Tensor:
        """Context, [B, hidden]."""
        del seen
        return self.rest(self.point(s.x * (1 / self.scale)) + self.time(s.step))


class LangevinEncoder(Encoder):
    r"""A sliced encoder that also sees the target's score: context = (hidden, drift).

    .. math::
        \mathrm{drift} = a(t)\, S\, \nabla \log r(x) + b(t)\, x / S

    with S the scale; the score is clipped coordinate by coordinate at ``clip / S`` and detached, and
    is evaluated once per visited state.

    References:
        Path integral sampler (Zhang and Chen, 2022), arXiv 2111.15141, section 3.3; Improved off-policy
        training of diffusion samplers (Sendera et al., 2024), arXiv 2402.05098, section 4.1.

    Args:
        inner: the encoder of the point and the step.
        target: the target whose score is seen, on the points of the space.
        dim: d.
        waves: features of the steps, [T + 1, F].
        scale: typical size of a coordinate.
        clip: bound on the coordinates of S times the score.
    """

    def __init__(
        self,
        inner: Encoder,
        target: Target[Tensor],
        dim: int,
        waves: Tensor,
        scale: float,
        clip: float = 100.0,
    ) -> None:
        super().__init__()
        self.inner, self.target, self.scale, self.clip = inner, target, scale, clip
        self.width = inner.width + dim
        self.gains = TimeTable(waves, 2, 64)
        zero_init(self.gains.output)

    def observe(self, s: Any) -> Tensor:
        """S times the score of the target at x, clipped and detached, [B, d]."""
        return (score(self.target, s.x).detach() * self.scale).clamp(-self.clip, self.clip)

    def forward(self, s: Any, seen: Tensor | None) -> Tensor:
        """Context, [B, hidden + d]."""
        if seen is None:
            seen = self.observe(s)
        a, b = self.gains(s.step).split(1, dim=-1)
        drift = (seen * a).addcmul(s.x, b * (1 / self.scale))
        return torch.cat([self.inner(s, None), drift], dim=-1)
