"""Stan models as targets, by a small object that has BridgeStan's methods and a density known by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import ctsgfn
from ctsgfn.counted import CountedTarget
from ctsgfn.errors import InvalidInput, NonFinite
from ctsgfn.from_stan import METHODS, from_stan
from ctsgfn.target import HasConstrain, HasScore, evaluate, score

PRIOR = 1.5


class Normals:
    """tau ~ lognormal(0.5, 0.8); beta: 2 x 2, normal(0, PRIOR); two transformed parameters.

    The density is normalised and Stan-like: log tau is the coordinate, dropped constants and the Jacobian
    are asked for by name, matrices come column by column, and tau > e^3 is rejected.
    """

    limit = 3.0

    def param_unc_num(self) -> int:
        return 5

    def param_names(self, *, include_tp: bool = False, include_gq: bool = False) -> list[str]:
        assert not include_gq
        beta = [f"beta.{i}.{j}" for j in (1, 2) for i in (1, 2)]
        return ["tau", *beta, *(["shifted.1", "shifted.2", "w.real", "w.imag"] if include_tp else [])]

    def param_constrain(
        self, theta_unc: Any, *, include_tp: bool = False, include_gq: bool = False
    ) -> np.ndarray:
        tau, beta = np.exp(theta_unc[:1]), theta_unc[1:]
        extra = [beta[:2] + tau, tau, -tau] if include_tp else []
        return np.concatenate([tau, beta, *extra])

    def log_density(self, theta_unc: Any, *, propto: bool = True, jacobian: bool = True) -> float:
        return self.log_density_gradient(theta_unc, propto=propto, jacobian=jacobian)[0]

    def log_density_gradient(
        self, theta_unc: Any, *, propto: bool = True, jacobian: bool = True
    ) -> tuple[float, np.ndarray]:
        assert theta_unc.dtype == np.float64
        u, beta = theta_unc[0], theta_unc[1:]
        if u > self.limit:
            raise RuntimeError("Exception: lognormal_lpdf: tau is too large (in 'model.stan', line 7)\nstack")
        value = -0.5 * ((u - 0.5) / 0.8) ** 2 - u - 0.5 * (beta @ beta) / PRIOR**2
        slope = np.concatenate([[-(u - 0.5) / 0.8**2 - 1], -beta / PRIOR**2])
        if not propto:
            value -= math.log(0.8 * PRIOR**4) + 2.5 * math.log(2 * math.pi)
        if jacobian:
            value, slope[0] = value + u, slope[0] + 1
        return float(value), slope


def by_scipy(u: Tensor) -> Tensor:
    x = u.double().numpy()
    tau = stats.lognorm(0.8, scale=math.exp(0.5)).logpdf(np.exp(x[:, 0])) + x[:, 0]
    return torch.from_numpy(tau + stats.norm(0, PRIOR).logpdf(x[:, 1:]).sum(-1))


def test_density_has_all_constants_and_the_jacobian() -> None:
    target, u = from_stan(Normals()), torch.randn(20, 5, dtype=torch.float64)
    assert target.measure == ctsgfn.Lebesgue(5)
    torch.testing.assert_close(evaluate(target, u), by_scipy(u), rtol=1e-12, atol=1e-12)
    single = evaluate(target, u.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, by_scipy(u).float())


def test_gradient_is_stans_own() -> None:
    target, u = from_stan(Normals()), torch.randn(6, 5, dtype=torch.float64)
    assert isinstance(target, HasScore)
    step = 1e-6 * torch.eye(5, dtype=torch.float64)
    differences = torch.stack([(by_scipy(u + h) - by_scipy(u - h)) / 2e-6 for h in step], -1)
    torch.testing.assert_close(score(target, u), differences, rtol=1e-6, atol=1e-6)
    leaf = u.clone().requires_grad_()
    value = target.log_density(leaf)
    torch.testing.assert_close(value.detach(), by_scipy(u))
    weights = torch.arange(6.0, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((value * weights).sum(), leaf)
    torch.testing.assert_close(gradient, weights[:, None] * score(target, u))


def test_gradient_cannot_be_differentiated_again() -> None:
    target, leaf = from_stan(Normals()), torch.randn(2, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(target.log_density(leaf).sum(), leaf, create_graph=True)
    with pytest.raises(InvalidInput, match="Stan gives no second derivatives"):
        gradient.sum().backward()


def test_values_by_name() -> None:
    u = torch.randn(3, 5)
    target = from_stan(Normals())
    assert isinstance(target, HasConstrain)
    values = target.constrain(u)
    assert {name: tuple(v.shape) for name, v in values.items()} == {"tau": (3,), "beta": (3, 2, 2)}
    torch.testing.assert_close(values["tau"], u[:, 0].exp())
    torch.testing.assert_close(values["beta"], u[:, 1:].reshape(3, 2, 2).mT, msg="Stan counts by columns")
    more = from_stan(Normals(), transformed=True)
    assert {n: tuple(s) for n, s in more.sites.items()} == {
        "tau": (), "beta": (2, 2), "shifted": (2,), "w.real": (), "w.imag": (),
    }  # fmt: skip
    torch.testing.assert_close(more.constrain(u)["shifted"], u[:, 1:3] + u[:, :1].exp())
    torch.testing.assert_close(more.constrain(u)["w.imag"], -u[:, 0].exp())


class Everywhere(Normals):
    """The same, and no point is rejected: log Z = 0."""

    limit = math.inf


def test_evidence_and_posterior_by_fit() -> None:
    target = from_stan(Everywhere())
    sampler = ctsgfn.fit(target, steps=10, kernel="mixture", seed=0, progress_bar=False)
    evidence = sampler.evidence(1024, seed=1)
    assert abs(float(evidence.log_z)) < 5 * float(evidence.stderr) + 1e-6  # p < 6e-7
    draws = sampler.posterior(1000, seed=2)
    assert tuple(draws["beta"].shape) == (1000, 2, 2)
    z = (draws["tau"].log().mean() - 0.5) / (0.8 / math.sqrt(1000))
    assert abs(float(z)) < 6  # the pool of draws is resampled, so not quite independent


# ------------------------------------------------------------------ rejected points
def test_rejected_points_are_refused_with_stans_reason() -> None:
    target, u = from_stan(Normals()), torch.tensor([[0.0, 1, 1, 1, 1], [4.0, 0, 0, 0, 0.5]])
    assert target.log_density(u).isinf().tolist() == [False, True]
    assert target.score(u)[1].abs().max() == 0
    message = (
        r"row 1, the point \[4.0, 0.0, 0.0, 0.0, 0.5\].*rejects it \(Exception: lognormal_lpdf: tau .* floor="
    )
    with pytest.raises(NonFinite, match=message):
        evaluate(target, u)


def test_rejected_points_count_at_the_floor() -> None:
    target, u = (
        from_stan(Normals(), floor=-50.0),
        torch.tensor([[0.0] * 5, [4.0] * 5, [0.0, 40, 0, 0, 0]]),
    )
    value, slope = target.value_and_score(u)
    assert value[1:].tolist() == [-50.0, -50.0]
    torch.testing.assert_close(value[:1].double(), by_scipy(u[:1]), rtol=1e-6, atol=1e-6)
    assert slope[1:].abs().max() == 0, "flat at the floor"
    assert slope[0].abs().max() > 0
    assert CountedTarget(target).value(u).tolist() == value.tolist()


def test_values_that_are_not_numbers_are_refused() -> None:
    class Broken(Normals):
        def log_density_gradient(
            self, theta_unc: Any, *, propto: bool = True, jacobian: bool = True
        ) -> tuple[float, np.ndarray]:
            value, slope = super().log_density_gradient(theta_unc, propto=propto, jacobian=jacobian)
            return (math.nan if theta_unc[0] < -1 else value), slope

    target = from_stan(Broken(), floor=-50.0)
    with pytest.raises(NonFinite, match=r"is nan at row 0, the point .* mend the Stan model there"):
        evaluate(target, torch.full((1, 5), -2.0))


# ------------------------------------------------------------------ bad models
class Nothing(Normals):
    def param_unc_num(self) -> int:
        return 0


class Impossible(Normals):
    limit = -math.inf


class Misnamed(Normals):
    def param_names(self, *, include_tp: bool = False, include_gq: bool = False) -> list[str]:
        return ["tau"]


class Short(Normals):
    def param_unc_num(self) -> int:
        return 6


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Nothing(), "has no parameters: there is nothing to infer"),
        (Impossible(), "rejected all of 8 points near 0, the last with: Exception: lognormal_lpdf"),
        (Misnamed(), r"param_constrain gives \[5\] for 1 names: these must agree"),
        (Short(), r"gradient has shape \[6\] for 6 coordinates, and param_constrain gives \[6\] for 5 names"),
        (object(), rf"needs an object with BridgeStan's methods, and this object lacks {', '.join(METHODS)}"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_bad_models_are_refused(model: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        from_stan(model)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InvalidInput, match="floor must be a finite number or None, got -inf"):
        from_stan(Normals(), floor=-math.inf)
    with pytest.raises(InvalidInput, match=r"has 5 unconstrained coordinates, got points \[2, 3\]"):
        from_stan(Normals()).log_density(torch.zeros(2, 3))
