r"""Effect handlers that run a Pyro model once: to find its latent sites, to set them, to read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from ctsgfn.errors import InvalidInput

CIRCULAR = (dist.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)
"""Laws of angles; their periodic densities are declared on the line, where they have infinite mass."""


class Run(Messenger):
    r"""One run of a model in which every latent site is given a value.

    Adds up :math:`\sum \log p` over all sites, and :math:`\log |\det|` of each latent site's transform
    from unconstrained coordinates. The transform is looked up in every run: a support may depend on
    other latents.
    """

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.params = dict(params)
        self.log_joint: Any = 0.0
        self.values: dict[str, Tensor] = {}
        self.free: dict[str, Tensor] = {}
        self.deterministic: dict[str, Tensor] = {}

    def give(self, msg: Any, transform: Transform) -> tuple[Tensor, Tensor]:
        """Return unconstrained part and value of a latent site."""
        raise NotImplementedError

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["value"] is not None or isinstance(msg["fn"], _Subsample):
            return
        name, transform = msg["name"], to_support(msg["name"], msg["fn"])
        part, value = self.give(msg, transform)
        self.free[name], self.values[name] = part, value
        self.log_joint = self.log_joint + transform.log_abs_det_jacobian(part, value).sum()
        msg["value"] = value

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample):
            return
        if msg["infer"].get("_deterministic"):
            self.deterministic[msg["name"]] = msg["value"]
            return
        log_prob = msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        terms: Tensor = scale_and_mask(log_prob, msg["scale"], msg["mask"])  # type: ignore[no-untyped-call]
        self.log_joint = self.log_joint + self._sum(msg, terms)

    def _sum(self, msg: Any, terms: Tensor) -> Tensor:
        return terms.sum()

    def _pyro_param(self, msg: Any) -> None:
        msg["value"] = self.params[msg["name"]]


class Reading(Run):
    """Gives each latent site the image of its unconstrained part."""

    def __init__(self, params: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> None:
        super().__init__(params)
        self.parts = parts

    def give(self, msg: Any, transform: Transform) -> tuple[Tensor, Tensor]:
        """Look the part up and map it to the support."""
        part = _lookup(self.parts, msg["name"])
        return part, transform(part)


class Writing(Run):
    """Gives each latent site a value of its own support, and finds its unconstrained part."""

    def __init__(self, params: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
        super().__init__(params)
        self.given = given

    def give(self, msg: Any, transform: Transform) -> tuple[Tensor, Tensor]:
        """Look the value up and map it back."""
        value = _lookup(self.given, msg["name"])
        return transform.inv(value), value


class Discovery(Run):
    """First run: finds the latent sites at unconstrained 0, and refuses what has no density on R^D."""

    def __init__(self) -> None:
        super().__init__({})
        self.evidence = False  # whether any site is observed
        self.terms = 0  # numbers added up in one run

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample):
            _refuse_subsample(msg)
        super()._pyro_sample(msg)

    def give(self, msg: Any, transform: Transform) -> tuple[Tensor, Tensor]:
        """Zero, in the dtype and on the device of a draw."""
        name, fn = msg["name"], msg["fn"]
        if name in self.values:
            raise InvalidInput(f"two latent sites of the model are called {name!r}: rename one.")
        _refuse_mask(msg)
        part = fn().new_zeros(transform.inverse_shape(fn.shape()))
        return part, transform(part)

    def _sum(self, msg: Any, terms: Tensor) -> Tensor:
        self.evidence |= bool(msg["is_observed"])
        self.terms += max(1, torch.as_tensor(terms).numel())
        return super()._sum(msg, terms)

    def _pyro_param(self, msg: Any) -> None:
        name, store = msg["name"], pyro.get_param_store()
        if name not in store and len(msg["args"]) < 2:
            raise InvalidInput(f"pyro.param {name!r} has no value yet: give it an initial one.")
        value = store[name] if name in store else msg["args"][1]
        value = value() if callable(value) and not isinstance(value, Tensor) else value
        self.params[name] = value.detach().clone()
        super()._pyro_param(msg)


def to_support(name: str, fn: Any) -> Transform:
    """Bijection from unconstrained coordinates onto the support of a latent site.

    Raises:
        InvalidInput: when the site is discrete, a point mass, improper, or its support has no bijection.

    Example:
        >>> to_support("tau", dist.HalfNormal(1.0))(torch.zeros(()))
        tensor(1.)
    """
    core = fn
    while isinstance(core, torch.distributions.Independent | MaskedDistribution | ExpandedDistribution):
        core = core.base_dist
    if not isinstance(core, torch.distributions.Distribution):
        raise InvalidInput(f"site {name!r} samples from {fn!r}, which is not a distribution.")
    if isinstance(core, dist.Delta):
        raise InvalidInput(
            f"latent site {name!r} is a point mass and has no density: use pyro.deterministic({name!r}, ..)."
        )
    if isinstance(core, dist.ImproperUniform):
        raise InvalidInput(
            f"latent site {name!r} has an improper prior, so the model has no evidence: give it a proper one."
        )
    if isinstance(core, CIRCULAR):
        return biject_to(constraints.interval(-math.pi, math.pi))
    try:
        support: constraints.Constraint = fn.support
        if support.is_discrete:
            raise InvalidInput(
                f"latent site {name!r} ({type(core).__name__}) is discrete or enumerated, and the target "
                "needs continuous latents: sum it out, with MixtureSameFamily or a logsumexp in pyro.factor."
            )
        return biject_to(support)
    except NotImplementedError as error:
        raise InvalidInput(
            f"the support of latent site {name!r} ({type(core).__name__}) has no known bijection from R^k: "
            "write the site through a distribution that has one."
        ) from error


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


def _refuse_mask(msg: Any) -> None:
    fn, masks = msg["fn"], [msg["mask"]]
    while isinstance(fn, torch.distributions.Independent | MaskedDistribution | ExpandedDistribution):
        if isinstance(fn, MaskedDistribution):
            masks.append(fn._mask)
        fn = fn.base_dist
    if not all(mask is None or bool(torch.as_tensor(mask).all()) for mask in masks):
        raise InvalidInput(
            f"latent site {msg['name']!r} is masked, so its density is flat where the mask is False and its "
            "mass infinite: sample only the unmasked entries (with obs_mask: only the missing ones)."
        )
