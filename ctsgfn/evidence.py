r"""The evidence Z and what is known about the quality of its estimate.

For trajectories drawn by the policy, with weights :math:`w = r\,p_B / p_F`,

.. math::
    \underbrace{E_{p_F} \log w}_{\text{ELBO}} \;\le\; \log Z = \log E_{p_F} w
    \;\le\; \underbrace{E_{r p_B / Z} \log w}_{\text{EUBO}}.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from torch import Tensor

from ctsgfn.errors import InvalidInput, UnreliableEstimate
from ctsgfn.psis import checked, convergence_rate, effective_sample_size, psis

TELLING = 5.0
"""Multiple of the mean weight that the largest must pass for its Pareto shape to count.

Weights that are all alike have a shape too, often above 1 where they take few values, and nothing hangs on
it. Tails that matter show such weights: of 1,000 weights with shape 0.7, one is beyond it in 99.9 % of cases.
"""


@dataclass(frozen=True)
class Evidence:
    """An estimate of log Z, its bounds, and the diagnostics that say how far to trust it.

    ``upper_bound`` is None without samples of the target; it is the only part of this record that
    sees mass which the policy never visits.

    Example:
        >>> import torch
        >>> e = estimate_evidence(torch.cat([torch.zeros(30), torch.full((970,), -9.0)]))
        >>> e.reliable, round(e.log_z, 2), round(e.ess_count, 1)
        (False, -3.5, 30.2)
        >>> e.reasons[0]
        'the effective sample size is 3 % of the draws, below 10 %'
    """

    log_z: float  # log mean weight: the estimate
    stderr: float  # its standard error
    lower_bound: float  # ELBO, mean log-weight
    lower_bound_stderr: float
    ess: float  # effective fraction of the n draws
    pareto_k: float
    learned_log_z: float  # the flow's own parameter
    n: int
    measure: str  # what Z is an integral against
    upper_bound: float | None = None  # EUBO
    upper_bound_stderr: float | None = None
    reasons: tuple[str, ...] = ()  # why not to trust log_z
    method: str = "importance-weighted"

    @property
    def reliable(self) -> bool:
        """Whether nothing speaks against the estimate."""
        return not self.reasons

    @property
    def ess_count(self) -> float:
        """Effective number of draws."""
        return self.ess * self.n

    def warn_unless_reliable(self, what: str, stacklevel: int = 3) -> None:
        """Emit ``UnreliableEstimate`` with the reasons, if there are any; ``what`` opens the sentence."""
        if not self.reliable:
            warnings.warn(
                f"{what} not reliable: {'; '.join(self.reasons)}. Train longer, or use a richer kernel.",
                UnreliableEstimate,
                stacklevel=stacklevel,
            )

    def __str__(self) -> str:
        rows = [
            ("log Z", f"{self.log_z:.4f} +- {self.stderr:.4f}", self.method),
            ("lower bound", f"{self.lower_bound:.4f} +- {self.lower_bound_stderr:.4f}", "ELBO"),
        ]
        if self.upper_bound is not None:
            rows.append(("upper bound", f"{self.upper_bound:.4f} +- {self.upper_bound_stderr:.4f}", "EUBO"))
        rows += [
            ("learned log Z", f"{self.learned_log_z:.4f}", "the flow's own parameter"),
            ("ESS", f"{100 * self.ess:.1f} %", f"{self.ess_count:.0f} of {self.n} draws"),
            ("Pareto k", f"{self.pareto_k:.2f}", "below 0.7 is good"),
        ]
        lines = [f"{name:<14} {value:<22} {note}".rstrip() for name, value, note in rows]
        verdict = "reliable" if self.reliable else "NOT reliable: " + "; ".join(self.reasons)
        return "\n".join([f"evidence against {self.measure}", *lines, verdict])


def estimate_evidence(
    log_weight: Tensor,
    *,
    learned_log_z: float = math.nan,
    measure: str = "the target's measure",
    log_weight_at_target: Tensor | None = None,
    min_ess: float = 0.1,
    max_pareto_k: float = 0.7,
    max_gap: float = 1.0,
) -> Evidence:
    r"""Evidence from the log importance weights of trajectories.

    The standard error is that of the delta method times :math:`n^{(1 - \mathrm{rate}(k)) / 2}`
    (``convergence_rate``), since the plain one is far too small under heavy tails: with weights of
    Pareto shape 0.7, 28 % of 4096-draw estimates were more than two plain errors off, and 5 % more
    than two of these.

    Args:
        log_weight: [N], of trajectories drawn by the policy.
        learned_log_z: the flow's own log Z, for the record.
        measure: the measure that Z is an integral against, in words.
        log_weight_at_target: [K], of trajectories drawn backwards from samples of the target.
        min_ess: least effective fraction of the draws that is called reliable.
        max_pareto_k: largest Pareto shape that is called reliable, where some weight is above five times
            their mean.
        max_gap: largest gap in nats between the bounds (without an upper bound: between log Z and the
            lower bound) that is called reliable.

    Raises:
        InvalidInput: with fewer than two weights, NaN or +inf among them, or thresholds that are NaN.

    Example:
        >>> import torch
        >>> print(estimate_evidence(torch.zeros(100), learned_log_z=0.1, measure="counting measure"))
        evidence against counting measure
        log Z          0.0000 +- 0.0000       importance-weighted
        lower bound    0.0000 +- 0.0000       ELBO
        learned log Z  0.1000                 the flow's own parameter
        ESS            100.0 %                100 of 100 draws
        Pareto k       -inf                   below 0.7 is good
        reliable
    """
    w = checked(log_weight)
    n = len(w)
    if n < 2:
        raise InvalidInput(f"the evidence needs at least 2 weights to have a standard error, got {n}.")
    for name, value in (("min_ess", min_ess), ("max_pareto_k", max_pareto_k), ("max_gap", max_gap)):
        if math.isnan(value):
            raise InvalidInput(f"{name} must be a number, got NaN.")
    log_z = float(w.logsumexp(0)) - math.log(n)
    k = psis(w).pareto_k
    ess = effective_sample_size(w) / n
    lower, lower_stderr = _mean(w)
    upper = upper_stderr = None
    if log_weight_at_target is not None:
        upper, upper_stderr = _mean(checked(log_weight_at_target))
    reasons = []
    if not ess >= min_ess:
        reasons.append(
            f"the effective sample size is {100 * ess:.2g} % of the draws, below {100 * min_ess:g} %"
        )
    telling = float(w.max()) - log_z > math.log(TELLING) or k == math.inf  # inf: too few weights to tell
    if telling and not k <= max_pareto_k:
        reasons.append(f"Pareto k is {k:.2f}, above {max_pareto_k:g}: the weights are too heavy-tailed")
    gap = (log_z if upper is None else upper) - lower
    if not gap <= max_gap:
        between = "log Z and the lower bound" if upper is None else "the upper and the lower bound"
        reasons.append(f"{between} are {gap:.2f} nats apart, more than {max_gap:g}")
    return Evidence(
        log_z=log_z,
        stderr=_log_mean_stderr(w, k),
        lower_bound=lower,
        lower_bound_stderr=lower_stderr,
        ess=ess,
        pareto_k=k,
        learned_log_z=float(learned_log_z),
        n=n,
        measure=measure,
        upper_bound=upper,
        upper_bound_stderr=upper_stderr,
        reasons=tuple(reasons),
    )


def _mean(v: Tensor) -> tuple[float, float]:
    finite = len(v) > 1 and bool(v.isfinite().all())
    return float(v.mean()), float(v.std() / math.sqrt(len(v))) if finite else math.inf


def _log_mean_stderr(w: Tensor, k: float) -> float:
    """Delta method, and as much larger as the Pareto shape says that the mean converges slower."""
    n = len(w)
    relative = (w - w.logsumexp(0) + math.log(n)).exp()  # mean 1
    plain = float(relative.std()) / math.sqrt(n)
    return plain * math.sqrt(n ** (1 - convergence_rate(k, n)))
