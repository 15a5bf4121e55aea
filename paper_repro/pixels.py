"""A network for images on slices of time, on pixels and waves of each."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ctsgfn.networks import MLP, Encoder


class PixelEncoder(Encoder):
    r"""Context of noisy pixels x on slice t: hidden layers, and waves of each pixel with a gain of its own.

    .. math::
        \phi(x) = (x, \sin \pi f x, \cos \pi f x)_{f = 1, 2, 4}, \qquad
        c = (h(W \phi(x) + b(t)),\; g(t) \odot \phi(x))

    A pixel near the end of the grey scale says by itself what its noise was; hidden layers, with a few units
    for each pixel, are slow to learn so steep a response. Waves of the data serve densities so elsewhere
    (Variational diffusion models, Kingma et al., 2021, arXiv 2107.00630, appendix C).

    Args:
        dim: pixels.
        waves: features of the slices, [T + 1, F].
        hidden: width of the layers.
        layers: hidden layers.
    """

    def __init__(self, dim: int, waves: Tensor, hidden: int, layers: int) -> None:
        super().__init__()
        self.register_buffer("waves", waves, persistent=False)
        self.register_buffer("frequencies", math.pi * torch.tensor([1.0, 2.0, 4.0]), persistent=False)
        size = 7 * dim
        self.width = hidden + size
        self.time = MLP(waves.shape[1], 64, layers=1)
        self.shift, self.gain = nn.Linear(64, hidden), nn.Linear(64, size)
        self.first = nn.Linear(size, hidden, bias=False)
        self.rest = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))

    def forward(self, s: Any, seen: Tensor | None) -> Tensor:
        """Context, [B, hidden + 7 dim]."""
        del seen
        angle = (s.x[:, None] * self.frequencies[:, None]).flatten(1)  # type: ignore[operator]
        phi = torch.cat([s.x, angle.sin(), angle.cos()], dim=-1)
        time = self.time(self.waves)  # type: ignore[arg-type]
        shift, gain = self.shift(time)[s.step], self.gain(time)[s.step]
        hidden = gelu(self.first(phi) + shift)
        for layer in self.rest:
            hidden = gelu(layer(hidden))
        return torch.cat([hidden, gain * phi], dim=-1)
