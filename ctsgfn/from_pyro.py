r"""A Pyro model as a target: the log joint of its latent sites, in unconstrained coordinates.

References:
    Pyro: deep universal probabilistic programming (Bingham et al., 2019), arXiv 1810.09538.
    Stan reference manual, chapter "Constraint transforms": the same change of variables.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ctsgfn.errors import CtsgfnWarning, InvalidInput
from ctsgfn.measures import Lebesgue
from ctsgfn.pyro_runs import Discovery, Reading, Run, Writing
from ctsgfn.seeding import seeded

CHUNK = 2**22
"""Log-density terms held at once: points times terms a point."""


@dataclass(frozen=True, eq=False)
class PyroTarget:
    r"""The latent sites of a Pyro model as a target on R^D; made by ``from_pyro``.

    .. math:: \log r(u) = \log p(y, \theta(u)) + \log |\det \theta'(u)|

    with all constants, so that Z is the evidence p(y) of the model. The model runs in the dtype of
    its own draws, whatever the dtype of the points, and the answer comes back in that of the points.
    """

    model: Callable[[], Any] = field(repr=False)
    sites: dict[str, torch.Size]  # shape of each latent site, in its own support
    free: dict[str, torch.Size] = field(repr=False)  # its shape in unconstrained coordinates
    params: dict[str, Tensor] = field(repr=False)  # pyro.param values, frozen
    dtype: torch.dtype
    chunk: int = field(repr=False)  # points that go through the model at once
    batched: bool = True  # whether vmap works on this model; else one point at a time

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on R^D."""
        return Lebesgue(sum(shape.numel() for shape in self.free.values()))

    def log_density(self, u: Tensor) -> Tensor:
        """Log joint [B] at unconstrained points u [B, D], the Jacobian included."""

        def one(row: Tensor) -> Tensor:
            return torch.as_tensor(self._read(row).log_joint, dtype=row.dtype, device=row.device)

        value: Tensor = self._each(one, self._points(u))
        return value.to(u.dtype)

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Map points [B, D] to the value [B, ..] of each latent site, fit for ``pyro.infer.Predictive``."""
        values: dict[str, Tensor] = self._each(lambda row: self._read(row).values, self._points(u))
        return values

    def deterministic(self, u: Tensor) -> dict[str, Tensor]:
        """Values [B, ..] of the model's ``pyro.deterministic`` sites at points [B, D]."""
        values: dict[str, Tensor] = self._each(lambda row: self._read(row).deterministic, self._points(u))
        return values

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
            return self._run(Writing(self.params, row)).free

        free = self._each(one, {name: values[name].to(self.dtype) for name in self.sites})
        for name, part in free.items():
            bad = ~torch.isfinite(part).reshape(n, -1).all(-1)
            if bool(bad.any()):
                raise InvalidInput(
                    f"site {name!r} lies outside its support, or on its edge, in row {int(bad.nonzero()[0])}."
                )
        return torch.cat([free[name].reshape(n, -1) for name in self.free], -1)

    # -------------------------------------------------------------------------------- one run
    def _points(self, u: Tensor) -> Tensor:
        dim = self.measure.dim
        if u.ndim != 2 or u.shape[1] != dim:
            raise InvalidInput(f"the model has {dim} unconstrained coordinates, got points {list(u.shape)}.")
        return u.to(self.dtype)

    def _run(self, run: Run) -> Run:
        with run:
            self.model()
        if missing := set(self.free) - set(run.free):
            raise InvalidInput(
                f"the latent sites {sorted(missing)} of the model come and go between runs: a target has a "
                "fixed set of coordinates, so sample every site in every run."
            )
        return run

    def _read(self, row: Tensor) -> Run:
        parts = row.split([shape.numel() for shape in self.free.values()])
        named = zip(self.free.items(), parts, strict=True)
        return self._run(Reading(self.params, {name: part.reshape(s) for (name, s), part in named}))

    def _each(self, one: Callable[[Any], Any], rows: Any) -> Any:
        """Map every row of a tensor, or of a dict of tensors, and stack what comes out."""
        with pyro.validation_enabled(False), poutine.block():
            if self.batched:
                return torch.func.vmap(one, chunk_size=self.chunk)(rows)
            count = len(rows if isinstance(rows, Tensor) else next(iter(rows.values())))
            single = [one(torch.utils._pytree.tree_map(lambda t, i=i: t[i], rows)) for i in range(count)]
        return torch.utils._pytree.tree_map(lambda *parts: torch.stack(parts), *single)


