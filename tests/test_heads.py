"""Every head of the registry against the contract of a density: mass 1, exact sampler, gradients.

Each statistical assertion states its false-alarm rate; seeds are fixed.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numerics import probes, quadrature, shaken, z_scores
from registry import HEADS, HeadCase
from scipy import stats
from torch import Tensor

from ctsgfn.errors import InvalidInput, MeasureMismatch, MissingExtra
from ctsgfn.kernel import Head, Kernel
from ctsgfn.kernels.heads import flows
from ctsgfn.kernels.heads.categorical import Categorical
from ctsgfn.kernels.heads.flows import Flow, spline_flow
from ctsgfn.kernels.heads.gaussian_mixture import GaussianMixture
from ctsgfn.kernels.heads.joint_von_mises import JointVonMises, JointVonMisesLaw, spread
from ctsgfn.kernels.heads.von_mises import VonMisesMixture, von_mises
from ctsgfn.measures import Atom, Counting, Haar, Lebesgue, Measure, coordinates
from ctsgfn.networks import NoContext
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.states import Batch

WIDTH = 6
NODES = {1: 4001, 2: 601}  # per axis
CONTEXTS = 3


@pytest.fixture(params=sorted(HEADS))
def case(request: pytest.FixtureRequest) -> HeadCase:
    return HEADS[request.param]


@pytest.fixture
def head(case: HeadCase) -> Head:
    return shaken(case.build(WIDTH))


def contexts(n: int = CONTEXTS) -> Tensor:
    return torch.randn(n, WIDTH, dtype=torch.float64)


def repeated(case: HeadCase, count: int, row: int, context: Tensor) -> tuple[Tensor, Any]:
    """One context, and the states that go with it, count times."""
    states = case.states(len(context))
    rows = torch.full((count,), row)
    return context[rows], None if states is None else states[rows]


def table(case: HeadCase, head: Head, context: Tensor, row: int) -> tuple[Tensor, Tensor]:
    """Quadrature nodes of the base, and the log-masses that the head puts on them."""
    x, w = quadrature(head.base, NODES[coordinates(head.base)])
    c, s = repeated(case, len(x), row, context)
    with torch.no_grad():
        return x, head(c, s, None).log_prob(x) + w


def test_base_is_a_measure(head: Head) -> None:
    assert isinstance(head.base, Measure)
    assert head.base == copy.deepcopy(head.base)
    assert hash(head.base) == hash(copy.deepcopy(head.base))


def test_shapes(case: HeadCase, head: Head) -> None:
    law = head(contexts(4), case.states(4), None)
    a = law.sample()
    assert a.shape == (4, coordinates(head.base))
    assert law.log_prob(a).shape == (4,)
    assert bool(torch.isfinite(law.log_prob(a)).all())


def test_integrates_to_one(case: HeadCase, head: Head) -> None:
    context = contexts()
    for row in range(CONTEXTS):
        _, log_mass = table(case, head, context, row)
        assert float(log_mass.logsumexp(0).exp()) == pytest.approx(1.0, abs=2e-4)


def test_sampler_matches_the_density(case: HeadCase, head: Head) -> None:
    """Means of 12 bounded functions in 3 contexts; |z| < 5.2 has a false-alarm rate of 36 * 2e-7."""
    context = contexts()
    for row in range(CONTEXTS):
        x, log_mass = table(case, head, context, row)
        expected = log_mass.exp() @ probes(x, 12)
        c, s = repeated(case, 20_000, row, context)
        with torch.no_grad():
            draws = head(c, s, None).sample()
        assert float(z_scores(probes(draws, 12), expected).abs().max()) < 5.2


def test_marginal_cdfs(case: HeadCase, head: Head) -> None:
    """Kolmogorov-Smirnov on every continuous axis; p > 1e-6 is the false-alarm rate per axis."""
    if isinstance(head.base, Counting | Atom):
        pytest.skip("not continuous")
    context = contexts()
    x, log_mass = table(case, head, context, 0)
    c, s = repeated(case, 5000, 0, context)
    with torch.no_grad():
        draws = head(c, s, None).sample()
    for axis in range(x.shape[-1]):
        nodes, where = x[:, axis].unique(return_inverse=True)
        mass = torch.zeros(len(nodes), dtype=torch.float64).index_add(0, where, log_mass.exp())
        cdf = mass.cumsum(0) - mass / 2  # the node stands for the cell around it
        spacing = float(mass.max())

        def interpolated(q: Any, nodes: Tensor = nodes, cdf: Tensor = cdf) -> Any:
            return np.interp(q, nodes.numpy(), cdf.numpy())

        result = stats.kstest(draws[:, axis].double().numpy(), interpolated)
        assert spacing < 0.05, "quadrature too coarse for this test"
        assert result.pvalue > 1e-6


def test_draws_lie_in_the_base(case: HeadCase, head: Head) -> None:
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad():
            a = copy.deepcopy(head).to(dtype)(contexts(2000).to(dtype), case.states(2000), None).sample()
        assert bool(head.base.contains(a).all())
        assert a.dtype == (torch.long if isinstance(head.base, Counting) else dtype)


def test_gradient_reaches_every_parameter(case: HeadCase, head: Head) -> None:
    context = contexts(64).requires_grad_()
    law = head(context, case.states(64), None)
    law.log_prob(law.sample()).square().sum().backward()
    for name, p in head.named_parameters():
        assert p.grad is not None, name
        assert bool(torch.isfinite(p.grad).all()), name
        assert bool((p.grad != 0).any()), name
    assert context.grad is not None
    assert bool((context.grad != 0).any())


def test_single_precision_agrees_with_double(case: HeadCase, head: Head) -> None:
    context, states = contexts(256), case.states(256)
    single = copy.deepcopy(head).float()
    with torch.no_grad():
        law = single(context.float(), states, None)
        a = law.sample()
        exact = head(context, states, None).log_prob(a if isinstance(head.base, Counting) else a.double())
        assert law.log_prob(a).dtype == torch.float32
        torch.testing.assert_close(law.log_prob(a).double(), exact, rtol=1e-4, atol=1e-4)


def test_state_dict_round_trip(case: HeadCase, head: Head) -> None:
    twin = case.build(WIDTH).double()
    twin.load_state_dict(head.state_dict())
    context, states = contexts(8), case.states(8)
    a = head(context, states, None).sample()
    assert torch.equal(twin(context, states, None).log_prob(a), head(context, states, None).log_prob(a))


def test_dead_atoms_and_axes(case: HeadCase, head: Head) -> None:
    """Dead atoms have mass exactly 0; dead axes are atoms at 0 of density exactly 1."""
    context, n = contexts(500), 500
    if not case.live:
        pytest.skip("honours no live mask")
    states = case.states(n)
    if isinstance(head.base, Counting):
        live = torch.ones(n, head.base.size, dtype=torch.bool)
        live[:, ::2] = False
        law = head(context, states, live)
        assert bool((law.sample() % 2 == 1).all())
        every = torch.stack([law.log_prob(torch.full((n, 1), i)) for i in range(head.base.size)], -1)
        assert bool((every[:, ::2] == -torch.inf).all())
        torch.testing.assert_close(every.logsumexp(-1), torch.zeros_like(every[:, 0]))
        every[:, 1::2].sum().backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in head.parameters() if p.grad is not None)
        return
    k = coordinates(head.base)
    none = torch.zeros(n, k, dtype=torch.bool)
    law = head(context, states, none)
    assert bool((law.sample() == 0).all())
    assert bool((law.log_prob(law.sample()) == 0).all())
    assert torch.equal(head(context, states, none[:, :1]).log_prob(law.sample()), torch.zeros(n).double())
    one = none.clone()
    one[:, 0] = True
    law = head(context, states, one)
    a = law.sample()
    assert bool((a[:, 1:] == 0).all())
    assert float(a[:, 0].std()) > 0
    x, w = quadrature(type(head.base)(1, *_bounds(head.base)), 2001)
    padded = torch.cat([x, x.new_zeros(len(x), k - 1)], dim=-1)
    c, s = repeated(case, len(x), 0, context)
    with torch.no_grad():
        log_mass = head(c, s, one[:1].expand(len(x), k)).log_prob(padded) + w
    assert float(log_mass.logsumexp(0).exp()) == pytest.approx(1.0, abs=2e-4)


def _bounds(base: Any) -> tuple[float, ...]:
    return (base.low, base.high) if isinstance(base, Lebesgue) else ()


class Elsewhere(Branch[Batch]):
    """A branch on a measure that no head of the registry has."""

    base = Lebesgue(7, 3.0, 5.0)

    def push(self, s: Batch, a: Tensor) -> Batch:
        return s

    def pull(self, s: Batch, t: Batch) -> Tensor:
        return torch.zeros(len(s), 7)


def test_wrong_base_is_refused(head: Head) -> None:
    reference = ReferenceKernel((Elsewhere(),), allowed=lambda s: torch.ones(len(s), 1).bool())
    with pytest.raises(MeasureMismatch, match=r"head 0 .* is a density against .* but branch 0"):
        Kernel(reference, NoContext(), [head])


# ------------------------------------------------------------------ single heads
def test_von_mises_draws_have_the_exact_moments() -> None:
    """E cos = I1/I0 and E sin = 0 from concentration 0 to 1e12 in float32; |z| < 5: rate 16 * 6e-7."""
    for kappa in (0.0, 1e-4, 0.1, 1.0, 4.0, 50.0, 1e5, 1e12):
        a = von_mises(torch.full((50_000,), kappa)).double()
        k = torch.tensor(kappa, dtype=torch.float64)
        # 1 - I1/I0 loses all digits at large kappa, where it is 1 / (2 kappa) + O(kappa^-2)
        lag = 1 - torch.special.i1e(k) / torch.special.i0e(k) if kappa < 1e5 else 1 / (2 * k)
        assert float(z_scores(2 * (a / 2).sin().square(), float(lag)).abs()) < 5.0
        assert float(z_scores(a.sin(), 0.0).abs()) < 5.0


def test_von_mises_matches_torch() -> None:
    head = VonMisesMixture(1, WIDTH, components=1).double()
    context = contexts(5)
    law = head(context, None, None)
    reference = torch.distributions.VonMises(law.loc.squeeze(), law.concentration.squeeze())
    a = torch.rand(5, 1, dtype=torch.float64) * 6 - 3
    torch.testing.assert_close(law.log_prob(a), reference.log_prob(a.squeeze(-1)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("build", [VonMisesMixture, JointVonMises])
def test_von_mises_density_is_periodic(build: type[Head]) -> None:
    law = shaken(build(2, WIDTH))(contexts(5), None, None)
    a = torch.rand(5, 2, dtype=torch.float64)
    torch.testing.assert_close(law.log_prob(a), law.log_prob(a + 2 * torch.pi), rtol=1e-12, atol=1e-12)


def test_joint_von_mises_without_shear_is_a_mixture_of_products() -> None:
    """One component has the density of independent angles, each by torch."""
    law = JointVonMises(3, WIDTH, components=1).double()(contexts(5), None, None)
    law.shear.zero_()
    each = torch.distributions.VonMises(law.loc[:, 0], law.concentration[:, 0])
    a = torch.rand(5, 3, dtype=torch.float64) * 6 - 3
    torch.testing.assert_close(law.log_prob(a), each.log_prob(a).sum(-1), rtol=1e-6, atol=1e-6)


def test_shear_near_the_centre_is_a_regression() -> None:
    """Steep components: the second angle is normal about b times the first; |z| < 5: rate 6e-7 each."""
    one, n = torch.ones(20_000, 1, 2, dtype=torch.float64), 20_000
    shear = torch.zeros(n, 1, 2, 2, dtype=torch.float64)
    shear[:, :, 1, 0] = 1.5
    a = JointVonMisesLaw(0 * one[..., 0], one, 1e4 * one, shear).sample() - 1.0
    assert float(z_scores(a[:, 0] * a[:, 1] * 1e4, 1.5).abs()) < 5.0
    assert float(z_scores((a[:, 1] - 1.5 * a[:, 0]).square() * 1e4, 1.0).abs()) < 5.0


def test_joint_components_start_evenly_spread() -> None:
    """No two of 50 are nearer than half the side of their share of the torus, in 1, 2 and 3 dimensions."""
    for dim in (1, 2, 3):
        away = spread(50, dim)[:, None] - spread(50, dim)
        distance = 2 * (away / 2).sin().abs()
        nearest = (distance.square().sum(-1) + 99 * torch.eye(50)).min().sqrt()
        assert float(nearest) > 0.5 * 2 * torch.pi / 50 ** (1 / dim)


def test_joint_von_mises_is_finite_however_large_its_context() -> None:
    head = JointVonMises(2, WIDTH, components=3)
    law = head(1e4 * torch.randn(500, WIDTH), None, None)
    log_density = law.log_prob(law.sample())
    log_density.sum().backward()
    assert bool(torch.isfinite(log_density).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in head.parameters() if p.grad is not None)


def test_von_mises_is_finite_at_extreme_concentrations() -> None:
    head = VonMisesMixture(1, WIDTH, components=1)
    with torch.no_grad():
        head.parameters_of.bias[2] = 40.0
    law = head(torch.zeros(100, WIDTH), None, None)
    log_density = law.log_prob(law.sample())
    log_density.sum().backward()
    assert bool(torch.isfinite(log_density).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in head.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VonMisesMixture(2, 4, components=0), "at least one component"),
        (lambda: VonMisesMixture(2, 4, least=-1.0), "least concentration"),
        (lambda: VonMisesMixture(0, 4), "Haar dim"),
        (lambda: JointVonMises(2, 4, components=0), "at least one component"),
        (lambda: JointVonMises(2, 4, least=float("nan")), "least concentration"),
        (lambda: GaussianMixture(2, 4, components=0), "at least one component"),
        (lambda: GaussianMixture(0, 4), "Lebesgue dim"),
        (lambda: Categorical(0, 4), "Counting size"),
        (lambda: Flow(Lebesgue(2), torch.nn.Linear(4, 2)), "needs a zuko flow .* got Linear"),
    ],
)
def test_bad_arguments(build: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()


def test_a_flow_with_other_features_than_its_base_is_refused() -> None:
    head = Flow(Lebesgue(3), spline_flow(2, WIDTH).flow)
    with pytest.raises(InvalidInput, match=r"2 features .* has 3"):
        head(torch.zeros(4, WIDTH), None, None)


def test_a_flow_refuses_dead_axes() -> None:
    with pytest.raises(InvalidInput, match="cannot switch axes off"):
        spline_flow(2, WIDTH)(torch.zeros(4, WIDTH), None, torch.ones(4, 2, dtype=torch.bool))


def test_flows_on_circles() -> None:
    import zuko

    head = Flow(Haar(2), zuko.flows.NCSF(features=2, context=WIDTH, hidden_features=(16,))).double()
    x, w = quadrature(head.base, 201)
    with torch.no_grad():
        log_mass = head(contexts(1).expand(len(x), WIDTH), None, None).log_prob(x) + w
    assert float(log_mass.logsumexp(0).exp()) == pytest.approx(1.0, abs=1e-2)


def test_missing_zuko_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(MissingExtra, match=r"pip install 'ctsgfn\[flows\]'"):
        flows.spline_flow(2, WIDTH)


def test_concentrations_do_not_overflow() -> None:
    """A log-concentration of 200, as training without a bound may reach."""
    head = VonMisesMixture(1, width=1, components=1)
    with torch.no_grad():
        head.parameters_of.bias.copy_(torch.tensor([0.0, 1.0, 200.0]))
        law = head(torch.zeros(4, 1), None, None)
        assert bool(law.log_prob(torch.ones(4, 1)).isfinite().all())
        torch.testing.assert_close(law.sample(), torch.ones(4, 1), atol=1e-2, rtol=0.0)
