"""Every space of the registry against the theory: charts, masses, edges, the waist and its gradient.

Each statistical assertion states its false-alarm rate; seeds are fixed.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from numerics import quadrature, shaken, z_scores
from registry import SPACES, SpaceCase
from torch import Tensor

from ctsgfn import objectives
from ctsgfn.balance import balance
from ctsgfn.diffuse import Diffuse, diffuse
from ctsgfn.errors import NoSuchEdge
from ctsgfn.gflownet import GFlowNet
from ctsgfn.gradient import backpropagate
from ctsgfn.kernel import Kernel, Law
from ctsgfn.measures import Counting, Haar, Measure, coordinates, wrap
from ctsgfn.objectives import Objective, trajectory_balance
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.states import Batch, Jump
from ctsgfn.trajectories import Trajectories
from ctsgfn.walks import backtrack, rollout

OBJECTIVES = {name: value for name, value in vars(objectives).items() if isinstance(value, Objective)}
NODES = {0: 1, 1: 4001, 2: 401}  # per axis


@pytest.fixture(params=sorted(SPACES))
def case(request: pytest.FixtureRequest) -> SpaceCase:
    return SPACES[request.param]


@pytest.fixture
def gfn(case: SpaceCase) -> GFlowNet[Any]:
    """Generic learned kernels, in float64."""
    return shaken(case.kernels(case.space()))


def walker(case: SpaceCase) -> GFlowNet[Any]:
    """The kernels without parameters, in float64."""
    space = case.space()
    return GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b)).double()


def edges_of(trajectories: Trajectories[Any]) -> tuple[Any, Any]:
    """Both ends of the edges that do not stop."""
    s, jump = trajectories.edges(0, len(trajectories.owner))
    return s[~jump.stop], jump.target[~jump.stop]


def same(a: Batch, b: Batch, tolerance: float = 0.0) -> None:
    for u, v in zip(a.tensors().values(), b.tensors().values(), strict=True):
        torch.testing.assert_close(u, v, rtol=0.0, atol=tolerance)


# ------------------------------------------------------------------ the pointed graph
def test_source(case: SpaceCase) -> None:
    space = case.space()
    s = space.source(3).like(torch.zeros((), dtype=torch.float64))
    same(s[:1], s[2:])
    assert space.progress(s).tolist() == [0.0, 0.0, 0.0]
    assert bool(space.nu.contains(s).all())
    assert not bool(space.kappa_b.open(s).any()), "kappa_b must have no edge out of s0"
    with pytest.raises(NoSuchEdge):
        diffuse(space.kappa_b)(s).log_mass  # noqa: B018


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_walks_end_and_are_edges_both_ways(case: SpaceCase, dtype: torch.dtype) -> None:
    """Equations 1 and 7: diffuse walks are absorbed in time, and each kernel has the other's edges."""
    space = case.space()
    there, back = diffuse(space.kappa).to(dtype), diffuse(space.kappa_b).to(dtype)
    out = rollout(space, there, 400)
    home = backtrack(space, back, out.final)
    for walk in (out, home):
        assert int(walk.lengths.max()) <= space.horizon
        assert float(space.progress(walk.states).max()) <= space.horizon - 1
        if space.synchronous:
            assert space.kappa.sink is not None
            assert bool((walk.lengths == space.horizon).all())
            assert torch.equal(space.kappa.sink(walk.states), walk.last)
        s, t = edges_of(walk)
        assert float((space.progress(t) - space.progress(s)).min()) >= 1 - 1e-4
        assert bool((space.progress(walk.states)[walk.source] == 0).all())
        assert bool((space.progress(walk.states)[~walk.source] > 0).all())
        assert bool(space.nu.contains(walk.states).all())
        jump = walk.jumps
        assert bool(torch.isfinite(there(walk.states).log_density(jump)).all())
        assert bool(torch.isfinite(back(t).log_density_to(s)).all())
        assert bool(torch.isfinite(back(t).log_density(Jump(s, torch.zeros(len(s)).bool()))).all())
        assert all(c.dtype == dtype for c in walk.states.tensors().values() if c.is_floating_point())
    same(home.final, out.final)


