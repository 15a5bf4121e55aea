"""Variable selection with Student-t noise, beside reversible jump and one nested sampling run per model.

Question: for 8 predictors correlated in blocks of four (0.8), heavy-tailed noise and 60 rows, 256 models
whose evidences have no closed form, how wrong are the inclusion probabilities and the model probabilities
after how much work? The reference is importance sampling of every single model from a Student-t law at its
mode, 20,000 draws each, whose own error is recorded.

``ctsgfn`` is ``fit`` with its default settings and ``model_posterior``. Reversible jump is plain: a variable
is added with a coefficient from its prior, or removed; the others take random-walk steps scaled by the
curvature at the mode of the full model; its error is recorded as it runs. dynesty runs once per model, with
100 live points.

    python benchmarks/robust_selection.py ours|jump|nested|plot
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from counting import Counted
from provenance import provenance
from torch import Tensor
from torch.func import grad, hessian, vmap

import ctsgfn
from ctsgfn.diagnostics import jensen_shannon
from ctsgfn.targets import RobustSelection
from ctsgfn.with_parameters import Parameterised

ITEMS, ROWS, SEEDS, DRAWS, REFERENCE = 8, 60, 3, 16_384, 20_000
JUMPS, BURN = 400_000, 20_000
OUT = Path(__file__).parent / "results" / "robust_selection.json"
FIGURE = Path(__file__).parents[1] / "figures" / "models.png"


def problem() -> RobustSelection:
    """The posterior: two true variables of eight, noise with four degrees of freedom."""
    g = torch.Generator().manual_seed(4)
    shared = torch.randn(ROWS, 2, generator=g, dtype=torch.float64).repeat_interleave(4, 1)
    x = math.sqrt(0.8) * shared + math.sqrt(0.2) * torch.randn(ROWS, ITEMS, generator=g, dtype=torch.float64)
    normal = torch.randn(ROWS, 5, generator=g, dtype=torch.float64)
    noise = normal[:, 0] / (normal[:, 1:].square().mean(1)).sqrt()
    return RobustSelection(x, 0.9 * x[:, 0] - 0.6 * x[:, 5] + 1.2 * noise)


def modes(target: RobustSelection, models: Tensor) -> tuple[Tensor, Tensor]:
    """Mode and covariance of theta given each model, [K, size] and [K, size, size], by Newton's method."""

    def f(theta: Tensor, model: Tensor) -> Tensor:
        return target.log_density(Parameterised(model[None], theta[None]))[0]

    live = target.measure.live(models).double()
    theta = torch.zeros_like(live)
    for _ in range(50):
        slope = vmap(grad(f))(theta, models) * live
        curve = -vmap(hessian(f))(theta, models) * live[:, :, None] * live[:, None] + torch.diag_embed(
            1 - live
        )
        values, axes = torch.linalg.eigh(curve)
        step = (axes @ ((axes.mT @ slope[..., None]) / values.abs().clamp(min=0.5)[..., None])).squeeze(-1)
        theta = theta + step * (1.0 / step.norm(dim=-1, keepdim=True)).clamp(max=1.0)
    return theta, torch.linalg.inv(curve)


def reference(target: RobustSelection) -> tuple[Tensor, float]:
    """Log-evidence of every model [256], and the largest standard error of one."""
    models = target.measure.models.all()
    theta, covariance = modes(target, models)
    torch.manual_seed(0)
    found, errors = [], []
    for model, loc, shape in zip(models, theta, covariance, strict=True):
        axes = target.measure.live(model).nonzero().squeeze(-1)
        tril, d, nu = torch.linalg.cholesky(shape[axes][:, axes]), len(axes), 5.0
        z = torch.randn(REFERENCE, d, dtype=torch.float64)
        chi = torch.distributions.Chi2(torch.tensor(nu, dtype=torch.float64)).sample((REFERENCE, 1)) / nu
        t = z / chi.sqrt()
        points = torch.zeros(REFERENCE, len(loc), dtype=torch.float64)
        points[:, axes] = loc[axes] + t @ tril.T
        log_q = (
            math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - 0.5 * d * math.log(nu * math.pi)
            - tril.diagonal().log().sum() - 0.5 * (nu + d) * (t.square().sum(-1) / nu).log1p()
        )  # fmt: skip
        w = target.log_density(Parameterised(model.expand(REFERENCE, -1), points)) - log_q
        found.append(w.logsumexp(0) - math.log(REFERENCE))
        ratio = (w - found[-1]).exp()
        errors.append(float(ratio.std()) / math.sqrt(REFERENCE))
    return torch.stack(found), max(errors)


