"""Graphs whose nodes follow their parents by small networks: prediction beside lines, and what evidence says.

Networks of five nodes, N = 100: each node is a sum over its parents of a weight times |x|, sin(2 x) or
tanh(3 x), each scaled and centred, plus normal noise of standard deviation 0.3. Mechanisms with two hidden
units (``HiddenLayer``) and lines (``Linear``), both with noise of unknown scale, are fitted to 100 rows; 2000
fresh rows are predicted, by resampled draws and by plain draws of the flow.

Claim: on each data set the predictive density is higher with networks than with lines.

The posterior of a network is far from normal even on one of its equal copies, so that normal laws, one for
each node and set of parents, leave little of the effective sample size: ESS and Pareto's k are in the record,
and ``fit`` warns. What is shown is prediction, not calibration.

    python benchmarks/network_graphs.py [n]     # at most n more of the runs that have no result yet
"""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from student_graphs import fitted
from torch import Tensor

from ctsgfn.errors import UnreliableEstimate
from ctsgfn.targets import HiddenLayer, JointGraphs, Linear, NormalNoise

SETS, NODES, ROWS, FRESH, SCALE, STEPS, UNITS = (0, 1, 2), 5, 100, 2000, 0.3, 300, 2
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


def one(seed: int) -> dict[str, Any]:
    """Predictive log-densities per fresh row."""
    data, truth = simulated(seed)
    out: dict[str, Any] = {"seed": seed, "truth": float(truth[ROWS:].mean())}
    for name, mechanism in MODELS.items():
        target = JointGraphs(data[:ROWS], mechanism, NormalNoise())
        start = time.process_time()
        sampler, evidence = fitted(target, seed, STEPS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableEstimate)  # in the record
            draws = {
                "": sampler.resample(1000, pool=16_384, seed=seed),
                "_plain": sampler.sample(1000, seed=seed),
            }
        for kind, x in draws.items():
            some = x.like(data)
            each = torch.cat([target.log_likelihood(part, data[ROWS:]) for part in (some[:500], some[500:])])
            out[f"{name}{kind}"] = float((each.logsumexp(0) - math.log(len(each))).mean())
        out[f"{name}_ess"], out[f"{name}_pareto_k"] = evidence.ess, evidence.pareto_k
        out[f"{name}_log_z"], out[f"{name}_reliable"] = evidence.log_z, evidence.reliable
        out[f"{name}_cpu_seconds"] = round(time.process_time() - start, 1)
    return out


def main() -> None:
    """Run, print and save as it goes."""
    torch.set_num_threads(1)
    rows = json.loads(OUT.read_text())["rows"] if OUT.exists() else []
    left = int(sys.argv[1]) if len(sys.argv) > 1 else len(SETS)
    for seed in SETS[len(rows) :][:left]:
        rows.append(one(seed))
        print(rows[-1], flush=True)
        record = {
            "claim": "networks predict better than lines on each data set",
            "command": "python benchmarks/network_graphs.py",
            **provenance(),
            "settings": {"nodes": NODES, "rows": ROWS, "fresh": FRESH, "steps": STEPS, "units": UNITS},
            "met": len(rows) == len(SETS) and all(r["network"] > r["line"] for r in rows),
            "rows": rows,
        }
        OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
