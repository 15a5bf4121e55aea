"""What a kernel that ``fit`` tries is worth: weights of its draws, and a bound from the particles."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ctsgfn.evidence import Evidence, estimate_evidence
from ctsgfn.gflownet import GFlowNet
from ctsgfn.importance import Importance
from ctsgfn.target import Target

USABLE = (0.7, 1.0)
"""Least ESS and largest Pareto k of a kernel that serves; at 1 the weights have no mean."""


def judge(gfn: GFlowNet[Any], target: Target[Tensor], z: Tensor, n: int = 4096) -> Evidence:
    """Weights of n draws, and the upper bound at as many particles z."""
    importance: Importance[Any, Tensor] = Importance(gfn, target)
    _, log_weight = importance.weigh(n)
    return estimate_evidence(
        log_weight, log_weight_at_target=importance.weigh_ends(z[:: math.ceil(len(z) / n)])
    )


def gap(e: Evidence) -> float:
    """Distance of the bounds; the particles behind the upper one are not exact, log Z itself is another."""
    assert e.upper_bound is not None
    return max(e.upper_bound, e.log_z) - e.lower_bound


def loss(e: Evidence) -> float:
    """Nats that a kernel falls short by: distance of the bounds, and log of the draws per effective one."""
    return gap(e) - math.log(e.ess)


def better(new: Evidence, old: Evidence) -> bool:
    """Whether a kernel serves where the other does not, or falls short by less."""
    return loss(new) < loss(old) or (bool(shortcoming(old, *USABLE)) and not shortcoming(new, *USABLE))


def said(e: Evidence) -> str:
    """A kernel's worth in words."""
    return f"ESS {100 * e.ess:.0f} %, Pareto k {e.pareto_k:.2f}, bounds {gap(e):.2f} nats apart"


def shortcoming(e: Evidence, least_ess: float, most_k: float) -> str:
    """What speaks against a kernel, or nothing."""
    if not e.ess >= least_ess:
        return f"ESS below {100 * least_ess:.0f} %"
    if not e.pareto_k <= most_k:
        return f"Pareto k above {most_k}"
    return "" if gap(e) <= 0.5 else "bounds more than 0.5 nats apart"
