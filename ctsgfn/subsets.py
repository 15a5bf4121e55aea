r"""Counting measure on the subsets of {0, .., items - 1}: which variables, or change-points, a model has."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput, whole

LISTED = 20
"""Most items of which all subsets are listed (a million of them)."""


@dataclass(frozen=True)
class Subsets:
    r"""Counting measure on subsets of ``least`` to ``most`` of the items; points [B, items] bool.

    Its probe draws a size evenly, and then a subset of this size:

    .. math:: P(m) = \frac{1}{\text{most} - \text{least} + 1} \binom{\text{items}}{|m|}^{-1}.

    Args:
        items: how many there are.
        least: fewest items of a subset.
        most: most items of a subset; all of them if None.

    Raises:
        InvalidInput: when the sizes make no sense.

    Example:
        >>> pairs = Subsets(4, least=2, most=2)
        >>> pairs.all().int().tolist()[:2], len(pairs.all()), str(pairs)
        ([[1, 1, 0, 0], [1, 0, 1, 0]], 6, 'counting measure on subsets of 2 to 2 of 4 items')
        >>> Subsets(3) == Subsets(3, 0, 3)
        True
    """

    items: int
    least: int = 0
    most: int | None = None

    def __post_init__(self) -> None:
        whole("Subsets items", self.items)
        whole("Subsets least", self.least, least=0)
        most = self.items if self.most is None else self.most
        whole("Subsets most", most, least=max(1, self.least))
        if most > self.items:
            raise InvalidInput(f"Subsets of {self.items} items cannot have {most} of them: lower most=.")
        object.__setattr__(self, "most", most)

    def __str__(self) -> str:
        kind = "" if len(self.sizes) == self.items + 1 else f" {self.sizes[0]} to {self.sizes[-1]} of"
        return f"counting measure on subsets of{kind} {self.items} items"

    @property
    def sizes(self) -> range:
        """Sizes of the subsets."""
        assert self.most is not None
        return range(self.least, self.most + 1)

    def probe(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw a size, then a subset."""
        size = torch.randint(self.sizes.start, self.sizes.stop, (n, 1))
        x = torch.rand(n, self.items).argsort(-1) < size
        return x, -self.log_probe(x)

    def log_probe(self, x: Tensor) -> Tensor:
        """Log-probability of the probe law, [B]."""
        k, n = x.sum(-1).double(), float(self.items)
        log_binomial = math.lgamma(n + 1) - (k + 1).lgamma() - (n - k + 1).lgamma()
        return -log_binomial - math.log(len(self.sizes))

    def contains(self, x: Tensor) -> Tensor:
        """Which rows have an allowed size, [B]."""
        size = x.sum(-1)
        return (size >= self.sizes[0]) & (size <= self.sizes[-1])

    def all(self) -> Tensor:
        """Every subset once, [count, items] bool, in the order of the numbers whose bits they are.

        Raises:
            InvalidInput: with more than 20 items.
        """
        if self.items > LISTED:
            raise InvalidInput(
                f"subsets are listed up to {LISTED} items, not for {self.items}: there are too many."
            )
        numbers = torch.arange(1 << self.items)
        x = ((numbers[:, None] >> torch.arange(self.items)) & 1).bool()
        return x[self.contains(x)]
