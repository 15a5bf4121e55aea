"""Refined evidence and draws moved on by chains, against exact answers; poor samplers included.

Statistical assertions have a false-alarm rate of 1e-6 each (4.9 standard errors) and fixed seeds.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from test_sampler import LAW, Normal, half_line_sampler, on_grid, on_line
from torch import Tensor

from ctsgfn import Lebesgue, fit
from ctsgfn.bridge import Bridge
from ctsgfn.chains import move_on
from ctsgfn.errors import InvalidInput, UnreliableEstimate
from ctsgfn.sampler import Sampler
from ctsgfn.smc import plan, run, run_back
from ctsgfn.start_law import EvenLaw, FittedLaw, LearnedLaw, fitted_law
from ctsgfn.target import as_target
from ctsgfn.targets import ManyWell, hard_funnel

Z = 4.9
QUICK: dict[str, Any] = {"seed": 0, "progress_bar": False}


def plain(target: Normal) -> Any:
    """The same density without its exact samples."""
    return as_target(target.log_density, Lebesgue(target.dim))


def root_mean_square(sampler: Sampler[Any, Any], truth: float, count: int, **options: Any) -> float:
    z = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEstimate)
        for seed in range(count):
            r = sampler.refine(seed=seed, **options)
            z.append((r.log_z - truth) / r.stderr)
    return torch.tensor(z).square().mean().sqrt().item()


POOR = {
    "far and narrow": (Normal(mean=4.0, sd=0.3), 1),
    "wide": (Normal(sd=3.0), 1),
    "ten dimensions": (Normal(dim=10, mean=2.0, sd=0.3), 1),
    "several steps": (Normal(mean=3.0, sd=0.4), 5),
}


@pytest.mark.parametrize("name", POOR)
def test_a_poor_sampler_warns_and_its_refined_evidence_is_right(name: str) -> None:
    target, steps = POOR[name]
    sampler = on_line(plain(target), dim=target.dim, steps=steps)
    with pytest.warns(UnreliableEstimate):
        sampler.evidence(4096, seed=0)
    refined = sampler.refine(0.1, seed=0, particles=500)
    assert refined.stderr <= 0.1
    assert refined.evidence.reliable
    assert abs(refined.log_z - target.log_z) < Z * refined.stderr
    assert refined.evidence.lower_bound <= refined.log_z
    # and its points are the target's
    x, w = refined.points.double(), refined.log_weight.exp()
    assert w.sum().item() == pytest.approx(1.0)
    assert len(x) == len(w) == refined.evidence.n
    effective = 0.1 * len(x)  # resampled copies: no more than a part counts
    assert bool((((w @ x) - target.mean).abs() < Z * target.sd / math.sqrt(effective)).all())
    assert (w @ (x - target.mean).square()).sqrt().tolist() == pytest.approx(
        [target.sd] * target.dim, rel=0.1
    )
    assert refined.draws(7).shape == (7, target.dim)


@pytest.mark.slow
def test_stated_error_is_the_error() -> None:
    """Root mean square of 60 z-scores: 1 +- 0.09, and 4.9 of these on the upper side."""
    sampler = on_line(plain(Normal(mean=4.0, sd=0.3)), steps=1)
    rms = root_mean_square(sampler, 3.0, 60, particles=200, error=0.2, calls=400_000)
    assert rms < 1 + Z / math.sqrt(2 * 60)
    assert rms > 0.5


def test_a_half_line_is_refined_through_its_transform() -> None:
    refined = half_line_sampler().refine(0.02, seed=0)
    assert abs(refined.log_z - math.log(2.0)) < Z * refined.stderr
    assert refined.evidence.measure == "Lebesgue measure on (0, inf)^1"
    x = refined.points
    assert bool((x > 0).all())
    assert float(refined.log_weight.exp() @ x[:, 0].double()) == pytest.approx(float(LAW.mean), rel=0.05)


def test_a_target_without_a_gradient_is_refined_too() -> None:
    target = Normal(mean=3.0, sd=0.4)
    sampler = on_line(as_target(lambda x: target.log_density(x.detach()), Lebesgue(2)), steps=1)
    refined = sampler.refine(0.1, seed=0, particles=500)
    assert abs(refined.log_z - 3.0) < Z * refined.stderr


def test_exact_samples_give_an_upper_bound() -> None:
    """Runs back from exact samples: on average above log Z, and together near it."""
    refined = on_line(Normal(mean=2.0, sd=0.5), steps=1).refine(0.1, seed=0, particles=500)
    e = refined.evidence
    assert e.upper_bound is not None
    assert e.upper_bound_stderr is not None
    assert abs(e.upper_bound - 3.0) < Z * e.upper_bound_stderr + 0.05
    assert "sequential Monte Carlo" in str(refined)
    assert "density calls" in str(refined)


def test_a_mode_that_no_run_reaches_is_seen_through_samples() -> None:
    class Two:
        measure = Lebesgue(2)

        def log_density(self, x: Tensor) -> Tensor:
            return torch.logaddexp(Normal().log_density(x), Normal(mean=40.0).log_density(x))

        def sample(self, n: int) -> Tensor:
            far = (torch.rand(n, 1) < 0.5) * 40.0
            return Normal().sample(n) + far

    with pytest.warns(UnreliableEstimate, match="runs from exact samples back give a log Z of 3"):
        on_line(Two(), steps=1).refine(0.1, seed=0, particles=500)


@pytest.mark.slow
def test_particles_that_walk_on_see_what_a_mixture_lacks() -> None:
    """Many wells that a mixture does not hold: without exact samples, the walk at the end tells."""
    wells = ManyWell(32)
    sampler = fit(as_target(wells.log_density, wells.measure), kernel="mixture", steps=2, **QUICK)
    with pytest.warns(UnreliableEstimate, match="particles that walk on leave"):
        sampler.refine(0.2, seed=0, particles=500, calls=3_000_000)


@pytest.mark.slow
def test_the_hard_funnel_from_a_mixture() -> None:
    target = hard_funnel()
    sampler = fit(as_target(target.log_density, target.measure), kernel="mixture", steps=20, **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEstimate)
        refined = sampler.refine(0.05, seed=0, calls=20_000_000)
    assert abs(refined.log_z) < Z * refined.stderr


# ---------------------------------------------------------------- budget and errors
def test_what_was_not_reached_is_said() -> None:
    sampler = on_line(plain(Normal(mean=4.0, sd=0.3)), steps=1)
    with pytest.warns(UnreliableEstimate, match=r"standard error is .* after all calls, above 0.0001"):
        refined = sampler.refine(1e-4, calls=300_000, particles=200, seed=0)
    assert refined.calls < 330_000  # the walk at the end comes on top
    assert not refined.evidence.reliable


def test_a_tighter_error_takes_more_runs() -> None:
    sampler = on_line(plain(Normal()), steps=1)
    loose, tight = sampler.refine(0.1, seed=0), sampler.refine(0.002, seed=0)
    assert tight.runs > loose.runs
    assert tight.stderr <= 0.002 < loose.stderr
    assert sampler.refine(0.1, seed=0).log_z == loose.log_z


def test_bad_input() -> None:
    with pytest.raises(InvalidInput, match=r"refinement moves points in R.d, and this flow draws points in"):
        on_grid().refine()
    with pytest.raises(InvalidInput, match="refinement moves points"):
        on_grid().mcmc(5)
    sampler = on_line(plain(Normal(mean=4.0, sd=0.3)), steps=1)
    for bad in (0.0, -1.0, math.nan, "x"):
        with pytest.raises(InvalidInput, match="error must be a positive number"):
            sampler.refine(bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="particles must be a whole number of at least 100"):
        sampler.refine(particles=10)
    with pytest.raises(InvalidInput, match=r"had reached the inverse temperature .* larger calls="):
        sampler.refine(calls=1000)
    with pytest.raises(InvalidInput, match="steps must be"):
        sampler.mcmc(5, steps=0)


# ---------------------------------------------------------------- the pieces
def test_each_run_is_unbiased() -> None:
    """E Z = Z forwards, and E 1/Z = 1/Z backwards, with 20 particles: 400 runs of a fixed plan."""
    torch.manual_seed(1)
    target = Normal(mean=1.0, sd=0.5)
    law = fitted_law(torch.randn(1000, 2), torch.zeros(1000))
    bridge = Bridge(law, plain(target))
    made, _ = plan(bridge, 500, 10_000_000)
    assert len(made.levels) > 1
    ratio = (run(bridge, made, 400, 20).log_z - 3.0).exp()
    assert abs(ratio.mean() - 1) < Z * ratio.std() / 20
    assert ratio.std() > 0.01
    back = (3.0 - run_back(bridge, made, 400, target.sample(8000))).exp()
    assert abs(back.mean() - 1) < Z * back.std() / 20


@pytest.mark.parametrize("kind", ["learned", "fitted", "even"])
def test_start_laws_are_laws(kind: str) -> None:
    """Means of bounded functions of the draws against importance-weighted normals; scores by differences."""
    fitted = fitted_law(torch.randn(2000, 2) * torch.tensor([2.0, 0.5]) + 1, torch.zeros(2000))
    learned = LearnedLaw(on_line(plain(Normal()), steps=1).gfn)
    law: Any = {"learned": learned, "fitted": fitted, "even": EvenLaw(learned, fitted)}[kind]
    z = law.draw(20_000)
    base = torch.distributions.Normal(torch.zeros(2), 4.0)
    y = base.sample((200_000,))
    w = (law.log_density(y) - base.log_prob(y).sum(-1)).exp()
    assert abs(w.mean() - 1) < Z * w.std() / math.sqrt(len(w))
    error = math.hypot(float(z.cos().std()) / math.sqrt(len(z)), float(w.std()) / math.sqrt(len(w)))
    assert bool((z.cos().mean(0) - (w[:, None] * y.cos()).mean(0)).abs().max() < Z * error)
    value, slope = law.score(z[:50].double().float())
    assert torch.allclose(value, law.log_density(z[:50]), atol=1e-5)
    h = 1e-2
    for axis in range(2):
        step = h * torch.eye(2)[axis]
        difference = (law.log_density(z[:50] + step) - law.log_density(z[:50] - step)) / (2 * h)
        assert torch.allclose(slope[:, axis], difference, atol=2e-2, rtol=2e-2)
    assert isinstance(fitted, FittedLaw)


def test_chains_leave_the_target_alone_and_find_it() -> None:
    target = plain(Normal(mean=2.0, sd=0.5))
    exact, guides = Normal(mean=2.0, sd=0.5).sample(20_000), Normal(mean=2.0, sd=0.5).sample(256)
    still = move_on(target, exact, guides, steps=3)
    assert not torch.equal(still, exact)
    assert bool(((still.mean(0) - 2.0).abs() < Z * 0.5 / math.sqrt(20_000)).all())
    assert bool(((still.std(0) / 0.5 - 1).abs() < Z / math.sqrt(40_000)).all())
    found = move_on(target, torch.zeros(2000, 2), guides, steps=40)
    assert bool(((found.mean(0) - 2.0).abs() < Z * 0.5 / math.sqrt(2000)).all())


def test_mcmc_mends_resampled_draws() -> None:
    sampler = on_line(plain(Normal(sd=0.3)), steps=3)
    with pytest.warns(UnreliableEstimate, match="the draws that the chains start from are not reliable"):
        few = sampler.mcmc(2000, pool=300, seed=0, steps=20)
    assert len(few.unique(dim=0)) > 1900  # of 300 draws, and fewer of them effective
    assert bool(((few.std(0) / 0.3 - 1).abs() < Z / math.sqrt(2 * 500)).all())
    assert torch.equal(few, _quiet(sampler, seed=0))
    half = half_line_sampler().mcmc(500, seed=1)
    assert bool((half > 0).all())


def _quiet(sampler: Sampler[Any, Tensor], seed: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEstimate)
        return sampler.mcmc(2000, pool=300, seed=seed, steps=20)
