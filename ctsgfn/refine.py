r"""Evidence refined by sequential Monte Carlo: from a sampler's draws to the target, to a stated error.

Independent runs each estimate Z without bias (``ctsgfn.smc``); the logarithm of their mean is the
estimate, and how far they are apart is its error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctsgfn.bridge import Bridge
from ctsgfn.coordinate_walk import walk
from ctsgfn.errors import InvalidInput, whole
from ctsgfn.evidence import Evidence
from ctsgfn.gflownet import GFlowNet
from ctsgfn.importance import Importance, stack
from ctsgfn.measures import Lebesgue
from ctsgfn.psis import convergence_rate, systematic
from ctsgfn.smc import Plan, Runs, plan, run, run_back
from ctsgfn.start_law import EvenLaw, fitted_law, start_law
from ctsgfn.target import HasSamples

ROUND = 8
"""Runs made before their error is looked at for the first time."""

SPREAD = 0.7
"""Standard deviation of log Z over runs above which larger runs serve better than more of them."""

WALKERS, SWEEPS, WALK = 500, 20, 1000
"""Particles that walk on at the end, sweeps over their coordinates at most, and steps of each at most."""

NUMBERS = 2**22
"""Numbers in the particles of runs that go side by side."""


@dataclass(frozen=True)
class Refined:
    """Log Z and weighted draws of the target, by sequential Monte Carlo; it prints itself."""

    evidence: Evidence
    points: Any  # [M, ..] particles of all runs, in the target's coordinates
    log_weight: Tensor  # [M] float64, of weights that sum to 1
    runs: int  # independent runs that the evidence rests on
    temperatures: tuple[float, ...]  # inverse, from the first above 0 to 1
    calls: int  # of the density and of its gradient, the plan's included

    @property
    def log_z(self) -> float:
        """The estimate of log Z."""
        return self.evidence.log_z

    @property
    def stderr(self) -> float:
        """Its standard error."""
        return self.evidence.stderr

    def draws(self, n: int) -> Any:
        """N of the points, drawn in proportion to their weights."""
        whole("n", n)
        return self.points[systematic(self.log_weight, n)]

    def __str__(self) -> str:
        work = (
            f"{self.runs} runs of {len(self.log_weight) // self.runs} particles, temperature steps: "
            f"{len(self.temperatures)}, density calls: {self.calls}"
        )
        return f"{self.evidence}\n{work}"


def refine(
    importance: Importance[Any, Any], *, error: float = 0.05, calls: int = 5_000_000, particles: int = 1000
) -> Refined:
    r"""Go on from a sampler's draws to its target until log Z has the error asked for.

    Particles start from the law of the sampler (from normals fitted to its weighted draws, where its walks
    have more than one step) and are annealed along :math:`q^{1 - \beta} r^\beta`. A first run chooses the
    temperatures (0.7 of the particles stay effective), the step sizes and the numbers of Hamiltonian
    and of difference moves (until log r - log q has lost its memory). Then independent runs follow that
    plan, so that :math:`E \hat Z_i = Z` for each, and

    .. math::
        \log \hat Z = \log \frac1R \sum_i \hat Z_i

    has the jackknife's standard error, times :math:`\sqrt{(R - 1) / (R - 3)}` for the few runs that it is
    estimated from, and larger where the weights have a heavy tail (as in ``estimate_evidence``). Runs are
    added while it is above ``error``, and larger runs started afresh where they differ by more than 0.7
    nats. At the end some particles walk on, coordinate by coordinate: if they leave for places that the
    runs did not reach, mass is missing, and the evidence says so.

    Args:
        importance: of a flow on R^d (its target may be anywhere that R^d is mapped to).
        error: standard error of log Z to reach.
        calls: density and gradient calls to spend at most.
        particles: of the first run, and of each of the next ones at first.

    Raises:
        InvalidInput: on other spaces, or when the calls do not suffice for a first estimate.

    References:
        Sequential Monte Carlo samplers (Del Moral et al., 2006), JRSS B 68.
    """
    if not (isinstance(error, int | float) and error > 0):
        raise InvalidInput(f"error must be a positive number of nats, got {error!r}.")
    whole("calls", calls)
    whole("particles", particles, least=100)
    require_line(importance.gfn)
    law, spent = start_law(importance)
    bridge = Bridge(law, importance.target)
    made, z = plan(bridge, particles, calls // 3)
    if len(made.levels) > 1:  # start nearer, now that the way is known
        nearer = Bridge(EvenLaw(law, fitted_law(z, z.new_zeros(len(z)))), importance.target)
        again, _ = plan(nearer, particles, calls // 3)
        better = again.cost < made.cost
        spent += (bridge if better else nearer).calls
        bridge, made = (nearer, again) if better else (bridge, made)

    original = importance.coordinates.original
    rounds = 2 if isinstance(original, HasSamples) else 1  # one of them from exact samples back

    def affordable(size: int) -> int:
        """Runs of this size, beside those from exact samples back."""
        return int((calls - spent - bridge.calls) / (size * made.cost)) - (rounds - 1) * ROUND

    size = min(particles, int((calls - spent - bridge.calls) / (rounds * ROUND * made.cost)))
    if size < 50:
        raise InvalidInput(
            f"{calls} density calls are too few: the first runs took {spent + bridge.calls}, and {ROUND} "
            f"more of at least 50 particles take {math.ceil(50 * ROUND * made.cost)}; pass a larger calls=."
        )
    more, done = ROUND, list[Runs]()
    while more:
        done.append(_side_by_side(bridge, made, more, size))
        log_z = torch.cat([runs.log_z for runs in done])
        more = 0
        if _error_of(done, size) > error:
            if float(log_z.std()) <= SPREAD:
                more = max(0, min(len(log_z), affordable(size)))
            elif affordable(2 * size) >= ROUND:
                size, more, done = 2 * size, ROUND, []
    upper = None
    if isinstance(original, HasSamples):
        exact = importance.encode(original.sample(ROUND * size))
        upper = run_back(bridge, made, ROUND, exact)
    z = torch.cat([runs.z for runs in done])
    log_weight = log_z.log_softmax(0).repeat_interleave(size) - math.log(size)
    drift = _drift(bridge, z[systematic(log_weight, WALKERS)])
    evidence = _judged(importance, made, done, upper, drift, error, size)
    return Refined(
        evidence,
        importance.coordinates.decode(z),
        log_weight,
        len(log_z),
        tuple(level.beta for level in made.levels),
        spent + bridge.calls,
    )


def require_line(gfn: GFlowNet[Any]) -> None:
    """Refuse a flow whose points do not lie in R^d.

    Raises:
        InvalidInput: naming the measure, and what to do instead.
    """
    points = gfn.space.points
    if not (isinstance(points, Lebesgue) and points == Lebesgue(points.dim)):
        raise InvalidInput(
            f"refinement moves points in R^d, and this flow draws points in {points}: use evidence() and "
            "resample(), or fit the target in unconstrained coordinates (ctsgfn.transformed)."
        )


def _side_by_side(bridge: Bridge, made: Plan, runs: int, size: int) -> Runs:
    """Runs in groups of bounded memory."""
    dim = made.levels[0].pool.shape[1]
    group = max(1, NUMBERS // (size * max(64, dim)))
    parts = [run(bridge, made, min(group, runs - k), size) for k in range(0, runs, group)]
    return Runs(
        stack([part.z for part in parts]),
        torch.cat([part.log_z for part in parts]),
        min(part.ess for part in parts),
        max(part.pareto_k for part in parts),
    )


def _drift(bridge: Bridge, z: Tensor) -> float:
    """Mean change of log r - log q, in standard errors, when draws of the target walk on: 0 if they are."""
    before = bridge.look(z).log_ratio
    sweeps = max(2, min(SWEEPS, WALK // z.shape[1]))
    after = bridge.look(walk(bridge.counted, z, sweeps=sweeps, kept=1)[:, 0]).log_ratio
    change = (after - before).double()
    return float(change.mean() / (change.std() / math.sqrt(len(z)) + 1e-12))


def _error_of(done: list[Runs], size: int) -> float:
    log_z = torch.cat([runs.log_z for runs in done])
    return _stderr(log_z, max(runs.pareto_k for runs in done), len(log_z) * size)


def _log_mean(log_z: Tensor) -> float:
    return float(log_z.logsumexp(0)) - math.log(len(log_z))


def _stderr(log_z: Tensor, pareto_k: float, particles: int) -> float:
    """The jackknife's error of the log-mean, such that the mean squared z-score is about 1."""
    n = len(log_z)
    share = log_z.softmax(0)
    without = torch.log1p(-share) + math.log(n / (n - 1))  # of the log-mean, when one is left out
    variance = (n - 1) / n * (without - without.mean()).square().sum()
    slower = particles ** (1 - convergence_rate(pareto_k, particles))
    return math.sqrt(float(variance) * (n - 1) / (n - 3) * slower)


