"""The main job, twice: a Pyro model, and a density of three lines with 25 separate modes.

Run it by ``make demo``, or ``python examples/demo.py [--smoke] [--out FOLDER]``. What it prints can be
held against numbers that come from elsewhere: a NUTS run of the same model, a one-dimensional
quadrature, and a mixture whose weights are known by construction.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size
from scipy.integrate import quad
from scipy.stats import halfcauchy, multivariate_normal
from torch import Tensor

import ctsgfn

INK, ACCENT = "#1b4965", "#d1495b"


@dataclass(frozen=True)
class Budget:
    """How much work each part does."""

    steps: int | None  # training updates; None for the library's own default
    draws: int  # from each sampler
    nuts: int  # draws of the reference run


FULL, SMOKE = Budget(None, 20_000, 2_000), Budget(20, 2_000, 300)


# ---------------------------------------------------------------- eight schools
EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools() -> None:
    """Effects of coaching in eight schools (Rubin, 1981), non-centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    eta = pyro.sample("eta", dist.Normal(torch.zeros(8), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(mu + tau * eta, ERRORS).to_event(1), obs=EFFECTS)


def exact_log_evidence() -> float:
    """Log evidence by quadrature: given tau, mu and eta integrate out and y is Gaussian."""
    y, sigma = EFFECTS.double().numpy(), ERRORS.double().numpy()

    def joint(tau: float) -> float:
        covariance = np.diag(sigma**2 + tau**2) + 25.0  # mu ~ N(0, 5^2) is shared by all schools
        return float(halfcauchy.pdf(tau, scale=5.0) * multivariate_normal.pdf(y, np.zeros(8), covariance))

    value, _ = quad(joint, 0.0, np.inf, epsabs=0.0, epsrel=1e-10)
    return math.log(value)


def nuts(draws: int) -> dict[str, Tensor]:
    """Reference draws of the same model by Pyro's NUTS, by site name, [draws, ..]."""
    pyro.set_rng_seed(0)
    kernel = NUTS(eight_schools, target_accept_prob=0.9, jit_compile=True, ignore_jit_warnings=True)
    chain = MCMC(kernel, num_samples=draws, warmup_steps=max(50, draws // 4))
    chain.run()
    return dict(chain.get_samples())


def scalars(draws: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every number of every site by name, [N]."""
    found = {}
    for site, values in draws.items():
        for j, column in enumerate(values.reshape(len(values), -1).unbind(-1)):
            found[f"{site}[{j}]" if values.dim() > 1 else site] = column
    return found


def schools(budget: Budget, out: Path) -> None:
    """Fit the model, print its posterior beside the reference, draw both."""
    print("\nEight schools, a Pyro model\n---------------------------")
    sampler = ctsgfn.fit(ctsgfn.from_pyro(eight_schools), steps=budget.steps, seed=0)
    table = sampler.summary(budget.draws, seed=1)
    print("The same model by NUTS, for reference:")
    reference = scalars(nuts(budget.nuts))

    print(f"\n{'':8}{'ctsgfn':^28}   {'NUTS':^28}   {'difference':>10}")
    print(
        f"{'site':8}{'mean':>10}{'sd':>8}{'mcse':>10}   {'mean':>10}{'sd':>8}{'mcse':>10}   {'in mcse':>10}"
    )
    for site, chain in reference.items():
        row, mean, sd = table[site], chain.mean().item(), chain.std().item()
        error = sd / math.sqrt(effective_sample_size(chain[None], sample_dim=1).item())
        apart = (row.mean - mean) / math.hypot(row.mcse, error)
        print(
            f"{site:8}{row.mean:10.3f}{row.sd:8.3f}{row.mcse:10.3f}   "
            f"{mean:10.3f}{sd:8.3f}{error:10.3f}   {apart:10.1f}"
        )
    evidence = table.evidence
    print(f"\n{evidence}")
    print(f"log evidence by quadrature: {exact_log_evidence():.4f}")
    intervals(scalars(sampler.posterior(budget.draws, seed=2)), reference, out / "demo_eight_schools.png")


def intervals(ours: dict[str, Tensor], theirs: dict[str, Tensor], path: Path) -> None:
    """Medians and 90 % intervals of both samplers, site by site."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    ax = figure.subplots()
    levels = torch.tensor([0.05, 0.5, 0.95])
    for draws, shift, colour, label in ((ours, 0.14, INK, "ctsgfn"), (theirs, -0.14, ACCENT, "NUTS")):
        low, middle, high = torch.stack([draws[site].quantile(levels) for site in theirs]).T.numpy()
        height = -np.arange(len(theirs)) + shift
        ax.errorbar(
            middle, height, xerr=(middle - low, high - middle), fmt="o", ms=4, color=colour, label=label
        )
    ax.set_yticks(-np.arange(len(theirs)), list(theirs))
    ax.set_xlabel("median and 90 % interval")
    ax.set_title("Eight schools", fontsize="medium")
    ax.legend(frameon=False)
    figure.savefig(path, dpi=120)


# ---------------------------------------------------------------- 25 modes
CENTRES = 5.0 * torch.cartesian_prod(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0))


def mixture(x: Tensor) -> Tensor:
    """Log-density [B] of 25 even Gaussians of variance 0.3, at points [B, 2]; it integrates to 1."""
    square = (x[:, None] - CENTRES.to(x)).square().sum(-1)
    return (-square / 0.6).logsumexp(-1) - math.log(25 * 0.6 * math.pi)


def modes(budget: Budget, out: Path) -> None:
    """Fit the mixture, count its modes, draw the samples over the density."""
    print("\n25 modes, a callable\n--------------------")
    sampler = ctsgfn.fit(mixture, dim=2, steps=budget.steps, seed=0)
    x = sampler.resample(budget.draws, seed=1)
    inside = ctsgfn.diagnostics.mode_counts(x, CENTRES, radius=5 * math.sqrt(0.3))
    found, even = int((inside > len(x) / 250).sum()), math.sqrt(25 / (2 * math.pi * len(x)))
    apart = ctsgfn.diagnostics.mode_total_variation(x, CENTRES)
    print(f"modes with at least a tenth of their weight: {found} of 25")
    print(f"total variation of the mode weights: {apart:.3f} (about {even:.3f} for exact draws)")
    print(f"\n{sampler.evidence(budget.draws, seed=2)}")
    print("log evidence by construction: 0.0000")

    figure = Figure(figsize=(9.0, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    line = torch.linspace(-12.5, 12.5, 250)
    density = mixture(torch.cartesian_prod(line, line)).exp().reshape(250, 250)
    right.hist2d(
        *x.T.numpy(), bins=[line[::2].numpy()] * 2, density=True, cmap="Blues", vmax=density.max().item()
    )
    left.contourf(line, line, density.T, levels=12, cmap="Blues")
    left.scatter(*x[:1500].T.numpy(), s=2, color=ACCENT, linewidths=0)
    left.set_title("1,500 samples over the density", fontsize="medium")
    right.set_title(f"histogram of {len(x):,} samples", fontsize="medium")
    for ax in (left, right):
        ax.set_aspect("equal")
    figure.savefig(out / "demo_25_modes.png", dpi=120)


def main() -> None:
    """Run both parts."""
    here = Path(__file__).resolve().parents[1] / "figures"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--smoke", action="store_true", help="tiny budgets: shows that it runs, not what it can do"
    )
    parser.add_argument("--out", type=Path, default=here, help="folder of the figures (default: figures/)")
    arguments = parser.parse_args()
    budget = SMOKE if arguments.smoke else FULL
    arguments.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    schools(budget, arguments.out)
    modes(budget, arguments.out)
    print(f"\n{time.perf_counter() - start:.0f} s. The figures:")
    for path in sorted(arguments.out.glob("demo_*.png")):
        print(f"  {path}")


if __name__ == "__main__":
    main()
