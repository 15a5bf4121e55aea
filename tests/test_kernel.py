"""Kernels and laws on a space with every kind of branch: masses, densities, draws, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from numerics import quadrature, z_scores
from torch import Tensor, nn
from workbench import ON_CIRCLE, ON_LINE, ON_SQUARE, PARKED, START, Mixed, ToSquare, places, reference

from ctsgfn.diffuse import Diffuse, diffuse
from ctsgfn.errors import InvalidInput, MeasureMismatch, NoSuchEdge
from ctsgfn.kernel import Kernel
from ctsgfn.kernels.heads.categorical import Categorical
from ctsgfn.kernels.heads.von_mises import VonMisesMixture
from ctsgfn.law import Law
from ctsgfn.measures import Atom, Counting, Haar, Lebesgue
from ctsgfn.networks import MLP, FeatureEncoder
from ctsgfn.reference import ReferenceKernel
from ctsgfn.states import Jump

HIDDEN = 8


def features(s: Mixed) -> Tensor:
    return torch.cat([s.x, nn.functional.one_hot(s.kind, 5).to(s.x.dtype)], dim=-1)


def learned(of: ReferenceKernel[Mixed] | None = None) -> Kernel[Mixed]:
    kernel = Kernel(
        reference() if of is None else of,
        FeatureEncoder(features, MLP(7, HIDDEN), HIDDEN),
        [
            Diffuse(Atom()),
            Categorical(3, HIDDEN),
            Diffuse(Lebesgue(2, 0.0, 1.0)),
            VonMisesMixture(1, HIDDEN, components=2),
        ],
        gate=nn.Linear(HIDDEN, 5),
    ).double()
    with torch.no_grad():
        for p in kernel.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return kernel


def to(s: Mixed, kind: int, x: list[float], stop: bool = False) -> Jump[Mixed]:
    n = len(s)
    target = Mixed(torch.tensor([x], dtype=s.x.dtype).expand(n, 2), torch.full((n,), kind))
    return Jump(target, torch.full((n,), stop))


# ------------------------------------------------------------------ masses
def test_masses_are_a_softmax_over_what_is_open() -> None:
    kernel, s = learned(), places([START, PARKED, ON_LINE])
    law = kernel(s)
    logits = kernel.gate(law.context)
    assert torch.equal(law.log_mass[0, 4:], torch.tensor([-torch.inf]).double())
    torch.testing.assert_close(law.log_mass[0, :4], logits[0, :4].log_softmax(-1))
    torch.testing.assert_close(law.log_mass[1, [1, 2, 4]], logits[1, [1, 2, 4]].log_softmax(-1))
    assert bool((law.log_mass[1, [0, 3]] == -torch.inf).all())
    assert law.log_mass[2].tolist() == [-math.inf] * 4 + [0.0]


def test_a_forced_stop_has_no_gradient() -> None:
    kernel = learned()
    log_stop = kernel(places([ON_SQUARE, ON_CIRCLE])).log_stop
    assert log_stop.tolist() == [0.0, 0.0]
    for g in torch.autograd.grad(log_stop.sum(), list(kernel.parameters()), allow_unused=True):
        assert g is None or bool((g == 0).all())


def test_without_a_gate_masses_are_even() -> None:
    law = diffuse(reference())(places([START, PARKED]))
    torch.testing.assert_close(law.log_mass[0, :4].exp(), torch.full((4,), 0.25).double())
    torch.testing.assert_close(law.log_stop[1].exp(), torch.tensor(1 / 3).double())


# ------------------------------------------------------------------ densities
def test_density_is_mass_times_head_over_weight() -> None:
    """log p(s, s') = log mass + log q(a | s) - log weight, written out for every branch."""
    kernel = learned()
    s = places([START] * 6)
    log_mass = kernel(s).log_mass
    context = kernel.encoder(s, None)
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.5, 3.0], [1.0, 0.0], [0.0, 0.0], [0.3, 0.6]]).double()
    kind = torch.tensor([PARKED, ON_LINE, ON_SQUARE, ON_CIRCLE, ON_LINE, ON_SQUARE])
    found = kernel(s).log_density(Jump(Mixed(x, kind), torch.zeros(6).bool()))
    line = kernel.heads[1].logits(context).log_softmax(-1)
    circle = kernel.heads[3](context, s, None).log_prob(x[:, :1])
    expected = [
        log_mass[0, 0],
        log_mass[1, 1] + line[1, 2],
        log_mass[2, 2] - 2 * math.log(3.0),
        log_mass[3, 3] + circle[3],
        log_mass[4, 1] + line[4, 0],
        log_mass[5, 2] - 2 * math.log(3.0),
    ]
    torch.testing.assert_close(found, torch.stack(expected))


