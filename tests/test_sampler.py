"""The sampler: draws, weights, densities and evidence against exact answers, and its files and reports.

Flows here are untrained, so that the exact answers come from the weights alone. Statistical
assertions have a false-alarm rate of 1e-6 each (4.9 standard errors) and fixed seeds.
"""

from __future__ import annotations

import math
import sys
import types
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from numerics import shaken, z_scores
from registry import SPACES, flow
from torch import Tensor
from torch.distributions.transforms import AffineTransform, ExpTransform

from ctsgfn import importance
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import BadCheckpoint, InvalidInput, MeasureMismatch, MissingExtra, UnreliableEstimate
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.diffusion import diffusion
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.measures import Counting, Lebesgue, Measure
from ctsgfn.sampler import Sampler
from ctsgfn.sampler_files import read_recipe
from ctsgfn.seeding import seeded
from ctsgfn.target import Target, as_target, transformed

Z = 4.9


@dataclass(frozen=True)
class Normal:
    """N(mean, sd^2) on R^dim, scaled to log Z = 3, with exact samples."""

    dim: int = 2
    mean: float = 0.0
    sd: float = 0.8
    log_z: float = 3.0

    @property
    def measure(self) -> Measure[Tensor]:
        return Lebesgue(self.dim)

    def log_density(self, x: Tensor) -> Tensor:
        law = torch.distributions.Normal(self.mean, self.sd)
        return law.log_prob(x).sum(-1) + self.log_z

    def sample(self, n: int) -> Tensor:
        return self.mean + self.sd * torch.randn(n, self.dim)


def on_line(target: Target[Any], dim: int = 2, steps: int = 5) -> Sampler[Any, Tensor]:
    """The reference process, which ends in N(0, 1)^dim, as the sampler of a target on R^dim."""
    space = diffusion(dim, steps=steps)
    return Sampler(GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b)), target)


def on_grid(
    gfn: GFlowNet[Any] | None = None, slope: tuple[float, float] = (1.0, -0.5)
) -> Sampler[Any, Tensor]:
    """A flow on a 4 x 4 grid, untrained unless given, with log r linear in the cell."""
    if gfn is None:
        space = hypergrid(2, 4)
        gfn = GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b))
    slopes = torch.tensor(slope, dtype=torch.float64)
    return Sampler(gfn, as_target(lambda x: x.double() @ slopes, gfn.space.points))


CELLS = torch.cartesian_prod(torch.arange(4), torch.arange(4))


# ---------------------------------------------------------------- evidence and weights
@pytest.mark.parametrize("name", sorted(SPACES))
def test_evidence_and_density_on_every_space(name: str) -> None:
    """With any kernels, the mean weight is Z, and the density of the draws has integral 1."""
    case = SPACES[name]
    space = case.space()
    gfn = GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b)).double()
    sampler: Sampler[Any, Any] = Sampler(gfn, case.target(space))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEstimate)  # the flow is not trained
        e = sampler.evidence(20_000)
    assert abs(e.log_z - case.log_z(space)) < Z * e.stderr
    assert e.stderr < 0.2 or not e.reliable  # untrained walks on the box and the cube have heavy weights
    assert e.lower_bound < e.log_z
    x, w = space.points.probe(4000)
    assert z_scores((w + sampler.log_prob(x, 4).double()).exp(), 1.0).abs() < Z


def root_mean_square_z(sampler: Sampler[Any, Any], truth: float, runs: int, n: int) -> float:
    z = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEstimate)
        for _ in range(runs):
            e = sampler.evidence(n)
            z.append((e.log_z - truth) / e.stderr)
    return torch.tensor(z).square().mean().sqrt().item()


def test_z_scores_of_repeated_runs() -> None:
    """Root mean square of 300 z-scores: 1 +- 0.041 if the stated error is right, 4.9 of these allowed."""
    slack = Z / math.sqrt(2 * 300)
    normal = as_target(Normal().log_density, Lebesgue(2))
    assert abs(root_mean_square_z(on_line(normal), Normal().log_z, 300, 500) - 1) < slack
    grid = on_grid(slope=(-0.7, -0.5))
    truth = grid.target.log_density(CELLS).logsumexp(0).item()
    assert abs(root_mean_square_z(grid, truth, 300, 500) - 1) < slack
    # an ESS of 6 %: the error may be overstated, by what the Pareto shape fears, and never understated
    peaked = on_grid(slope=(1.0, -0.5))
    truth = peaked.target.log_density(CELLS).logsumexp(0).item()
    assert root_mean_square_z(peaked, truth, 300, 500) < 1 + slack


