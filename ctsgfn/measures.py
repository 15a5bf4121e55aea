r"""Dominating measures as first-class values: frozen, hashable, comparable.

Every log-density of the package is a density against one of these, and two objects that must share
a measure are compared by ``==`` when they meet. Each measure can be *probed*: for ``x, w =
m.probe(n)``, the average of :math:`e^{w_i} f(x_i)` estimates :math:`\int f\,dm`. That turns every
hypothesis of the theory into a sum that can be checked.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, Def. 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput, whole
from ctsgfn.states import S

T = TypeVar("T")


@runtime_checkable
class Measure(Protocol[T]):
    """A sigma-finite measure on points of type ``T``; implementations are frozen and hashable."""

    def probe(self, n: int) -> tuple[T, Tensor]:
        """Draw n points (float64) and log-weights [n]: mean(exp(w) f(x)) estimates the integral."""
        ...

    def log_probe(self, x: T) -> Tensor:
        """Log-density [B] of the law of ``probe`` with respect to this measure."""
        ...

    def contains(self, x: T) -> Tensor:
        """Which points [B] lie in the support."""
        ...


@dataclass(frozen=True)
class Lebesgue:
    """Lebesgue measure on the box (low, high)^dim, by default all of R^dim; coordinates [B, dim].

    Raises:
        InvalidInput: when dim < 1 or low >= high.

    Example:
        >>> square = Lebesgue(2, 0.0, 1.0)
        >>> x, w = square.probe(1000)
        >>> tuple(x.shape), float(w.exp().mean())
        ((1000, 2), 1.0)
        >>> square == Lebesgue(2, 0.0, 1.0), square == Lebesgue(2)
        (True, False)
    """

    dim: int
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        whole("Lebesgue dim", self.dim)
        bounds: tuple[object, object] = (self.low, self.high)
        if not all(isinstance(bound, Real) for bound in bounds):
            raise InvalidInput(
                f"Lebesgue has one number as low and one as high, the same on every axis, got {bounds}: "
                "where axes differ, shift and scale the coordinates of the density to a common box."
            )
        if not self.low < self.high:
            raise InvalidInput(f"Lebesgue needs low < high, got low={self.low}, high={self.high}.")

    def __str__(self) -> str:
        if self.is_finite:
            return f"Lebesgue measure on [{self.low:g}, {self.high:g}]^{self.dim}"
        if self.low == -math.inf and self.high == math.inf:
            return f"Lebesgue measure on R^{self.dim}"
        return f"Lebesgue measure on ({self.low:g}, {self.high:g})^{self.dim}"

    @property
    def is_finite(self) -> bool:
        """Whether the total mass is finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def probe(self, n: int) -> tuple[Tensor, Tensor]:
        """Uniform on a bounded box; Student-t with 3 degrees of freedom, folded on a half-line."""
        if self.is_finite:
            x = self.low + (self.high - self.low) * torch.rand(n, self.dim, dtype=torch.float64)
        else:
            t = torch.distributions.StudentT(3.0 * torch.ones(n, self.dim, dtype=torch.float64))
            x = t.sample()
            if math.isfinite(self.low):
                x = self.low + x.abs()
            elif math.isfinite(self.high):
                x = self.high - x.abs()
        return x, -self.log_probe(x)

    def log_probe(self, x: Tensor) -> Tensor:
        """Log-density of the probe law, [B]."""
        if self.is_finite:
            return x.new_full((len(x),), -self.dim * math.log(self.high - self.low))
        t = torch.distributions.StudentT(3.0 * torch.ones((), dtype=x.dtype, device=x.device))
        if math.isfinite(self.low):
            return (t.log_prob(x - self.low) + math.log(2.0)).sum(-1)
        if math.isfinite(self.high):
            return (t.log_prob(self.high - x) + math.log(2.0)).sum(-1)
        return t.log_prob(x).sum(-1)

    def interior(self, x: Tensor) -> Tensor:
        """Round points of the closed box to the nearest ones that the dtype tells from its walls.

        A chart or a sampler that works in the open box calls it on what it computed: the true
        coordinate lies inside, and rounding alone can have put it on a wall or just beyond.
        """
        walls = [abs(wall) for wall in (self.low, self.high) if math.isfinite(wall)]
        width = self.high - self.low if self.is_finite else 1.0
        margin = torch.finfo(x.dtype).eps * max(width, *walls, 0.0)
        return x.clamp(self.low + margin, self.high - margin)

    def contains(self, x: Tensor) -> Tensor:
        """Which rows lie in the closed box and are finite, [B]."""
        return (torch.isfinite(x) & (x >= self.low) & (x <= self.high)).all(-1)


