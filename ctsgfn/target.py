r"""Targets: unnormalised log-densities that know the measure they are densities against.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, Def. 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.distributions.transforms import Transform

from ctsgfn.capabilities import HasChain as HasChain
from ctsgfn.capabilities import HasChanges as HasChanges
from ctsgfn.capabilities import HasConstrain as HasConstrain
from ctsgfn.capabilities import HasFloor as HasFloor
from ctsgfn.capabilities import HasLogZ as HasLogZ
from ctsgfn.capabilities import HasLosses as HasLosses
from ctsgfn.capabilities import HasReason as HasReason
from ctsgfn.capabilities import HasSamples as HasSamples
from ctsgfn.capabilities import HasScore as HasScore
from ctsgfn.capabilities import Target as Target
from ctsgfn.errors import CtsgfnError, FailedFactor, InvalidInput, NoExactAnswer, NonFinite
from ctsgfn.measures import Measure

X = TypeVar("X")


@dataclass(frozen=True)
class Density(Generic[X]):
    """A plain callable as a target; made by ``as_target``."""

    fn: Callable[[X], Tensor] = field(repr=False)
    measure: Measure[X]
    floor: float | None = None

    def log_density(self, x: X) -> Tensor:
        """Evaluate the callable; values below ``floor`` (and -inf) become ``floor``."""
        value = self.fn(x)
        if self.floor is None or not isinstance(value, Tensor):
            return value
        return torch.where(value < self.floor, self.floor, value)

    def unfloored(self) -> Density[X]:
        """Return the callable's own values as a target."""
        return replace(self, floor=None)


def as_target(fn: Callable[[X], Tensor], measure: Measure[X], *, floor: float | None = None) -> Density[X]:
    """Wrap a callable [B, ..] -> [B] and the measure it is a log-density against.

    Args:
        fn: the unnormalised log-density, batched.
        measure: for example ``Lebesgue(dim)``.
        floor: least value; -inf outside the support is then allowed and counted, and the target is
            changed there: the floor is part of what is sampled.

    Raises:
        InvalidInput: when fn is not callable, measure no measure, or the floor not finite.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> normal = as_target(lambda x: -0.5 * x.square().sum(-1), Lebesgue(2))
        >>> normal.log_density(torch.ones(3, 2)).tolist()
        [-1.0, -1.0, -1.0]
    """
    if not callable(fn):
        raise InvalidInput(f"as_target needs a callable log-density, got {type(fn).__name__}.")
    if not isinstance(measure, Measure):
        raise InvalidInput(f"as_target needs a measure, such as Lebesgue(dim), got {type(measure).__name__}.")
    if floor is not None and not (isinstance(floor, int | float) and abs(floor) < float("inf")):
        raise InvalidInput(f"floor must be a finite number or None, got {floor!r}.")
    return Density(fn, measure, None if floor is None else float(floor))


def exact_samples(target: Target[Any], n: int) -> Any:
    """Draw n points of a target that can draw its own, or return None."""
    if not isinstance(target, HasSamples):
        return None
    try:
        return target.sample(n)
    except NoExactAnswer:
        return None


def without_floor(target: Target[Any]) -> Target[Any]:
    """The target with -inf where a floor stands, so that a search does not take the floor for mass."""
    if isinstance(target, Transformed):
        return replace(target, original=without_floor(target.original))
    return target.unfloored() if isinstance(target, HasFloor) else target


@dataclass(frozen=True, eq=False)
class Eased:
    """A target whose values below ``floor`` are raised to it: what a flow learns from beside walls.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> Eased(as_target(lambda x: -x[:, 0], Lebesgue(1)), -2.0).log_density(torch.tensor([[1.0], [9.0]]))
        tensor([-1., -2.])
    """

    inner: Target[Tensor]
    floor: float

    @property
    def measure(self) -> Any:
        """That of the target."""
        return self.inner.measure

    def log_density(self, x: Tensor) -> Tensor:
        """Log-density [B], at least the floor."""
        return self.inner.log_density(x).clamp(min=self.floor)


def has_floor(target: Target[Any]) -> bool:
    """Whether values of a target were raised to a floor, which stands for -inf."""
    while isinstance(target, Transformed):
        target = target.original
    return isinstance(target, HasFloor) and getattr(target, "floor", None) is not None


def evaluate(target: Target[Any], x: Any) -> Tensor:
    """Log-density [B] of a target at points, checked: shape, dtype, NaN, +inf, -inf.

    Raises:
        InvalidInput: when the target returns another shape or kind than [B] real numbers.
        NonFinite: naming the first point with NaN or infinity, in the original coordinates.
    """
    value = batched(target, x)
    if not bool(torch.isfinite(value).all()):
        original: Any = target
        while isinstance(original, Transformed):
            original, x = original.original, original.decode(x)
        raise _non_finite(value, x, original)
    return value


