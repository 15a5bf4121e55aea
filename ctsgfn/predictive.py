r"""Posterior predictive draws of a Pyro model's observed sites, and checks of the model against its data.

.. math::
    p = P(T(y^{rep}) \ge T(y) \mid y), \qquad y^{rep} \sim p(\cdot \mid \theta),\
    \theta \sim p(\cdot \mid y)

References:
    Posterior predictive assessment of model fitness via realized discrepancies (Gelman, Meng and Stern,
    1996), Statistica Sinica 6.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.plots import plot_predictive
from ctsgfn.pyro_target import PyroTarget

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Statistic = Callable[[Tensor], Tensor]
"""Data sets [n, values] -> one number each, [n]."""

STATISTICS: dict[str, Statistic] = {
    "mean": lambda y: y.mean(1),
    "sd": lambda y: y.std(1, unbiased=False),
    "min": lambda y: y.amin(1),
    "max": lambda y: y.amax(1),
}
"""What the table compares."""


@dataclass(frozen=True)
class Predicted:
    """Draws of a model's data beside the data; prints a table of p-values, and plots itself.

    A p-value near 0 or 1 says that the model does not make data like these. They are no tests: the data
    were used to find the posterior, so p-values lie nearer to 1/2 than uniform ones.

    Raises:
        InvalidInput: from its methods, for a site that is not observed.

    Example:
        >>> y = torch.tensor([0.0, 1.0, 2.0])
        >>> made = Predicted({"y": y + torch.linspace(-1, 1, 101)[:, None]}, {"y": y})
        >>> round(made.p_value("y", STATISTICS["max"]), 2), tuple(made["y"].shape)
        (0.5, (101, 3))
        >>> print(str(made).splitlines()[1].split())
        ['y', 'mean', '1', '1', '0.586', '0.505']
    """

    draws: Mapping[str, Tensor]  # [n, ..] by observed site
    observed: Mapping[str, Tensor]  # [..]

    def __getitem__(self, site: str) -> Tensor:
        """Draws [n, ..] of a site."""
        return self.draws[self._known(site)]

    def p_value(self, site: str, statistic: Statistic) -> float:
        """Share of the draws whose statistic is above the data's; equal ones count half.

        Args:
            site: an observed site.
            statistic: data sets [n, values] -> [n].
        """
        made, seen = self._both(site, statistic)
        return float((made > seen).double().mean() + 0.5 * (made == seen).double().mean())

    def plot(self) -> Figure:
        """Distribution functions of the data over those of single draws, a panel for each site."""
        return plot_predictive(self.draws, self.observed)

    def __str__(self) -> str:
        width = max(4, *(len(site) for site in self.draws))
        lines = [f"{'site':<{width}}  {'':<6}{'data':>10}{'model':>10}{'sd':>10}{'p':>8}"]
        for site in self.draws:
            many = self.observed[site].numel() > 1
            for name, statistic in STATISTICS.items() if many else [("value", STATISTICS["mean"])]:
                made, seen = self._both(site, statistic)
                mean, sd, p = float(made.mean()), float(made.std()), self.p_value(site, statistic)
                lines.append(
                    f"{site:<{width}}  {name:<6}{float(seen):>10.4g}{mean:>10.4g}{sd:>10.4g}{p:>8.3f}"
                )
        return "\n".join(lines)

    def _both(self, site: str, statistic: Statistic) -> tuple[Tensor, Tensor]:
        made, seen = self.draws[self._known(site)], self.observed[site]
        return statistic(made.double().reshape(len(made), -1)), statistic(seen.double().reshape(1, -1))

    def _known(self, site: str) -> str:
        if site not in self.draws:
            raise InvalidInput(f"no observed site is called {site!r}: there are {', '.join(self.draws)}.")
        return site


class _Frozen(Messenger):
    """Gives ``pyro.param`` statements the values that the target was made with."""

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.params = params

    def _pyro_param(self, msg: Any) -> None:
        msg["value"] = self.params[msg["name"]]


class _Free(Messenger):
    """Draws some of the observed sites anew; what is deterministic given the others stays so."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            msg.update(is_observed=False, value=None, done=False)


def observations(target: PyroTarget) -> dict[str, Tensor]:
    """The data that a model was given, by observed site; ``pyro.factor`` has none.

    Example:
        >>> import pyro.distributions as dist
        >>> from ctsgfn.from_pyro import from_pyro
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> observations(from_pyro(model, torch.tensor(0.5)))
        {'y': tensor(0.5000)}
    """
    with poutine.block(), torch.no_grad(), _Frozen(target.params):
        nodes = poutine.trace(target.model).get_trace().nodes
    return {
        name: torch.as_tensor(site["value"])
        for name, site in nodes.items()
        if site["type"] == "sample"
        and site["is_observed"]
        and not (site["infer"] or {}).get("_deterministic")
        and not isinstance(site["fn"], _Subsample)
        and torch.as_tensor(site["value"]).numel() > 0
    }


def predict(target: Any, posterior: Mapping[str, Tensor]) -> Predicted:
    """Draw data from a model at posterior draws of its latent sites.

    Args:
        target: what ``from_pyro`` made.
        posterior: [n, ..] by latent site, constrained.

    Raises:
        InvalidInput: for a target that is no Pyro model, or a model that observes nothing.
    """
    data = observations(require_model(target))
    if not data:
        raise InvalidInput("the model observes nothing, so there is nothing to predict: pass it the data.")
    model = _Free(data.keys())(_Frozen(target.params)(target.model))
    with pyro.validation_enabled(False), torch.no_grad():
        draws = Predictive(model, dict(posterior), return_sites=list(data))()  # type: ignore[no-untyped-call]
    n = len(next(iter(posterior.values())))
    return Predicted({name: draws[name].reshape(n, *value.shape) for name, value in data.items()}, data)


def require_model(target: Any) -> PyroTarget:
    """Refuse a target that is no Pyro model.

    Raises:
        InvalidInput: saying what to do instead.
    """
    if not isinstance(target, PyroTarget):
        raise InvalidInput(
            "predictive draws need a model that can make data, which only from_pyro(..) brings: for any "
            f"other target ({type(target).__name__} here) draw them yourself from sampler.posterior(n)."
        )
    return target


def same_data(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str:
    """Why two models do not explain the same data, in words; empty where nothing says so.

    Example:
        >>> same_data({"y": torch.ones(2)}, {"y": torch.zeros(2)})
        "their observed site 'y' has other values"
        >>> same_data({"y": torch.ones(2)}, {"z": torch.ones(2)})
        ''
    """
    for name in one.keys() & other.keys():
        a, b = one[name], other[name]
        if a.shape != b.shape or not torch.allclose(a.double(), b.double(), equal_nan=True):
            return f"their observed site {name!r} has other values"
    counts = [sum(value.numel() for value in data.values()) for data in (one, other)]
    return "" if counts[0] == counts[1] else f"one observes {counts[0]} numbers and the other {counts[1]}"
