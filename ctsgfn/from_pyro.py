r"""A Pyro model as a target: the log joint of its latent sites, in unconstrained coordinates.

References:
    Pyro: deep universal probabilistic programming (Bingham et al., 2019), arXiv 1810.09538.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ctsgfn.errors import CtsgfnError, CtsgfnWarning, InvalidInput
from ctsgfn.pyro_enumeration import dimensions
from ctsgfn.pyro_runs import Discovery, Marked
from ctsgfn.pyro_target import PyroTarget
from ctsgfn.pyro_ways import Amended, Mapped, OneByOne, SideBySide, cause
from ctsgfn.seeding import seeded

CHUNK = 2**25
"""Numbers computed at once: points times numbers a point."""

LOST = 0.01
"""Share of a site's prior draws that may lie at an edge of what its numbers can tell."""


def from_pyro(model: Callable[..., Any], *args: Any, **kwargs: Any) -> PyroTarget:
    """Turn a Pyro model and its arguments (the data) into a target on unconstrained coordinates.

    The model runs on all points at once: through ``torch.func.vmap``, or where that fails in one run with
    the points along a further batch dimension. Which way gives the values and gradients of single runs is
    tried here. A model with Python control flow on its latents runs point by point, with a warning.
    Pyro's parameter store and the random state are left as they were. Discrete sites marked
    ``infer={"enumerate": "parallel"}`` are summed out exactly; ``target.discrete`` draws them given points.

    Args:
        model: a callable with ``pyro.sample`` statements.
        args: passed to the model.
        kwargs: passed to the model.

    Raises:
        InvalidInput: for what has no density on R^D: improper, masked or point-mass latents, discrete
            ones that are not marked, subsampling plates, a model without latents or with randomness
            outside its sites, data that are NaN or impossible.

    Warns:
        CtsgfnWarning: when nothing is observed, ``pyro.param`` values are frozen, the model can't be
            batched, its density is -inf in places, or a prior lies where numbers are too coarse.

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

    found = _discovered(bound)
    if not found.evidence:
        _warn("no site of the model is observed: the target is its prior. Did you forget to pass the data?")
    if found.params:
        names = ", ".join(sorted(found.params))
        _warn(f"the pyro.param values of the model ({names}) are not inferred: they stay as they are now.")
    for name, share in found.lost.items():
        if share > LOST:
            _warn(
                f"{100 * share:.0f} % of the prior draws of site {name!r} lie nearer to an edge of its "
                f"support than {found.values[name].dtype} can tell, and the mass there is lost: give its "
                "prior torch.float64 tensors, parameters that keep off the edge, or sample its logit or log."
            )
    target = PyroTarget(
        model=bound,
        sites={name: value.shape for name, value in found.values.items()},
        free={name: part.shape for name, part in found.free.items()},
        params=found.params,
        nesting=found.nesting,
        dtype=_common_dtype(found.values),
        depth=found.depth,
    )
    with seeded(0), torch.no_grad():
        z = torch.randn(2, target.measure.dim, dtype=target.dtype) * torch.tensor([[0.5], [1.5]])
        points = torch.cat([torch.zeros_like(z[:1]), z, -z]).to(next(iter(found.values.values())).device)
        alone = _alone(target, points)
        _judge_sites(target, points, alone)
        return _batched(target, points, alone)


def _discovered(bound: Callable[[], Any]) -> Discovery:
    try:
        with seeded(0), torch.no_grad(), pyro.validation_enabled(False), poutine.block():
            found = Discovery()
            try:
                found.of(bound)
            except Marked:
                found = Discovery(dimensions(bound))
                found.of(bound)
    except RuntimeError as error:
        if isinstance(error, CtsgfnError) or "dtype" not in str(error):
            raise
        raise InvalidInput(
            f"the model mixes floating-point types ({error}): give its priors tensors of the data's dtype, "
            "or convert the data."
        ) from error
    if not found.values:
        raise InvalidInput(
            "the model has no unobserved pyro.sample site with a density: there is nothing to infer."
        )
    return found


def _common_dtype(values: Mapping[str, Tensor]) -> torch.dtype:
    dtype = torch.float32
    for value in values.values():
        dtype = torch.promote_types(dtype, value.dtype)
    return dtype


def _alone(target: PyroTarget, points: Tensor) -> Tensor:
    """Log-density of the points one at a time, and two of them again: it must be a function of the point."""
    loop = replace(target, way=OneByOne)
    alone, again = loop.log_density(points), loop.log_density(points[:2])
    tolerance = 100 * torch.finfo(target.dtype).eps  # a GPU may add up in another order
    if not torch.allclose(alone[:2], again, tolerance, tolerance, equal_nan=True):
        raise InvalidInput(
            "the model draws random numbers outside its visible pyro.sample sites, so that its log-density "
            "changes from run to run: make them sites, or pass them as data."
        )
    return alone


def _judge_sites(target: PyroTarget, points: Tensor, alone: Tensor) -> None:
    """Name the sites that are not numbers, or impossible, at the points."""
    bad = (~torch.isfinite(alone)).nonzero().squeeze(-1).tolist()
    seen = [target.inspect(points[row]) for row in bad]
    for run in seen:
        if run.not_numbers or not run.impossible:
            raise InvalidInput(
                f"site {_names(run.not_numbers)} of the model has a log-density that is not a number at "
                f"{_place(run.values)}: look for impossible values in its data, for parameters outside their "
                "range, such as a negative scale, and for a distribution that misstates its support."
            )
    if seen:
        where = "wherever it was tried, as at" if len(bad) == len(alone) else "at"
        _warn(
            f"site {_names(seen[0].impossible)} of the model has density 0 {where} {_place(seen[0].values)}: "
            "if its support is meant to depend on the latents, use from_pyro(..).floored(-1e3) or another "
            "least value, because points of log-density -inf are refused; if not, look at the data.",
            depth=2,
        )


def _names(sites: list[str]) -> str:
    return ", ".join(repr(name) for name in sites)


def _place(values: Mapping[str, Tensor]) -> str:
    """A few latent values, for a message."""
    numbers = {name: [round(float(c), 4) for c in v.reshape(-1)[:4]] for name, v in values.items()}
    return ", ".join(f"{name} = {v[0] if len(v) == 1 else v}" for name, v in list(numbers.items())[:4])


def _batched(target: PyroTarget, points: Tensor, alone: Tensor) -> PyroTarget:
    """The target run in the first way that gives what single runs give, its chunk size found."""
    loop, causes = replace(target, way=OneByOne), []
    finite = points[torch.isfinite(alone)][:3]
    try:
        with _Leaks() as leaks:
            slope = loop.score(finite) if len(finite) else None
    except RuntimeError as error:
        raise InvalidInput(
            f"the log-density of the model has no gradient ({cause(error)}): replace what autograd can't "
            "follow, such as assignment to parts of a tensor (torch.stack a list instead)."
        ) from error
    for way in (Mapped, Amended, SideBySide):
        some = replace(target, way=way)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "There is a performance drop")
                with _Numbers() as fewer:
                    some.log_density(points[:4])
                with _Numbers() as more:
                    together = some.log_density(points)
                same = _same(together, alone) and (slope is None or _same(some.score(finite), slope))
            if same:
                return replace(some, chunk=max(1, CHUNK // max(1, more.count - fewer.count)))
            causes.append("its values or gradients differ from those of single runs")
        except Exception as error:  # told in the warning
            causes.append(cause(error))
    cut = " Its gradient misses what passes through item() or detach()." if leaks.found else ""
    _warn(
        f"the model can't run on many points at once, so it runs point by point, which is hundreds of times "
        f"slower. torch.func.vmap fails: {causes[1]}. With the points along a further batch dimension: "
        f"{causes[2]}. Mend either: use no Python control flow, item() or numpy on latent values, or write "
        "the model as for pyro.infer.Trace_ELBO(vectorize_particles=True): plates or to_event for every "
        f"dimension of its sites, and indices that count from the end, as in x[..., 0].{cut}",
        depth=2,
    )
    return loop


def _same(a: Tensor, b: Tensor) -> bool:
    tolerance = math.sqrt(torch.finfo(b.dtype).eps)
    return torch.allclose(a, b, tolerance, tolerance, equal_nan=True)


class _Numbers(TorchDispatchMode):
    """Counts the numbers that the operations inside it produce."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count += sum(t.numel() for t in _pytree.tree_leaves(out) if isinstance(t, Tensor))
        return out


class _Leaks(TorchFunctionMode):
    """Notices values that leave autograd."""

    found = False
    ways = (Tensor.item, Tensor.tolist, Tensor.detach, Tensor.__float__, Tensor.data.__get__)  # type: ignore[attr-defined]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.ways and args[0].requires_grad:
            self.found = True
        return func(*args, **(kwargs or {}))


def _warn(message: str, depth: int = 1) -> None:
    """Warn at the line that called ``from_pyro``, which is ``depth`` calls above the caller."""
    warnings.warn(message, CtsgfnWarning, stacklevel=2 + depth)