def test_terminal_states_are_points(case: SpaceCase) -> None:
    space = case.space()
    final = rollout(space, walker(case).forward_kernel, 300).final
    x = space.read(final)
    assert space.kappa.sink is not None
    assert bool(space.kappa.sink(final).all())
    assert bool(space.points.contains(x).all())
    same(space.write(x), final)
    assert bool(space.kappa.sink(space.write(space.points.probe(100)[0])).all())
    target = case.target(space)
    assert target.measure == space.points
    assert target.log_density(x).shape == (300,)


def test_nu_probes(case: SpaceCase) -> None:
    space = case.space()
    s, w = space.nu.probe(500)
    assert bool(space.nu.contains(s).all())
    torch.testing.assert_close(space.nu.log_probe(s).double(), -w)
    assert float(space.progress(s).max()) <= space.horizon - 1
    home = backtrack(space, walker(case).backward_kernel, s)
    assert bool((space.progress(home.states)[home.source] == 0).all())


def test_forced_means_one_choice(case: SpaceCase, gfn: GFlowNet[Any]) -> None:
    space = gfn.space
    walk = rollout(space, walker(case).forward_kernel, 300)
    for reference, s in ((space.kappa, walk.states), (space.kappa_b, edges_of(walk)[1])):
        is_open = reference.open(s)
        assert bool(is_open.any(-1).all())
        if reference.forced:
            assert bool((is_open.sum(-1) == 1).all())


# ------------------------------------------------------------------ charts
def on_branch(reference: ReferenceKernel[Any], s: Any, k: int) -> tuple[Any, Tensor]:
    """States at which branch k is open, and diffuse coordinates on it."""
    branch = reference.branches[k]
    s = s[reference.allowed(s)[:, k]]
    context = torch.zeros(len(s), 0, dtype=torch.float64)
    return s, Diffuse(branch.base)(context, s, branch.live(s)).sample()


def test_charts_invert(case: SpaceCase) -> None:
    space = case.space()
    walk = rollout(space, walker(case).forward_kernel, 300)
    for reference, states, way in ((space.kappa, walk.states, 1), (space.kappa_b, edges_of(walk)[1], -1)):
        for k, branch in enumerate(reference.branches):
            s, a = on_branch(reference, states, k)
            assert len(s) > 0, f"branch {k} of {reference.name} was never open"
            t = branch.push(s, a)
            assert bool((reference.locate_move(s, t) == k).all())
            assert bool(torch.isfinite(branch.log_weight(s, a)).all())
            assert float((way * (space.progress(t) - space.progress(s))).min()) >= 1 - 1e-9
            difference = branch.pull(s, t) - a
            if isinstance(branch.base, Haar):
                difference = wrap(difference)
            assert difference.numel() == 0 or float(difference.abs().max()) < 1e-6
            same(branch.push(s, branch.pull(s, t)), t, 1e-9)


def integral(law_of: Kernel[Any], s: Any, k: int) -> float:
    """Integral of p(s, .) over the part of the reference kernel on branch k, at the one state s."""
    branch: Branch[Any] = law_of.reference.branches[k]
    live = branch.live(s)
    if isinstance(branch.base, Counting):
        a, w = quadrature(branch.base, 0)
        kept = slice(None) if live is None else live[0]
        a, w = a[kept], w[kept]
    else:
        a, w = _on_live_axes(branch.base, live)
    s = s[torch.zeros(len(a), dtype=torch.long)]
    t = branch.push(s, a)
    with torch.no_grad():
        log_density = law_of(s).log_density(Jump(t, torch.zeros(len(a), dtype=torch.bool)))
        return float((log_density + branch.log_weight(s, a) + w).logsumexp(0).exp())


