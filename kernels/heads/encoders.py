"""Encoders of time-sliced states: a network of the point, shifted by an embedding of its step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

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
        return self.bind()(step)

    def bind(self) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """``forward`` for many calls."""
        tables = self.values()
        rows: list[tuple[Tensor, ...]] = []

        def at(step: Tensor) -> tuple[Tensor, ...]:
            where = shared(step)
            if where.shape[0] == 1 and where.device.type == "cpu":
                if not rows:
                    rows.extend(zip(*[table.split(1) for table in tables], strict=True))
                return rows[int(where)]
            walks = self._walks(where)
            if walks == 0:
                return tuple(torch.embedding(table, where) for table in tables)
            return tuple(table[:-1].repeat(walks, 1) for table in tables)

        return at

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
        self.rest = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))

    def forward(self, s: Any, seen: Tensor | None) -> Tensor:
        """Context, [B, hidden]."""
        return self.bind()(s, seen)

    def bind(self) -> Callable[[Any, Tensor | None], Tensor]:
        """``forward`` for many calls."""
        apart = self.apart()
        return lambda s, _: apart(s)[0]

    def apart(self) -> Callable[[Any], tuple[Tensor, ...]]:
        """States -> context [B, hidden], and the rows [B, width] or [1, width] of the further functions."""
        # contiguous: the gradient of a transposed view with few rows takes twice the time
        time, weight, gain = self.time.bind(), self.point.weight.t().contiguous(), 1 / self.scale
        layers = [(layer.weight, layer.bias) for layer in self.rest if isinstance(layer, nn.Linear)]

        def at(s: Any) -> tuple[Tensor, ...]:
            shift, *extra = time(s.step)
            if shift.shape[0] == s.x.shape[0] > 1:  # rows of its own: added to in place
                hidden = gelu(shift.addmm_(s.x, weight, alpha=gain))
            else:
                hidden = gelu(torch.addmm(shift, s.x, weight, alpha=gain))
            for layer in layers:
                hidden = gelu(linear(hidden, *layer))
            return hidden, *extra

        return at


@dataclass(frozen=True)
class Steered(Batch):
    """Context of a step with a drift that is known before its network."""

    hidden: Tensor  # [B, width]
    drift: Tensor  # [B, d]


class LangevinEncoder(Encoder):
    r"""A sliced encoder that also sees the target's score: context = (hidden, drift).

    .. math::
        \mathrm{drift} = (g(t) + a(t))\, S\, \nabla \log r(x) + (g(t) + b(t))\, x / S

    with S the scale, g given, and a, b learned and zero at the start; the score is clipped coordinate by
    coordinate at ``clip / S`` and detached, and is evaluated once per visited state.

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
        gain: g at every step, [T + 1]; 0 if None.

    Raises:
        InvalidInput: when layers < 1, or the clip is not positive.
    """

    gain: Tensor

    def __init__(
        self,
        target: Target[Tensor],
        dim: int,
        waves: Tensor,
        scale: float,
        hidden: int = 64,
        layers: int = 2,
        clip: float = 100.0,
        gain: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not clip > 0:
            raise InvalidInput(f"the score must be clipped at a positive bound, got clip={clip!r}.")
        self.inner = SlicedEncoder(dim, waves, scale, hidden, layers, extra=(1, 1))
        for output in self.inner.time.outputs[1:]:
            assert isinstance(output, nn.Linear)
            zero_init(output)
        self.given = gain is not None
        self.register_buffer("gain", torch.zeros(len(waves)) if gain is None else gain, persistent=False)
        self.scale, self.clip, self.width, self.target = scale, clip, hidden, target
        # asked once: at every step the question would cost as much as a layer
        self.slope = target.score if isinstance(target, HasScore) else partial(score, target)

    def observe(self, s: Any) -> Tensor:
        """S times the score of the target at x, clipped and detached, [B, d]."""
        slope = self.slope(s.x).detach() * self.scale
        return slope.clamp_(-self.clip, self.clip)

    def observes_as(self, other: Encoder) -> bool:
        """Whether the other sees the score of the same target, scaled and clipped alike."""
        if not isinstance(other, LangevinEncoder) or other.target is not self.target:
            return False
        return other.scale == self.scale and other.clip == self.clip

    def forward(self, s: Any, seen: Tensor | None) -> Steered:
        """The hidden layer [B, hidden] and the drift [B, d]."""
        return self.bind()(s, self.observe(s) if seen is None else seen)

    def bind(self) -> Callable[[Any, Any], Steered]:
        """``forward`` for many calls."""
        apart, inverse, given = self.inner.apart(), 1 / self.scale, self.gain[:, None] if self.given else None

        def encode(s: Any, seen: Any) -> Steered:
            hidden, a, b = apart(s)
            if given is not None:
                g = given.index_select(0, shared(s.step))
                a, b = a + g, b + g
            return Steered(hidden, (seen * a).addcmul(s.x, b, value=inverse))

        return encode
