"""What Pyro models can do that a target cannot follow: refused or warned of, by the name of the site."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from ctsgfn.errors import CtsgfnWarning, InvalidInput, NonFinite
from ctsgfn.from_pyro import from_pyro
from ctsgfn.target import evaluate, score

Y = torch.tensor([0.5, -0.5, 1.0])


def normal_data(mean: Any) -> None:
    """Three observations about a mean."""
    pyro.sample("y", dist.Normal(mean, 1.0).expand([3]).to_event(1), obs=Y)


def even() -> Any:
    return dist.Categorical(torch.tensor([0.5, 0.5]))


# ------------------------------------------------------------------ traps: refused
def site(law: Callable[[], Any]) -> Callable[[], None]:
    """A model of one latent site and data about its sum."""

    def model() -> None:
        x = pyro.sample("x", law())
        normal_data(x.sum())

    return model


def data(law: Callable[[Tensor], Any], values: Any, **options: Any) -> Callable[[], None]:
    """A model with a normal mean, and data."""

    def model() -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("y", law(mean), obs=values, **options)

    return model


def subsampled() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 3, subsample_size=2) as rows:
        pyro.sample("y", dist.Normal(mean, 1.0), obs=Y[rows])


def subset() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 3, subsample=torch.tensor([0, 1])) as rows:
        pyro.sample("y", dist.Normal(mean, 1.0), obs=Y[rows])


def partly_observed() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 3):
        seen = torch.tensor([True, False, True])
        pyro.sample("y", dist.Normal(mean, 1.0), obs=Y, obs_mask=seen)


def hidden() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    normal_data(mean + torch.randn(()))


def blocked() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with poutine.block():
        more = pyro.sample("more", dist.Normal(0.0, 1.0))
    normal_data(mean + more)


def comes() -> None:
    if pyro.sample("mean", dist.Normal(0.0, 1.0)) > 0:
        pyro.sample("extra", dist.Normal(0.0, 1.0))
    normal_data(0.0)


def goes() -> None:
    if pyro.sample("mean", dist.Normal(0.0, 1.0)) <= 0:
        pyro.sample("extra", dist.Normal(0.0, 1.0))
    normal_data(0.0)


def doubled() -> None:
    first = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(first, 1.0))


def two_types() -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(torch.eye(3).double() @ w, 1.0).to_event(1), obs=Y.double())


def unset() -> None:
    pyro.sample("x", dist.Normal(pyro.param("nowhere"), 1.0))


def mask_site() -> Any:
    return dist.Normal(torch.zeros(3), 1.0).mask(torch.tensor([True, False, True])).to_event(1)


def mixed_uniform() -> Any:
    return dist.MixtureSameFamily(even(), dist.Uniform(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "discrete": (
        site(lambda: dist.Bernoulli(0.5)),
        r"latent site 'x' \(Bernoulli\) is discrete.*sum it out.*MixtureSameFamily",
    ),
    "categorical": (site(lambda: dist.Categorical(torch.ones(3))), r"'x' \(Categorical\) is discrete"),
    "improper": (
        site(lambda: dist.ImproperUniform(dist.constraints.real, (), ())),
        "'x' has an improper prior, so the model has no evidence: give it a proper one",
    ),
    "point mass": (site(lambda: dist.Delta(torch.ones(()))), r"'x' is a point mass.*use pyro.deterministic"),
    "not a law": (site(lambda: torch.ones(2)), "site 'x' samples from .* is not a distribution"),
    "sphere": (
        site(lambda: dist.ProjectedNormal(torch.ones(3))),
        r"support of latent site 'x' \(ProjectedNormal\) has no known bijection",
    ),
    "uniform mixture": (site(mixed_uniform), r"'x' \(MixtureSameFamily\) has no known bijection"),
    "masked latent": (site(mask_site), "latent site 'x' is masked.*sample only what the mask keeps"),
    "obs_mask": (partly_observed, "latent site 'y_unobserved' is masked.*instead of obs_mask"),
    "subsampling": (subsampled, "plate 'rows' subsamples 2 of 3 rows.*pass the full data"),
    "subsample given": (subset, "plate 'rows' subsamples 2 of 3 rows"),
    "no latents": (lambda: None, "no unobserved pyro.sample site"),
    "hidden randomness": (hidden, "random numbers outside its visible pyro.sample sites.*make them sites"),
    "blocked site": (blocked, "random numbers outside its visible pyro.sample sites"),
    "site that comes": (comes, "latent site 'extra' was not there in the model's first run"),
    "site that goes": (goes, r"latent sites \['extra'\] of the model come and go"),
    "same name twice": (doubled, "two sites of the model are called 'x': rename one"),
    "two types": (two_types, "mixes floating-point types.*convert the data"),
    "no parameter": (unset, "pyro.param 'nowhere' has no value yet"),
    "nan in data": (
        data(lambda m: dist.Normal(m, 1.0), torch.tensor([1.0, math.nan])),
        r"observed site 'y' has NaN among its values, first at index \[1\]",
    ),
    "data off the support": (
        data(lambda m: dist.Exponential(m.exp()), torch.tensor([1.0, -1.0])),
        r"'y' has a value outside the support of Exponential, at index \[1\]: look at the data",
    ),
    "data that multiply": (
        data(lambda m: dist.Normal(m * torch.ones(3), 1.0).to_event(0), Y[:, None]),
        r"'y' has values of shape \[3, 1\] and a distribution of shape \[3\], which multiply to \[3, 3\]",
    ),
    "negative scale": (
        data(lambda m: dist.Normal(m, torch.tensor(-1.0)), Y),
        r"site 'y' of the model has a log-density that is not a number at mean = 0.0",
    ),
    "not callable": (3.0, "needs a callable model, got float"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_traps_are_refused_by_name(name: str) -> None:
    model, message = REFUSED[name]
    with pytest.raises(InvalidInput, match=message):
        from_pyro(model)


def test_a_models_own_error_comes_through() -> None:
    def broken() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        from_pyro(broken)


# ------------------------------------------------------------------ traps: done, with a warning
def forked() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    normal_data(mean if mean > 0 else -mean)


def flat() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    normal_data(mean.abs())


def leaking() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    normal_data(mean.item())


WARNED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "control flow": (
        forked,
        "runs point by point.*data-dependent control flow, at `normal_data",
        "no Python",
    ),
    "item": (leaking, r"calling .item\(\)", "gradient misses what passes through item"),
}


@pytest.mark.parametrize("name", WARNED)
def test_what_vmap_cannot_run_runs_point_by_point(name: str) -> None:
    model, reason, consequence = WARNED[name]
    with pytest.warns(CtsgfnWarning, match=f"{reason}.*{consequence}") as caught:
        target = from_pyro(model)
    assert caught[0].filename == __file__, "the warning points at the caller's line"
    assert not target.batched
    u = torch.randn(5, 1)
    trace = [
        poutine.trace(poutine.condition(model, data={"mean": row[0]})).get_trace().log_prob_sum() for row in u
    ]
    torch.testing.assert_close(evaluate(target, u), torch.stack(trace))
    assert tuple(target.constrain(u)["mean"].shape) == (5,)
    torch.testing.assert_close(target.unconstrain(target.constrain(u)), u)


def test_point_by_point_agrees_with_batched() -> None:
    with pytest.warns(CtsgfnWarning, match="point by point"):
        slow = from_pyro(forked)
    fast, u = from_pyro(flat), torch.randn(6, 1)
    torch.testing.assert_close(slow.log_density(u), fast.log_density(u))
    torch.testing.assert_close(score(slow, u), score(fast, u))
    leaf = u.requires_grad_()
    (gradient,) = torch.autograd.grad(slow.log_density(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, score(fast, u))


def test_no_data_is_pointed_out() -> None:
    with pytest.warns(CtsgfnWarning, match="no site of the model is observed"):
        from_pyro(lambda: pyro.sample("x", dist.Normal(0.0, 1.0)))


def test_mass_at_the_edge_of_what_numbers_can_tell_is_pointed_out() -> None:
    """Beta(0.05, 0.05) has a fifth of its mass within 6e-8 of 1: log Z was a nat too low."""

    def edges() -> None:
        p = pyro.sample("p", dist.Beta(torch.full((4,), 0.05), 0.05).to_event(1))
        normal_data(p.sum())

    with pytest.warns(CtsgfnWarning, match=r"\d+ % of the prior draws of site 'p' lie nearer.*torch.float32"):
        from_pyro(edges)


# ------------------------------------------------------------------ hard limits
def limited() -> None:
    top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
    pyro.sample("y", dist.Pareto(top, 2.0), obs=torch.tensor([1.0, 1.2]))  # impossible where top > 1


def test_hard_limits_need_a_floor() -> None:
    with pytest.warns(CtsgfnWarning, match=r"site 'y' of the model has density 0 at top = .*floored"):
        target = from_pyro(limited)
    u = torch.tensor([[-1.0], [0.5]])
    assert target.log_density(u).isinf().tolist() == [False, True], "Pyro alone gives a number at both"
    with pytest.raises(
        NonFinite,
        match=r"row 1, the point \[0.5\].*the site 'y' is impossible there: use from_pyro\(..\).floored",
    ):
        evaluate(target, u)
    floored = target.floored(-100.0)
    assert evaluate(floored, u)[1] == -100.0
    assert evaluate(floored, u)[0] == target.log_density(u)[0]
    assert floored.score(u)[1] == 0.0
    assert floored.score(u)[0] == target.score(u)[0] != 0.0
    with pytest.raises(InvalidInput, match="floor must be a finite number, got -inf"):
        target.floored(-math.inf)
