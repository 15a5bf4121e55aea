"""One run of DiBS (Lorch et al., 2021, arXiv 2105.11839), by its own package in an environment of its own.

    python benchmarks/dibs_run.py IN.npz OUT.npz

Reads data [N, d], the noise variance, the expected edges per node, the number of particles and of steps, and
the seed; writes graphs, weights, the log-weights that the package calls DiBS+, and CPU seconds. Everything
else is as the package has it by default. ``dibs_graphs.py`` calls it.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import sys
import time

import numpy as np
from dibs.inference import JointDiBS
from dibs.models import ErdosReniDAGDistribution, LinearGaussian
from jax import random


def main() -> None:
    """Run on the data of one file and write the other."""
    given = np.load(sys.argv[1])
    data = np.asarray(given["data"], dtype=np.float32)
    nodes, edges = data.shape[1], float(given["edges_per_node"])
    start = time.process_time()
    dibs = JointDiBS(
        x=data,
        graph_model=ErdosReniDAGDistribution(nodes, edges),
        likelihood_model=LinearGaussian(n_vars=nodes, obs_noise=float(given["noise_variance"])),
    )
    graphs, weights = dibs.sample(
        key=random.PRNGKey(int(given["seed"])),
        n_particles=int(given["particles"]),
        steps=int(given["steps"]),
    )
    plus = dibs.get_mixture(graphs, weights)
    seconds = time.process_time() - start
    logp = np.asarray(plus.logp)
    np.savez(sys.argv[2], edges=np.asarray(graphs), weights=np.asarray(weights), plus=logp, seconds=seconds)


if __name__ == "__main__":
    main()
