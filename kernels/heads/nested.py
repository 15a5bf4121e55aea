r"""The law of parameters that is found block by block (``ctsgfn.nested_fits``): nothing in it is learned.

.. math:: q(\theta | m) = \prod_j q_{j, P_j(m)}(\theta_j)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ctsgfn.distributions import CoordinateLaw
from ctsgfn.kernel import Head
from ctsgfn.measures import Lebesgue
from ctsgfn.nested_fits import NestedFits


class NestedLaw(CoordinateLaw):
    """The laws of the blocks of models, side by side; 0 on dead axes.

    Args:
        fits: where they are found.
        model: a batch of models.
        dtype: of the draws.
    """

    def __init__(self, fits: NestedFits, model: Any, dtype: torch.dtype) -> None:
        self.fits, self.dtype = fits, dtype
        self.block, self.part = fits.nodes(model)
        super().__init__(len(model), fits.blocks * fits.width)

    def draw(self) -> Tensor:
        """One draw per row, [B, J m]."""
        theta = self.fits.draw(self.block, self.part)
        return theta.to(self.dtype).reshape(*self.batch_shape, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] at [B, J m]."""
        by_block = value.reshape(len(self.block), -1)
        each = self.fits.log_prob(self.block, self.part, by_block)
        return each.reshape(*self.batch_shape, -1).sum(-1).to(value.dtype)


class NestedHead(Head):
    """The laws found for the model that a state has; contexts are not used.

    Args:
        fits: where they are found.
        model: states -> models.

    Example:
        >>> from ctsgfn.targets import HiddenLayer, JointGraphs, NormalNoise
        >>> fits = NestedFits(JointGraphs(torch.randn(9, 2), HiddenLayer(1), NormalNoise(0.5)))
        >>> law = NestedHead(fits, lambda s: s)(torch.zeros(3, 0), torch.zeros(3, 2, 2), None)
        >>> law.sample().shape, law.log_prob(law.sample()).dtype
        (torch.Size([3, 10]), torch.float32)
    """

    def __init__(self, fits: NestedFits, model: Callable[[Any], Any]) -> None:
        super().__init__()
        self.base = Lebesgue(fits.blocks * fits.width)
        self.fits, self.model = fits, model
        self.register_buffer("like", torch.zeros(()), persistent=False)

    like: Tensor

    def forward(self, context: Any, s: Any, live: Tensor | None) -> NestedLaw:
        """Law of theta, [B, J m]."""
        del context, live  # the fits know
        return NestedLaw(self.fits, self.model(s), self.like.dtype)