def test_bounds_and_evidence_of_a_normal() -> None:
    """Target N(0, s^2), proposal N(0, 1): ELBO and EUBO are log Z -+ a Kullback-Leibler divergence."""
    target = Normal()
    variance, log_ratio = target.sd**2, math.log(target.sd)
    forward = target.dim * (log_ratio + 0.5 / variance - 0.5)  # KL(N(0, 1) || N(0, s^2))
    backward = target.dim * (-log_ratio + 0.5 * variance - 0.5)
    e = on_line(target).evidence(20_000, seed=1)
    assert abs(e.log_z - target.log_z) < Z * e.stderr
    assert abs(e.lower_bound - (target.log_z - forward)) < Z * e.lower_bound_stderr
    assert e.upper_bound is not None
    assert e.upper_bound_stderr is not None
    assert abs(e.upper_bound - (target.log_z + backward)) < Z * e.upper_bound_stderr
    assert e.lower_bound + Z * e.lower_bound_stderr < target.log_z < e.upper_bound - Z * e.upper_bound_stderr
    assert e.reliable
    assert e.measure == "Lebesgue measure on R^2"
    assert on_line(target).log_evidence(20_000, seed=1).item() == pytest.approx(e.log_z, abs=0.1)


def test_samples_that_are_passed_give_the_upper_bound() -> None:
    density = as_target(Normal().log_density, Lebesgue(2))
    assert on_line(density).evidence(500, seed=0).upper_bound is None
    e = on_line(density).evidence(500, samples=Normal().sample(5000), seed=0)
    assert e.upper_bound is not None
    assert e.upper_bound > 3.0


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Normal(sd=0.05), "effective sample size"),
        (Normal(sd=3.0), "Pareto k"),
        (Normal(mean=6.0, sd=0.5), "the upper and the lower bound are"),
    ],
)
def test_a_bad_sampler_warns(target: Normal, words: str) -> None:
    sampler = on_line(target)
    for call in (sampler.evidence, sampler.summary, sampler.resample, sampler.posterior):
        if words.startswith("the upper") and call != sampler.evidence:
            continue
        with pytest.warns(UnreliableEstimate, match=words):
            call(4096, seed=0)


def test_a_missed_mode_is_seen_through_samples() -> None:
    """The weights of what is visited look perfect; exact samples show the mass that is not."""

    def two(x: Tensor) -> Tensor:
        return torch.logaddexp(Normal().log_density(x), Normal(mean=25.0).log_density(x))

    sampler = on_line(as_target(two, Lebesgue(2)))
    assert sampler.evidence(4096, seed=0).reliable
    both = torch.cat([Normal().sample(50), Normal(mean=25.0).sample(50)])
    with pytest.warns(UnreliableEstimate, match="the upper and the lower bound"):
        sampler.evidence(4096, samples=both, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.evidence(4096, samples=both, seed=0, max_gap=math.inf)


# ---------------------------------------------------------------- draws and densities
def test_log_prob_is_the_law_of_the_draws_on_the_grid() -> None:
    """Frequencies of 40,000 draws from a generic learned flow against the density by backward walks."""
    torch.manual_seed(3)
    sampler = on_grid(shaken(flow(hypergrid_kernels, hypergrid(2, 4), hidden=8)))
    p = sampler.log_prob(CELLS, 3000).exp()
    assert p.dtype == torch.float64
    assert p.sum().item() == pytest.approx(1.0, abs=0.02)
    draws = sampler.sample(40_000)
    assert draws.dtype == torch.long
    share = torch.bincount(draws[:, 0] * 4 + draws[:, 1], minlength=16) / 40_000
    # both sides are estimates: the density has a relative error of at most 3 % here
    error = (p / 40_000).sqrt() + 0.03 * p / Z
    assert bool(((share - p).abs() < Z * error).all())


def test_resampling_turns_the_policy_into_the_target() -> None:
    sampler = on_grid()
    exact = sampler.target.log_density(CELLS).softmax(0)

    def share(x: Tensor) -> Tensor:
        return torch.bincount(x[:, 0] * 4 + x[:, 1], minlength=16).double() / len(x)

    def distance(p: Tensor) -> float:
        return 0.5 * (p - exact).abs().sum().item()

    assert distance(share(sampler.sample(20_000))) > 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEstimate)
        resampled = sampler.resample(20_000, pool=200_000)
    # 16 cells, 20,000 draws, ESS of the pool > 4000: noise of a cell is below 0.007
    assert distance(share(resampled)) < 16 * 0.5 * 0.007
    x, log_weight = sampler.weighted(200_000)
    assert log_weight.dtype == torch.float64
    assert log_weight.exp().sum().item() == pytest.approx(1.0)
    by_weight = torch.zeros(16, dtype=torch.float64).index_add(0, x[:, 0] * 4 + x[:, 1], log_weight.exp())
    assert distance(by_weight) < 16 * 0.5 * 0.007


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_the_dtype_of_the_flow(dtype: torch.dtype) -> None:
    sampler = on_line(Normal())
    sampler.gfn.to(dtype)
    assert sampler.sample(5).dtype == dtype
    assert sampler.log_prob(torch.zeros(3, 2)).dtype == dtype
    assert sampler.weighted(50)[0].dtype == dtype
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(torch.zeros(3, 2)).sum(-1).to(dtype)
    # the bridge is the reversal of the reference process, so every backward walk gives the same ratio
    assert torch.allclose(sampler.log_prob(torch.zeros(3, 2), 2), exact, atol=1e-4)


