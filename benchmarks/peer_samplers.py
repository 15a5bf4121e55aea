"""The samplers that ``peers.py`` compares, each with its own package's defaults as far as it has them.

Each function takes a case's name, its target (counted) and a seed, and returns log Z and its standard error,
where the sampler has them, and draws with weights or None.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from counting import Counted
from peer_cases import CASES, jax_density
from torch import Tensor

import ctsgfn

PARTICLES, LEAPS = 1024, 10
CHAINS, WARMUP, KEPT = 4, 1000, 1000
STEPS, BATCH, ITERATIONS, SECONDS = 32, 200, 2000, 240
DRAWS = 20_000

Found = dict[str, Any]


def tensor(x: Any) -> Tensor:
    """An array of another package."""
    return torch.from_numpy(np.array(x, dtype=np.float64))


def run_ctsgfn(name: str, target: Counted, seed: int) -> Found:
    """One call of fit, default settings; evidence, and as many weighted draws again."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sampler = ctsgfn.fit(target, seed=seed, progress_bar=False)
        evidence = sampler.evidence(DRAWS, seed=seed)
        x, log_weight = sampler.weighted(DRAWS, seed=100 + seed)
    return {
        "log_z": evidence.log_z,
        "stderr": evidence.stderr,
        "warned": bool(caught),
        "ess": evidence.ess,
        "draws": (x, log_weight.softmax(0)),
    }


def run_pocomc(name: str, target: Counted, seed: int) -> Found:
    """Preconditioned Monte Carlo, vectorised."""
    import pocomc
    import scipy.stats

    case = CASES[name]
    if case.box is not None:
        prior = pocomc.Prior([scipy.stats.uniform(-case.box, 2 * case.box)] * case.dim)
    else:
        prior = pocomc.Prior([scipy.stats.norm(0, s) for s in case.normal])

    def likelihood(x: Any) -> Any:
        points = torch.as_tensor(x, dtype=torch.float64)
        return (target.log_density(points) - case.log_prior(points)).numpy()

    sampler = pocomc.Sampler(prior, likelihood, vectorize=True, random_state=seed)
    sampler.run(progress=False)
    log_z, stderr = sampler.evidence()
    x, weight, *_ = sampler.posterior()
    return {"log_z": float(log_z), "stderr": float(stderr), "draws": (tensor(x), tensor(weight))}


def run_dynesty(name: str, target: Counted, seed: int) -> Found:
    """Static nested sampling."""
    import dynesty
    import scipy.stats

    case = CASES[name]
    scale = np.array(case.normal)

    def transform(u: Any) -> Any:
        return (2 * u - 1) * case.box if case.box is not None else scipy.stats.norm.ppf(u) * scale

    def likelihood(x: Any) -> float:
        point = torch.as_tensor(x, dtype=torch.float64)[None]
        return float(target.log_density(point) - case.log_prior(point))

    rng = np.random.default_rng(seed)
    sampler = dynesty.NestedSampler(likelihood, transform, case.dim, rstate=rng)
    sampler.run_nested(print_progress=False)
    found = sampler.results
    return {
        "log_z": float(found.logz[-1]),
        "stderr": float(found.logzerr[-1]),
        "draws": (tensor(found.samples), tensor(found.importance_weights())),
    }


def jax_prior(name: str, seed: int, count: int) -> tuple[Any, Callable[[Any], Any], Any]:
    """Points [count, d] drawn from a case's prior, its log-density, and a key."""
    import jax
    from jax import numpy as jnp

    case, key = CASES[name], jax.random.PRNGKey(seed)
    shape = (count, case.dim)
    if case.box is not None:
        width = case.box
        start = jax.random.uniform(key, shape, minval=-width, maxval=width, dtype=jnp.float64)
        level = -case.dim * math.log(2 * width)
        return start, lambda x: jnp.where(jnp.all(jnp.abs(x) <= width), level, -jnp.inf), key
    scale = jnp.asarray(case.normal)
    start = scale * jax.random.normal(key, shape, dtype=jnp.float64)
    return start, lambda x: jax.scipy.stats.norm.logpdf(x, 0.0, scale).sum(), key


