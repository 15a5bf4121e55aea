"""Models that vmap cannot run as they are: run at once all the same, as single runs would."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.from_pyro import from_pyro
from ctsgfn.pyro_ways import Amended, Mapped, OneByOne, SideBySide, Way


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def scalar(name: str = "a") -> Tensor:
    value: Tensor = pyro.sample(name, dist.Normal(0.0, 1.0))
    return value


def vector(size: int = 3) -> Tensor:
    value: Tensor = pyro.sample("b", dist.Normal(torch.zeros(size), 1.0).to_event(1))
    return value


def seen(law: Any, *data: float) -> None:
    pyro.sample("y", law, obs=torch.tensor(data))


def multinomial() -> None:
    seen(dist.Multinomial(10, logits=vector()), 1.0, 2.0, 7.0)


def ordered_logistic() -> None:
    cuts = scalar() + torch.tensor([0.0, 1.0])
    pyro.sample("y", dist.OrderedLogistic(vector(), cuts).to_event(1), obs=torch.tensor([0, 1, 2]))


def kalman() -> None:
    unit = dist.Normal(0.0, 1.0).expand([2]).to_event(1)
    turn, noise = torch.eye(2) * scalar().tanh(), dist.Normal(0.0, vector(2).exp()).to_event(1)
    law = dist.GaussianHMM(unit, turn, unit, torch.eye(2), noise, duration=4)
    pyro.sample("y", law, obs=torch.full((4, 2), 0.3))


def filled() -> None:
    x = torch.zeros(3)
    x[0] = scalar()
    x[1:] = vector(2)
    seen(dist.Normal(x, 1.0).to_event(1), 0.5, -0.5, 1.0)


def imputed() -> None:
    data = torch.tensor([0.3, torch.nan, 1.0])
    x = data.clone()
    x[data.isnan()] = scalar()
    x[x < 0] = 0.0
    seen(dist.Normal(scalar("slope") * x, 1.0).to_event(1), 0.5, -0.5, 1.0)


def hidden_markov() -> None:
    b = vector()
    moves = torch.stack([b[..., :2], b[..., 1:]], -2).log_softmax(-1)[..., None, :, :]
    law = dist.DiscreteHMM(torch.zeros(2), moves, dist.Normal(b[..., None, :2], 1.0), duration=5)
    seen(law, 0.1, 0.2, 0.3, 0.4, 0.5)


def skewed() -> None:
    b = vector(2)
    around = dist.VonMises(b[..., :1], b[..., 1:].exp()).to_event(1)
    seen(dist.SineSkewed(around, scalar().tanh()[..., None] / 2), 0.4)


def stable_in_plates() -> None:
    heavy = scalar().sigmoid() + 0.9
    with pyro.plate("groups", 2):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("rows", 3):
            law = dist.StableWithLogProb(heavy, 0.0, scale, 0.0)
            pyro.sample("y", law, obs=torch.arange(6.0).reshape(3, 2))


MODELS: dict[str, tuple[Callable[[], None], type[Way]]] = {
    "multinomial": (multinomial, Amended),
    "ordered logistic": (ordered_logistic, Amended),
    "kalman filter": (kalman, Amended),
    "assignment": (filled, Amended),
    "assignment by a mask": (imputed, Amended),
    "hidden markov": (hidden_markov, SideBySide),
    "skewed": (skewed, SideBySide),
    "stable in two plates": (stable_in_plates, SideBySide),
}


@pytest.mark.parametrize("name", MODELS)
def test_many_points_at_once_as_one_by_one(name: str) -> None:
    model, way = MODELS[name]
    target = from_pyro(model)  # a warning is an error here
    assert target.way is way
    alone = replace(target, way=OneByOne)
    mapped, points = replace(target, way=Mapped), torch.zeros(2, target.measure.dim)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what vmap says on the way to failing
        with pytest.raises(RuntimeError):
            mapped.log_density(points)
    for count in (1, 2, 3, 7):  # 2 and 3 are also dimensions of the models
        u = torch.randn(count, target.measure.dim)
        torch.testing.assert_close(target.log_density(u), alone.log_density(u), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(target.score(u), alone.score(u), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(target.unconstrain(target.constrain(u)), u)
    assert target.deterministic(u) == {}


def test_chunks_of_points_side_by_side() -> None:
    target = from_pyro(hidden_markov)
    u = torch.randn(9, 3)
    torch.testing.assert_close(replace(target, chunk=4).log_density(u), target.log_density(u))


def in_place() -> None:
    x = torch.zeros(3)
    for i in range(1, 3):
        x[i] = scalar(f"e{i}") * x[i - 1] + 1.0  # what torch itself cannot differentiate
    seen(dist.Normal(x, 1.0).to_event(1), 0.5, -0.5, 1.0)


def test_a_model_without_gradient_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"no gradient \(one of the variables.*torch.stack a list"):
        from_pyro(in_place)
