"""An encoder for points of the unit cube that also sees them as waves."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.measures import coordinates
from ctsgfn.networks import MLP, FeatureEncoder
from ctsgfn.space import Space


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
    order = range(1, harmonics + 1)

    def features(s: Any) -> Tensor:
        angles = [math.pi * k * s.x for k in order]
        return torch.cat([space.features(s), *[a.sin() for a in angles], *[a.cos() for a in angles]], -1)

    inputs = space.width + 2 * coordinates(space.points) * harmonics
    return FeatureEncoder(features, MLP(inputs, hidden, layers, activation=nn.LeakyReLU), hidden)