@dataclass(frozen=True)
class Counting:
    """Counting measure on {0, .., size - 1}; coordinates [B, 1] long.

    Raises:
        InvalidInput: when size < 1.

    Example:
        >>> x, w = Counting(5).probe(10)
        >>> tuple(x.shape), x.dtype, round(float(w.exp().mean()), 6)
        ((10, 1), torch.int64, 5.0)
    """

    size: int

    def __post_init__(self) -> None:
        whole("Counting size", self.size)

    def __str__(self) -> str:
        return f"counting measure on {{0, .., {self.size - 1}}}"

    def probe(self, n: int) -> tuple[Tensor, Tensor]:
        """Uniform over the atoms."""
        x = torch.randint(self.size, (n, 1))
        return x, -self.log_probe(x)

    def log_probe(self, x: Tensor) -> Tensor:
        """Log-probability of the probe law, [B]."""
        return torch.full((len(x),), -math.log(self.size), dtype=torch.float64, device=x.device)

    def contains(self, x: Tensor) -> Tensor:
        """Which rows are one of the atoms, [B]."""
        return ((x >= 0) & (x < self.size)).all(-1)


@dataclass(frozen=True)
class Atom:
    """Unit mass on a single point; coordinates [B, 0].

    Example:
        >>> x, w = Atom().probe(3)
        >>> tuple(x.shape), w.tolist()
        ((3, 0), [0.0, 0.0, 0.0])
    """

    def __str__(self) -> str:
        return "unit mass on one point"

    def probe(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the point, n times."""
        return torch.zeros(n, 0, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)

    def log_probe(self, x: Tensor) -> Tensor:
        """Zero, [B]."""
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def contains(self, x: Tensor) -> Tensor:
        """Every row, [B]."""
        return torch.ones(len(x), dtype=torch.bool, device=x.device)


@dataclass(frozen=True)
class Haar:
    """Arc length on ``dim`` circles, angles [B, dim] in radians on [-pi, pi); mass (2 pi)^dim.

    This is the translation-invariant (Haar) measure of the torus, normalised as arc length so that
    a density agrees with the Lebesgue density of its angles.

    Raises:
        InvalidInput: when dim < 1.

    Example:
        >>> x, w = Haar(1).probe(4)
        >>> round(float(w.exp().mean()), 4)
        6.2832
    """

    dim: int

    def __post_init__(self) -> None:
        whole("Haar dim", self.dim)

    def __str__(self) -> str:
        return f"arc length on {self.dim} circle{'s' if self.dim > 1 else ''}"

    def probe(self, n: int) -> tuple[Tensor, Tensor]:
        """Uniform angles."""
        x = (2 * torch.rand(n, self.dim, dtype=torch.float64) - 1) * math.pi
        return x, -self.log_probe(x)

    def log_probe(self, x: Tensor) -> Tensor:
        """Log-density of the probe law, [B]."""
        return x.new_full((len(x),), -self.dim * math.log(2 * math.pi))

    def contains(self, x: Tensor) -> Tensor:
        """Which rows are angles in [-pi, pi], [B]."""
        return (torch.isfinite(x) & (x.abs() <= math.pi + 1e-6)).all(-1)


def wrap(angle: Tensor) -> Tensor:
    """Bring angles into [-pi, pi); small angles are returned exactly.

    Example:
        >>> [round(a, 4) for a in wrap(torch.tensor([0.1, 4.0, -4.0])).tolist()]
        [0.1, -2.2832, 2.2832]
    """
    turn = 2 * math.pi
    near = angle - turn * (angle / turn).round()
    near = torch.where(near >= math.pi, near - turn, near)  # where rounding left it at the seam
    return torch.where(near < -math.pi, near + turn, near)


def coordinates(measure: Measure[Tensor]) -> int:
    """Width k of the coordinates [B, k] that a coordinate measure lives on."""
    if isinstance(measure, Lebesgue | Haar):
        return measure.dim
    if isinstance(measure, Counting):
        return 1
    if isinstance(measure, Atom):
        return 0
    if isinstance(measure, Product):
        return sum(coordinates(part) for part in measure.parts)
    raise InvalidInput(
        f"{measure} has no fixed number of coordinates: use Lebesgue, Haar, Counting, Atom or Product."
    )


@dataclass(frozen=True)
class Product:
    """Product of coordinate measures; their coordinates stand side by side, [B, k_1 + k_2 + ..].

    Example:
        >>> slices = Product((Counting(3), Lebesgue(2)))
        >>> x, w = slices.probe(5)
        >>> tuple(x.shape), bool(slices.contains(x).all())
        ((5, 3), True)
    """

    parts: tuple[Measure[Tensor], ...]

    def __str__(self) -> str:
        return " x ".join(str(p) for p in self.parts)

    def split(self, x: Tensor) -> list[Tensor]:
        """Cut coordinates [B, k] into those of each factor."""
        columns = x.split([coordinates(p) for p in self.parts], dim=-1)
        return [
            c.round().long() if isinstance(p, Counting) else c
            for p, c in zip(self.parts, columns, strict=True)
        ]

    def probe(self, n: int) -> tuple[Tensor, Tensor]:
        """Probe the factors independently."""
        draws = [p.probe(n) for p in self.parts]
        x = torch.cat([d.double() for d, _ in draws], dim=-1)
        return x, torch.stack([w for _, w in draws]).sum(0)

    def log_probe(self, x: Tensor) -> Tensor:
        """Sum of the factors' log-densities, [B]."""
        pairs = zip(self.parts, self.split(x), strict=True)
        return torch.stack([p.log_probe(c) for p, c in pairs]).sum(0)

    def contains(self, x: Tensor) -> Tensor:
        """Which rows lie in every factor's support, [B]."""
        pairs = zip(self.parts, self.split(x), strict=True)
        return torch.stack([p.contains(c) for p, c in pairs]).all(0)


@dataclass(frozen=True)
class Pushforward(Generic[S]):
    """Image of a measure, of coordinates or of other points, under an injection into the states of a space.

    Args:
        base: the measure of the coordinates [B, k], or points.
        push: coordinates -> states.
        pull: states -> coordinates, the inverse of ``push`` on its image.
        owns: states -> [B] bool, which states lie in the image.

    Example:
        >>> from dataclasses import dataclass
        >>> from ctsgfn.states import Batch
        >>> @dataclass(frozen=True)
        ... class Point(Batch):
        ...     x: Tensor
        >>> line = Pushforward(Lebesgue(1, 0.0, 2.0), Point, lambda s: s.x, lambda s: s.x[:, 0] > -9)
        >>> float(line.probe(10)[1].exp().mean())
        2.0
    """

    base: Measure[Any]
    push: Callable[[Any], S] = field(repr=False)
    pull: Callable[[S], Any] = field(repr=False)
    owns: Callable[[S], Tensor] = field(repr=False)

    def __str__(self) -> str:
        return f"image of {self.base}"

    def probe(self, n: int) -> tuple[S, Tensor]:
        """Push the probes of ``base``."""
        a, w = self.base.probe(n)
        return self.push(a), w

    def log_probe(self, x: S) -> Tensor:
        """Log-density of the probe law at states of the image, [B]."""
        return self.base.log_probe(self.pull(x))

    def contains(self, x: S) -> Tensor:
        """Which states lie in the image of the base's support, [B]."""
        inside = self.owns(x)
        rows = inside.nonzero().squeeze(-1)
        return inside.index_copy(0, rows, self.base.contains(self.pull(x[rows])))


def point_mass(state: Callable[[int], S], owns: Callable[[S], Tensor]) -> Pushforward[S]:
    """Unit mass on one state, such as s0.

    Args:
        state: n -> n copies of the state.
        owns: states -> [B] bool, which of them are that state.

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid
        >>> mass = point_mass(hypergrid(2, 4).source, lambda s: (s.cell == 0).all(-1))
        >>> mass.probe(2)[1].exp().tolist()
        [1.0, 1.0]
    """

    def push(a: Tensor) -> S:
        return state(len(a)).like(a)

    def pull(s: S) -> Tensor:
        return s.anchor.new_zeros(len(s), 0)

    return Pushforward(Atom(), push, pull, owns)


@dataclass(frozen=True)
class Sum(Generic[T]):
    """Disjoint sum of measures on one kind of point, such as an atom at s0 plus Lebesgue measure.

    Example:
        >>> halves = Sum((Lebesgue(1, 0.0, 1.0), Lebesgue(1, 2.0, 4.0)))
        >>> x, w = halves.probe(20_000)
        >>> abs(float(w.exp().mean()) - 3.0) < 0.1
        True
    """

    parts: tuple[Measure[T], ...]

    def __str__(self) -> str:
        return " + ".join(str(p) for p in self.parts)

    def probe(self, n: int) -> tuple[T, Tensor]:
        """Probe a part drawn evenly for each point, in random order."""
        counts = torch.bincount(torch.randint(len(self.parts), (n,)), minlength=len(self.parts))
        draws = [p.probe(int(c)) for p, c in zip(self.parts, counts, strict=True)]
        points: list[Any] = [x for x, _ in draws]
        x: Any = torch.cat(points) if isinstance(points[0], Tensor) else type(points[0]).cat(points)
        w = torch.cat([w for _, w in draws]) + math.log(len(self.parts))
        order = torch.randperm(n)
        return x[order], w[order]

    def log_probe(self, x: T) -> Tensor:
        """Log-density of the probe law at each point, [B]."""
        points: Any = x
        out = torch.full((len(points),), -math.inf, dtype=torch.float64)
        for part in self.parts:
            rows = part.contains(x).nonzero().squeeze(-1)
            out = out.to(rows.device).index_copy(0, rows, part.log_probe(points[rows]).double())
        return out - math.log(len(self.parts))

    def contains(self, x: T) -> Tensor:
        """Which points lie in some part, [B]."""
        return torch.stack([p.contains(x) for p in self.parts]).any(0)