def run_blackjax(name: str, target: Counted, seed: int) -> Found:
    """Adaptive tempered SMC: systematic resampling at ESS 1/2, HMC moves."""
    import blackjax
    import jax
    from blackjax.smc import resampling

    density, dim = jax_density(name), CASES[name].dim
    start, prior, key = jax_prior(name, seed, PARTICLES)
    hmc = {"step_size": 0.1, "inverse_mass_matrix": np.ones(dim), "num_integration_steps": LEAPS}
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
    return {"log_z": log_z, "draws": (tensor(state.particles), tensor(state.weights))}


def run_numpyro(name: str, target: Counted, seed: int) -> Found:
    """NUTS: four chains from the prior, a thousand steps of warm-up and a thousand kept in each."""
    from jax import random
    from numpyro.infer import MCMC, NUTS

    density = jax_density(name)
    start = jax_prior(name, seed, CHAINS)[0]
    mcmc = MCMC(
        NUTS(potential_fn=lambda x: -density(x)),
        num_warmup=WARMUP,
        num_samples=KEPT,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    calls = 0
    for part in (mcmc.warmup, mcmc.run):
        options = {"collect_warmup": True} if part == mcmc.warmup else {}
        part(random.PRNGKey(seed), extra_fields=("num_steps",), init_params=start, **options)
        calls += int(mcmc.get_extra_fields()["num_steps"].sum())
    target.density_calls = target.gradient_calls = calls
    return {"draws": (tensor(mcmc.get_samples()), None)}


def run_torchgfn(name: str, target: Counted, seed: int) -> Found:
    """Its diffusion sampler, trained by trajectory balance as in its own example script."""
    from gfn.estimators import PinnedBrownianMotionBackward, PinnedBrownianMotionForward
    from gfn.gflownet import TBGFlowNet
    from gfn.gym.diffusion_sampling import BaseTarget, DiffusionSampling
    from gfn.samplers import Sampler
    from gfn.utils.modules import DiffusionFixedBackwardModule, DiffusionPISGradNetForward

    case = CASES[name]

    class Users(BaseTarget):
        def __init__(self, device: torch.device) -> None:
            super().__init__(device, case.dim, n_gt_xs=0)

        def log_reward(self, x: Tensor) -> Tensor:
            return target.log_density(x)

    torch.manual_seed(seed)
    start, sigma = time.process_time(), float(case.moments()[1].max())
    DiffusionSampling.DIFFUSION_TARGETS["given"] = (Users, {})
    space = DiffusionSampling("given", None, num_discretization_steps=STEPS)
    dim, process = case.dim, {"sigma": sigma, "num_discretization_steps": STEPS}
    forward = PinnedBrownianMotionForward(case.dim, DiffusionPISGradNetForward(dim), **process)
    backward = PinnedBrownianMotionBackward(case.dim, DiffusionFixedBackwardModule(dim), **process)
    flow, sampler = TBGFlowNet(pf=forward, pb=backward, init_logZ=0.0), Sampler(estimator=forward)
    optimiser = torch.optim.Adam(flow.pf_pb_parameters(), lr=1e-3)
    optimiser.add_param_group({"params": flow.logz_parameters(), "lr": 1e-1})
    done = 0
    while done < ITERATIONS and time.process_time() - start < SECONDS:
        walks = sampler.sample_trajectories(space, n=BATCH, save_logprobs=True)
        optimiser.zero_grad()
        flow.loss(space, walks, recalculate_all_logprobs=False).backward()
        optimiser.step()
        done += 1
    with torch.no_grad():
        walks = sampler.sample_trajectories(space, n=DRAWS, save_logprobs=True)
        taken, back = flow.get_pfs_and_pbs(walks, recalculate_all_logprobs=False)
        log_weight = (walks.log_rewards + back.sum(0) - taken.sum(0)).double()
    weight = log_weight.exp() / log_weight.exp().mean()
    return {
        "log_z": float(log_weight.logsumexp(0)) - math.log(DRAWS),
        "stderr": float(weight.std()) / math.sqrt(DRAWS),
        "ess": float(1 / weight.square().mean()),
        "iterations": done,
        "draws": (walks.terminating_states.tensor[:, :-1], log_weight.softmax(0)),
    }


PEERS: dict[str, Callable[[str, Counted, int], Found]] = {
    "ctsgfn": run_ctsgfn,
    "pocomc": run_pocomc,
    "dynesty": run_dynesty,
    "blackjax": run_blackjax,
    "numpyro": run_numpyro,
    "torchgfn": run_torchgfn,
}
