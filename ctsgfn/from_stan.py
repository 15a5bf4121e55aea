r"""A compiled Stan model as a target: its log joint in unconstrained coordinates, one point at a time.

References:
    BridgeStan: efficient in-memory access to the methods of a Stan model (Roualdes et al., 2023), Journal
    of Open Source Software 8(87).
    Stan reference manual, chapter "Constraint transforms".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Lebesgue

Vector = NDArray[np.float64]


class StanModel(Protocol):
    """The methods of a ``bridgestan.StanModel`` that are used; any object with them will do."""

    def param_unc_num(self) -> int:
        """Return the number of unconstrained coordinates."""
        ...

    def param_names(self, *, include_tp: bool, include_gq: bool) -> list[str]:
        """Return the names of the constrained numbers, such as ``theta.1``."""
        ...

    def param_constrain(self, theta_unc: Vector, *, include_tp: bool, include_gq: bool) -> ArrayLike:
        """Map a point to the constrained numbers."""
        ...

    def log_density(self, theta_unc: Vector, *, propto: bool, jacobian: bool) -> float:
        """Return the log-density at a point."""
        ...

    def log_density_gradient(
        self, theta_unc: Vector, *, propto: bool, jacobian: bool
    ) -> tuple[float, ArrayLike]:
        """Return the log-density at a point, and its gradient."""
        ...


METHODS = ("param_unc_num", "param_names", "param_constrain", "log_density", "log_density_gradient")


@dataclass(frozen=True, eq=False)
class StanTarget:
    r"""The parameters of a Stan model as a target on R^D; made by ``from_stan``.

    .. math:: \log r(u) = \log p(y, \theta(u)) + \log |\det \theta'(u)|

    with all constants (``propto=False, jacobian=True``), so that Z is the evidence of a model whose priors
    are proper. Stan works in float64 on the CPU, point by point; the answer comes back in the dtype and on
    the device of the points. Gradients are Stan's own and can be taken once.
    """

    model: StanModel = field(repr=False)
    dim: int
    sites: dict[str, torch.Size]  # shape of each variable, in its own support
    places: dict[str, Tensor] = field(repr=False)  # where its entries stand among Stan's numbers
    transformed: bool  # whether the transformed parameters are among them
    floor: float | None

    @property
    def measure(self) -> Lebesgue:
        """Lebesgue measure on R^D."""
        return Lebesgue(self.dim)

    def unfloored(self) -> StanTarget:
        """Return the same target without a floor: -inf where Stan rejects."""
        return replace(self, floor=None)

    def log_density(self, u: Tensor) -> Tensor:
        """Log joint [B] at unconstrained points u [B, D], the Jacobian included; -inf where Stan rejects."""
        if torch.is_grad_enabled() and u.requires_grad:
            value: Tensor = _Differentiable.apply(self._points(u), self)  # type: ignore[no-untyped-call]
            return value
        rows = _array(self._points(u))
        return torch.tensor([self._value(row) for row in rows], dtype=torch.float64).to(u)

    def score(self, u: Tensor) -> Tensor:
        """Gradient [B, D] of the log-density, detached; 0 where it is at the floor."""
        return self.value_and_score(self._points(u))[1]

    def value_and_score(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density [B] and gradient [B, D] at points u [B, D], from one call of Stan each."""
        pairs = [self._pair(row) for row in _array(self._points(u))]
        value = torch.tensor([v for v, _ in pairs], dtype=torch.float64)
        slope = torch.from_numpy(np.stack([g for _, g in pairs])) if pairs else torch.zeros(0, self.dim)
        return value.to(u.detach()), slope.to(u.detach())

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Map points [B, D] to the value [B, ..] of each variable, by its name in the Stan program."""
        found = [
            np.asarray(self.model.param_constrain(row, include_tp=self.transformed, include_gq=False))
            for row in _array(self._points(u))
        ]
        numbers = torch.from_numpy(np.stack(found)).to(u.detach())
        return {name: numbers[:, place.to(u.device)] for name, place in self.places.items()}

    def reason(self, u: Tensor) -> str:
        """Return what Stan says of a point [D] whose log-density is not finite, and the remedy."""
        try:
            self.model.log_density(_array(u), propto=False, jacobian=True)
        except RuntimeError as error:
            said = _first_line(error)
            return f"Stan rejects it ({said}); pass floor= to from_stan, such as -1e3, if it may"
        return "mend the Stan model there; pass floor= to from_stan, such as -1e3, if its density may be 0"

    # -------------------------------------------------------------------------------- one point
    def _points(self, u: Tensor) -> Tensor:
        if u.ndim != 2 or u.shape[1] != self.dim:
            raise InvalidInput(
                f"the Stan model has {self.dim} unconstrained coordinates, got points {list(u.shape)}."
            )
        return u

    def _value(self, row: Vector) -> float:
        try:
            value = float(self.model.log_density(row, propto=False, jacobian=True))
        except RuntimeError:  # Stan rejects the point: what it says is in ``reason``
            value = -math.inf
        return self._floored(value)

    def _pair(self, row: Vector) -> tuple[float, Vector]:
        try:
            found, slope = self.model.log_density_gradient(row, propto=False, jacobian=True)
            value = self._floored(float(found))
        except RuntimeError:
            value, slope = self._floored(-math.inf), np.zeros(self.dim)
        flat = self.floor is not None and value <= self.floor
        return value, np.zeros(self.dim) if flat else np.array(slope, dtype=np.float64)

    def _floored(self, value: float) -> float:
        return self.floor if self.floor is not None and value < self.floor else value  # NaN stays


class _Differentiable(torch.autograd.Function):
    """Log-density of points [B, D] with Stan's gradient."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, target: StanTarget) -> Tensor:
        value, slope = target.value_and_score(u)
        ctx.save_for_backward(u, slope)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        u, slope = ctx.saved_tensors
        return grad[:, None] * _Slope.apply(u, slope), None  # type: ignore[no-untyped-call]