def test_chunks_do_not_change_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = on_grid()
    whole = sampler.log_prob(CELLS, 300)
    monkeypatch.setattr(importance, "NUMBERS", 8 * 64 * 7)  # 7 trajectories at once
    assert sampler.sample(23).shape == (23, 2)
    assert len(sampler.weighted(23)[1]) == 23
    for n in (3, 300):  # several points in a chunk; several chunks for a point
        pieces = sampler.log_prob(CELLS, n)
        assert pieces.shape == (16,)
        assert pieces.exp().sum().item() == pytest.approx(1.0, abs=0.5 if n == 3 else 0.1)
    assert (pieces - whole).abs().max() < 0.5
    samples = CELLS.repeat(5, 1)
    assert sampler._importance.weigh_backwards(samples).shape == (80,)


# ---------------------------------------------------------------- coordinates
LAW = torch.distributions.LogNormal(1.2, 0.5)


def half_line_sampler() -> Sampler[Any, Tensor]:
    """Twice a log-normal density on the half-line, through x = exp(0.7 z + 1)."""
    density = as_target(lambda x: LAW.log_prob(x).sum(-1) + math.log(2.0), Lebesgue(1, 0.0))
    on_r = transformed(density, ExpTransform(), Lebesgue(1))
    return on_line(transformed(on_r, AffineTransform(1.0, 0.7), Lebesgue(1)), dim=1)


def test_transformed_targets_answer_in_the_users_coordinates() -> None:
    sampler = half_line_sampler()
    e = sampler.evidence(20_000, seed=0)
    assert abs(e.log_z - math.log(2.0)) < Z * e.stderr
    assert e.measure == "Lebesgue measure on (0, inf)^1"
    x = sampler.sample(2000)
    assert bool((x > 0).all())
    x, log_weight = sampler.weighted(50_000, seed=1)
    w = log_weight.exp()
    mean = (w * x[:, 0]).sum()
    error = (w * (x[:, 0] - mean)).square().sum().sqrt()
    assert abs(mean - LAW.mean) < Z * error
    # the policy's own law is log-normal: its density in x, Jacobian included
    at = torch.tensor([[0.5], [2.0], [9.0]])
    exact = torch.distributions.LogNormal(1.0, 0.7).log_prob(at[:, 0])
    assert torch.allclose(sampler.log_prob(at, 3), exact, atol=1e-4)
    upper = sampler.evidence(4000, samples=LAW.sample((4000, 1)), seed=2)
    assert upper.upper_bound is not None
    assert upper.upper_bound > math.log(2.0) > upper.lower_bound


@dataclass(frozen=True)
class Sites:
    """Two sites: a positive scale (log z0) and a vector of 2."""

    @property
    def measure(self) -> Measure[Tensor]:
        return Lebesgue(3)

    def log_density(self, x: Tensor) -> Tensor:
        return -0.5 * x.square().sum(-1)

    def constrain(self, x: Tensor) -> dict[str, Tensor]:
        return {"tau": x[:, 0].exp(), "theta": x[:, 1:]}


