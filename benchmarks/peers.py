"""Log evidence by ctsgfn and by other samplers, on the same targets: error against CPU seconds and calls.

Question: for the same unnormalised density, what error of log Z does a user get for how much work? The
answer is in results/peers/ and figures/peers.png.

ctsgfn, pocoMC and dynesty run with their defaults. The last two need a prior; they are given a box or
normals that hold the target comfortably, which ctsgfn has to find out by itself. blackjax's adaptive
tempered SMC has no defaults: 1,024 particles from the same prior, five HMC moves of ten steps of 0.1 at
each temperature, densities in JAX, compilation counted. NUTS gives no evidence and is left out. A run
that has not ended after LIMIT CPU seconds is stopped and recorded as such.

The peers live in an environment of their own:

    python -m venv .venv-peers && .venv-peers/bin/pip install -e '.[peers]'
    .venv-peers/bin/python benchmarks/peers.py run            # what is missing, one process per run
    python benchmarks/peers.py plot
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from counting import Counted, counted
from provenance import provenance
from torch import Tensor

import ctsgfn
from ctsgfn.targets import Banana, ManyWell, Ring, forty_gaussians, hard_funnel, twenty_five_gaussians

HERE = Path(__file__).parent
RESULTS, FIGURE = HERE / "results" / "peers", HERE.parent / "figures" / "peers.png"
LIMIT = 300
"""CPU seconds after which a run is stopped."""
SEEDS = 3
PARTICLES, LEAPS = 1024, 10


@dataclass(frozen=True)
class Case:
    """A target, and the prior that the peers are given: uniform on a box, or normal."""

    make: Callable[[], Any]
    dim: int
    box: float | None = None
    normal: tuple[float, ...] = ()


CASES = {
    "25 modes": Case(twenty_five_gaussians, 2, box=20.0),
    "40 modes": Case(forty_gaussians, 2, box=60.0),
    "ring": Case(Ring, 2, box=10.0),
    "banana": Case(Banana, 2, normal=(20.0, 20.0)),
    "many-well 8": Case(lambda: ManyWell(8), 8, normal=(3.0,) * 8),
    "hard funnel": Case(hard_funnel, 10, normal=(5.0, *(30.0,) * 9)),
    "many-well 32": Case(lambda: ManyWell(32), 32, normal=(3.0,) * 32),
}
"""Targets whose log Z is known in closed form."""


def log_prior(case: Case, x: Tensor) -> Tensor:
    """Log-density [B] of a case's prior."""
    if case.box is not None:
        inside = (x.abs() <= case.box).all(-1)
        return torch.where(inside, -case.dim * math.log(2 * case.box), -math.inf)
    scale = x.new_tensor(case.normal)
    return torch.distributions.Normal(0.0, scale).log_prob(x).sum(-1)