def _on_live_axes(base: Measure[Tensor], live: Tensor | None) -> tuple[Tensor, Tensor]:
    """Quadrature on the axes that are live; the others are atoms at 0."""
    width = coordinates(base)
    if live is None or bool(live.all()):
        return quadrature(base, NODES[width])
    axes = live[0].expand(width).nonzero().squeeze(-1)
    if len(axes) == 0:
        return torch.zeros(1, width, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    smaller = {f.name: getattr(base, f.name) for f in fields(base)} | {"dim": len(axes)}  # type: ignore[arg-type]
    x, w = quadrature(type(base)(**smaller), NODES[len(axes)])
    return torch.zeros(len(x), width, dtype=torch.float64).index_copy(1, axes, x), w


@pytest.mark.parametrize("backwards", [False, True])
def test_laws_have_mass_one(case: SpaceCase, gfn: GFlowNet[Any], backwards: bool) -> None:
    """Masses on the branches, each integrated, plus the mass at the sink: at states of every kind."""
    space = gfn.space
    kernel = gfn.backward_kernel if backwards else gfn.forward_kernel
    walk = rollout(space, walker(case).forward_kernel, 100)
    states = edges_of(walk)[1] if backwards else walk.states
    kinds = torch.cat([kernel.reference.open(states), _liveness(kernel, states)], dim=-1)
    _, kind = kinds.unique(dim=0, return_inverse=True)
    rows = [
        int((kind == i).nonzero()[j])
        for i in kind.unique()[:6]
        for j in range(min(2, int((kind == i).sum())))
    ]
    for row in rows:
        s = states[row : row + 1]
        is_open = kernel.reference.open(s)[0]
        with torch.no_grad():
            total = float(kernel(s).log_stop.exp()) if not backwards else 0.0
        total += sum(integral(kernel, s, k) for k in range(len(kernel.reference.branches)) if is_open[k])
        assert total == pytest.approx(1.0, abs=1e-3)


def _liveness(kernel: Kernel[Any], s: Any) -> Tensor:
    columns = [
        torch.zeros(len(s), 0, dtype=torch.bool) if (live := b.live(s)) is None else live
        for b in kernel.reference.branches
    ]
    return torch.cat(columns, dim=-1)


# ------------------------------------------------------------------ the sink
def stops(gfn: GFlowNet[Any], case: SpaceCase) -> tuple[Any, Tensor]:
    """Visited states, and the log-masses of the sink at them."""
    s = rollout(gfn.space, walker(case).forward_kernel, 200).states
    return s, gfn.forward_kernel(s).log_stop


def test_stop_masses(case: SpaceCase, gfn: GFlowNet[Any]) -> None:
    """Off X the mass is -inf; where nothing else is open it is exactly 0, with zero gradient."""
    space = gfn.space
    s, log_stop = stops(gfn, case)
    is_open = space.kappa.open(s)
    assert space.kappa.sink is not None
    assert torch.equal(log_stop > -torch.inf, space.kappa.sink(s))
    forced = is_open[:, -1] & ~is_open[:, :-1].any(-1)
    assert bool((log_stop[forced] == 0).all())
    assert bool((log_stop[~forced] < 0).all())
    if log_stop.requires_grad:
        assert bool(forced.any()), "no forced stop was visited: the test sees nothing"
        parameters = list(gfn.forward_kernel.parameters())
        for g in torch.autograd.grad(log_stop[forced].sum(), parameters, allow_unused=True):
            assert g is None or bool((g == 0).all())


def test_sampled_stop_frequency(case: SpaceCase, gfn: GFlowNet[Any]) -> None:
    """Forced: always; forbidden: never; free: exp(log_stop), |z| < 5 (false-alarm rate 6e-7 each)."""
    s, log_stop = stops(gfn, case)
    log_stop = log_stop.detach()
    n = 20_000
    free = ((log_stop > -3) & (log_stop < -0.05)).nonzero().squeeze(-1)[:2]
    forced, forbidden = ((log_stop == value).nonzero().squeeze(-1)[:2] for value in (0.0, -torch.inf))
    for rows in (free, forced, forbidden):
        for row in rows:
            with torch.no_grad():
                stopped = gfn.forward_kernel(s[row.expand(n)]).sample().stop
            if len(rows) and rows is not free:
                assert bool((stopped == (log_stop[row] == 0)).all())
            p = float(log_stop[row].exp())
            error = math.sqrt(max(p * (1 - p), 1e-12) / n)
            assert abs(float(stopped.double().mean()) - p) < 5 * error


def test_what_is_not_an_edge_has_no_density(case: SpaceCase, gfn: GFlowNet[Any]) -> None:
    space = gfn.space
    walk = rollout(space, walker(case).forward_kernel, 50)
    assert space.kappa.sink is not None
    inner = walk.states[~space.kappa.sink(walk.states)]
    if len(inner):
        with pytest.raises(NoSuchEdge, match="no edge to the sink from"):
            gfn.forward_kernel(inner).log_density(Jump(inner, torch.ones(len(inner), dtype=torch.bool)))
    s, t = edges_of(walk)
    go_on = torch.zeros(len(s), dtype=torch.bool)
    with pytest.raises(NoSuchEdge, match="lead from"):
        gfn.forward_kernel(s).log_density(Jump(s, go_on))
    with pytest.raises(NoSuchEdge, match="lead from"):
        gfn.forward_kernel(t).log_density(Jump(s, go_on))
    with pytest.raises(NoSuchEdge, match="lead from"):
        gfn.backward_kernel(s[1:]).log_density(Jump(t[1:], go_on[1:]))


def test_branches_are_drawn_by_their_masses(case: SpaceCase, gfn: GFlowNet[Any]) -> None:
    """Frequencies of branches and sink at 4 states; |z| < 5.5 (false-alarm rate 4e-8 each)."""
    s = rollout(gfn.space, walker(case).forward_kernel, 50).states
    rows = torch.linspace(0, len(s) - 1, 4).long()
    n = 10_000
    for row in rows:
        many = s[row.expand(n)]
        with torch.no_grad():
            law = gfn.forward_kernel(many)
            jump, log_density = law.draw()
            torch.testing.assert_close(law.log_density(jump), log_density, rtol=1e-6, atol=1e-6)
            k = gfn.space.kappa.locate(many, jump)
        mass = law.log_mass[0].exp()
        chosen = torch.nn.functional.one_hot(k, len(mass)).double()
        error = (mass * (1 - mass) / n).sqrt()
        assert bool(((chosen.mean(0) - mass).abs() <= 5.5 * error + 1e-12).all())


# ------------------------------------------------------------------ the waist
def test_evidence_identity(case: SpaceCase) -> None:
    """E[r p_B / p_F] = Z for kernels without parameters: |z| < 5 (false-alarm rate 6e-7)."""
    gfn = walker(case)
    with torch.no_grad():
        arrays = balance(gfn, case.target(gfn.space), rollout(gfn.space, gfn.forward_kernel, 40_000))
    weights = (arrays.log_weight - case.log_z(gfn.space)).exp()
    assert float(weights.std()) / math.sqrt(len(weights)) < 0.1, "too heavy-tailed to see an error"
    assert float(z_scores(weights, 1.0).abs()) < 5.0


def test_recorded_densities_are_the_recomputed_ones(case: SpaceCase, gfn: GFlowNet[Any]) -> None:
    space, target = gfn.space, case.target(gfn.space)
    out = rollout(space, gfn.forward_kernel, 60)
    home = backtrack(space, gfn.backward_kernel, out.final)
    for walk, name in ((out, "log_forward"), (home, "log_backward")):
        for chunk in (None, 7):
            with torch.no_grad():
                arrays = balance(gfn, target, walk.forget(), chunk=chunk)
                reused = balance(gfn, target, walk, chunk=chunk)
            torch.testing.assert_close(getattr(arrays, name), getattr(walk, name), rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(arrays.log_weight, reused.log_weight, rtol=1e-6, atol=1e-6)
            assert arrays.log_reward.shape == (60,)
            assert bool((arrays.log_backward[arrays.last] == 0).all())
            if arrays.log_flow is not None:
                assert bool((arrays.log_flow[arrays.source] == gfn.log_z).all())


def applicable(objective: Objective, gfn: GFlowNet[Any], walk: Trajectories[Any]) -> bool:
    """Whether an objective makes sense here: modified DB needs X = S less s0, and so on."""
    space = gfn.space
    assert space.kappa.sink is not None
    if objective.wanted.flow and gfn.log_flow is None:
        return False
    if objective.wanted.stop or objective.wanted.terminal:
        return bool(space.kappa.sink(walk.states[~walk.source]).all())
    if getattr(objective.wanted, "inflow", False):
        branches = space.kappa_b.branches
        return len(branches) == 1 and isinstance(branches[0].base, Counting)
    return space.kappa.forced or not objective.reparameterised


def gradients(gfn: GFlowNet[Any]) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in gfn.named_parameters() if p.grad is not None}
    gfn.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_two_pass_gradient_is_the_gradient(
    case: SpaceCase, gfn: GFlowNet[Any], name: str, dtype: torch.dtype
) -> None:
    """The cotangent trick against plain automatic differentiation, whole and in runs of 11 rows."""
    objective = OBJECTIVES[name]
    gfn.to(dtype)
    target = case.target(gfn.space)
    walk = rollout(gfn.space, gfn.forward_kernel, 24)
    if not applicable(objective, gfn, walk):
        pytest.skip("not an objective for this space")
    if objective.reparameterised:
        pytest.skip("differentiates the states too: not two passes")
    loss = objective(balance(gfn, target, walk, wanted=objective.wanted))
    loss.backward()
    plain = gradients(gfn)
    assert plain
    for chunk in (11, 10_000):
        again, arrays = backpropagate(gfn, target, walk, objective, wanted=objective.wanted, chunk=chunk)
        two_pass = gradients(gfn)
        tolerance = 1e-9 if dtype == torch.float64 else 1e-4
        torch.testing.assert_close(again, loss.detach(), rtol=tolerance, atol=tolerance)
        assert not arrays.log_forward.requires_grad
        scale = max(float(g.abs().max()) for g in plain.values())
        for parameter, g in plain.items():
            twin = two_pass.get(parameter, torch.zeros_like(g))
            torch.testing.assert_close(twin, g, rtol=10 * tolerance, atol=tolerance * scale, msg=parameter)
        assert set(two_pass) <= set(plain)


def test_every_parameter_learns(case: SpaceCase, gfn: GFlowNet[Any]) -> None:
    """TB and DB together reach every parameter with a finite gradient."""
    target = case.target(gfn.space)
    walk = rollout(gfn.space, gfn.forward_kernel, 200)
    backpropagate(gfn, target, walk, trajectory_balance)
    if gfn.log_flow is not None:
        gfn.log_flow(walk.states).square().sum().backward()
    for name, p in gfn.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, name
            assert bool(torch.isfinite(p.grad).all()), name
            assert bool((p.grad != 0).any()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flows_follow_their_dtype(case: SpaceCase, dtype: torch.dtype) -> None:
    """A fresh flow moved to a dtype walks, scores and saves in it."""
    gfn = case.kernels(case.space()).to(dtype)
    walk = rollout(gfn.space, gfn.forward_kernel, 20)
    arrays = balance(gfn, case.target(gfn.space), walk)
    assert arrays.log_weight.dtype == dtype
    assert arrays.log_forward.dtype == dtype
    assert arrays.log_backward.dtype == dtype
    twin = case.kernels(case.space()).to(dtype)
    twin.load_state_dict(gfn.state_dict())
    again = balance(twin, case.target(twin.space), walk.forget())
    torch.testing.assert_close(again.log_weight, arrays.log_weight, rtol=1e-5, atol=1e-4)


def test_precisions_agree(case: SpaceCase, gfn: GFlowNet[Any]) -> None:
    """The same trajectories, drawn in float64, scored in both."""
    target = case.target(gfn.space)
    walk = rollout(gfn.space, gfn.forward_kernel, 100).forget()
    with torch.no_grad():
        double = balance(gfn, target, walk)
        gfn.float()
        states = walk.states.like(torch.zeros((), dtype=torch.float32))
        single = balance(gfn, target, Trajectories(states, walk.owner, walk.last))
    for name in ("log_forward", "log_backward", "log_reward"):
        error = (getattr(single, name).double() - getattr(double, name)).abs()
        assert float(error.quantile(0.99)) < 1e-3, name
        assert bool(torch.isfinite(error).all()), name


def test_law_is_a_law(case: SpaceCase, gfn: GFlowNet[Any]) -> None:
    s = rollout(gfn.space, gfn.forward_kernel, 10).states
    law = gfn.forward_kernel(s)
    assert isinstance(law, Law)
    torch.testing.assert_close(law.log_mass.logsumexp(-1), torch.zeros(len(s), dtype=torch.float64))
