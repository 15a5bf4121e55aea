"""Any normalising flow of zuko as a head (optional extra ``flows``)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution

from ctsgfn.errors import InvalidInput, MissingExtra
from ctsgfn.kernel import Head
from ctsgfn.measures import Lebesgue, Measure, coordinates


def _zuko() -> Any:
    """Import zuko at first use: ``import ctsgfn`` must not need it."""
    try:
        import zuko
    except ImportError as error:
        raise MissingExtra(
            "a normalising flow needs zuko, which is not installed: pip install 'ctsgfn[flows]'."
        ) from error
    return zuko


class Flow(Head):
    """A conditional normalising flow :math:`q(a | s)` as a head.

    Args:
        base: the measure that the flow is a density against: ``Lebesgue(k)`` for flows on R^k,
            ``Haar(k)`` for flows on circles (zuko's NCSF).
        flow: a zuko flow of k features whose context is as wide as the encoder's.

    Raises:
        MissingExtra: when zuko is not installed.
        InvalidInput: when ``flow`` is no zuko flow, or has another number of features than ``base``;
            and, when used, on a branch with dead axes.

    References:
        zuko: normalizing flows in PyTorch (Rozet et al., 2022), doi 10.5281/zenodo.7625672.

    Example:
        >>> import torch
        >>> head = spline_flow(2, width=3, transforms=1, hidden=8)
        >>> tuple(head(torch.zeros(5, 3), None, None).sample().shape)
        (5, 2)
    """

    def __init__(self, base: Measure[Tensor], flow: nn.Module) -> None:
        super().__init__()
        if not isinstance(flow, _zuko().lazy.LazyDistribution):
            raise InvalidInput(
                f"Flow needs a zuko flow (a zuko.lazy.LazyDistribution), got {type(flow).__name__}."
            )
        self.base = base
        self.flow = flow

    def forward(self, context: Tensor, s: Any, live: Tensor | None) -> Distribution:
        """Law of the coordinates, [B, k]."""
        del s
        if live is not None:
            raise InvalidInput(
                "a normalising flow cannot switch axes off, and this branch has a live mask: give the branch "
                "a Gaussian or von Mises head."
            )
        law: Distribution = self.flow(context)
        width = coordinates(self.base)
        if law.event_shape != (width,):
            raise InvalidInput(
                f"the flow has {law.event_shape.numel()} features and its base {self.base} has {width}: "
                f"build it with features={width}."
            )
        return law


def spline_flow(dim: int, width: int, transforms: int = 2, hidden: int = 64) -> Flow:
    """Neural spline flow on R^dim with context of the given width.

    Args:
        dim: number of coordinates.
        width: width of the context.
        transforms: number of autoregressive transforms.
        hidden: width of their two hidden layers.

    Raises:
        MissingExtra: when zuko is not installed.

    References:
        Neural spline flows (Durkan et al., 2019), arXiv 1906.04032.

    Example:
        >>> str(spline_flow(2, width=3, transforms=1, hidden=8).base)
        'Lebesgue measure on R^2'
    """
    flow = _zuko().flows.NSF(
        features=dim, context=width, transforms=transforms, hidden_features=(hidden,) * 2
    )
    return Flow(Lebesgue(dim), flow)