@torch.no_grad()
def test_dead_axes_and_atoms_change_the_measure() -> None:
    kernel, s = learned(), places([PARKED])
    law = kernel(s)
    on_edge = law.log_density(to(s, ON_SQUARE, [2.0, 0.0]))
    torch.testing.assert_close(on_edge, law.log_mass[:, 2] - math.log(3.0))
    total = sum(
        float((law.log_density(to(s, ON_LINE, [float(i), 0.0])) - law.log_mass[:, 1]).exp()) for i in (0, 2)
    )
    assert total == pytest.approx(1.0)
    assert float(law.log_density(to(s, ON_LINE, [1.0, 0.0]))) == -math.inf


@torch.no_grad()
@pytest.mark.parametrize("kind", [START, PARKED])
def test_total_mass_is_one(kind: int) -> None:
    kernel = learned()
    total = float(kernel(places([kind])).log_stop.exp())
    for k, branch in enumerate(kernel.reference.branches):
        if not bool(kernel.reference.allowed(places([kind]))[0, k]):
            continue
        a, w = quadrature(Lebesgue(1, 0.0, 1.0) if k == 2 and kind == PARKED else branch.base, 201)
        if k == 1:
            live = branch.live(places([kind]))[0]
            a, w = a[live], w[live]
        a = nn.functional.pad(a, (0, 2 - a.shape[-1])) if k == 2 else a
        s = places([kind] * len(a))
        t = branch.push(s, a)
        log_p = kernel(s).log_density(Jump(t, torch.zeros(len(a)).bool()))
        total += float((log_p + branch.log_weight(s, a) + w).exp().sum())
    assert total == pytest.approx(1.0, abs=1e-6)


def test_rows_do_not_see_each_other() -> None:
    """Mixed batches, any order, one at a time, or none: the same densities."""
    kernel = learned()
    s = places([START, PARKED, ON_LINE, START, PARKED] * 4)
    with torch.no_grad():
        jump, log_density = kernel(s).draw()
        torch.testing.assert_close(kernel(s).log_density(jump), log_density)
        order = torch.randperm(20)
        shuffled = kernel(s[order]).log_density(Jump(jump.target[order], jump.stop[order]))
        torch.testing.assert_close(shuffled, log_density[order])
        for i in range(20):
            row = slice(i, i + 1)
            alone = kernel(s[row]).log_density(Jump(jump.target[row], jump.stop[row]))
            torch.testing.assert_close(alone, log_density[row])
        none = kernel(s[:0]).draw()
        assert len(none[0].target) == len(none[1]) == 0
        assert kernel(s[:0]).log_density(none[0]).shape == (0,)


def test_rows_of_other_branches_and_of_the_sink_are_never_read() -> None:
    """NaN where a chart is not defined, or where a stop has no target, stays out of the gradient."""
    kernel = learned()
    s = places([START, START, PARKED, ON_LINE])
    x = torch.tensor([[1.0, 1.0], [1.0, 0.0], [math.nan] * 2, [math.nan] * 2]).double()
    kind = torch.tensor([ON_SQUARE, ON_LINE, 99, -1])
    stop = torch.tensor([False, False, True, True])
    out = kernel(s).log_density(Jump(Mixed(x, kind), stop))
    assert bool(torch.isfinite(out).all())
    out.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in kernel.parameters() if p.grad is not None)


# ------------------------------------------------------------------ draws
def test_draws_follow_the_masses_and_the_heads() -> None:
    """Frequencies of the branches, of the atoms, and two moments; |z| < 5: rate 6e-7 each."""
    kernel, n = learned(), 40_000
    s = places([START] * n)
    with torch.no_grad():
        jump, log_density = kernel(s).draw()
        k = kernel.reference.locate(s, jump)
        law = kernel(s[:1])
        assert float(z_scores(nn.functional.one_hot(k, 5)[:, :4], law.log_mass[0, :4].exp()).abs().max()) < 5
        atoms = nn.functional.one_hot(jump.target.x[k == 1, 0].long(), 3)
        expected = kernel.heads[1].logits(law.context)[0].softmax(-1)
        assert float(z_scores(atoms, expected).abs().max()) < 5
        assert float(z_scores(jump.target.x[k == 2], 1.5).abs().max()) < 5
        # E[1 / p] over the draws is the mass of the reference kernel: 1 + 3 + 9 + 2 pi
        assert float(z_scores((-log_density).exp(), 1 + 3 + 9 + 2 * math.pi).abs()) < 5
    assert not bool(jump.stop.any())


def test_closed_branches_and_dead_atoms_are_never_drawn() -> None:
    with torch.no_grad():
        jump, log_density = learned()(places([PARKED] * 5000)).draw()
    assert set(jump.target.kind[~jump.stop].tolist()) == {ON_LINE, ON_SQUARE}
    assert not bool((jump.target.x[(jump.target.kind == ON_LINE) & ~jump.stop, 0] == 1).any())
    assert bool((jump.target.x[(jump.target.kind == ON_SQUARE) & ~jump.stop, 1] == 0).all())
    assert bool(torch.isfinite(log_density).all())


