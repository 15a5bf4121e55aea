"""Posterior predictive draws against the exact predictive law, their p-values and figures."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from test_sampler import Normal, on_line
from torch import Tensor

from ctsgfn import fit, from_pyro
from ctsgfn.errors import CtsgfnWarning, InvalidInput, UnreliableEstimate
from ctsgfn.predictive import STATISTICS, Predicted, observations, predict

Z = 4.9
QUICK: dict[str, Any] = {"steps": 5, "kernel": "mixture", "seed": 0, "progress_bar": False}
Y = torch.tensor([0.5, -0.5, 1.0, 2.0])


def conjugate(y: Tensor) -> None:
    """A mean with prior N(0, 2^2), data with sd 1."""
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_draws_have_the_exact_predictive_law() -> None:
    """Posterior N(m, v), so a new value is N(m, v + 1) and two of a data set have covariance v."""
    sampler = fit(from_pyro(conjugate, Y), **QUICK)
    made = sampler.predictive(4000, seed=1)
    y = made["y"].double()
    assert y.shape == (4000, 4)
    v = 1 / (1 / 4 + len(Y))
    m = v * float(Y.sum())
    assert abs(y[:, 0].mean() - m) < Z * math.sqrt((v + 1) / 4000)
    assert bool(((y.mean(0) - m).abs() < Z * math.sqrt((v + 1) / 4000)).all())
    variance = (y - m).square().mean(0)
    assert bool(((variance / (v + 1) - 1).abs() < Z * math.sqrt(2 / 4000)).all())
    product = (y[:, 0] - m) * (y[:, 1] - m)
    assert abs(product.mean() - v) < Z * product.std() / math.sqrt(4000)
    # the mean of a data set is N(m, v + 1/4): its p-value is exact
    p = made.p_value("y", STATISTICS["mean"])
    truth = 1 - torch.distributions.Normal(m, math.sqrt(v + 0.25)).cdf(Y.mean()).item()
    assert abs(p - truth) < Z * 0.5 / math.sqrt(4000)
    assert torch.equal(made["y"], sampler.predictive(4000, seed=1)["y"])


def test_a_model_that_does_not_make_such_data_is_seen() -> None:
    y = torch.cat([Y, torch.tensor([40.0])])
    made = fit(from_pyro(conjugate, y), **QUICK).predictive(500, seed=1)
    assert made.p_value("y", STATISTICS["sd"]) < 0.01
    assert 0.2 < made.p_value("y", lambda y: y[:, 0] * 0) < 0.8  # ties count half
    row = next(line for line in str(made).splitlines() if " sd " in line and line.startswith("y"))
    assert row.split()[-1] == "0.000"


def several(x: Tensor, counts: Tensor, total: Tensor) -> None:
    """Several observed sites of several kinds, a deterministic one, a parameter."""
    scale = pyro.param("scale", torch.tensor(1.0))
    rate = pyro.sample("rate", dist.Gamma(2.0, scale))
    pyro.factor("mild", -0.1 * rate)
    with pyro.plate("rows", len(counts)):
        each = pyro.deterministic("each", rate * x)
        pyro.sample("counts", dist.Poisson(each), obs=counts)
    pyro.sample("total", dist.Normal(rate, 1.0), obs=total)


def test_every_observed_site_comes_and_nothing_else() -> None:
    pyro.clear_param_store()
    data = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 3.0, 5.0]), torch.tensor(1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CtsgfnWarning)  # the parameter is frozen
        target = from_pyro(several, *data)
    assert {k: tuple(v.shape) for k, v in observations(target).items()} == {"counts": (3,), "total": ()}
    pyro.get_param_store().clear()  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEstimate)  # five steps are few
        made = fit(target, **QUICK).predictive(200, seed=1)
    assert {k: tuple(v.shape) for k, v in made.draws.items()} == {"counts": (200, 3), "total": (200,)}
    assert bool((made["counts"] == made["counts"].round()).all())
    assert not pyro.get_param_store().keys()  # left as it was
    assert len([line for line in str(made).splitlines() if line.startswith("total")]) == 1
    figure = made.plot()
    assert {ax.get_xlabel() for ax in figure.axes} == {"counts", "total"}
    with pytest.raises(InvalidInput, match="no observed site is called 'rate': there are counts, total"):
        made["rate"]


def test_the_posterior_reaches_the_data() -> None:
    """Draws follow the latents that are passed, row by row."""
    target = from_pyro(conjugate, Y)
    mu = torch.tensor([-100.0, 0.0, 100.0])
    made = predict(target, {"mu": mu})
    assert isinstance(made, Predicted)
    assert bool(((made["y"].mean(1) - mu).abs() < 5).all())


def test_other_targets_are_refused_in_one_sentence() -> None:
    with pytest.raises(InvalidInput, match=r"which only from_pyro\(..\) brings.*Normal here.*posterior"):
        on_line(Normal()).predictive(10)

    def prior() -> None:
        pyro.sample("mu", dist.Normal(0.0, 1.0))

    with pytest.warns(CtsgfnWarning, match="no site of the model is observed"):
        target = from_pyro(prior)
    with pytest.raises(InvalidInput, match="observes nothing"):
        fit(target, **QUICK).predictive(10)
