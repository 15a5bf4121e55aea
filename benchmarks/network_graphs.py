"""Graphs whose nodes follow their parents by small networks: log Z, prediction beside lines, and calibration.

Prediction: networks of five nodes, N = 100: each node is a sum over its parents of a weight times |x|,
sin(2 x) or tanh(3 x), each scaled and centred, plus normal noise of standard deviation 0.3. Mechanisms with
two hidden units (``HiddenLayer``) and lines (``Linear``), both with noise of unknown scale, are fitted to 100
rows; 2000 fresh rows are predicted by resampled draws.

Log Z of the networks of the first data set is compared with a sum over all 29,281 graphs of evidences of
nodes given their parents. Those that matter (parents of probability above 0.01) are estimated anew for this,
by bridge sampling between the fitted laws and particles that an annealing run of its own brought from the
prior: where the laws missed mass that the particles have, these evidences would be larger.

Calibration: data of 50 rows are drawn from the prior (uniform graph, standard normal parameters), as in
``student_graphs.py``; ranks of the number of edges, of the mean log-scale, of the sum of squares of all
weights, and of the value of the mechanisms where every node is 1, summed over nodes: the last two do not
depend on which of the equal copies of a network is drawn.

Claim: on each data set the predictive density is higher with networks than with lines, the ESS is above 5%
and log Z within 0.1 of the sum (on the first data set); every p-value of ranks is above 0.01 / 4, and the
edges are as many as expected (|z| < 3).

    python benchmarks/network_graphs.py [n]     # at most n more of the runs that have no result yet
"""

from __future__ import annotations

import math
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from resume import Rows, resume
from student_graphs import fitted, ranked, uniformity
from torch import Tensor

import ctsgfn
from ctsgfn.annealing import anneal
from ctsgfn.counted import CountedTarget
from ctsgfn.errors import UnreliableEstimate
from ctsgfn.gaussian_fits import GaussianFits
from ctsgfn.measures import Lebesgue
from ctsgfn.nested_fits import NestedFits
from ctsgfn.target import as_target
from ctsgfn.targets import HiddenLayer, JointGraphs, Linear, NormalNoise

SETS, NODES, ROWS, FRESH, SCALE, STEPS, UNITS = (0, 1, 2), 5, 100, 2000, 0.3, 300, 2
CALIBRATED, FEWER_ROWS = 10, 50
SUMMED, PARTICLES, MATTERS = (0,), 2000, 0.01
MODELS = {"network": HiddenLayer(UNITS), "line": Linear()}
OUT = Path(__file__).parent / "results" / "network_graphs.json"


def curve(kind: int, x: Tensor) -> Tensor:
    """One of three functions, with mean about 0 and standard deviation about 1 where x is of order 1."""
    return ((x.abs() - 0.8) / 0.6, (2 * x).sin() / 0.7, (3 * x).tanh() / 0.8)[kind]


