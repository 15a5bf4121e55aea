"""What each variable would change of the evidence: near the truth, and a flow over 60 variables by it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ctsgfn.kernels.heads.informed import InformedCategorical
from ctsgfn.kernels.spaces.subsets import subset_kernels, subsets
from ctsgfn.laplace import Laplace
from ctsgfn.subset_evidence import SubsetEvidence
from ctsgfn.target import as_target
from ctsgfn.targets import LogisticSelection, PoissonSelection, RobustSelection
from ctsgfn.with_parameters import Parameterised

P = 5


def regression(family: Any) -> Any:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(60, P, generator=g, dtype=torch.float64)
    line = 0.6 * x[:, 0] - 0.4 * x[:, 1]
    y = {
        RobustSelection: line + 0.5 * torch.randn(60, generator=g, dtype=torch.float64),
        LogisticSelection: torch.bernoulli((2 * line).sigmoid(), generator=g),
        PoissonSelection: torch.poisson(line.exp(), generator=g),
    }[family]
    return family(x, y)


@pytest.mark.parametrize("family", [RobustSelection, LogisticSelection, PoissonSelection])
def test_estimates_are_near_the_differences(family: Any) -> None:
    """Of all models, adding and taking away: weak changes within 2 nats, and the signs of others."""
    evidence = SubsetEvidence(Laplace(regression(family)))
    assert SubsetEvidence.serves(evidence.target)
    x = evidence.measure.all()
    level = evidence.log_density(x)
    bits = 1 << torch.arange(P)
    other = level[(x[:, None] ^ torch.eye(P, dtype=torch.bool)).long() @ bits] - level[:, None]
    estimate = torch.where(x, evidence.losses(x), evidence.changes(x))
    weak = other.abs() < 3
    assert float((estimate - other)[weak].abs().max()) < 2.0
    assert bool((estimate[~weak].sign() == other[~weak].sign()).all())
    assert not bool(evidence.changes(x)[x].any())
    assert not bool(evidence.losses(x)[~x].any())


def test_working_response_is_the_derivative() -> None:
    for family in (RobustSelection, LogisticSelection, PoissonSelection):
        target = regression(family)
        eta = torch.randn(3, 60, dtype=torch.float64, requires_grad=True)
        phi = torch.full((3, target.nuisances), -0.5, dtype=torch.float64)
        (slope,) = torch.autograd.grad(target.log_likelihood(eta, phi).sum(), eta)
        score, weight = target.working(eta.detach(), phi)
        torch.testing.assert_close(score, slope)
        assert bool((weight > 0).all())


def test_few_parameters_of_many_are_solved_as_few() -> None:
    """Models of at most three variables of 60 are those of a table of three; evidences but for noise."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 60, generator=g, dtype=torch.float64)
    y = x[:, 7] + 0.3 * torch.randn(40, generator=g, dtype=torch.float64)
    wide, narrow = Laplace(RobustSelection(x, y)), Laplace(RobustSelection(x[:, [3, 7, 20]], y))
    model = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1]]).bool()
    place = torch.zeros(4, 60, dtype=torch.bool)
    place[:, [3, 7, 20]] = model
    prior = wide.target.prior
    shift = prior.log_prob(place.sum(-1), 60) - prior.log_prob(model.sum(-1), 3)
    evidence = narrow.log_evidence(model) + shift  # on other draws
    torch.testing.assert_close(wide.log_evidence(place), evidence, atol=0.1, rtol=0.0)
    kept = [3, 7, 20, 60, 61]
    for one, other in zip(wide.moments(place), narrow.moments(model), strict=True):
        torch.testing.assert_close(one[:, kept], other)
        assert int((one != 0).sum()) == int((other != 0).sum())
    whole = wide(place)
    torch.testing.assert_close(whole.loc[:, 0, kept], narrow(model).loc[:, 0])
    torch.testing.assert_close(
        whole.scale_tril[:, 0][:, kept][:, :, kept], narrow(model).scale_tril[:, 0], atol=1e-9, rtol=0.0
    )


def test_neighbours_are_evaluated_where_there_are_few_items() -> None:
    """A plain callable on subsets is climbed from the start; one on many items is not."""

    def level(x: Tensor) -> Tensor:
        return 2.0 * x[:, 0].double() - x[:, 1].double()

    for items, informed in ((3, True), (40, False)):
        space = subsets(items)
        forward, _ = subset_kernels(space, as_target(level, space.points), hidden=8)
        assert isinstance(forward.heads[0], InformedCategorical) == informed
    space = subsets(2)
    forward, _ = subset_kernels(space, as_target(level, space.points), hidden=8)
    law = forward(space.source(1))
    gate = math.sqrt(math.e**2 + math.e**-1)
    assert float(law.log_stop.detach().exp()) == pytest.approx(1 / (1 + gate), rel=1e-5)


def test_parameterised_targets_need_no_neighbours() -> None:
    x = Parameterised(torch.zeros(0, P, dtype=torch.bool), torch.zeros(0, P + 2, dtype=torch.float64))
    assert regression(RobustSelection).gains(x).shape == (0, P)