def errors(probability: Tensor, exact: Tensor, models: Tensor) -> dict[str, float]:
    """Of model probabilities [256]."""
    off = (probability - exact) @ models.double()
    return {
        "inclusion_rmse": float(off.square().mean().sqrt()),
        "jsd": jensen_shannon(probability.log(), exact.log()),
    }


def ours(target: RobustSelection, exact: Tensor, log_z: float, seed: int) -> dict[str, Any]:
    """``fit`` and ``model_posterior``."""
    counted, start = Counted(target), time.process_time()
    sampler = ctsgfn.fit(counted, seed=seed, progress_bar=False)  # type: ignore[arg-type]
    posterior = ctsgfn.model_posterior(sampler, DRAWS, seed=seed)
    seconds = time.process_time() - start
    models = target.measure.models.all()
    place = (posterior.models.long() * (1 << torch.arange(ITEMS))).sum(-1)
    found = torch.zeros_like(exact).index_copy(0, place, posterior.model_probabilities().value)
    return {
        "seed": seed,
        "cpu_seconds": round(seconds, 1),
        "calls": counted.density_calls + counted.gradient_calls,
        "log_z_error": abs(posterior.evidence.log_z - log_z),
        "ess": posterior.evidence.ess,
        **errors(found, exact, models),
    }


def jump(target: RobustSelection, exact: Tensor, seed: int) -> list[dict[str, Any]]:
    """Reversible jump, its error at powers of 2 of its length."""
    rng, models = np.random.default_rng(seed), target.measure.models.all()
    x, y = target.x.numpy(), target.y.numpy()
    _, covariance = modes(target, models[-1:])
    scale = 1.2 * covariance[0].diagonal().sqrt().numpy()
    nu, p = target.degrees, ITEMS

    def log_posterior(here: np.ndarray, theta: np.ndarray) -> float:  # type: ignore[type-arg]
        z = (y - x[:, here] @ theta[:p][here] - theta[p]) * math.exp(-theta[p + 1])
        fit = -0.5 * (nu + 1) * np.log1p(z * z / nu).sum() - len(y) * theta[p + 1]
        rest = (theta[:p][here] ** 2).sum() / target.slab**2 + (theta[p] / target.intercept) ** 2
        k = int(here.sum())
        of_model = math.lgamma(1 + k) + math.lgamma(1 + p - k) - math.lgamma(p + 2)
        return fit - 0.5 * (rest + theta[p + 1] ** 2) - k * math.log(target.slab * SQRT_TWO_PI) + of_model

    here, theta = np.zeros(p, dtype=bool), np.zeros(p + 2)
    now, start, bits, rows = log_posterior(here, theta), time.process_time(), 1 << np.arange(p), []
    visits, after = np.zeros(1 << p), 2 * BURN
    for step in range(1, JUMPS + 1):
        there, moved, extra = here.copy(), theta.copy(), 0.0
        if rng.random() < 0.5:
            j = rng.integers(p)
            there[j] = ~here[j]
            value = rng.normal(0.0, target.slab) if there[j] else theta[j]
            log_q = -0.5 * (value / target.slab) ** 2 - math.log(target.slab * SQRT_TWO_PI)
            moved[j], extra = (value, -log_q) if there[j] else (0.0, log_q)
        else:
            noise = rng.normal(size=p + 2) * scale * 2.0 / math.sqrt(2 + here.sum())
            moved = theta + noise * np.concatenate([here, [True, True]])
        new = log_posterior(there, moved)
        if math.log(rng.random()) < new - now + extra:
            here, theta, now = there, moved, new
        if step > BURN:
            visits[(here * bits).sum()] += 1
        if step in (after, JUMPS):
            found = torch.from_numpy(visits / visits.sum())
            spent = round(time.process_time() - start, 2)
            rows.append({"seed": seed, "calls": step, "cpu_seconds": spent, **errors(found, exact, models)})
            after *= 2
    return rows