def test_sites_come_by_name() -> None:
    sampler = on_line(transformed(Sites(), AffineTransform(0.0, 1.2), Lebesgue(3)), dim=3)
    posterior = sampler.posterior(500, seed=0)
    assert {k: tuple(v.shape) for k, v in posterior.items()} == {"tau": (500,), "theta": (500, 2)}
    assert bool((posterior["tau"] > 0).all())
    table = sampler.summary(8000, seed=0)
    assert [row.name for row in table.rows] == ["tau", "theta[0]", "theta[1]"]
    tau = table["tau"]
    assert abs(tau.mean - math.exp(0.5)) < Z * tau.mcse
    assert tau.quantiles[1] == pytest.approx(1.0, abs=0.1)
    assert tau.quantiles[2] == pytest.approx(math.exp(1.645), rel=0.1)
    assert table["theta[1]"].sd == pytest.approx(1.0, abs=0.05)
    assert tau.ess == pytest.approx((tau.sd / tau.mcse) ** 2)


def test_stated_error_of_a_mean_is_its_error() -> None:
    """Root mean square z of 200 means: 1 +- 0.05; 4.9 of these allowed on the high side."""
    sampler = on_line(Normal())
    z = [(row := sampler.summary(500)["x[0]"]).mean / row.mcse for _ in range(200)]
    rms = torch.tensor(z).square().mean().sqrt().item()
    assert 1 - Z * 0.05 < rms < 1 + Z * 0.05


def test_summary_prints_a_table() -> None:
    sampler = on_line(Normal())
    lines = str(sampler.summary(500, seed=0)).splitlines()
    assert lines[0].split() == ["mean", "sd", "5%", "50%", "95%", "mcse", "ess"]
    assert lines[1].startswith("x[0]")
    assert lines[-1] == "reliable"
    assert any(line.startswith("log Z") for line in lines)


# ---------------------------------------------------------------- seeds
def test_a_seed_reproduces_and_leaves_the_generator_alone() -> None:
    sampler = on_line(Normal())
    calls: dict[str, Any] = {
        "sample": lambda seed: sampler.sample(7, seed=seed),
        "weighted": lambda seed: sampler.weighted(50, seed=seed)[1],
        "resample": lambda seed: sampler.resample(7, pool=50, seed=seed),
        "posterior": lambda seed: sampler.posterior(7, seed=seed)["x"],
        "log_evidence": lambda seed: sampler.log_evidence(50, seed=seed),
        "evidence": lambda seed: torch.tensor(sampler.evidence(50, seed=seed).upper_bound),
        "summary": lambda seed: torch.tensor(sampler.summary(50, seed=seed)["x[0]"].mean),
    }
    for name, call in calls.items():
        before = torch.get_rng_state()
        one, two, other = call(5), call(5), call(6)
        assert torch.equal(one, two), name
        assert not torch.equal(one, other), name
        assert torch.equal(torch.get_rng_state(), before), name
    grid = on_grid()
    assert torch.equal(grid.log_prob(CELLS, 5, seed=1), grid.log_prob(CELLS, 5, seed=1))
    assert not torch.equal(sampler.sample(3), sampler.sample(3))


def test_seeded_restores_after_an_error_and_refuses_what_is_no_seed() -> None:
    before = torch.get_rng_state()
    with pytest.raises(TypeError), seeded(1):
        torch.rand("n")  # type: ignore[call-overload]
    assert torch.equal(torch.get_rng_state(), before)
    for bad in (-1, 2**63, 1.5, True, "1"):
        with pytest.raises(InvalidInput, match="seed must be a whole number"), seeded(bad):  # type: ignore[arg-type]
            pass
    with seeded(None):
        torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- figures and export
def panels(sampler: Sampler[Any, Any], **names: int) -> int:
    return len(sampler.plot(200, seed=0, **names).axes)


