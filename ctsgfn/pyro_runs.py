r"""Effect handlers that run a Pyro model once: to find its latent sites, to set them, to read them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions.transforms import Transform

from ctsgfn.errors import InvalidInput
from ctsgfn.pyro_enumeration import Factor, Summand, all_values, factor, marked, plates, summed
from ctsgfn.pyro_supports import moves, outside, to_support


class Run(Messenger):
    r"""One run of a model in which every latent site is given a value.

    Adds up :math:`\sum \log p` over all sites, and :math:`\log |\det|` of each latent site's transform
    from unconstrained coordinates. The transform is looked up in every run: a support may depend on
    other latents.
    """

    def __init__(self, params: Mapping[str, Tensor], depth: int | None = None) -> None:
        super().__init__()
        self.params = dict(params)
        self.depth = depth  # most plates around a site, where discrete sites are summed out
        self.factors: list[Factor] = []
        self.summands: list[Summand] = []
        self.log_joint: Any = 0.0
        self.values: dict[str, Tensor] = {}
        self.free: dict[str, Tensor] = {}
        self.deterministic: dict[str, Tensor] = {}

    def give(self, msg: Any, transform: Transform) -> tuple[Tensor, Tensor]:
        """Return unconstrained part and value of a latent site."""
        raise NotImplementedError

    def of(self, model: Callable[[], Any]) -> None:
        """Run the model, and sum its discrete sites out."""
        with self:
            model()
        if self.factors:
            self.log_joint = self.log_joint + summed(self.factors, self.summands)

    def add(self, msg: Any, terms: Tensor) -> None:
        """Add the log-density of a site to the joint."""
        if self.depth is None:
            self.log_joint = self.log_joint + self.total(terms)
        else:
            self.factors.append(factor(msg, terms, self.summands))

    def total(self, terms: Tensor) -> Tensor:
        """Sum of the terms of a site."""
        return terms.sum()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["value"] is not None or isinstance(msg["fn"], _Subsample):
            return
        if self.depth is not None and marked(msg):
            dim = -1 - self.depth - len(self.summands)
            value = all_values(msg["fn"], dim)
            self.summands.append(Summand(msg["name"], dim, len(value), plates(msg)))
            msg["value"] = value
            return
        name, transform = msg["name"], to_support(msg["name"], msg["fn"])
        part, value = self.give(msg, transform)
        self.free[name], self.values[name] = part, value
        self.log_joint = self.log_joint + self.total(transform.log_abs_det_jacobian(part, value))
        msg["value"] = value

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample):
            return
        if msg["infer"].get("_deterministic"):
            self.deterministic[msg["name"]] = msg["value"]
            return
        log_prob = msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        if msg["is_observed"] and moves(msg["fn"]) and (out := outside(msg["fn"], msg["value"])) is not None:
            log_prob = torch.where(out, -math.inf, log_prob)
        self.add(msg, scale_and_mask(log_prob, msg["scale"], msg["mask"]))  # type: ignore[no-untyped-call]

    def _pyro_param(self, msg: Any) -> None:
        msg["value"] = self.params[msg["name"]]


class Reading(Run):
    """Gives each latent site the image of its unconstrained part."""

    def __init__(
        self, params: Mapping[str, Tensor], parts: Mapping[str, Tensor], depth: int | None = None
    ) -> None:
        super().__init__(params, depth)
        self.parts = parts

    def give(self, msg: Any, transform: Transform) -> tuple[Tensor, Tensor]:
        """Look the part up and map it to the support."""
        part = _lookup(self.parts, msg["name"])
        return part, transform(part)


class Together(Reading):
    """Runs of many points in one: every latent site has them along a dimension left of its batch's.

    Args:
        params: as for a run.
        parts: [B, ..] of each latent site.
        count: how many points, B.
        nesting: batch dimensions that any site of a single run has.
    """

    def __init__(
        self, params: Mapping[str, Tensor], parts: Mapping[str, Tensor], count: int, nesting: int
    ) -> None:
        super().__init__(params, parts)
        self.count, self.nesting = count, nesting

    def give(self, msg: Any, transform: Transform) -> tuple[Tensor, Tensor]:
        """Look the parts up, in as many batch dimensions as any site has, and map them."""
        part = _lookup(self.parts, msg["name"])
        missing = self.nesting - (part.ndim - 1 - transform.domain.event_dim)
        part = part.reshape(self.count, *[1] * missing, *part.shape[1:])
        return part, transform(part)

    def total(self, terms: Tensor) -> Tensor:
        """Sums of the points' own terms [B]; one sum of terms that are the same for all."""
        if terms.ndim <= self.nesting:
            return terms.sum()
        return terms.expand(self.count, *terms.shape[1:]).reshape(self.count, -1).sum(-1)


class Inspecting(Reading):
    """A reading that notes which sites are not numbers, or have density 0."""

    def __init__(
        self, params: Mapping[str, Tensor], parts: Mapping[str, Tensor], depth: int | None = None
    ) -> None:
        super().__init__(params, parts, depth)
        self.not_numbers: list[str] = []  # sites whose log-density is NaN or +inf
        self.impossible: list[str] = []  # sites whose density is 0

    def add(self, msg: Any, terms: Tensor) -> None:
        """Note the site if one of its terms is not finite."""
        super().add(msg, terms)
        if bool((terms == -math.inf).any()):
            self.impossible.append(msg["name"])
        elif not bool(torch.isfinite(terms).all()):
            self.not_numbers.append(msg["name"])


class Writing(Run):
    """Gives each latent site a value of its own support, and finds its unconstrained part."""

    def __init__(
        self, params: Mapping[str, Tensor], given: Mapping[str, Tensor], depth: int | None = None
    ) -> None:
        super().__init__(params, depth)
        self.given = given

    def give(self, msg: Any, transform: Transform) -> tuple[Tensor, Tensor]:
        """Look the value up and map it back."""
        value = _lookup(self.given, msg["name"])
        return transform.inv(value), value