def from_pyro(model: Callable[..., Any], *args: Any, **kwargs: Any) -> PyroTarget:
    """Turn a Pyro model and its arguments (the data) into a target on unconstrained coordinates.

    The model runs on all points at once through ``torch.func.vmap``; a model with Python control flow
    on its latents runs point by point, with a warning. Pyro's parameter store and the random state
    are left as they were.

    Args:
        model: a callable with ``pyro.sample`` statements.
        args: passed to the model.
        kwargs: passed to the model.

    Raises:
        InvalidInput: for what has no density on R^D: discrete, improper, masked or point-mass latents,
            subsampling plates, a model without latents or with randomness outside its sites.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        ...     pyro.sample("y", dist.Normal(mu, tau).expand([2]).to_event(1), obs=y)
        >>> target = from_pyro(model, torch.tensor([0.5, -0.5]))
        >>> target.measure.dim, target.constrain(torch.zeros(1, 2))
        (2, {'mu': tensor([0.]), 'tau': tensor([1.])})
        >>> target.log_density(torch.zeros(3, 2)).shape
        torch.Size([3])
    """
    if not callable(model):
        raise InvalidInput(f"from_pyro needs a callable model, got {type(model).__name__}.")

    def bound() -> Any:
        return model(*args, **kwargs)

    found = Discovery()
    with seeded(0), torch.no_grad(), poutine.block(), found:
        bound()
    if not found.values:
        raise InvalidInput("the model has no unobserved pyro.sample site: there is nothing to infer.")
    if not found.evidence:
        _warn("no site of the model is observed: the target is its prior. Did you forget to pass the data?")
    if found.params:
        names = ", ".join(sorted(found.params))
        _warn(f"the pyro.param values of the model ({names}) are not inferred: they stay as they are now.")
    dtype = torch.float32
    for value in found.values.values():
        dtype = torch.promote_types(dtype, value.dtype)
    target = PyroTarget(
        model=bound,
        sites={name: value.shape for name, value in found.values.items()},
        free={name: part.shape for name, part in found.free.items()},
        params=found.params,
        dtype=dtype,
        chunk=max(1, CHUNK // found.terms),
    )
    return _tried(target, next(iter(found.values.values())).device)


def _tried(target: PyroTarget, device: torch.device) -> PyroTarget:
    """Run the target at two points, at once and one by one; fall back to the latter if they differ."""
    loop = replace(target, batched=False)
    with seeded(0), torch.no_grad():
        points = 0.5 * torch.randn(2, target.measure.dim, dtype=target.dtype, device=device)
        try:
            together, reason = target.log_density(points), "its batched values differ from single ones"
        except Exception as error:  # reported in the warning, unless the model fails on one point too
            together, reason = None, f"{type(error).__name__}: {str(error).splitlines()[0]}"
        alone, again = loop.log_density(points), loop.log_density(points)
    if not torch.allclose(alone, again, 0.0, 0.0, equal_nan=True):
        raise InvalidInput(
            "the model draws random numbers outside its visible pyro.sample sites, so that its log-density "
            "changes from run to run: make them sites, or pass them as data."
        )
    tolerance = math.sqrt(torch.finfo(target.dtype).eps)
    if together is not None and torch.allclose(together, alone, tolerance, tolerance, equal_nan=True):
        return target
    _warn(
        f"vmap can't run this model on many points at once ({reason}), so it runs point by point, which is "
        "hundreds of times slower: write it without Python control flow, item() or numpy on latent values."
    )
    return loop


def _warn(message: str) -> None:
    warnings.warn(message, CtsgfnWarning, stacklevel=3)