def run_ctsgfn(case: Case, target: Counted, seed: int) -> dict[str, Any]:
    """One call of fit, default settings, and evidence from 20,000 draws."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sampler = ctsgfn.fit(target, seed=seed, progress_bar=False)
        evidence = sampler.evidence(20_000, seed=seed)
    return {"log_z": evidence.log_z, "stderr": evidence.stderr, "warned": bool(caught), "ess": evidence.ess}


def run_pocomc(case: Case, target: Counted, seed: int) -> dict[str, Any]:
    """Preconditioned Monte Carlo with its defaults, vectorised."""
    import pocomc
    import scipy.stats

    if case.box is not None:
        prior = pocomc.Prior([scipy.stats.uniform(-case.box, 2 * case.box)] * case.dim)
    else:
        prior = pocomc.Prior([scipy.stats.norm(0, s) for s in case.normal])

    def likelihood(x: Any) -> Any:
        points = torch.as_tensor(x, dtype=torch.float64)
        return (target.log_density(points) - log_prior(case, points)).numpy()

    sampler = pocomc.Sampler(prior, likelihood, vectorize=True, random_state=seed)
    sampler.run(progress=False)
    log_z, stderr = sampler.evidence()
    return {"log_z": float(log_z), "stderr": float(stderr)}


def run_dynesty(case: Case, target: Counted, seed: int) -> dict[str, Any]:
    """Static nested sampling with its defaults."""
    import dynesty
    import numpy
    import scipy.stats

    scale = numpy.array(case.normal)

    def transform(u: Any) -> Any:
        return (2 * u - 1) * case.box if case.box is not None else scipy.stats.norm.ppf(u) * scale

    def likelihood(x: Any) -> float:
        point = torch.as_tensor(x, dtype=torch.float64)[None]
        return float(target.log_density(point) - log_prior(case, point))

    rng = numpy.random.default_rng(seed)
    sampler = dynesty.NestedSampler(likelihood, transform, case.dim, rstate=rng)
    sampler.run_nested(print_progress=False)
    return {"log_z": float(sampler.results.logz[-1]), "stderr": float(sampler.results.logzerr[-1])}


def jax_densities() -> dict[str, Callable[[Any], Any]]:
    """The targets in JAX, one point each."""
    import jax
    from jax import numpy as np
    from jax.scipy.special import logsumexp

    jax.config.update("jax_enable_x64", True)
    modes = np.asarray(forty_gaussians().modes.numpy())
    scale = forty_gaussians().scale

    def normal(z: Any, variance: Any) -> Any:
        return -0.5 * (z * z / variance + np.log(2 * np.pi * variance))

    def forty(x: Any) -> Any:
        return logsumexp(normal(x - modes, scale**2).sum(-1)) - math.log(40)

    def wells(x: Any) -> Any:
        a, b = x[0::2], x[1::2]
        return (-(a**4) + 6 * a**2 + 0.5 * a - 0.5 * b**2).sum()

    grid = 5.0 * np.arange(-2.0, 3.0)
    return {
        "25 modes": lambda x: (logsumexp(normal(x[:, None] - grid, 0.3), axis=-1) - math.log(5)).sum(),
        "40 modes": forty,
        "ring": lambda x: -0.5 * ((np.sqrt((x**2).sum()) - 2.0) / 0.3) ** 2,
        "banana": lambda x: normal(x[0], 100.0) + normal(x[1] - 0.03 * (x[0] ** 2 - 100.0), 1.0),
        "many-well 8": wells,
        "hard funnel": lambda x: normal(x[0], 9.0) + normal(x[1:], np.exp(x[0])).sum(),
        "many-well 32": wells,
    }


def run_blackjax(case: Case, target: Counted, seed: int) -> dict[str, Any]:
    """Adaptive tempered SMC: systematic resampling at ESS 1/2, HMC moves."""
    import blackjax
    import jax
    from blackjax.smc import resampling
    from jax import numpy as np

    name = next(key for key, value in CASES.items() if value is case)
    density = jax_densities()[name]
    probe = torch.randn(8, case.dim, dtype=torch.float64)
    written = np.stack([density(np.asarray(row)) for row in probe.numpy()])
    assert np.allclose(written, np.asarray(target.log_density(probe).numpy())), name
    key = jax.random.PRNGKey(seed)
    if case.box is not None:
        width = case.box
        start = jax.random.uniform(key, (PARTICLES, case.dim), minval=-width, maxval=width, dtype=np.float64)

        def prior(x: Any) -> Any:
            return np.where(np.all(np.abs(x) <= width), -case.dim * math.log(2 * width), -np.inf)
    else:
        scale = np.asarray(case.normal)
        start = scale * jax.random.normal(key, (PARTICLES, case.dim), dtype=np.float64)

        def prior(x: Any) -> Any:
            return jax.scipy.stats.norm.logpdf(x, 0.0, scale).sum()

    hmc = {"step_size": 0.1, "inverse_mass_matrix": np.ones(case.dim), "num_integration_steps": LEAPS}
    smc = blackjax.adaptive_tempered_smc(
        prior,
        lambda x: density(x) - prior(x),
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        blackjax.smc.extend_params(hmc),
        resampling.systematic,
        0.5,
        num_mcmc_steps=5,
    )
    step, state, log_z, calls = jax.jit(smc.step), smc.init(start), 0.0, 0
    while float(state.tempering_param) < 1.0:
        key, now = jax.random.split(key)
        state, info = step(now, state)
        log_z += float(info.log_likelihood_increment)
        calls += PARTICLES * 5 * LEAPS
    target.density_calls = target.gradient_calls = calls
    return {"log_z": log_z, "stderr": math.nan}


PEERS: dict[str, Callable[[Case, Counted, int], dict[str, Any]]] = {
    "ctsgfn": run_ctsgfn,
    "pocomc": run_pocomc,
    "dynesty": run_dynesty,
    "blackjax": run_blackjax,
}


def path_of(peer: str, name: str, seed: int) -> Path:
    """Where a run is written."""
    return RESULTS / f"{peer}_{name.replace(' ', '-')}_seed{seed}.json"


def one(peer: str, name: str, seed: int) -> None:
    """Make one run and write it."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT + 5))
    case = CASES[name]
    exact = case.make()
    target = counted(exact)
    start = time.process_time()
    found = PEERS[peer](case, target, seed)
    seconds = time.process_time() - start
    version = importlib.metadata.version(peer)
    write(peer, name, seed, {
        **found,
        "error": found["log_z"] - exact.log_z,
        "cpu_seconds": round(seconds, 2),
        "density_calls": target.density_calls,
        "gradient_calls": target.gradient_calls,
        "version": version,
    })  # fmt: skip