def simulated(seed: int) -> tuple[Tensor, Tensor]:
    """Rows [N, 5], and their log-densities [N] under the truth."""
    generator = torch.Generator().manual_seed(2000 + seed)
    edges = (torch.rand(NODES, NODES, generator=generator) < 0.5).triu(1)
    sign = torch.where(torch.rand(NODES, NODES, generator=generator) < 0.5, -1.0, 1.0)
    weight = (0.5 + 0.5 * torch.rand(NODES, NODES, generator=generator)) * sign
    kind = torch.randint(3, (NODES, NODES), generator=generator)
    noise = SCALE * torch.randn(ROWS + FRESH, NODES, generator=generator, dtype=torch.float64)
    noise[:, ~edges.any(0)] /= SCALE  # nodes without parents have standard deviation 1
    x = torch.zeros_like(noise)
    for j in range(NODES):
        causes = edges[:, j].nonzero().squeeze(-1).tolist()
        x[:, j] = sum(weight[i, j] * curve(int(kind[i, j]), x[:, i]) for i in causes) + noise[:, j]
    scale = torch.where(edges.any(0), SCALE, 1.0).double()
    each = -0.5 * (noise / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
    return x, each.sum(-1)


def predict(seed: int) -> dict[str, Any]:
    """Predictive log-densities per fresh row, and log Z beside the sum over graphs."""
    data, truth = simulated(seed)
    out: dict[str, Any] = {"seed": seed, "truth": float(truth[ROWS:].mean())}
    for name, mechanism in MODELS.items():
        target = JointGraphs(data[:ROWS], mechanism, NormalNoise())
        start = time.process_time()
        sampler, evidence = fitted(target, seed, STEPS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableEstimate)  # in the record
            draws = sampler.resample(1000, pool=8192, seed=seed).like(data)
        each = torch.cat([target.log_likelihood(part, data[ROWS:]) for part in (draws[:500], draws[500:])])
        out[name] = float((each.logsumexp(0) - math.log(len(each))).mean())
        out[f"{name}_ess"], out[f"{name}_pareto_k"] = evidence.ess, evidence.pareto_k
        out[f"{name}_log_z"], out[f"{name}_log_z_error"] = evidence.log_z, evidence.stderr
        out[f"{name}_reliable"] = evidence.reliable
        out[f"{name}_cpu_seconds"] = round(time.process_time() - start, 1)
        if name == "network" and seed in SUMMED:
            start = time.process_time()
            torch.manual_seed(seed)
            head: Any = sampler.gfn.forward_kernel.heads[-1]
            out["network_sum"], out["network_sum_of_fits"] = summed(head.fits)
            out["sum_cpu_seconds"] = round(time.process_time() - start, 1)
    return out


def summed(fits: NestedFits) -> tuple[float, float]:
    """Log Z by the sum over all graphs: with evidences by bridge sampling, and with those of the fits."""
    graphs = ctsgfn.Acyclic(NODES).all()
    block, part = fits.nodes(graphs)
    number = fits.numbers(block, part)
    row = torch.zeros(len(fits.fits), dtype=torch.long).scatter(0, number, torch.arange(len(number)))
    value = torch.tensor([fit.log_evidence for fit in fits.fits], dtype=torch.float64)
    before = value[number].reshape(len(graphs), NODES).sum(-1)
    mass = torch.zeros(len(value), dtype=torch.float64)
    mass.index_add_(0, number, before.softmax(0).repeat_interleave(NODES))
    for k in (mass > MATTERS).nonzero().squeeze(-1).tolist():
        value[k] = bridged(fits, k, block[row[k]][None], part[row[k]][None])
    after = value[number].reshape(len(graphs), NODES).sum(-1)
    return float(after.logsumexp(0)), float(before.logsumexp(0))


def bridged(fits: NestedFits, k: int, block: Tensor, part: Tensor) -> float:
    """Log-evidence of a node from draws of its law and annealed particles (Meng and Wong, 1996)."""
    axes, law = fits.fits[k].axes, fits.fits[k].law
    assert law is not None

    def density(x: Tensor) -> Tensor:
        theta = x.new_zeros(len(x), fits.width).index_copy(1, axes, x)
        return fits.log_outer(block.expand(len(x)), part.expand(len(x), -1), theta)

    one = torch.eye(len(axes), dtype=torch.float64)[None]
    prior = GaussianFits(torch.zeros(1, len(axes), dtype=torch.float64), one, one.new_zeros(1))
    points, _ = anneal(CountedTarget(as_target(density, Lebesgue(len(axes)))), prior, PARTICLES, True)
    drawn, brought = (density(x) - law.log_prob(x) for x in (law.draw(PARTICLES), points))
    log_z = float(drawn.logsumexp(0)) - math.log(PARTICLES)
    for _ in range(50):
        here = (drawn - torch.logaddexp(drawn, drawn.new_tensor(log_z))).logsumexp(0)
        log_z = float(here - (-torch.logaddexp(brought, drawn.new_tensor(log_z))).logsumexp(0))
    return log_z


def calibrate(seed: int) -> dict[str, Any]:
    """Ranks of the truth of a data set from the prior."""
    generator = torch.Generator().manual_seed(3000 + seed)
    graphs = ctsgfn.Acyclic(NODES).all()
    edges = graphs[int(torch.randint(len(graphs), (1,), generator=generator))]
    mechanism, noise = HiddenLayer(UNITS), NormalNoise()
    live = mechanism.live(edges.T)
    theta = torch.randn(live.shape, generator=generator, dtype=torch.float64) * live
    z = torch.randn(NODES, generator=generator, dtype=torch.float64)
    rest = torch.randn(FEWER_ROWS, NODES, generator=generator, dtype=torch.float64)
    rest = rest * (noise.log_centre + noise.log_spread * z).exp()
    data = torch.zeros_like(rest)
    for _ in range(NODES):  # as often as the longest path is long
        data = mechanism.mean(data, edges.T, theta)[range(NODES), :].T + rest
    target = JointGraphs(data, mechanism, noise)
    truth = of_theta(target, edges[None], torch.cat([theta, z[:, None]], 1).flatten()[None])
    one = {name: float(v) for name, v in truth.items()}
    return ranked(target, one, edges, generator, of_draws, seed, STEPS)


def of_draws(target: JointGraphs, draws: Any) -> dict[str, Tensor]:
    """Quantities of posterior draws."""
    return of_theta(target, draws.model, draws.theta.double())


def of_theta(target: JointGraphs, edges: Tensor, theta: Tensor) -> dict[str, Tensor]:
    """Quantities [B] whose ranks are looked at."""
    by_node = theta.reshape(-1, theta.shape[1] // NODES)
    parents, weights = target.parts(edges).flatten(0, 1), by_node[:, :-1]
    value = target.mechanism.mean(torch.ones(1, NODES, dtype=torch.float64), parents, weights)
    return {
        "edges": edges.double().sum((1, 2)),
        "log_scale": by_node[:, -1].reshape(-1, NODES).mean(1),
        "squares": weights.square().sum(1).reshape(-1, NODES).sum(1),
        "value": value.reshape(-1, NODES).sum(1),
    }


def about(rows: Rows, calibration: Rows) -> dict[str, Any]:
    """What was run, and whether the claim holds."""
    p_values, edges_z, calibrated = uniformity(calibration)
    return {
        "claim": "networks predict better than lines, ESS above 5%, log Z within 0.1 of the sum over "
        "graphs; ranks uniform (p > 0.0025), edges as expected (|z| < 3)",
        "settings": {
            "nodes": NODES, "rows": ROWS, "fresh": FRESH, "steps": STEPS, "units": UNITS,
            "calibration": {"sets": CALIBRATED, "rows": FEWER_ROWS},
        },
        "p_values": p_values,
        "edges_z": edges_z,
        "met": len(rows) == len(SETS)
        and len(calibration) == CALIBRATED
        and calibrated
        and all(
            r["network"] > r["line"]
            and r["network_ess"] > 0.05
            and abs(r["network_log_z"] - r.get("network_sum", r["network_log_z"])) < 0.1
            for r in rows
        ),
    }  # fmt: skip


def main() -> None:
    """Run, print and save as it goes."""
    ranks = [partial(calibrate, k) for k in range(CALIBRATED)]
    resume(OUT, {"rows": [partial(predict, k) for k in SETS], "calibration": ranks}, about)


if __name__ == "__main__":
    main()