class Marked(Exception):
    """Raised in a first run at a discrete site that is to be summed out: dimensions must be found for it."""


class Discovery(Run):
    """First run: finds the latent sites at unconstrained 0, and refuses what has no density on R^D."""

    def __init__(self, depth: int | None = None) -> None:
        super().__init__({}, depth)
        self.evidence = False  # whether any site is observed
        self.nesting = 0  # batch dimensions of its sites, at most
        self.lost: dict[str, float] = {}  # share of a site's prior draws at an edge of what numbers can tell
        self._seen: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample):
            _refuse_subsample(msg)
        elif self.depth is None and not msg["is_observed"] and marked(msg):
            raise Marked
        super()._pyro_sample(msg)

    def give(self, msg: Any, transform: Transform) -> tuple[Tensor, Tensor]:
        """Zero, in the dtype and on the device of a draw."""
        _refuse_mask(msg)
        fn = msg["fn"]
        if self.depth is not None and len(fn.batch_shape) > self.depth:
            raise InvalidInput(
                f"the law of the latent site {msg['name']!r} depends on a discrete site that is summed out: "
                "draw a standard one, and shift and scale it by the discrete site's values."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about draws, of which only the kind and the place are used
            part = fn().new_zeros(transform.inverse_shape(fn.shape()))
            self.lost[msg["name"]] = _lost(transform, fn.sample(torch.Size([256])))
        return part, transform(part)

    def add(self, msg: Any, terms: Tensor) -> None:
        """Refuse a name used twice, and data that make no sense."""
        name = msg["name"]
        if name in self._seen:
            raise InvalidInput(f"two sites of the model are called {name!r}: rename one.")
        self._seen.add(name)
        self.nesting = max(self.nesting, terms.ndim)
        self.evidence |= bool(msg["is_observed"])
        if msg["is_observed"]:
            _judge_data(msg, terms, self.depth)
        super().add(msg, terms)

    def _pyro_param(self, msg: Any) -> None:
        name, store = msg["name"], pyro.get_param_store()
        if name not in store and len(msg["args"]) < 2:
            raise InvalidInput(f"pyro.param {name!r} has no value yet: give it an initial one.")
        value = store[name] if name in store else msg["args"][1]
        value = value() if callable(value) and not isinstance(value, Tensor) else value
        self.params[name] = value.detach().clone()
        super()._pyro_param(msg)


def _lost(transform: Transform, draws: Tensor) -> float:
    """Share of draws at which a step of 1 in the unconstrained coordinate leads nowhere."""
    free = transform.inv(draws)
    if free.shape != draws.shape:
        return 0.0
    stuck = ~torch.isfinite(free) | (transform(free + 1) == draws) | (transform(free - 1) == draws)
    return float(stuck.double().mean())


def _lookup(given: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in given:
        raise InvalidInput(
            f"latent site {name!r} was not there in the model's first run: a target has a fixed set of "
            "coordinates, so sample every site in every run."
        )
    return given[name]


def _refuse_subsample(msg: Any) -> None:
    plate, given = msg["fn"], msg["value"]
    used = plate.subsample_size if given is None else len(given)
    if used not in (None, plate.size):
        raise InvalidInput(
            f"plate {msg['name']!r} subsamples {used} of {plate.size} rows, which makes the log-density "
            "random: pass the full data and leave out subsample_size and subsample."
        )


def _judge_data(msg: Any, terms: Tensor, depth: int | None) -> None:
    """Refuse data of another shape than their distribution's, NaN, and values outside a fixed support."""
    name, fn, value = msg["name"], msg["fn"], torch.as_tensor(msg["value"])
    batch, own = value.shape[: max(0, value.ndim - len(fn.event_shape))], torch.Size(fn.batch_shape)
    own = own if depth is None else own[max(0, len(own) - depth) :]  # plates alone
    if torch.broadcast_shapes(batch, own).numel() > max(batch.numel(), own.numel()):
        raise InvalidInput(
            f"observed site {name!r} has values of shape {list(value.shape)} and a distribution of shape "
            f"{list(fn.shape())}, which multiply to {list(terms.shape)}, so that values are counted many "
            "times: give both the same shape."
        )
    if bool(value.isnan().any()):
        raise InvalidInput(
            f"observed site {name!r} has NaN among its values, first at index "
            f"{value.isnan().nonzero()[0].tolist()}: leave such rows out, or mask them and put in any number."
        )
    out = None if moves(fn) else outside(fn, value)
    if out is not None and bool((out := out & _mask(msg)).any()):
        raise InvalidInput(
            f"observed site {name!r} has a value outside the support of {type(fn).__name__}, at index "
            f"{out.nonzero()[0].tolist()}: look at the data."
        )


def _mask(msg: Any) -> Tensor:
    """Where a site counts, by its handlers and its distribution."""
    fn, mask = msg["fn"], torch.as_tensor(True if msg["mask"] is None else msg["mask"])
    while isinstance(fn, torch.distributions.Independent | MaskedDistribution | ExpandedDistribution):
        if isinstance(fn, MaskedDistribution):
            mask = mask & torch.as_tensor(fn._mask)
        fn = fn.base_dist
    return mask


def _refuse_mask(msg: Any) -> None:
    if not bool(_mask(msg).all()):
        raise InvalidInput(
            f"latent site {msg['name']!r} is masked, so its density is flat where the mask is False and its "
            "mass infinite: sample only what the mask keeps (instead of obs_mask, sample the missing entries "
            "as a site of their own)."
        )
