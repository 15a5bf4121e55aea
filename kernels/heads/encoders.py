"""Encoders of time-sliced states: a network of the point, shifted by an embedding of its step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.errors import InvalidInput
from ctsgfn.networks import MLP, Encoder, Table, zero_init
from ctsgfn.states import Batch
from ctsgfn.target import HasScore, Target, score


def shared(step: Tensor) -> Tensor:
    """The steps of a batch, [B]; only one of them, [1], where the batch is one step expanded.

    A walk in which all states are on the same slice keeps its steps as one number with stride 0, and
    what depends on the step alone is then looked up once.
    """
    return step[:1] if step.stride(0) == 0 else step


class TimeTable(Table):
    """Learned functions of the step alone: evaluated once per step, never once per state.

    Args:
        waves: features of the steps, [T + 1, F].
        widths: widths of the outputs, one linear layer each on the same hidden layer.
        hidden: width of the hidden layer.

    Example:
        >>> table = TimeTable(torch.rand(11, 4), widths=(3, 1))
        >>> [tuple(rows.shape) for rows in table(torch.tensor([0, 10]))]
        [(2, 3), (2, 1)]
    """

    waves: Tensor
    order: Tensor

    def __init__(self, waves: Tensor, widths: tuple[int, ...], hidden: int = 64) -> None:
        super().__init__()
        self.register_buffer("waves", waves, persistent=False)
        self.register_buffer("order", torch.arange(len(waves) - 1), persistent=False)
        self.network = MLP(waves.shape[1], hidden, layers=1)
        self.outputs = nn.ModuleList(nn.Linear(hidden, width) for width in widths)

    def compute(self) -> tuple[Tensor, ...]:
        """The functions at every step, [T + 1, width] each."""
        hidden = self.network(self.waves)
        return tuple(output(hidden) for output in self.outputs)

    def forward(self, step: Tensor) -> tuple[Tensor, ...]:
        """Rows [B, width] of each function, the caller's own; [1, width] where all are on one slice."""
        at, tables = shared(step), self.values()
        walks = self._walks(at)
        if walks == 0:
            return tuple(torch.embedding(table, at) for table in tables)
        return tuple(table[:-1].repeat(walks, 1) for table in tables)

    def _walks(self, step: Tensor) -> int:
        """How many times the steps are 0 .. T - 1 in their order; 0 where they are anything else.

        The gradient of whole walks is a plain sum, much cheaper than one scattered row by row.
        """
        length = len(self.order)
        if step.device.type != "cpu" or len(step) < length or len(step) % length:
            return 0  # elsewhere the answer would have to be waited for
        walks = step.unflatten(0, (-1, length))
        return len(walks) if torch.equal(walks, self.order.expand_as(walks)) else 0


class SlicedEncoder(Encoder):
    """Context of a point x on slice t: an MLP of x / scale whose first layer is shifted by t.

    Args:
        dim: d.
        waves: features of the steps, [T + 1, F].
        scale: typical size of a coordinate.
        hidden: width of the layers and of the context.
        layers: hidden layers.
        extra: widths of further functions of the step alone, for ``apart``.

    Raises:
        InvalidInput: when layers < 1.
    """

    def __init__(
        self,
        dim: int,
        waves: Tensor,
        scale: float,
        hidden: int = 64,
        layers: int = 2,
        extra: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        if layers < 1:
            raise InvalidInput(f"a sliced encoder needs at least one hidden layer, got layers={layers}.")
        self.width, self.scale = hidden, scale
        self.point = nn.Linear(dim, hidden, bias=False)
        self.time = TimeTable(waves, (hidden, *extra), hidden)
        self.rest = nn.Sequential(nn.GELU(), *MLP(hidden, hidden, layers - 1))

    def forward(self, s: Any, seen: Tensor | None) -> Tensor:
        """Context, [B, hidden]."""
        del seen
        return self.apart(s)[0]

    def apart(self, s: Any) -> tuple[Tensor, ...]:
        """Context [B, hidden], and the rows [B, width] or [1, width] of the further functions."""
        shift, *extra = self.time(s.step)
        weight = self.point.weight.t()
        if len(shift) == len(s.x):  # rows of its own: added to in place
            first = shift.addmm_(s.x, weight, alpha=1 / self.scale)
        else:
            first = torch.addmm(shift, s.x, weight, alpha=1 / self.scale)
        return self.rest(first), *extra


@dataclass(frozen=True)
class Steered(Batch):
    """Context of a step with a drift that is known before its network."""

    hidden: Tensor  # [B, width]
    drift: Tensor  # [B, d]


class LangevinEncoder(Encoder):
    r"""A sliced encoder that also sees the target's score: context = (hidden, drift).

    .. math::
        \mathrm{drift} = a(t)\, S\, \nabla \log r(x) + b(t)\, x / S

    with S the scale, and a, b zero at the start; the score is clipped coordinate by coordinate at
    ``clip / S`` and detached, and is evaluated once per visited state.

    References:
        Path integral sampler (Zhang and Chen, 2022), arXiv 2111.15141, section 3.3; Improved off-policy
        training of diffusion samplers (Sendera et al., 2024), arXiv 2402.05098, section 4.1.

    Args:
        target: the target whose score is seen, on the points of the space.
        dim: d.
        waves: features of the steps, [T + 1, F].
        scale: typical size of a coordinate.
        hidden: width of the layers.
        layers: hidden layers.
        clip: bound on the coordinates of S times the score.

    Raises:
        InvalidInput: when layers < 1, or the clip is not positive.
    """

    def __init__(
        self,
        target: Target[Tensor],
        dim: int,
        waves: Tensor,
        scale: float,
        hidden: int = 64,
        layers: int = 2,
        clip: float = 100.0,
    ) -> None:
        super().__init__()
        if not clip > 0:
            raise InvalidInput(f"the score must be clipped at a positive bound, got clip={clip!r}.")
        self.inner = SlicedEncoder(dim, waves, scale, hidden, layers, extra=(1, 1))
        for gain in self.inner.time.outputs[1:]:
            assert isinstance(gain, nn.Linear)
            zero_init(gain)
        self.scale, self.clip, self.width = scale, clip, hidden
        # asked once: at every step the question would cost as much as a layer
        self.slope = target.score if isinstance(target, HasScore) else partial(score, target)

    def observe(self, s: Any) -> Tensor:
        """S times the score of the target at x, clipped and detached, [B, d]."""
        slope = self.slope(s.x).detach() * self.scale
        return slope.clamp_(-self.clip, self.clip)

    def forward(self, s: Any, seen: Tensor | None) -> Steered:
        """The hidden layer [B, hidden] and the drift [B, d]."""
        if seen is None:
            seen = self.observe(s)
        hidden, a, b = self.inner.apart(s)
        return Steered(hidden, (seen * a).addcmul(s.x, b, value=1 / self.scale))
