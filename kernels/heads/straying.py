r"""Straying: an autoregressive mixture whose coordinates are now and then drawn from wider normals.

.. math::
    q'(a_i | a_{<i}) = (1 - \rho) \sum_c w_c\, N(\mu_c, \tau_c^2) + \rho \sum_c w_c\, N(\mu_c, f^2 \tau_c^2)

in the place of the first sum alone. A flow hardly ever draws from where its density is far too low, so
what it learns on its own draws leaves gaps between modes and thin tails, and rare draws from there have
huge weights. Strayed in one coordinate at a time, its draws show it these places.

References:
    Safe and effective importance sampling (Owen and Zhou, 2000), JASA 95: defensive mixtures.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head, Kernel
from ctsgfn.kernels.heads.autoregressive import AutoregressiveLaw, AutoregressiveMixture, Parts


class Straying(Head):
    """The law of an autoregressive mixture with coordinates that stray; its parameters are shared.

    Args:
        head: the mixture.
        rate: rho, the share of the coordinates that stray, in (0, 1).
        factor: f, how much wider their normals are.

    Raises:
        InvalidInput: when the rate is not in (0, 1), or the factor is not positive.

    Example:
        >>> head = AutoregressiveMixture(1, width=0, components=1)
        >>> law = Straying(head, rate=0.5, factor=2.0)(torch.zeros(1, 0), None, None)
        >>> round(law.log_prob(torch.zeros(1, 1)).exp().item() * math.sqrt(2 * math.pi), 4)  # (1 + 1/2) / 2
        0.75
    """

    def __init__(self, head: AutoregressiveMixture, rate: float, factor: float) -> None:
        super().__init__()
        if not 0.0 < rate < 1.0:
            raise InvalidInput(f"rate must be in (0, 1), got {rate!r}.")
        if not 0.0 < factor < math.inf:
            raise InvalidInput(f"factor must be a positive number, got {factor!r}.")
        self.base, self.head, self.rate, self.factor = head.base, head, rate, factor

    def split(self, outputs: Tensor) -> Parts:
        """Parameters of the coordinates, with twice as many normals."""
        mean, log_scale, (logit, centre, log_width) = self.head.split(outputs)
        share = logit.log_softmax(-1)
        logits = torch.cat([share + math.log1p(-self.rate), share + math.log(self.rate)], -1)
        widths = torch.cat([log_width, log_width + math.log(self.factor)], -1)
        return mean, log_scale, (logits, torch.cat([centre, centre], -1), widths)

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> AutoregressiveLaw:
        """Law of the coordinates, [B, dim]."""
        own = self.head(context, s, live)
        return AutoregressiveLaw(self.head, own.context, self.split)


def straying(kernel: Kernel[Any], factor: float = 3.0) -> Kernel[Any]:
    """The same kernel with about one coordinate straying in a draw: an exploration policy.

    Args:
        kernel: a kernel whose heads are autoregressive mixtures; all modules are shared.
        factor: how much wider the normals are where a coordinate strays.

    Raises:
        InvalidInput: when another head is among them.

    Example:
        >>> from ctsgfn.kernels.spaces.diffusion import diffusion
        >>> from ctsgfn.networks import NoContext
        >>> space = diffusion(4, steps=1)
        >>> own = Kernel(space.kappa, NoContext(), [AutoregressiveMixture(4, 0)])
        >>> straying(own).heads[0].rate
        0.25
    """
    heads: list[Head] = []
    for head in kernel.heads:
        if not isinstance(head, AutoregressiveMixture):
            raise InvalidInput(
                f"only autoregressive mixtures stray, and {type(head).__name__} is none: explore with "
                "widened, tempered or epsilon_uniform."
            )
        heads.append(Straying(head, min(0.5, 1 / head.base.dim), factor))
    return Kernel(kernel.reference, kernel.encoder, heads, kernel.gate).to(kernel.anchor)
