r"""The target that ``from_pyro`` makes: a model's log joint in unconstrained coordinates.

References:
    Stan reference manual, chapter "Constraint transforms": the same change of variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Lebesgue
from ctsgfn.pyro_enumeration import draw_discrete
from ctsgfn.pyro_runs import Inspecting, Reading, Run, Together, Writing
from ctsgfn.pyro_ways import Mapped, OneByOne, Way


@dataclass(frozen=True, eq=False)
class PyroTarget:
    r"""The latent sites of a Pyro model as a target on R^D; made by ``from_pyro``.

    .. math:: \log r(u) = \log p(y, \theta(u)) + \log |\det \theta'(u)|

    with all constants, so that Z is the evidence p(y) of the model. The model runs in the dtype of
    its own draws, whatever the dtype of the points, and the answer comes back in that of the points.
    What the model reads (data, parameters) must not change afterwards.
    """

    model: Callable[[], Any] = field(repr=False)
    sites: dict[str, torch.Size]  # shape of each latent site, in its own support
    free: dict[str, torch.Size] = field(repr=False)  # its shape in unconstrained coordinates
    params: dict[str, Tensor] = field(repr=False)  # pyro.param values, frozen
    dtype: torch.dtype
    nesting: int = field(default=0, repr=False)  # batch dimensions of its sites, at most
    chunk: int = field(default=2**12, repr=False)  # points that go through the model at once
    way: type[Way] = Mapped  # how many points are run
    floor: float | None = None  # least value, see ``floored``
    depth: int | None = None  # most plates around a site, where discrete sites are summed out
    _way: Way = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_way", self.way(self))

    @property
    def batched(self) -> bool:
        """Whether many points run at once; else one at a time."""
        return self.way is not OneByOne

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on R^D."""
        return Lebesgue(sum(shape.numel() for shape in self.free.values()))

    def floored(self, floor: float) -> PyroTarget:
        """Return the same target with values below ``floor`` (and -inf) raised to it.

        For models with hard limits. The target is changed there: the floor is part of what is sampled.
        """
        if not math.isfinite(floor):
            raise InvalidInput(f"floor must be a finite number, got {floor!r}.")
        return replace(self, floor=float(floor))

    def unfloored(self) -> PyroTarget:
        """Return the same target without a floor."""
        return replace(self, floor=None)

    def log_density(self, u: Tensor) -> Tensor:
        """Log joint [B] at unconstrained points u [B, D], the Jacobian included."""
        points = self._points(u)
        value = self._way.value(points)
        if self.floor is not None:
            value = torch.where(value < self.floor, self.floor, value)
        return value.to(u.dtype)

    def score(self, u: Tensor) -> Tensor:
        """Gradient [B, D] of the log-density, detached; 0 where it is at the floor."""
        points = self._points(u.detach())
        slope = self._way.slope(points)
        if self.floor is not None:
            flat = self.log_density(u.detach()) <= self.floor
            slope = torch.where(flat[:, None], 0.0, slope)
        return slope.to(u.dtype)

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Map points [B, D] to the value [B, ..] of each latent site, fit for ``pyro.infer.Predictive``."""
        return self._way.each(lambda row: self._read(row).values, self._points(u))

    def deterministic(self, u: Tensor) -> dict[str, Tensor]:
        """Values [B, ..] of the model's ``pyro.deterministic`` sites at points [B, D].

        Those that depend on discrete sites have a dimension for the values of each of these.
        """
        return self._way.each(lambda row: self._read(row).deterministic, self._points(u))

    def discrete(self, u: Tensor) -> dict[str, Tensor]:
        """Draw the discrete sites that were summed out, from their law given each point [B, D]: [B, ..].

        Raises:
            InvalidInput: when the model has none.
        """
        depth = self.depth
        if depth is None:
            raise InvalidInput("the model has no discrete sites that were summed out.")
        with pyro.validation_enabled(False), poutine.block(), torch.no_grad():
            values = self.constrain(u)
            rows = [{name: value[i] for name, value in values.items()} for i in range(len(u))]
            drawn = [draw_discrete(self.model, self.params, row, depth) for row in rows]
        return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}

    def unconstrain(self, values: dict[str, Tensor]) -> Tensor:
        """Map values [n, ..] of every latent site to points [n, D]: the inverse of ``constrain``.

        Raises:
            InvalidInput: when a site is missing, has another shape, or lies outside its support.
        """
        if set(values) != set(self.sites):
            raise InvalidInput(
                f"unconstrain needs the latent sites {sorted(self.sites)}, got {sorted(values)}: pass one "
                "tensor for each of them and no other."
            )
        n = len(next(iter(values.values())))
        for name, shape in self.sites.items():
            if values[name].shape != (n, *shape):
                raise InvalidInput(
                    f"site {name!r} needs values of shape {[n, *shape]}, got {list(values[name].shape)}."
                )

        def one(row: dict[str, Tensor]) -> dict[str, Tensor]:
            return self._run(Writing(self.params, row, self.depth)).free

        free = self._way.each(one, {name: values[name].to(self.dtype) for name in self.sites})
        for name, part in free.items():
            bad = ~torch.isfinite(part).reshape(n, -1).all(-1)
            if bool(bad.any()):
                raise InvalidInput(
                    f"site {name!r} lies outside its support, or on its edge, in row {int(bad.nonzero()[0])}."
                )
        return torch.cat([free[name].reshape(n, -1) for name in self.free], -1)

    def inspect(self, row: Tensor) -> Inspecting:
        """Run the model at one point [D] and note the sites whose log-density is not finite."""
        with pyro.validation_enabled(False), poutine.block(), torch.no_grad():
            run = Inspecting(self.params, self._parts(row), self.depth)
            self._run(run)
            return run

    def reason(self, u: Tensor) -> str:
        """Return which sites make the log-density of a point [D] not finite, and the remedy."""
        found = self.inspect(u.detach().to(self.dtype))
        if found.not_numbers:
            return f"{sites(found.not_numbers)} not a number: look for parameters outside their range"
        if found.impossible:
            return f"{sites(found.impossible)} impossible there: use from_pyro(..).floored(-1e3) if it may be"
        return "the latents or their Jacobian overflow; use from_pyro(..).floored(-1e3) for -inf"

    # -------------------------------------------------------------------------------- one run
    def _points(self, u: Tensor) -> Tensor:
        dim = self.measure.dim
        if u.ndim != 2 or u.shape[1] != dim:
            raise InvalidInput(f"the model has {dim} unconstrained coordinates, got points {list(u.shape)}.")
        return u.to(self.dtype)

    def _parts(self, row: Tensor) -> dict[str, Tensor]:
        parts = row.split([shape.numel() for shape in self.free.values()])
        named = zip(self.free.items(), parts, strict=True)
        return {name: part.reshape(shape) for (name, shape), part in named}

    def _run(self, run: Run) -> Run:
        run.of(self.model)
        if missing := set(self.free) - set(run.free):
            raise InvalidInput(
                f"the latent sites {sorted(missing)} of the model come and go between runs: a target has a "
                "fixed set of coordinates, so sample every site in every run."
            )
        return run

    def _read(self, row: Tensor) -> Run:
        return self._run(Reading(self.params, self._parts(row), self.depth))

    def joint(self, row: Tensor) -> Tensor:
        """Log joint [] at one point [D]."""
        return torch.as_tensor(self._read(row).log_joint, dtype=row.dtype, device=row.device)

    def side_by_side(self, points: Tensor) -> Tensor:
        """Log joint [B] at points [B, D], in one run of the model."""
        parts = points.split([shape.numel() for shape in self.free.values()], -1)
        named = dict(zip(self.free.items(), parts, strict=True))
        shaped = {name: part.reshape(-1, *shape) for (name, shape), part in named.items()}
        run = self._run(Together(self.params, shaped, len(points), self.nesting))
        return torch.as_tensor(run.log_joint, dtype=points.dtype, device=points.device)


def sites(names: list[str]) -> str:
    """Names of sites, for a message.

    Example:
        >>> sites(["a", "b"])
        "the sites 'a', 'b' are"
    """
    quoted = ", ".join(repr(name) for name in names)
    return f"the site {quoted} is" if len(names) == 1 else f"the sites {quoted} are"
