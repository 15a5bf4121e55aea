"""An encoder for points of the unit cube that also sees them as waves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.measures import coordinates
from ctsgfn.networks import MLP, FeatureEncoder
from ctsgfn.space import Space


class Waves(nn.Module):
    r"""Features of a state, and :math:`\sin \pi k x_i, \cos \pi k x_i` for k = 1 .. harmonics.

    Args:
        features: states -> [B, F].
        harmonics: number of waves per coordinate.

    Example:
        >>> from ctsgfn.kernels.spaces.box import box
        >>> space = box()
        >>> tuple(Waves(space.features, 3)(space.source(5)).shape)
        (5, 15)
    """

    order: Tensor
    phase: Tensor

    def __init__(self, features: Callable[[Any], Tensor], harmonics: int) -> None:
        super().__init__()
        self.features = features
        order = math.pi * torch.arange(1.0, harmonics + 1)[:, None]
        self.register_buffer("order", order.repeat(2, 1), persistent=False)
        quarters = torch.tensor([0.0, math.pi / 2])  # cos is a sine a quarter ahead
        self.register_buffer("phase", quarters.repeat_interleave(harmonics)[:, None], persistent=False)

    def forward(self, s: Any) -> Tensor:
        """Features and waves, [B, F + 2 d harmonics]."""
        waves = torch.addcmul(self.phase, s.x[:, None], self.order).sin_()
        return torch.cat([self.features(s), waves.flatten(1)], -1)


def wave_encoder(space: Space[Any, Any], hidden: int, layers: int, harmonics: int) -> FeatureEncoder:
    r"""Network on the features of a space and on :math:`\sin \pi k x_i, \cos \pi k x_i`.

    Args:
        space: a space whose states have a field x [B, d], points of the unit cube.
        hidden: width of the layers and of the context.
        layers: hidden layers.
        harmonics: k = 1 .. harmonics; 0 for the features alone.

    Example:
        >>> from ctsgfn.kernels.spaces.box import box
        >>> encoder = wave_encoder(box(), hidden=16, layers=2, harmonics=3)
        >>> tuple(encoder(box().source(5), None).shape)
        (5, 16)
    """
    inputs = space.width + 2 * coordinates(space.points) * harmonics
    return FeatureEncoder(
        Waves(space.features, harmonics), MLP(inputs, hidden, layers, activation=nn.LeakyReLU), hidden
    )