class _Slope(torch.autograd.Function):
    """Stan's gradient as a function of the points whose own gradient is refused, not taken for 0."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, slope: Tensor) -> Tensor:
        return slope.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        raise InvalidInput(
            "Stan gives no second derivatives: use an objective that does not differentiate the gradient of "
            "the target."
        )


def from_stan(model: StanModel, *, transformed: bool = False, floor: float | None = None) -> StanTarget:
    """Turn a compiled Stan model with its data into a target on unconstrained coordinates.

    Args:
        model: a ``bridgestan.StanModel``, or any object with its methods.
        transformed: name the transformed parameters too, beside the parameters.
        floor: least log-density; points that Stan rejects count at this value. The target is changed
            there: the floor is part of what is sampled.

    Raises:
        InvalidInput: when a method is missing, the model has no parameters, Stan rejects every point that
            is tried, or its gradient has another length than its coordinates.

    Example:
        >>> class Normal:
        ...     def param_unc_num(self): return 1
        ...     def param_names(self, include_tp, include_gq): return ["mu"]
        ...     def param_constrain(self, u, include_tp, include_gq): return u
        ...     def log_density(self, u, propto, jacobian): return -0.5 * float(u @ u)
        ...     def log_density_gradient(self, u, propto, jacobian): return -0.5 * float(u @ u), -u
        >>> target = from_stan(Normal())
        >>> target.log_density(torch.ones(2, 1)), target.constrain(torch.ones(2, 1))
        (tensor([-0.5000, -0.5000]), {'mu': tensor([1., 1.])})
    """
    missing = [name for name in METHODS if not callable(getattr(model, name, None))]
    if missing:
        raise InvalidInput(
            f"from_stan needs an object with BridgeStan's methods, and this {type(model).__name__} lacks "
            f"{', '.join(missing)}: pass a bridgestan.StanModel, or wrap yours in a class that has them."
        )
    if floor is not None and not math.isfinite(floor):
        raise InvalidInput(f"floor must be a finite number or None, got {floor!r}.")
    dim = int(model.param_unc_num())
    if dim < 1:
        raise InvalidInput("the Stan model has no parameters: there is nothing to infer.")
    names = list(model.param_names(include_tp=transformed, include_gq=False))
    places = _places(names)
    target = StanTarget(
        model, dim, {n: torch.Size(p.shape) for n, p in places.items()}, places, transformed, floor
    )
    _tried(target, len(names))
    return target


def _tried(target: StanTarget, count: int) -> None:
    """Run the model at a few points: all methods must answer, at one of them at least."""
    points = 0.5 * np.random.default_rng(0).standard_normal((8, target.dim))
    points[0] = 0.0
    refusals = []
    for row in points:
        try:
            _, slope = target.model.log_density_gradient(row, propto=False, jacobian=True)
            numbers = target.model.param_constrain(row, include_tp=target.transformed, include_gq=False)
        except RuntimeError as error:
            refusals.append(_first_line(error))
            continue
        if np.shape(slope) != (target.dim,) or np.shape(numbers) != (count,):
            raise InvalidInput(
                f"the Stan model's gradient has shape {list(np.shape(slope))} for {target.dim} coordinates, "
                f"and param_constrain gives {list(np.shape(numbers))} for {count} names: these must agree."
            )
    if len(refusals) == len(points):
        raise InvalidInput(
            f"Stan rejected all of {len(points)} points near 0, the last with: {refusals[-1]}. Look at the "
            "data and the constraints of the model."
        )


def _places(names: list[str]) -> dict[str, Tensor]:
    """Where the entries of each variable stand: names like ``A.2.1`` say their (one-based) index."""
    found: dict[str, list[tuple[list[int], int]]] = {}
    for place, name in enumerate(names):
        base, *index = name.split(".")
        if not all(part.isdigit() for part in index):  # the parts of a complex number or a tuple
            base, index = name, []
        found.setdefault(base, []).append(([int(part) - 1 for part in index], place))
    places = {}
    for base, entries in found.items():
        array = torch.zeros([1 + max(axis) for axis in zip(*(i for i, _ in entries), strict=True)]).long()
        for indices, place in entries:
            array[tuple(indices)] = place
        places[base] = array
    return places


def _array(points: Tensor) -> Vector:
    return points.detach().to("cpu", torch.float64).numpy()


def _first_line(error: RuntimeError) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