def batched(target: Target[Any], x: Any) -> Tensor:
    """Log-density [B], checked for shape, kind and device, but perhaps not finite.

    Raises:
        InvalidInput: when the target returns another shape or kind than [B] real numbers.
    """
    points: Tensor = x if isinstance(x, Tensor) else next(iter(x.tensors().values()))
    try:
        value = target.log_density(x)
    except (RuntimeError, IndexError) as error:
        known = ("dtype", "device", "used as indices", "positive-definite")
        if isinstance(error, CtsgfnError) or not any(w in str(error) for w in known):
            raise
        failed = FailedFactor if "positive-definite" in str(error) else InvalidInput
        raise failed(
            f"the log-density failed on points of dtype {points.dtype} on {points.device} ({error}): "
            f"{_remedy(str(error), points)}."
        ) from error
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        remedy = ": convert it with .float()" if isinstance(value, Tensor) else ""
        raise InvalidInput(f"the log-density must return a floating-point tensor, got {kind}{remedy}.")
    if value.shape != (len(points),):
        raise InvalidInput(
            f"the log-density got points of shape {list(points.shape)} and returned shape "
            f"{list(value.shape)}, not [{len(points)}]: it must be batched, one number per row (reduce "
            "with sum(-1); torch.func.vmap batches a function of one point)."
        )
    if value.device != points.device:
        raise InvalidInput(
            f"the log-density got points on {points.device}, returned {value.device}: move its constants."
        )
    return value


def _remedy(error: str, points: Tensor) -> str:
    if "positive-definite" in error:
        return (
            "points far out are tried, too; pass dtype=torch.float64 to fit, add more to the diagonal, or "
            "take torch.linalg.cholesky_ex, return -inf where its info is not 0, and pass floor="
        )
    if "used as indices" in error:
        return "to look a list up by its points pass measure=Counting(n) to fit, in the place of dim="
    if not points.is_floating_point():
        return "points of a counting measure are whole numbers; convert them with x.float()"
    return "keep its constants in that dtype and on that device, or pass dtype= and device= to fit"


def _non_finite(value: Tensor, x: Any, target: Any) -> NonFinite:
    bad = ~torch.isfinite(value)
    row = int(bad.nonzero()[0])
    first = x[row] if isinstance(x, Tensor) else {k: v[row] for k, v in x.tensors().items()}
    where = [round(float(c), 6) for c in first.reshape(-1)[:8]] if isinstance(first, Tensor) else first
    if isinstance(target, HasReason) and isinstance(first, Tensor):
        remedy = target.reason(first)
    elif float(value[row]) == -float("inf"):
        remedy = "pass floor= to allow -inf outside the support, or give the target's measure its true bounds"
    else:
        remedy = "mend the log-density there; nothing is replaced for you"
    return NonFinite(
        f"the log-density is {float(value[row])} at row {row}, the point {where}, and not finite at "
        f"{int(bad.sum())} of {len(value)} points: {remedy}."
    )


def score(target: Target[Tensor], x: Tensor) -> Tensor:
    """Gradient [B, d] of the log-density at points [B, d], detached.

    A target may have an analytic ``score`` of its own; otherwise one batched autograd call.

    Raises:
        InvalidInput: when the log-density does not depend on its points differentiably.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> normal = as_target(lambda x: -0.5 * x.square().sum(-1), Lebesgue(2))
        >>> score(normal, torch.ones(1, 2)).tolist()
        [[-1.0, -1.0]]
    """
    if isinstance(target, HasScore):
        return target.score(x)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = evaluate(target, leaf)
        if not value.requires_grad:
            raise InvalidInput(
                "the log-density has no gradient with respect to its points: write it in torch operations "
                "without detach() or numpy, or use a kernel without the score."
            )
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return gradient


@dataclass(frozen=True)
class Transformed:
    r"""A target in other coordinates: :math:`\log r(T(z)) + \log |\det T'(z)|`.

    Args:
        original: the target in its own coordinates x.
        transform: z -> x, with event dimension 1.
        measure: the measure of z.
    """

    original: Any
    transform: Transform
    measure: Measure[Tensor]

    def log_density(self, z: Tensor) -> Tensor:
        """Log-density [B] at z [B, k]."""
        x = self.transform(z)
        log_det = self.transform.log_abs_det_jacobian(z, x)
        value = batched(self.original, x)
        return value + log_det.expand(value.shape)

    def score(self, z: Tensor) -> Tensor:
        r"""Gradient [B, k] at z: :math:`T'(z)^\top \nabla \log r(T(z)) + \nabla \log |\det T'(z)|`."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            x = self.transform(leaf)
            slope = score(self.original, x.detach())
            log_det = self.transform.log_abs_det_jacobian(leaf, x)
            (gradient,) = torch.autograd.grad((x * slope).sum() + log_det.sum(), leaf)
        return gradient

    def decode(self, z: Tensor) -> Tensor:
        """Map points z back to the original coordinates."""
        return self.transform(z)


def transformed(target: Target[Tensor], transform: Transform, measure: Measure[Tensor]) -> Transformed:
    """Change the coordinates, and so the measure, of a target: the only way to do it.

    Args:
        target: the target, a density in x.
        transform: z -> x (torch.distributions, event dimension 0 or 1).
        measure: the measure of z.

    Raises:
        InvalidInput: when the transform mixes more than one axis of events.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> from torch.distributions.transforms import ExpTransform
        >>> gamma = as_target(lambda x: (x.log() - x).sum(-1), Lebesgue(1, 0.0))
        >>> on_line = transformed(gamma, ExpTransform(), Lebesgue(1))
        >>> on_line.log_density(torch.zeros(1, 1)).tolist()
        [-1.0]
    """
    event = transform.domain.event_dim
    if event > 1:
        raise InvalidInput(f"transformed needs a transform of vectors, not of events of {event} axes.")
    if event == 0:
        transform = torch.distributions.transforms.IndependentTransform(transform, 1)
    return Transformed(target, transform, measure)