def test_law_from_a_context_is_the_same_law() -> None:
    kernel, s = learned(), places([START, PARKED])
    context = kernel.encoder(s, None)
    torch.testing.assert_close(Law(kernel.bind(), s, None, context).log_mass, kernel(s).log_mass)


# ------------------------------------------------------------------ refusals
def forced_square() -> ReferenceKernel[Mixed]:
    return ReferenceKernel(
        (ToSquare(Lebesgue(2, 0.0, 1.0), ON_SQUARE, scale=3.0),),
        allowed=lambda s: (s.kind == START)[:, None],
        sink=lambda s: s.kind != START,
        forced=True,
        name="forced",
    )


def heads() -> list[Any]:
    return [Diffuse(branch.base) for branch in reference().branches]


def test_kernels_are_refused_at_construction() -> None:
    encoder = FeatureEncoder(features, MLP(7, HIDDEN), HIDDEN)
    with pytest.raises(InvalidInput, match="has 4 branches and got 3 heads"):
        Kernel(reference(), encoder, heads()[:3])
    swapped = [*heads()[:2], Diffuse(Haar(2)), heads()[3]]
    with pytest.raises(
        MeasureMismatch, match=r"head 2 .* arc length on 2 circles, but branch 2 \(ToSquare\)"
    ):
        Kernel(reference(), encoder, swapped)
    with pytest.raises(InvalidInput, match="forced masses"):
        Kernel(forced_square(), encoder, [Diffuse(Lebesgue(2, 0.0, 1.0))], gate=nn.Linear(HIDDEN, 2))


def test_no_law_where_nothing_is_open() -> None:
    closed = ReferenceKernel(reference().branches, allowed=reference().allowed, name="dead end")
    with pytest.raises(NoSuchEdge, match=r"row 1: dead end has no edge out of Mixed\(x="):
        diffuse(closed)(places([START, ON_LINE])).sample()


def test_densities_of_what_is_no_edge_are_refused() -> None:
    kernel = learned()
    with pytest.raises(NoSuchEdge, match="row 0: kappa of the workbench has no edge to the sink"):
        kernel(places([START])).log_density(to(places([START]), 0, [0.0, 0.0], stop=True))
    with pytest.raises(NoSuchEdge, match="0 branches of kappa of the workbench lead from"):
        kernel(places([PARKED])).log_density(to(places([PARKED]), ON_CIRCLE, [0.0, 0.0]))
    with pytest.raises(NoSuchEdge, match="0 branches"):
        kernel(places([START])).log_density_to(places([START]))


def test_an_edge_on_two_branches_is_refused() -> None:
    square = reference().branches[2]
    twice = ReferenceKernel((square, square), allowed=lambda s: torch.ones(len(s), 2).bool())
    with pytest.raises(NoSuchEdge, match="2 branches"):
        diffuse(twice)(places([START])).log_density_to(places([ON_SQUARE]))


def test_a_single_branch_must_own_its_edges() -> None:
    only = ReferenceKernel(reference().branches[2:3], allowed=lambda s: torch.ones(len(s), 1).bool())
    with pytest.raises(NoSuchEdge, match="0 branches"):
        diffuse(only)(places([START])).log_density_to(places([PARKED]))


def test_choices_have_no_pathwise_gradient() -> None:
    with pytest.raises(InvalidInput, match="no pathwise gradient"):
        learned()(places([START])).draw(reparameterised=True)


def test_forced_draws_may_be_reparameterised() -> None:
    kernel = diffuse(forced_square())
    s = Mixed(torch.zeros(4, 2, requires_grad=True), torch.zeros(4, dtype=torch.long))
    jump, log_density = kernel(s).draw(reparameterised=True)
    assert bool((jump.target.kind == ON_SQUARE).all())
    torch.testing.assert_close(log_density, torch.full((4,), -2 * math.log(3.0)))
    stopped, density = kernel(places([ON_SQUARE] * 3, torch.float32)).draw()
    assert bool(stopped.stop.all())
    assert density.tolist() == [0.0] * 3


def test_heads_without_pathwise_draws_say_so() -> None:
    with pytest.raises(NotImplementedError, match="MaskedCategorical has no reparameterised draw"):
        Diffuse(Counting(3))(torch.zeros(2, 0), None, None).rsample()


def test_diffuse_refuses_half_lines() -> None:
    with pytest.raises(InvalidInput, match="no diffuse law on Lebesgue measure on"):
        Diffuse(Lebesgue(1, 0.0))
