"""Behaviours: whoever draws, the states are the behaviour's and the densities are the flow's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from numerics import shaken, z_scores
from registry import SPACES

from ctsgfn.balance import Wanted, balance
from ctsgfn.behaviours import (
    Behaviour,
    Guided,
    epsilon_choices,
    epsilon_uniform,
    from_data,
    guided,
    mixed,
    on_policy,
    reparameterised,
    there_and_back,
    walk_back,
)
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput
from ctsgfn.gflownet import GFlowNet
from ctsgfn.importance import Importance
from ctsgfn.kernel import Head, Kernel
from ctsgfn.kernels.default import default_kernels
from ctsgfn.kernels.heads.categorical import Categorical
from ctsgfn.kernels.heads.gaussian import widened
from ctsgfn.kernels.heads.gaussian_mixture import GaussianMixture
from ctsgfn.kernels.heads.tempered import Tempered, tempered
from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels
from ctsgfn.kernels.spaces.finite import finite
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.kernels.spaces.torus import torus, torus_kernels
from ctsgfn.measures import Lebesgue
from ctsgfn.networks import MLP, FeatureEncoder, NoContext
from ctsgfn.objectives import log_partition_variance
from ctsgfn.replay import Replay
from ctsgfn.target import as_target
from ctsgfn.training import train
from ctsgfn.trajectories import Trajectories

HOT = 2.0


def flow(name: str) -> GFlowNet[Any]:
    """A small flow of the registry with generic parameters, in float64."""
    case = SPACES[name]
    return shaken(case.kernels(case.space()))


def on(name: str) -> dict[str, Behaviour]:
    """The behaviours that can draw on a space."""
    found: dict[str, Behaviour] = {
        "on_policy": on_policy,
        "epsilon_uniform": epsilon_uniform(0.3),
        "epsilon_choices": epsilon_choices(0.3),
        "guided": guided(lambda gfn: diffuse(gfn.space.kappa).double(), 0.6),
        "there_and_back": there_and_back,
    }
    if name != "torus":
        found["tempered"] = guided(lambda gfn: tempered(gfn.forward_kernel, HOT))
    if name in ("diffusion", "ornstein_uhlenbeck"):
        found["widened"] = guided(lambda gfn: widened(gfn.forward_kernel, 1.5), 0.7)
    return found


NAMES = ("diffusion", "hypergrid", "torus", "finite")
PAIRS = [(space, behaviour) for space in NAMES for behaviour in on(space)]


# ------------------------------------------------------------------ densities are the flow's own
@pytest.mark.parametrize(("space", "behaviour"), PAIRS)
def test_recorded_densities_are_those_of_the_flow(space: str, behaviour: str) -> None:
    gfn = flow(space)
    t = on(space)[behaviour](gfn, 40)
    assert len(t) == 40
    assert t.log_forward is not None
    with torch.no_grad():
        expected = gfn.forward_kernel(t.states).log_density(t.jumps)
    torch.testing.assert_close(t.log_forward, expected, rtol=1e-8, atol=1e-8)
    assert not t.log_forward.requires_grad


@pytest.mark.parametrize(("space", "behaviour"), PAIRS)
def test_observations_are_those_of_the_flow(space: str, behaviour: str) -> None:
    gfn = flow(space)
    t = on(space)[behaviour](gfn, 10)
    seen = gfn.forward_kernel.encoder.observe(t.states)
    if seen is None:
        assert t.seen is None
        return
    assert t.seen is not None
    torch.testing.assert_close(t.seen[~t.last], seen[~t.last])


@pytest.mark.parametrize(
    "behaviour",
    ["on_policy", "epsilon_uniform", "epsilon_choices", "guided", "tempered", "widened", "there_and_back"],
)
def test_only_the_flow_itself_owns_its_draws(behaviour: str) -> None:
    """ESS and the evidence bound are computed of the rows that ``own`` marks."""
    t = on("diffusion")[behaviour](flow("diffusion"), 5)
    assert (t.own is not None and bool(t.own.all())) == (behaviour == "on_policy")


@pytest.mark.parametrize("space", NAMES)
def test_walking_back_records_both_densities(space: str) -> None:
    gfn = flow(space)
    x = gfn.space.read(on_policy(gfn, 30).final)
    t = walk_back(gfn, x)
    assert torch.equal(gfn.space.read(t.final), x)
    assert t.own is None
    b = balance(gfn, SPACES[space].target(gfn.space), t.forget(), wanted=Wanted())
    assert t.log_forward is not None
    assert t.log_backward is not None
    torch.testing.assert_close(t.log_forward, b.log_forward.detach(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(t.log_backward, b.log_backward.detach(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("behaviour", ["epsilon_uniform", "guided", "tempered"])
def test_off_policy_weights_estimate_the_same_evidence(behaviour: str) -> None:
    """E_b[(p_F / b) w] = Z, with b the mixture that drew; |z| < 5 has a false-alarm rate of 6e-7."""
    gfn = flow("hypergrid")
    target = SPACES["hypergrid"].target(gfn.space)
    kernels: dict[str, Callable[[], tuple[Kernel[Any], float]]] = {
        "epsilon_uniform": lambda: (diffuse(gfn.space.kappa).double(), 0.3),
        "guided": lambda: (diffuse(gfn.space.kappa).double(), 0.6),
        "tempered": lambda: (tempered(gfn.forward_kernel, HOT), 1.0),
    }
    other, rate = kernels[behaviour]()
    log_rest = math.log1p(-rate) if rate < 1 else -math.inf
    t = on("hypergrid")[behaviour](gfn, 4000)
    b = balance(gfn, target, t, wanted=Wanted())
    with torch.no_grad():
        guide = other(t.states).log_density(t.jumps)
        drawn = torch.logsumexp(torch.stack([math.log(rate) + guide, log_rest + b.log_forward]), 0)
        weight = (b.log_weight + b.total(b.log_forward - drawn)).exp()
    assert float(z_scores(weight, math.exp(SPACES["hypergrid"].log_z(gfn.space))).abs()) < 5


# ------------------------------------------------------------------ who draws
def test_rates_zero_and_one() -> None:
    """At rate 1 the diffuse kernel draws (1/2 stop, 1/4 per axis), at 0 the flow; |z| < 5: rate 4 * 6e-7."""
    gfn, n = flow("hypergrid"), 5000
    t = epsilon_uniform(1.0)(gfn, n)
    assert float(z_scores((t.lengths == 1).double(), 0.5).abs()) < 5
    second = t.source.roll(1) & ~t.source
    for axis in range(2):
        went = torch.zeros(n).index_add(0, t.owner[second], t.states.cell[second][:, axis].float())
        assert float(z_scores(went, 0.25).abs()) < 5
    own = epsilon_uniform(0.0)(gfn, n)
    stop = float(gfn.forward_kernel(gfn.space.source(1)).log_stop.exp().detach())
    assert float(z_scores((own.lengths == 1).double(), stop).abs()) < 5


def test_the_fraction_of_guided_states() -> None:
    """A guide that always stops, at rate 0.3: the stop at s0 is 0.3 + 0.7 p; |z| < 5: rate 6e-7."""
    gfn = flow("hypergrid")
    n = 20_000

    class Stop(torch.nn.Module):
        def forward(self, context: torch.Tensor) -> torch.Tensor:
            return torch.tensor([-1e9, 0.0], dtype=context.dtype).expand(len(context), 2)

    stopper = Kernel(gfn.space.kappa, NoContext(), list(diffuse(gfn.space.kappa).heads), Stop()).double()
    t = guided(lambda g: stopper, 0.3)(gfn, n)
    p = float(gfn.forward_kernel(gfn.space.source(1)).log_stop.exp().detach())
    assert float(z_scores((t.lengths == 1).double(), 0.3 + 0.7 * p).abs()) < 5


def test_widened_steps_are_wider() -> None:
    """Variance of the first step times 1.5^2; |z| < 5 has a false-alarm rate of 6e-7 per axis."""
    space = diffusion(2, steps=3)
    forward, backward = diffusion_kernels(space, hidden=8)
    gfn = GFlowNet(space, forward, backward)
    t = guided(lambda g: widened(g.forward_kernel, 1.5))(gfn, 20_000)
    x = t.states.x[t.states.step == 1]
    variance = float(space.kappa.branches[0].table.table[0, 1]) ** 2  # type: ignore[attr-defined]
    assert float(z_scores(x.square(), 2.25 * variance).abs().max()) < 5


def test_tempering_divides_logits_and_multiplies_variances() -> None:
    gfn = flow("hypergrid")
    s = on_policy(gfn, 20).states
    plain, hot = gfn.forward_kernel(s), tempered(gfn.forward_kernel, HOT)(s)
    torch.testing.assert_close(hot.log_mass, (plain.log_mass / HOT).log_softmax(-1))
    walker = flow("diffusion").forward_kernel
    states = diffusion(2, steps=4, sigma=1.5).source(3).like(walker.anchor)
    context = walker.encoder(states, walker.encoder.observe(states))
    head = walker.heads[0]
    assert isinstance(head, Head)
    law, warm = head(context, states, None), Tempered(head, HOT)(context, states, None)
    torch.testing.assert_close(warm.log_scale, law.log_scale + 0.5 * math.log(HOT))
    torch.testing.assert_close(warm.loc, law.loc)


def test_tempering_at_one_changes_nothing() -> None:
    gfn = flow("finite")
    t = on_policy(gfn, 50)
    with torch.no_grad():
        log_density = tempered(gfn.forward_kernel, 1.0)(t.states).log_density(t.jumps)
    torch.testing.assert_close(log_density, t.log_forward)


def test_data_are_drawn_evenly_and_walked_back() -> None:
    """Counts of four points; |z| < 5 has a false-alarm rate of 4 * 6e-7."""
    gfn = flow("hypergrid")
    data = torch.tensor([[0, 0], [3, 3], [1, 2], [2, 0]])
    t = from_data(data)(gfn, 4000)
    hits = (t.final.cell[:, None] == data).all(-1).double()
    assert torch.equal(hits.sum(-1), torch.ones(4000).double())
    assert float(z_scores(hits, 0.25).abs().max()) < 5


@pytest.mark.parametrize(
    ("behaviour", "missing"),
    [(on_policy, True), (mixed(on_policy, there_and_back, 0.5), False)],
    ids=["on_policy", "half_there_and_back"],
)
def test_orders_never_taken_are_found_by_walking_back(behaviour: Behaviour, missing: bool) -> None:
    """Two ways to one point: forwards one of them is taken, backwards both are believed in evenly.

    The flow's own draws all have the weight 1 / 2 of an evidence of 1, and nothing to learn from.
    """
    space = finite([(0, 1), (0, 2), (1, 3), (2, 3)], terminal=[3])
    torch.manual_seed(0)
    gfn = GFlowNet(space, *default_kernels(space, hidden=8)).double()
    head = gfn.forward_kernel.heads[0]
    assert isinstance(head, Categorical)
    with torch.no_grad():
        head.logits.bias[1] += 12.0
    target = as_target(lambda x: torch.zeros(len(x), dtype=torch.float64), space.points)
    train(
        gfn, target, steps=300, batch_size=32, lr=3e-2, objective=log_partition_variance, behaviour=behaviour,
        seed=0, progress_bar=False,
    )  # fmt: skip
    log_weight = Importance(gfn, target).weigh(64)[1].median()
    assert (abs(float(log_weight)) > 0.6) == missing
    assert missing or abs(float(log_weight)) < 0.02


@pytest.mark.parametrize(
    ("n", "fraction", "second"), [(100, 0.29, 29), (10, 0.5, 5), (7, 0.0, 0), (7, 1.0, 7)]
)
def test_mixed_counts(n: int, fraction: float, second: int) -> None:
    gfn = flow("hypergrid")
    corner = torch.tensor([[3, 3]])

    def away(g: GFlowNet[Any], k: int) -> Trajectories[Any]:
        return walk_back(g, torch.tensor([[0, 0]]).expand(k, 2))

    t = mixed(away, from_data(corner), fraction)(gfn, n)
    assert len(t) == n
    assert int((t.final.cell == 3).all(-1).sum()) == second


def test_mixed_keeps_densities_and_who_owns_them() -> None:
    gfn = flow("diffusion")
    t = mixed(on_policy, from_data(torch.randn(20, 2, dtype=torch.float64)), 0.25)(gfn, 8)
    assert t.own is not None
    assert t.own.tolist() == [True] * 6 + [False] * 2
    assert t.seen is not None
    assert t.log_forward is not None
    with torch.no_grad():
        expected = gfn.forward_kernel(t.states).log_density(t.jumps)
    torch.testing.assert_close(t.log_forward, expected, rtol=1e-8, atol=1e-8)
    assert t.log_backward is None  # unknown for the on-policy part


def test_reparameterised_states_carry_the_pathwise_gradient() -> None:
    """d E|x_T|^2 / d parameters by paths agrees with finite differences on the same noise."""
    space = diffusion(1, steps=3)
    forward, backward = diffusion_kernels(space, hidden=8)
    gfn = shaken(GFlowNet(space, forward, backward))
    bias = forward.heads[0].output.bias  # type: ignore[union-attr]
    assert isinstance(bias, torch.nn.Parameter)

    def loss() -> torch.Tensor:
        torch.manual_seed(0)
        return reparameterised(gfn, 50).final.x.square().mean()

    (gradient,) = torch.autograd.grad(loss(), bias)
    step = 1e-5
    with torch.no_grad():
        bias[0] += step
        up = float(loss())
        bias[0] -= 2 * step
        down = float(loss())
    assert float(gradient[0]) == pytest.approx((up - down) / (2 * step), rel=1e-5)


# ------------------------------------------------------------------ refusals
def test_bad_rates() -> None:
    for make in (epsilon_uniform, lambda v: mixed(on_policy, on_policy, v)):
        with pytest.raises(InvalidInput, match=r"must be in \[0, 1\], got 1\.5"):
            make(1.5)
    gfn = flow("hypergrid")
    with pytest.raises(InvalidInput, match=r"rate must be in \[0, 1\], got -0\.1"):
        guided(lambda g: g.forward_kernel, -0.1)(gfn, 3)
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InvalidInput, match="temperature must be a positive number"):
            tempered(gfn.forward_kernel, temperature)
    with pytest.raises(InvalidInput, match="factor must be positive"):
        widened(flow("diffusion").forward_kernel, 0.0)


def test_a_guide_on_another_reference_is_refused() -> None:
    gfn, other = flow("hypergrid"), flow("hypergrid")
    with pytest.raises(InvalidInput, match="build the guide on the same reference kernel"):
        Guided(gfn.forward_kernel, other.forward_kernel)


def test_a_guided_walk_has_no_pathwise_gradient() -> None:
    from ctsgfn.walks import rollout

    gfn = flow("diffusion")
    walker = Guided(gfn.forward_kernel, gfn.forward_kernel)
    with pytest.raises(InvalidInput, match="no pathwise gradient"):
        rollout(gfn.space, walker, 3, reparameterised=True)


def test_choices_have_no_pathwise_gradient() -> None:
    with pytest.raises(InvalidInput, match="a choice has no pathwise gradient"):
        reparameterised(flow("hypergrid"), 3)


def test_laws_without_a_closed_power_are_not_tempered() -> None:
    space = torus(1, steps=2)
    forward, backward = torus_kernels(space, hidden=8, layers=1)
    gfn = GFlowNet(space, forward, backward)
    with pytest.raises(InvalidInput, match="no power of VonMisesMixtureLaw has a closed form"):
        guided(lambda g: tempered(g.forward_kernel, 2.0))(gfn, 3)


def test_laws_that_are_not_normal_are_not_widened() -> None:
    space = diffusion(1, steps=2)
    encoder = FeatureEncoder(space.features, MLP(space.width, 4), 4)
    kernel = Kernel(space.kappa, encoder, [GaussianMixture(1, 4, components=2)])
    gfn = GFlowNet(space, kernel, diffuse(space.kappa_b))
    with pytest.raises(InvalidInput, match="needs a head with a normal law, got GaussianMixtureLaw"):
        guided(lambda g: widened(g.forward_kernel, 2.0))(gfn, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(4, 3), r"points of shape \[3\], but .* has points \[B, 2\]"),
        (torch.tensor([[0.0, math.nan]]), r"the point \[0\.0, nan\], outside the Lebesgue measure on R\^2"),
    ],
)
def test_data_outside_the_space_are_refused(data: torch.Tensor, message: str) -> None:
    space = diffusion(2, steps=2)
    gfn = GFlowNet(space, *diffusion_kernels(space, hidden=8))
    with pytest.raises(InvalidInput, match=message):
        from_data(data)(gfn, 3)


def test_cells_outside_the_grid_are_refused() -> None:
    space = hypergrid(2, 3)
    gfn = GFlowNet(space, *hypergrid_kernels(space, hidden=8))
    with pytest.raises(InvalidInput, match=r"the point \[3, 0\], outside"):
        from_data(torch.tensor([[3, 0]]))(gfn, 2)


def test_no_data() -> None:
    with pytest.raises(InvalidInput, match="at least one point"):
        from_data(torch.zeros(0, 2))


def test_memories_are_not_mixed_from_outside() -> None:
    """mixed would never show them a batch: the memory would stay empty without a word."""
    with pytest.raises(InvalidInput, match="Replay has a memory, which mixed would never fill"):
        mixed(on_policy, Replay(10), 0.5)


def test_the_diffuse_walker_follows_the_dtype_of_the_flow() -> None:
    gfn = flow("diffusion")
    t = epsilon_uniform(0.5)(gfn, 4)
    assert t.states.x.dtype == torch.float64
    target = as_target(lambda x: -x.square().sum(-1), Lebesgue(2))
    assert balance(gfn, target, t, wanted=Wanted()).log_weight.dtype == torch.float64