def write(peer: str, name: str, seed: int, row: dict[str, Any]) -> None:
    """Write a run and print it."""
    record = {"peer": peer, "target": name, "seed": seed, **row, **provenance()}
    path = path_of(peer, name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(peer, name, seed, {k: row[k] for k in ("error", "cpu_seconds", "density_calls") if k in row})


def run_missing(peers: list[str], names: list[str], seeds: int) -> None:
    """Each run that has no file yet, in a process of its own."""
    for seed in range(seeds):
        for name in names:
            for peer in peers:
                if path_of(peer, name, seed).exists():
                    continue
                command = [sys.executable, __file__, "one", peer, name, str(seed)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if path_of(peer, name, seed).exists():
                    print(done.stdout.strip(), flush=True)
                elif done.returncode in (-24, -9):  # the limit of CPU seconds
                    write(peer, name, seed, {"stopped_after": LIMIT})
                else:
                    print(f"{peer} on {name} failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)


def rows() -> list[dict[str, Any]]:
    """All runs that were written."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def plot() -> None:
    """Error against CPU seconds and against density calls, a column of panels per measure of work."""
    import matplotlib.pyplot as plt

    colours = {"ctsgfn": "C3", "pocomc": "C0", "dynesty": "C2", "blackjax": "C1"}
    done = rows()
    figure, axes = plt.subplots(2, len(CASES), figsize=(3.1 * len(CASES), 6), sharey="row", squeeze=False)
    for column, name in enumerate(CASES):
        for line, work in enumerate(("cpu_seconds", "density_calls")):
            ax = axes[line][column]
            ax.axhline(0.05, color="0.8", lw=1, zorder=0)
            for peer, colour in colours.items():
                mine = [r for r in done if r["target"] == name and r["peer"] == peer and "error" in r]
                points = [(r[work], max(abs(r["error"]), 1e-4)) for r in mine]
                if points:
                    ax.loglog(*zip(*points, strict=True), "o", color=colour, label=peer, alpha=0.8)
                elif any(r["target"] == name and r["peer"] == peer for r in done) and work == "cpu_seconds":
                    ax.annotate(f"{peer}: > {LIMIT} s", (0.97, 0.03 + 0.07 * list(colours).index(peer)),
                                xycoords="axes fraction", ha="right", color=colour, fontsize=8)  # fmt: skip
            ax.set_xlim((1, LIMIT) if work == "cpu_seconds" else (1e4, 1e7))
            ax.set_xlabel("CPU seconds" if work == "cpu_seconds" else "density evaluations")
            ax.set_title(name if line == 0 else "", fontsize=10)
    for line in range(2):
        axes[line][0].set_ylabel("|error of log Z| (nats)")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=120)
    print(FIGURE)
    table(done)


def table(done: list[dict[str, Any]]) -> None:
    """Medians over the seeds."""
    print(f"{'target':14s} {'peer':10s} {'|error|':>9s} {'CPU s':>7s} {'calls':>10s}")
    for name in CASES:
        for peer in PEERS:
            mine = [r for r in done if r["target"] == name and r["peer"] == peer]
            ended = [r for r in mine if "error" in r]
            if len(ended) < len(mine):
                print(f"{name:14s} {peer:10s} {len(mine) - len(ended)} of {len(mine)} stopped at {LIMIT} s")
            if ended:
                middle = [statistics.median(abs(r[k]) for r in ended)
                          for k in ("error", "cpu_seconds", "density_calls")]  # fmt: skip
                print(f"{name:14s} {peer:10s} {middle[0]:9.4f} {middle[1]:7.1f} {middle[2]:10.0f}")


def main() -> None:
    """Run one, run what is missing, or plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    single = commands.add_parser("one", help="one run in this process")
    single.add_argument("peer", choices=PEERS)
    single.add_argument("target", choices=CASES)
    single.add_argument("seed", type=int)
    many = commands.add_parser("run", help="every run that has no result yet")
    many.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    many.add_argument("--targets", nargs="*", default=list(CASES), choices=CASES)
    many.add_argument("--seeds", type=int, default=SEEDS)
    commands.add_parser("plot", help="figure and table of the results")
    options = parser.parse_args()
    if options.command == "one":
        one(options.peer, options.target, options.seed)
    elif options.command == "run":
        run_missing(options.peers, options.targets, options.seeds)
    else:
        plot()


if __name__ == "__main__":
    main()
