"""Tools to change a space from outside: charts are wrapped, measures tilted, records replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, make_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ctsgfn.measures import Counting, Haar, Lebesgue, Measure, wrap
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.space import Space
from ctsgfn.states import Batch

AnySpace = Space[Any, Any]


class Altered(Branch[Any]):
    """A branch with some methods replaced by functions of (inner branch, arguments)."""

    def __init__(self, inner: Branch[Any], **parts: Callable[..., Any]) -> None:
        self.inner, self.base, self.parts = inner, inner.base, parts

    def _call(self, name: str, *arguments: Any) -> Any:
        if name in self.parts:
            return self.parts[name](self.inner, *arguments)
        return getattr(self.inner, name)(*arguments)

    def push(self, s: Any, a: Tensor) -> Any:
        return self._call("push", s, a)

    def pull(self, s: Any, t: Any) -> Tensor:
        return self._call("pull", s, t)

    def log_weight(self, s: Any, a: Tensor) -> Tensor:
        return self._call("log_weight", s, a)

    def live(self, s: Any) -> Tensor | None:
        return self._call("live", s)

    def owns(self, s: Any, t: Any) -> Tensor:
        return self._call("owns", s, t)

    def intrinsic(self, t: Any) -> Tensor | None:
        return self._call("intrinsic", t)


def reference_of(space: AnySpace, side: str) -> ReferenceKernel[Any]:
    """kappa or kappa_b, by name."""
    return space.kappa if side == "kappa" else space.kappa_b


def amend(space: AnySpace, side: str, **changes: Any) -> AnySpace:
    """Replace fields of kappa or kappa_b."""
    changed: dict[str, Any] = {side: replace(reference_of(space, side), **changes)}
    return replace(space, **changed)


def alter(space: AnySpace, side: str, i: int = -1, **parts: Callable[..., Any]) -> AnySpace:
    """Replace methods of branch i of kappa or kappa_b."""
    branches = list(reference_of(space, side).branches)
    branches[i] = Altered(branches[i], **parts)
    return amend(space, side, branches=tuple(branches))


def alter_all(space: AnySpace, **parts: Callable[..., Any]) -> AnySpace:
    """Replace methods of every branch of both kernels."""
    for side in ("kappa", "kappa_b"):
        for i in range(len(reference_of(space, side).branches)):
            space = alter(space, side, i, **parts)
    return space


@dataclass(frozen=True)
class Tilted:
    """The measure exp(tilt) m."""

    inner: Measure[Any]
    tilt: Callable[[Any], Tensor]

    def probe(self, n: int) -> tuple[Any, Tensor]:
        x, w = self.inner.probe(n)
        return x, w + self.tilt(x)

    def log_probe(self, x: Any) -> Tensor:
        return self.inner.log_probe(x).double() - self.tilt(x)

    def contains(self, x: Any) -> Tensor:
        return self.inner.contains(x)


@dataclass(frozen=True)
class Replaced:
    """A measure whose probes are moved, or whose support is told otherwise."""

    inner: Measure[Any]
    move: Callable[[Any], Any] = lambda x: x
    support: Callable[[Any], Tensor] | None = None

    def probe(self, n: int) -> tuple[Any, Tensor]:
        x, w = self.inner.probe(n)
        return self.move(x), w

    def log_probe(self, x: Any) -> Tensor:
        return self.inner.log_probe(x)

    def contains(self, x: Any) -> Tensor:
        return self.inner.contains(x) if self.support is None else self.support(x)


def score(space: AnySpace) -> Callable[[Any], Tensor]:
    """A smooth function of states, with mean 0 and spread 1 over nu-probes: states -> [B]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        s, _ = space.nu.probe(4000)
    phi = space.features(s).double()
    weights = torch.arange(1, phi.shape[-1] + 1, dtype=torch.float64).sqrt() / (phi.std(0) + 0.1)
    raw = phi @ weights
    centre, spread = raw.median(), raw.std()

    def value(state: Any) -> Tensor:
        phi = space.features(state)
        return ((phi.double() @ weights - centre) / spread).to(phi.dtype)

    return value


def strip(space: AnySpace, where: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """Indicator [B] of a set of states other than s0: about a sixth of the nu-probes with ``where``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        s, _ = space.nu.probe(4000)
    value = score(space)
    chosen = value(s[where(s) & (space.progress(s) > 0)])
    cut = chosen.quantile(5 / 6, interpolation="lower") - 1e-4
    return lambda state: (value(state) >= cut) & (space.progress(state) > 0)


def moved(base: Measure[Tensor], a: Tensor, by: float) -> Tensor:
    """Coordinates moved within their base, smoothly and one-to-one."""
    if isinstance(base, Counting):
        return (a + 1) % base.size
    if isinstance(base, Haar):
        return wrap(a + by)
    return a.pow(1 + by) if isinstance(base, Lebesgue) and base.is_finite else a * (1 + by)


def with_counter(space: AnySpace) -> AnySpace:
    """The space with a count of steps in its states that neither target nor nu knows of."""
    plain = type(space.source(1))
    names = [f.name for f in fields(plain)]
    deep: Any = make_dataclass("Deep", [*names, "depth"], bases=(Batch,), frozen=True)

    def shallow(s: Any) -> Any:
        return plain(*[getattr(s, name) for name in names])

    def lifted(s: Any, depth: Tensor | None = None) -> Any:
        columns = [getattr(s, name) for name in names]
        return deep(*columns, torch.zeros(len(s), dtype=torch.long) if depth is None else depth)

    @dataclass(frozen=True)
    class Lifted:
        inner: Measure[Any]

        def probe(self, n: int) -> tuple[Any, Tensor]:
            s, w = self.inner.probe(n)
            return lifted(s), w

        def log_probe(self, x: Any) -> Tensor:
            return self.inner.log_probe(shallow(x))

        def contains(self, x: Any) -> Tensor:
            return self.inner.contains(shallow(x))

    def deepened(reference: ReferenceKernel[Any], by: int) -> ReferenceKernel[Any]:
        branches = tuple(
            Altered(
                branch,
                push=lambda inner, s, a: lifted(inner.push(shallow(s), a), s.depth + by),
                pull=lambda inner, s, t: inner.pull(shallow(s), shallow(t)),
                log_weight=lambda inner, s, a: inner.log_weight(shallow(s), a),
                live=lambda inner, s: inner.live(shallow(s)),
                owns=lambda inner, s, t: inner.owns(shallow(s), shallow(t)),
                intrinsic=lambda inner, t: inner.intrinsic(shallow(t)),
            )
            for branch in reference.branches
        )
        sink = reference.sink
        return replace(
            reference,
            branches=branches,
            allowed=lambda s: reference.allowed(shallow(s)),
            sink=None if sink is None else lambda s: sink(shallow(s)),
        )

    return replace(
        space,
        source=lambda n: lifted(space.source(n)),
        nu=Lifted(space.nu),
        kappa=deepened(space.kappa, +1),
        kappa_b=deepened(space.kappa_b, -1),
        progress=lambda s: space.progress(shallow(s)),
        read=lambda s: space.read(shallow(s)),
        write=lambda x: lifted(space.write(x)),
        features=lambda s: space.features(shallow(s)),
    )
