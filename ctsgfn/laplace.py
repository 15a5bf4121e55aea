r"""Normal approximations of the parameters of every model that is met, and what they say of its evidence.

Each is found once (see ``ctsgfn.normal_fits``) and then looked up, on the live axes of its model alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.normal_fits import Density, Normals, among, live_axes, packed_normals
from ctsgfn.with_parameters import Parameterised, WithParameters

NUMBERS = 2**13
"""Parameters solved for at once, in all models together."""


@runtime_checkable
class Factored(Protocol):
    """A target on models with parameters whose theta is independent vectors side by side, given the model.

    Then log r is the sum over blocks of ``log_block``, and each block is approximated once for each part of a
    model that it depends on: the parents of a node, say, and not the whole graph.
    """

    @property
    def blocks(self) -> int:
        """J; theta [B, J m] is J vectors of m parameters."""

    def parts(self, model: Any) -> Tensor:
        """All of the model that each block depends on, [B, J, w] bool or whole numbers."""

    def block_live(self, part: Tensor) -> Tensor:
        """Live parameters [R, m] of blocks with parts [R, w]."""

    def log_block(self, block: Tensor, part: Tensor, theta: Tensor) -> Tensor:
        """Log-density [R] of blocks numbered [R], with parts [R, w] and theta [R, m]."""


class Laplace:
    """Normal approximations of theta given the model, found once for each model and then looked up.

    Args:
        target: differentiable in theta, on ``WithParameters``; ``Factored`` where its blocks are independent.

    Raises:
        InvalidInput: when the target has another measure, or its blocks do not share theta evenly.

    Example:
        Model m has its first m parameters, each with log r = -(theta - 1)^2: the evidence of 2 is pi.

        >>> from ctsgfn.measures import Counting
        >>> from ctsgfn.target import as_target
        >>> def first(m):
        ...     return torch.arange(2) < m
        >>> measure = WithParameters(Counting(3), 2, first)
        >>> target = as_target(lambda x: -((x.theta - 1).square() * first(x.model)).sum(-1), measure)
        >>> normals = Laplace(target)(torch.tensor([[0], [2]]))
        >>> normals.loc[1, 0].numpy().round(6).tolist(), normals.log_evidence[1].exp().item()
        ([1.0, 1.0], 3.14159...)
    """

    def __init__(self, target: Any) -> None:
        measure = target.measure
        if not isinstance(measure, WithParameters):
            raise InvalidInput(f"Laplace needs a target on WithParameters, got one on {measure}.")
        self.target, self.measure = target, measure
        self.blocks = target.blocks if isinstance(target, Factored) else 1
        self.width, left = divmod(measure.size, self.blocks)
        if left:
            raise InvalidInput(f"{measure.size} parameters are not {self.blocks} blocks of the same width.")
        self._keys = torch.empty(0, dtype=torch.long)  # sorted
        self._row = torch.empty(0, dtype=torch.long)  # where each key's approximation is
        self._found: Normals | None = None  # on the live axes of each, packed to the left

    def __call__(self, model: Any) -> Normals:
        """Approximations for a batch of models."""
        n, j, m = len(model), self.blocks, self.width
        live = self.measure.live(model).reshape(n * j, m)
        loc, tril, log_evidence, share = _unpacked(self.packed(model), live)
        shapes = loc.reshape(n, j, m), tril.reshape(n, j, m, m)
        return Normals(*shapes, log_evidence.reshape(n, j), share.reshape(n, j))

    def moments(self, model: Any) -> tuple[Tensor, Tensor]:
        """Means and variances of theta, [B, size] each, 0 on dead axes."""
        n, j, m = len(model), self.blocks, self.width
        fit, live = self.packed(model), self.measure.live(model).reshape(n * j, m)
        axes = live_axes(live, min(fit.loc.shape[-1], m))
        k, nothing = axes.shape[1], fit.loc.new_zeros(n * j, m)
        variance = fit.scale_tril.square().sum(-1)[:, :k] * live.gather(1, axes)
        pair = nothing.scatter(1, axes, fit.loc[:, :k]), nothing.scatter(1, axes, variance)
        return pair[0].reshape(n, j * m), pair[1].reshape(n, j * m)

    def packed(self, model: Any) -> Normals:
        """The same of all blocks in a row, [B J, k], the live axes of each in ascending order and first."""
        if isinstance(self.target, Factored):
            part = self.target.parts(model).flatten(0, 1)
            row = self._rows_of(torch.arange(self.blocks, device=part.device).repeat(len(model)), part)
        else:
            part = _integers(model)
            block = torch.zeros(len(model), dtype=torch.long, device=part.device)

            def density(rows: Tensor, theta: Tensor) -> Tensor:
                return self.target.log_density(Parameterised(model[rows], theta))

            row = self._look_up(hashed(block, part), self.measure.live(model), density)
        return Normals(*(v[row] for v in self._known))

    def log_evidence(self, model: Any) -> Tensor:
        """Approximate log-evidence of models, [B] float64."""
        return self.packed(model).log_evidence.reshape(len(model), self.blocks).sum(-1)

    def log_evidence_of(self, block: Tensor, part: Tensor) -> Tensor:
        """Approximate log-evidence [R] of the blocks, with parts [R, w], of a ``Factored`` target."""
        row = self._rows_of(block, part)
        return self._known.log_evidence[row]

    @property
    def _known(self) -> Normals:
        assert self._found is not None  # asked after a look-up
        return self._found

    def _rows_of(self, block: Tensor, part: Tensor) -> Tensor:
        target = self.target

        def density(rows: Tensor, theta: Tensor) -> Tensor:
            return target.log_block(block[rows], part[rows], theta)

        return self._look_up(hashed(block, part), target.block_live(part), density)

    def _look_up(self, keys: Tensor, live: Tensor, density: Density) -> Tensor:
        """Row of each key, after the approximation of those that are new."""
        if self._found is None:
            self._keys, self._row = self._keys.to(keys.device), self._row.to(keys.device)
        place = torch.searchsorted(self._keys, keys)
        known = torch.nn.functional.pad(self._keys, (0, 1))[place] == keys
        new = (~known | (place == len(self._keys))).nonzero().squeeze(-1)
        if len(new):
            fresh, inverse = keys[new].unique(return_inverse=True)
            first = torch.empty_like(fresh).scatter(0, inverse, new)  # one row for each
            at_once = max(1, NUMBERS // max(1, int(live[first].sum(-1).max())))
            parts = [
                packed_normals(partial(among, density, some), live[some]) for some in first.split(at_once)
            ]
            if self._found is not None:
                parts = [self._found, *parts]
            width = max(part.loc.shape[-1] for part in parts)
            count = len(self._keys)
            wide = [_widened(part, width) for part in parts]
            self._found = Normals(*(torch.cat(column) for column in zip(*wide, strict=True)))
            self._keys, order = torch.cat([self._keys, fresh]).sort()
            self._row = torch.cat([self._row, count + torch.arange(len(fresh), device=keys.device)])[order]
            place = torch.searchsorted(self._keys, keys)
        return self._row[place]


def _unpacked(fit: Normals, live: Tensor) -> Normals:
    """What ``packed_normals`` found, on all axes: [R, m]."""
    axes = live_axes(live, min(fit.loc.shape[-1], live.shape[-1]))
    k, m = axes.shape[1], live.shape[1]
    loc = fit.loc.new_zeros(live.shape).scatter(1, axes, fit.loc[:, :k])
    rows = fit.loc.new_zeros(len(live), k, m).scatter(
        2, axes[:, None].expand(-1, k, -1), fit.scale_tril[:, :k, :k]
    )
    tril = (
        torch.eye(m).to(fit.loc).repeat(len(live), 1, 1).scatter(1, axes[:, :, None].expand(-1, -1, m), rows)
    )
    return fit._replace(loc=loc, scale_tril=tril)


def _widened(fit: Normals, width: int) -> Normals:
    """The same with dead axes after the last, ``width`` in all."""
    more = width - fit.loc.shape[-1]
    if more == 0:
        return fit
    pad = torch.nn.functional.pad
    ones = torch.diag(pad(fit.loc.new_zeros(fit.loc.shape[-1]), (0, more), value=1.0))
    return fit._replace(
        loc=pad(fit.loc, (0, more)), scale_tril=pad(fit.scale_tril, (0, more, 0, more)) + ones
    )


def _integers(model: Any) -> Tensor:
    """What identifies each model, [B, w] long."""
    columns = [model] if isinstance(model, Tensor) else list(model.tensors().values())
    flat = [(c.double().view(torch.long) if c.is_floating_point() else c.long()).flatten(1) for c in columns]
    return torch.cat(flat, -1)


def hashed(block: Tensor, part: Tensor) -> Tensor:
    """A number [R] for each block and part; two that agree by chance only share a proposal."""
    width = part.flatten(1).shape[1] + 1
    factors = torch.randint(
        -(2**62), 2**62, (width,), generator=torch.Generator().manual_seed(width), dtype=torch.long
    )
    mixed = (torch.cat([block[:, None], part.flatten(1).long()], -1) + 1) * factors.to(block.device)
    return (mixed ^ (mixed >> 31)).sum(-1)


def differentiable(target: Any, model: Any) -> bool:
    """Whether the log-density of a target has a gradient in theta, at some models [B, ..]."""
    theta = torch.zeros(len(model), target.measure.size, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        return bool(target.log_density(Parameterised(model, theta)).requires_grad)