def _judged(
    importance: Importance[Any, Any],
    made: Plan,
    done: list[Runs],
    upper: Tensor | None,
    drift: float,
    error: float,
    size: int,
) -> Evidence:
    log_z = torch.cat([runs.log_z for runs in done])
    runs, estimate, stderr = len(log_z), _log_mean(log_z), _error_of(done, size)
    lower, ess = float(log_z.mean()), min(part.ess for part in done)
    k = max(part.pareto_k for part in done)
    slowest, gap = made.worst_correlation, estimate - lower
    reasons = []
    if stderr > error:
        reasons.append(f"the standard error is {stderr:.3f} after all calls, above {error:g}")
    if not ess >= 0.1:
        reasons.append(f"the effective sample size fell to {100 * ess:.2g} % of the particles")
    if not k <= 0.7:
        reasons.append(f"Pareto k is {k:.2f}, above 0.7: the weights are too heavy-tailed")
    if len(made.levels) > 1 and slowest.correlation > 0.7:
        reasons.append(
            f"the particles hardly move at inverse temperature {slowest.beta:.2g}: log r - log q stays "
            f"correlated by {slowest.correlation:.2f}"
        )
    if abs(drift) > 5:
        reasons.append(
            f"particles that walk on leave (log r - log q changes by {abs(drift):.0f} standard errors), so "
            "there is mass that the runs did not reach"
        )
    if gap > 0.5:
        reasons.append(f"log Z and the mean over runs are {gap:.2f} nats apart, more than 0.5")
    if upper is not None:
        above, slack = -_log_mean(-upper), 5 * math.hypot(stderr, _stderr(-upper, 0.0, 1))
        if abs(above - estimate) > slack + 1e-3:
            reasons.append(f"runs from exact samples back give a log Z of {above:.2f}, not {estimate:.2f}")
    return Evidence(
        log_z=estimate,
        stderr=stderr,
        lower_bound=lower,
        lower_bound_stderr=float(log_z.std()) / math.sqrt(runs),
        ess=ess,
        pareto_k=k,
        learned_log_z=importance.gfn.log_z.item(),
        n=runs * size,
        measure=str(importance.coordinates.original.measure),
        upper_bound=None if upper is None else float(upper.mean()),
        upper_bound_stderr=None if upper is None else float(upper.std()) / math.sqrt(len(upper)),
        reasons=tuple(reasons),
        method="sequential Monte Carlo",
    )