def test_figures(tmp_path: Path) -> None:
    assert panels(half_line_sampler()) == 1
    assert panels(on_line(Normal())) == 1
    assert panels(on_line(Sites(), dim=3)) == 6
    assert panels(on_line(Normal(dim=7), dim=7)) == 15
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEstimate)
        figure = on_grid().plot(200)
    assert len(figure.axes) == 2  # heat map and its scale
    figure.savefig(tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 1000
    assert figure.axes[0].images[0].get_array().shape[0] <= 4


def test_arviz_container() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.x announces 1.0
        pytest.importorskip("arviz")
    data = on_line(Sites(), dim=3).to_arviz(100, seed=0)
    assert dict(data.posterior.sizes)["chain"] == 1
    assert data.posterior["theta"].shape == (1, 100, 2)
    assert data.sample_stats["lp"].shape == (1, 100)
    assert set(data.sample_stats) == {"lp", "log_weight"}
    assert data.attrs["inference_library"] == "ctsgfn"
    assert data.attrs["log_evidence"] == pytest.approx(1.5 * math.log(2 * math.pi), abs=1e-3)


@pytest.mark.parametrize("version", ["0.23.4", "1.3.0"])
def test_both_call_shapes_of_arviz(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def from_dict(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return types.SimpleNamespace(attrs={})

    fake = types.ModuleType("arviz")
    fake.__dict__.update(__version__=version, from_dict=from_dict)
    monkeypatch.setitem(sys.modules, "arviz", fake)
    data = on_line(Normal()).to_arviz(20, seed=0)
    ((args, kwargs),) = seen
    groups = args[0] if version.startswith("1") else kwargs
    assert bool(args) == version.startswith("1")
    assert groups["posterior"]["x"].shape == (1, 20, 2)
    assert groups["sample_stats"]["lp"].shape == (1, 20)
    assert data.attrs["inference_library"] == "ctsgfn"


def test_without_arviz_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(MissingExtra, match=r"pip install 'ctsgfn\[arviz\]'"):
        on_line(Normal()).to_arviz(20)


# ---------------------------------------------------------------- files
def test_a_saved_sampler_draws_the_same(tmp_path: Path) -> None:
    path = tmp_path / "s.pt"
    space = hypergrid(2, 4)
    sampler = on_grid(shaken(flow(hypergrid_kernels, space, hidden=8)))
    sampler.recipe = {"builder": "hypergrid", "options": {"hidden": 8, "shift": torch.ones(2)}}
    sampler.save(path)
    twin = Sampler.load(path, sampler.target, flow(hypergrid_kernels, space, hidden=8).double())
    assert torch.equal(sampler.sample(50, seed=1), twin.sample(50, seed=1))
    assert twin.gfn.log_z.item() == sampler.gfn.log_z.item() != 0.0
    recipe = read_recipe(path)
    assert recipe is not None
    assert recipe["builder"] == "hypergrid"
    assert recipe["options"]["shift"].tolist() == [1.0, 1.0]
    assert twin.recipe is not None


def test_files_of_other_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.pt"
    sampler = on_grid(flow(hypergrid_kernels, hypergrid(2, 4), hidden=8))
    sampler.save(path)
    assert read_recipe(path) is None
    with pytest.raises(BadCheckpoint, match=r"is float32\[8, 8\] in the file and float32\[16, 8\] here"):
        Sampler.load(path, sampler.target, flow(hypergrid_kernels, hypergrid(2, 4), hidden=16))
    other = hypergrid(2, 5)
    with pytest.raises(BadCheckpoint, match=r"belongs to hypergrid\(dim=2, side=4\)"):
        Sampler.load(
            path, as_target(lambda x: x.sum(-1), other.points), flow(hypergrid_kernels, other, hidden=8)
        )
    from ctsgfn.checkpoints import save_checkpoint

    save_checkpoint(path, {"kind": "training"})
    with pytest.raises(BadCheckpoint, match="of kind 'training'"):
        read_recipe(path)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(BadCheckpoint, match="cut short"):
        Sampler.load(path, sampler.target, sampler.gfn)


# ---------------------------------------------------------------- bad input
def test_a_target_on_another_measure_is_refused() -> None:
    space = hypergrid(1, 4)
    gfn = GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b))
    for target in (Normal(dim=1), as_target(lambda x: x.sum(-1), Counting(4))):
        with pytest.raises(MeasureMismatch, match="transformed"):
            Sampler(gfn, target)


@pytest.mark.parametrize("n", [0, -3, 2.0, True, "5"])
def test_sizes_are_whole_and_positive(n: Any) -> None:
    sampler = on_line(Normal())
    calls = [
        sampler.sample,
        sampler.weighted,
        sampler.resample,
        sampler.posterior,
        sampler.evidence,
        sampler.log_evidence,
        sampler.summary,
        sampler.plot,
        sampler.to_arviz,
        lambda n: sampler.log_prob(torch.zeros(1, 2), n),
        lambda n: sampler.resample(5, pool=n),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match="must be a whole number of at least"):
            call(n)
    for single in (sampler.evidence, sampler.summary):
        with pytest.raises(InvalidInput, match="of at least 2, got 1"):
            single(1)


def test_points_outside_the_support_are_refused() -> None:
    sampler = half_line_sampler()
    with pytest.raises(
        InvalidInput, match=r"row 1 of the points is outside .* \(0, inf\)\^1: leave out the 2"
    ):
        sampler.log_prob(torch.tensor([[1.0], [-1.0], [-2.0]]))
    with pytest.raises(InvalidInput, match="row 0 of the points is outside"):
        on_line(Normal()).log_prob(torch.tensor([[math.nan, 0.0]]))
