"""Discrete sites of Pyro models summed out: beside plain enumeration, and what cannot be."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

import ctsgfn
from ctsgfn.errors import CtsgfnWarning, InvalidInput
from ctsgfn.from_pyro import from_pyro
from ctsgfn.target import score

Y = torch.tensor([0.5, -1.5, 2.0])
ALL: dict[str, Any] = {"enumerate": "parallel"}


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def mixture() -> None:
    """A normal of three for every number."""
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    weight = pyro.sample("weight", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("rows", 3):
        z = pyro.sample("z", dist.Categorical(weight), infer=ALL)
        pyro.sample("y", dist.Normal(mean[z], 1.0), obs=Y.double())


def choice() -> None:
    """Which of two models: a line or a constant, and whether the noise is wide; all data hang on both."""
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    line = pyro.sample("line", dist.Bernoulli(0.3), infer=ALL)
    wide = pyro.sample("wide", dist.Categorical(torch.tensor([0.6, 0.4])), infer=ALL)
    sd = torch.tensor([0.5, 2.0])[wide]
    with pyro.plate("rows", 3):
        pyro.sample("y", dist.Normal(slope * line * torch.arange(3.0), sd), obs=Y.double())


def nested() -> None:
    """A choice for all, one for each of two groups given it, and one for each number given both."""
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    top = pyro.sample("top", dist.Bernoulli(0.25), infer=ALL)
    data = torch.tensor([[0.1, 1.0], [-0.3, 2.0], [0.7, -1.0]])
    with pyro.plate("groups", 2, dim=-1):
        group = pyro.sample("group", dist.Bernoulli(0.2 + 0.5 * top), infer=ALL)
        with pyro.plate("rows", 3, dim=-2):
            row = pyro.sample("row", dist.Bernoulli(0.1 + 0.6 * group), infer=ALL)
            pyro.sample("y", dist.Normal(level + top + 2 * group - row, 1.0), obs=data)


def chained() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    z = torch.tensor(0.0)
    for t in pyro.markov(range(3)):
        z = pyro.sample(f"z{t}", dist.Bernoulli(0.2 + 0.5 * z), infer=ALL)
        pyro.sample(f"y{t}", dist.Normal(mean + z, 1.0), obs=Y[t])


def by_hand(model: Callable[[], Any], values: dict[str, Tensor], sites: dict[str, tuple[int, ...]]) -> Tensor:
    """Log of the sum of the joint over all values of binary or ternary sites, one after another."""
    most = {name: 3 if name == "z" else 2 for name in sites}
    each = [
        [
            torch.tensor(v).reshape(shape)
            for v in itertools.product(range(most[name]), repeat=math.prod(shape))
        ]
        for name, shape in sites.items()
    ]
    logs = []
    for some in itertools.product(*each):
        given = {n: v if n in ("z", "wide") else v.double() for n, v in zip(sites, some, strict=True)}
        logs.append(poutine.trace(poutine.condition(model, {**values, **given})).get_trace().log_prob_sum())
    return torch.stack(logs).logsumexp(0)


SITES: dict[str, tuple[Callable[[], Any], dict[str, tuple[int, ...]]]] = {
    "mixture": (mixture, {"z": (3,)}),
    "choice": (choice, {"line": (), "wide": ()}),
    "chained": (chained, {"z0": (), "z1": (), "z2": ()}),
    "nested": (nested, {"top": (), "group": (2,), "row": (3, 2)}),
}


@pytest.mark.parametrize("name", SITES)
def test_sum_is_exact(name: str) -> None:
    """The density is that of plain enumeration of all 27, 4, 8 and 512 cases; batched, with a gradient."""
    model, sites = SITES[name]
    target = from_pyro(model)
    assert target.batched
    u = torch.randn(3, target.measure.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = target.constrain(u)
    assert set(values).isdisjoint(sites)
    if name == "mixture":
        jacobian = target.log_density(u) - torch.stack(
            [by_hand(model, {k: v[i] for k, v in values.items()}, sites) for i in range(3)]
        )
        of = torch.distributions.biject_to(dist.Dirichlet(torch.ones(3)).support)
        part = of.inv(values["weight"])
        torch.testing.assert_close(jacobian, of.log_abs_det_jacobian(part, values["weight"]))
    else:
        exact = [by_hand(model, {k: v[i] for k, v in values.items()}, sites) for i in range(3)]
        torch.testing.assert_close(target.log_density(u), torch.stack(exact))
    step = 1e-5 * torch.eye(target.measure.dim)[0]
    slope = (target.log_density(u + step) - target.log_density(u - step)) / 2e-5
    torch.testing.assert_close(score(target, u)[:, 0], slope, rtol=1e-5, atol=1e-6)


def test_discrete_draws_follow_their_law() -> None:
    """Four cases of ``choice`` at one point: frequencies of 1,500 draws within 4.5 standard errors."""
    pyro.set_rng_seed(0)
    target, n = from_pyro(choice), 1500
    drawn = target.discrete(torch.full((n, 1), 0.7))
    assert drawn["line"].shape == drawn["wide"].shape == (n,)
    values = {"slope": torch.tensor(0.7)}
    logs = []
    for line, wide in itertools.product((0, 1), (0, 1)):
        given = {**values, "line": torch.tensor(float(line)), "wide": torch.tensor(wide)}
        logs.append(poutine.trace(poutine.condition(choice, given)).get_trace().log_prob_sum())
    p = torch.stack(logs).softmax(0)
    seen = (2 * drawn["line"].long() + drawn["wide"]).bincount(minlength=4) / n
    assert bool(((seen - p).abs() < 4.5 * (p * (1 - p) / n).sqrt() + 1e-9).all())


@pytest.mark.slow
def test_fit_finds_the_evidence() -> None:
    """Evidence of ``choice`` by quadrature over the slope."""
    target = from_pyro(choice)
    line = torch.linspace(-8, 8, 2001)[:, None]
    exact = float((target.log_density(line).exp().sum() * 0.008).log())
    sampler = ctsgfn.fit(target, steps=200, seed=0, progress_bar=False)
    evidence = sampler.evidence(4096, seed=1)
    assert abs(evidence.log_z - exact) < 5 * evidence.stderr + 1e-3


def reaching_out() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 2):
        z = pyro.sample("z", dist.Bernoulli(0.5), infer=ALL)
    pyro.sample("y", dist.Normal(mean + z.sum(-1), 1.0), obs=torch.tensor(0.0))


def outside() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 2):
        z = pyro.sample("z", dist.Bernoulli(0.5), infer=ALL)
    pyro.sample("y", dist.Normal(mean + z, 1.0), obs=torch.tensor(0.0))


def no_plate() -> None:
    mean = pyro.sample("mean", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    z = pyro.sample("z", dist.Categorical(torch.ones(3)), infer=ALL)
    pyro.sample("y", dist.Normal(mean + z, 1.0), obs=Y.double())


def prior_given_choice() -> None:
    z = pyro.sample("z", dist.Bernoulli(0.5), infer=ALL)
    mean = pyro.sample("mean", dist.Normal(z, 1.0))
    pyro.sample("y", dist.Normal(mean, 1.0), obs=torch.tensor(0.0))


def endless() -> None:
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    n = pyro.sample("n", dist.Poisson(rate), infer=ALL)
    pyro.sample("y", dist.Normal(n, 1.0), obs=torch.tensor(0.0))


def many() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    z = [pyro.sample(f"z{t}", dist.Bernoulli(0.2), infer=ALL) for t in range(25)]
    pyro.sample("y", dist.Normal(mean + z[0], 1.0), obs=torch.tensor(0.0))


def crossed() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1)
    with rows:
        a = pyro.sample("a", dist.Bernoulli(0.5), infer=ALL)
    with columns:
        b = pyro.sample("b", dist.Bernoulli(0.5), infer=ALL)
    with rows, columns:
        pyro.sample("y", dist.Normal(mean + a * b, 1.0), obs=torch.zeros(2, 3))


def only_discrete() -> None:
    z = pyro.sample("z", dist.Categorical(torch.ones(2)), infer=ALL)
    pyro.sample("y", dist.Normal(torch.tensor([0.0, 1.0])[z], 1.0), obs=torch.tensor(0.0))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (reaching_out, "'y' has 2 values along dimension -1.*needs a plate"),
        (outside, "'z' is used outside of its plate"),
        (no_plate, "'y' has 3 values along dimension -1, which is no pyro.plate"),
        (prior_given_choice, "'mean' depends on a discrete site.*shift and scale"),
        (endless, r"'n' \(Poisson\) is marked to be enumerated and has no finite list"),
        (many, "25 discrete sites, and at most 24"),
        (crossed, "'[ab]' and '[ab]' lie in plates that cross"),
        (only_discrete, "no unobserved pyro.sample site with a density"),
    ],
)
def test_what_is_refused(model: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        from_pyro(model)


def test_models_without_choices_have_no_discrete_draws() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CtsgfnWarning)
        target = from_pyro(lambda: pyro.sample("x", dist.Normal(0.0, 1.0)))
    with pytest.raises(InvalidInput, match="no discrete sites"):
        target.discrete(torch.zeros(1, 1))
