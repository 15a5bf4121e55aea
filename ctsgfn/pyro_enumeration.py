r"""Discrete sites of a Pyro model, summed out of its joint exactly.

A site marked ``infer={"enumerate": "parallel"}`` takes all of its values at once, along a dimension of its
own to the left of all plates, so that every log-density is a factor :math:`f(z, \theta)` of them. The sites
are summed out one after another, those inside most plates first, and the last of these first:

.. math::
    f(\theta) \leftarrow \log \sum_z \exp \sum_{i : z \in f_i} \sum_{\text{plates beyond those of } z} f_i

References:
    Tensor variable elimination for plated factor graphs (Obermeyer et al., 2019), arXiv 1902.03210.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import infer_discrete
from torch import Tensor

from ctsgfn.errors import InvalidInput

MOST = 24
"""Most discrete sites: each takes one of the 64 dimensions that a tensor can have."""


class Factor(NamedTuple):
    """A log-density with its plates to the right and the values of discrete sites to the left."""

    value: Tensor
    plates: frozenset[int]  # dimensions, counted from the right


class Summand(NamedTuple):
    """A discrete site that is to be summed out."""

    name: str
    dim: int  # of its values, counted from the right
    size: int  # how many
    plates: frozenset[int]


def marked(msg: Any) -> bool:
    """Whether a latent site asks to be enumerated.

    Example:
        >>> marked({"infer": {"enumerate": "parallel"}}), marked({"infer": {}})
        (True, False)
    """
    return msg["infer"].get("enumerate") == "parallel"


def plates(msg: Any) -> frozenset[int]:
    """Dimensions of the vectorised plates around a site."""
    return frozenset(frame.dim for frame in msg["cond_indep_stack"] if frame.vectorized)


def all_values(fn: Any, dim: int) -> Tensor:
    """The values of a discrete law along a dimension to the left of its plates, counted from the right.

    Example:
        >>> import pyro.distributions as dist
        >>> all_values(dist.Bernoulli(torch.full((5,), 0.5)), -3).shape
        torch.Size([2, 1, 1])
    """
    value: Tensor = fn.enumerate_support(expand=False)
    return value.reshape(len(value), *[1] * (-1 - dim), *fn.event_shape)


def dimensions(model: Callable[[], Any]) -> int:
    """Most dimensions of the log-density of a site of a model with marked sites: runs it once.

    Raises:
        InvalidInput: when a marked site has no finite list of values, or there are too many.
    """
    depth, some = 0, 0
    store = pyro.get_param_store()
    with store.scope(store.get_state()):
        trace = poutine.trace(model).get_trace()
        trace.compute_log_prob()
    for name, site in trace.nodes.items():
        if site["type"] != "sample":
            continue
        depth = max([depth, site["log_prob"].dim(), *(-dim for dim in plates(site))])
        if site["is_observed"] or not marked(site):
            continue
        some += 1
        if not getattr(site["fn"], "has_enumerate_support", False):
            raise InvalidInput(
                f"latent site {name!r} ({type(site['fn']).__name__}) is marked to be enumerated and has no "
                "finite list of values: give it one, such as a Categorical over the first so many."
            )
    if some > MOST:
        raise InvalidInput(
            f"the model has {some} discrete sites, and at most {MOST} can be summed out: put what is alike "
            "in a pyro.plate, or a chain in a DiscreteHMM."
        )
    return depth


def factor(msg: Any, terms: Tensor, summands: Sequence[Summand]) -> Factor:
    """The log-density of a site, of which every dimension is a plate or that of a discrete site.

    Raises:
        InvalidInput: when there is another dimension: what it stands for could be taken for something else.
    """
    around = plates(msg)
    size = {dim: terms.size(dim) for dim in around if terms.dim() >= -dim}
    size |= {s.dim: s.size for s in summands}
    for dim in range(-terms.dim(), 0):
        if terms.size(dim) not in (1, size.get(dim, 1)):
            raise InvalidInput(
                f"the log-density of site {msg['name']!r} has {terms.size(dim)} values along dimension "
                f"{dim}, which is no pyro.plate around it: where discrete sites are summed out, every batch "
                "needs a plate or .to_event(), and what depends on their values must keep "
                "the dimensions to the left."
            )
    return Factor(terms, around)


def summed(factors: Sequence[Factor], summands: Sequence[Summand]) -> Tensor:
    """Log of the sum over all values of the discrete sites, of the exponential of the sum of the factors.

    Raises:
        InvalidInput: when a site inside a plate reaches outside of it, or two plates cross between sites.

    Example:
        Two numbers from one of two normals each; the choices are in a plate of size 2.

        >>> inside, logs = frozenset({-1}), torch.tensor([[0.1], [0.9]]).log()
        >>> fits = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).log()  # of either value and number
        >>> factors = [Factor(logs.expand(2, 2), inside), Factor(fits, inside)]
        >>> summed(factors, [Summand("z", -2, 2, inside)]).exp()  # (0.1 + 2.7) (0.2 + 3.6)
        tensor(10.6400)
    """
    left = list(summands)
    for site in sorted(reversed(summands), key=lambda s: -len(s.plates)):
        left.remove(site)
        mine = [f for f in factors if f.value.dim() >= -site.dim and f.value.size(site.dim) > 1]
        for value, around in mine:
            if not site.plates <= around:
                raise InvalidInput(
                    f"the discrete site {site.name!r} is used outside of its plate, where its values cannot "
                    "be summed out one by one: move what depends on it into the plate."
                )
            beyond = around - site.plates
            for other in left:
                if value.dim() >= -other.dim and value.size(other.dim) > 1 and other.plates & beyond:
                    raise InvalidInput(
                        f"the discrete sites {site.name!r} and {other.name!r} lie in plates that cross, so "
                        "that the sum over both takes too many terms: leave one of them out of enumeration."
                    )
        here = [_over(f, f.plates - site.plates) for f in mine]
        rest = [f for f in factors if not any(f is g for g in mine)]
        total = torch.stack(torch.broadcast_tensors(*here)).sum(0).logsumexp(site.dim, keepdim=True)
        factors = [*rest, Factor(total, site.plates)]
    return torch.stack([f.value.sum() for f in factors]).sum()


def _over(factor: Factor, dims: frozenset[int]) -> Tensor:
    """A factor summed over some of its plates."""
    return factor.value.sum(sorted(dims), keepdim=True) if dims else factor.value


def draw_discrete(
    model: Callable[[], Any], params: Mapping[str, Tensor], values: Mapping[str, Tensor], depth: int
) -> dict[str, Tensor]:
    """Draw all enumerated sites from their law given one value of each other latent site."""
    given = poutine.condition(poutine.substitute(model, data=dict(params)), data=dict(values))
    drawn = infer_discrete(given, first_available_dim=-1 - depth)  # type: ignore[no-untyped-call]
    nodes = poutine.trace(drawn).get_trace().nodes
    return {
        n: s["value"] for n, s in nodes.items() if s["type"] == "sample" and marked(s) and n not in values
    }