SQRT_TWO_PI = math.sqrt(2 * math.pi)


def nested(target: RobustSelection, exact: Tensor, seed: int) -> dict[str, Any]:
    """dynesty, once per model; theta given a model is uniform in the cube through the prior's quantiles."""
    from dynesty import NestedSampler
    from scipy.special import ndtri

    models, x, y, nu = target.measure.models.all(), target.x.numpy(), target.y.numpy(), target.degrees
    constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
    calls, evidence, start = 0, [], time.process_time()
    for number, model in enumerate(models):
        some, k = x[:, model.numpy()], int(model.sum())
        sd = np.array([target.slab] * k + [target.intercept, 1.0])

        def log_likelihood(theta: Any, some: Any = some, k: int = k) -> float:
            z = (y - some @ theta[:k] - theta[k]) * math.exp(-theta[k + 1])
            fit = constant - 0.5 * (nu + 1) * np.log1p(z * z / nu) - theta[k + 1]
            return float(fit.sum())

        sampler = NestedSampler(
            log_likelihood, lambda u, sd=sd: ndtri(u) * sd, k + 2, nlive=100,
            rstate=np.random.default_rng(1000 * seed + number),
        )  # fmt: skip
        sampler.run_nested(print_progress=False)
        calls += int(np.sum(sampler.results.ncall))
        evidence.append(float(sampler.results.logz[-1]) + float(target.prior.log_prob(model.sum(), ITEMS)))
    found = torch.tensor(evidence, dtype=torch.float64)
    spent = round(time.process_time() - start, 1)
    off = errors(found.softmax(0), exact, models)
    return {"seed": seed, "calls": calls, "cpu_seconds": spent, **off, "log_z": float(found.logsumexp(0))}


def plot(record: dict[str, Any]) -> None:
    """Error against calls and against CPU seconds."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(9.0, 3.4), layout="constrained")
    for ax, key, label in zip(
        fig.subplots(1, 2),
        ("calls", "cpu_seconds"),
        ("density and gradient calls", "CPU seconds"),
        strict=True,
    ):
        for rows in record["jump"]:
            ax.plot([r[key] for r in rows], [r["inclusion_rmse"] for r in rows], color="#1b4965", lw=1)
        ax.plot([], [], color="#1b4965", label="reversible jump")
        for name, colour, mark in (("ours", "#d1495b", "o"), ("nested", "#8a8a8a", "s")):
            rows = record[name]
            if not rows:
                continue
            label_ = {"ours": "ctsgfn", "nested": "dynesty, model by model"}[name]
            ax.scatter([r[key] for r in rows], [r["inclusion_rmse"] for r in rows], color=colour, marker=mark,
                       zorder=3, label=label_)  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="RMS error of inclusion probabilities")
    fig.axes[0].legend(frameon=False, fontsize="small")
    fig.savefig(FIGURE, dpi=150)


def main() -> None:
    """One kind of run, saved beside what is there."""
    torch.set_num_threads(1)
    record = json.loads(OUT.read_text()) if OUT.exists() else {"ours": [], "jump": [], "nested": []}
    what = sys.argv[1]
    if what == "plot":
        return plot(record)
    target = problem()
    log_evidence, error = reference(target)
    exact, log_z = log_evidence.softmax(0), float(log_evidence.logsumexp(0))
    seed = len(record[what])
    if what == "ours":
        record[what].append(ours(target, exact, log_z, seed))
    elif what == "jump":
        record[what].append(jump(target, exact, seed))
    else:
        record[what].append(nested(target, exact, seed))
    last = record[what][-1]
    print(what, last[-1] if isinstance(last, list) else last, flush=True)
    effective = math.exp(-float((exact * exact.log()).sum()))
    record |= {
        "command": "python benchmarks/robust_selection.py ours|jump|nested|plot",
        **provenance(),
        "reference_error": error,
        "effective_models": effective,
        "log_z": log_z,
        "inclusion": [round(v, 5) for v in (exact @ target.measure.models.all().double()).tolist()],
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
