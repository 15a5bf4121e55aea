r"""Heads that draw one coordinate after another: a masked network sets each by the coordinates before it.

.. math::
    q(a | s) = \prod_i q_i(a_i | a_1, .., a_{i-1}, s)

A hidden unit of degree k sees the context and the first k coordinates; the outputs for coordinate i see the
units of degree below i.

References:
    MADE: masked autoencoder for distribution estimation (Germain et al., 2015), arXiv 1502.03509.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head
from ctsgfn.measures import Measure, coordinates
from ctsgfn.networks import zero_init


class MaskedLinear(nn.Linear):
    """A linear layer that has only some of its connections: mask [outputs, inputs]."""

    mask: Tensor

    def __init__(self, mask: Tensor, *, bias: bool = True) -> None:
        super().__init__(mask.shape[1], mask.shape[0], bias=bias)
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    @property
    def connected(self) -> Tensor:
        """The weights, 0 where there is no connection."""
        return self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        """Return the affine map of x."""
        return linear(x, self.connected, self.bias)


class MaskedHead(Head):
    """Base of heads with a masked network; its outputs are 0 at the start, up to their bias.

    Args:
        base: measure of the coordinates.
        width: width of the context.
        features: numbers that the network sees of a coordinate.
        outputs: numbers that it gives for one.
        hidden: width of the network.
        layers: its hidden layers.
        order: the coordinates in the order in which they are drawn; as they stand if None.

    Raises:
        InvalidInput: on a network without units or layers, or an order that is no permutation.
    """

    order: Tensor
    by_degree: Tensor
    out: MaskedLinear

    def __init__(
        self,
        base: Measure[Tensor],
        width: int,
        *,
        features: int,
        outputs: int,
        hidden: int,
        layers: int,
        order: Sequence[int] | None,
    ) -> None:
        super().__init__()
        dim = coordinates(base)
        if hidden < 1 or layers < 1:
            raise InvalidInput(
                f"{type(self).__name__} needs at least one hidden unit and one hidden layer, got {hidden} "
                f"and {layers}."
            )
        order = range(dim) if order is None else order
        if sorted(order) != list(range(dim)):
            raise InvalidInput(f"order must name each of the {dim} coordinates once, got {list(order)}.")
        self.base, self.dim, self.features = base, dim, features
        self.register_buffer("order", torch.tensor(list(order)), persistent=False)
        coordinate, none = torch.arange(1, dim + 1), torch.zeros(width, dtype=torch.long)
        least = 0 if width > 0 or dim == 1 else 1
        unit = least + torch.arange(hidden) % (dim - least)
        degrees = [torch.cat([coordinate.repeat_interleave(features), none]), *[unit] * layers]
        self.layers = nn.ModuleList(MaskedLinear(b[:, None] >= a) for a, b in itertools.pairwise(degrees))
        self.out = MaskedLinear(coordinate.repeat_interleave(outputs)[:, None] > unit)
        zero_init(self.out)
        # by degree, and how many units see no more than the first i - 1 coordinates
        self.register_buffer("by_degree", unit.argsort(stable=True), persistent=False)
        self.known = [int((unit < i).sum()) for i in range(dim + 1)]

    def outputs(self, seen: Tensor, context: Tensor) -> Tensor:
        """What the network gives for every coordinate, [dim, outputs, B].

        Args:
            seen: features of the coordinates in their order, [B, dim * features].
            context: [B, width].
        """
        h = torch.cat([seen, context], dim=-1)
        for layer in self.layers:
            h = gelu(layer(h))
        return torch.addmm(self.out.bias[:, None], self.out.connected, h.t()).unflatten(0, (self.dim, -1))

    def unrolled(self, context: Tensor) -> Callable[[int, Tensor], Tensor]:
        """The same step by step: i, features of those before it [i * features, B] -> [outputs, B].

        A hidden unit is computed once, as soon as the coordinates that it sees are known, so all steps
        together cost one pass through the network. They must be asked for in turn. Columns are rows here.
        """
        first, *later = (layer for layer in self.layers if isinstance(layer, MaskedLinear))
        rows, known, width = self.by_degree, self.known, self.dim * self.features
        entry = first.connected[rows]
        before = torch.addmm(first.bias[rows, None], entry[:, width:], context.t())
        inner = [(layer.connected[rows][:, rows], layer.bias[rows, None]) for layer in later]
        out = self.out.connected[:, rows].unflatten(0, (self.dim, -1))
        bias = self.out.bias.view(self.dim, -1, 1)
        hidden = context.new_empty(1 + len(inner), len(rows), len(context))

        def outputs(i: int, seen: Tensor) -> Tensor:
            new, all_ = slice(known[i], known[i + 1]), slice(known[i + 1])
            if known[i + 1] > known[i]:
                hidden[0, new] = gelu(before[new].addmm(entry[new, : len(seen)], seen))
                for j, (weight, bias_) in enumerate(inner):
                    hidden[j + 1, new] = gelu(torch.addmm(bias_[new], weight[new, all_], hidden[j, all_]))
            return torch.addmm(bias[i], out[i][:, all_], hidden[-1, all_])

        return outputs


def chosen(race: Tensor, logit: Tensor, *parts: Tensor) -> list[Tensor]:
    """Columns [B] of parts [C, B] at a component drawn with probability proportional to exp(logit) [C, B].

    Args:
        race: logarithms of standard exponentials, [C, B]; overwritten.
        logit: [C, B].
        parts: parameters of the components.
    """
    c = race.sub_(logit).argmin(0, keepdim=True)
    return [part.gather(0, c)[0] for part in parts]
