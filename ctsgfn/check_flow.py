"""Checks of the whole pipeline: the evidence identity end to end, and gradients."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctsgfn.balance import balance
from ctsgfn.check_pairing import verdict
from ctsgfn.check_walks import walkers
from ctsgfn.diffuse import diffuse
from ctsgfn.gflownet import GFlowNet
from ctsgfn.gradient import backpropagate
from ctsgfn.measures import Measure
from ctsgfn.objectives import Objective
from ctsgfn.probing import log_law
from ctsgfn.psis import psis
from ctsgfn.report import Result
from ctsgfn.space import Space
from ctsgfn.target import HasSamples, Target, evaluate
from ctsgfn.two_sided import Side, compare, log_factor
from ctsgfn.walks import backtrack, rollout

HEAVY = 0.7
"""Pareto k above which importance weights are not believed."""


@dataclass(frozen=True)
class Probed:
    """The law that a measure is probed with, as a target: log Z = 0, and exact samples."""

    measure: Measure[Any]

    def log_density(self, x: Any) -> Tensor:
        """Log-density of the probe law, [B]."""
        return log_law(self.measure, x)

    def sample(self, n: int) -> Any:
        """Draw n probes."""
        return self.measure.probe(n)[0]


def evidence(space: Space[Any, Any], target: Target[Any], log_z: float, n: int, false_alarm: float) -> Result:
    r"""For any matched kernels :math:`E_{p_F}[r\,p_B / p_F] = Z`; here for the untrained diffuse ones.

    The plain mean may have no variance, even on a correct space. So the identity is held in bounded
    form: with :math:`w = r p_B / p_F`, :math:`E_{p_F}[\frac{w}{Z + w}] = E_Q[\frac{Z}{Z + w}]`, where
    Q draws a point x of the normalised target and walks back from it. Where the target has no exact
    samples, probes of ``points`` are weighted by r; heavy weights make the outcome inconclusive.
    """
    remedy = (
        "mend first what fails above; where nothing does, compare read, write, the sink and nu({s0}) = 1 of "
        "the space, and the log_z of the target"
    )
    gfn = GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b)).double()
    count = walkers(space, n)
    exact = isinstance(target, HasSamples)
    walks = rollout(space, gfn.forward_kernel, count)
    ahead = balance(gfn, target, walks).log_weight
    if isinstance(target, HasSamples):
        x, log_v = target.sample(count), None
        x = x.double() if isinstance(x, Tensor) and x.is_floating_point() else x
    else:
        x, w = space.points.probe(count)
        log_v = evaluate(target, x).double() + w
    back = backtrack(space, gfn.backward_kernel, space.write(x))
    home = balance(gfn, target, back).log_weight
    k = psis(ahead).pareto_k
    note = f", Pareto k {k:.2f}"
    if log_v is not None and psis(log_v).pareto_k > HEAVY:
        found = f"probes of points hardly meet the target (Pareto k {psis(log_v).pareto_k:.2f})"
        return Result("evidence", "inconclusive", found + note, f"{HEAVY}")
    left = Side(ahead - log_z, space.features(walks.final).double())
    right = Side(home - log_z, space.features(back.final).double(), None, log_v)
    note += ", exact samples" if exact else ", weighted probes"
    comparison = compare(left, right, false_alarm)
    if not comparison.ok:
        note = f"; the walks give log Z = {log_z - log_factor(left, right):.4g}, not {log_z:.4g}{note}"
    return verdict("evidence", comparison, false_alarm, note, remedy)


WALKS = 1000
"""Most trajectories behind each gradient: every branch must be taken by some."""

STEPS = 20_000
"""Most states that they may visit together."""


def gradients(gfn: GFlowNet[Any], target: Target[Any], objectives: Sequence[Objective]) -> Result:
    """Every trainable parameter receives a finite gradient, from every objective that depends on it.

    An objective may leave whole parts of a flow alone (trajectory balance the flow of states, VarGrad
    log Z); a parameter that no objective reaches, or one of a kernel that an objective reaches only in
    part, is cut off. Gradients are those of a copy: the flow's own stay as they are.
    """
    remedy = (
        "a head or encoder detaches, or does not use, what it was given: every parameter must enter the "
        "density it belongs to"
    )
    reached: set[str] = set()
    fresh = copy.deepcopy(gfn).double()
    named = {name: p for name, p in fresh.named_parameters() if p.requires_grad}
    count = max(64, min(WALKS, STEPS // fresh.space.horizon))
    for objective in objectives:
        label = getattr(objective, "__name__", "objective")
        fresh.zero_grad(set_to_none=True)
        walks = rollout(fresh.space, fresh.forward_kernel, count, reparameterised=objective.reparameterised)
        if objective.walked_back:
            walks = backtrack(fresh.space, fresh.backward_kernel, walks.final, reparameterised=True)
        with torch.enable_grad():
            backpropagate(fresh, target, walks, objective, wanted=objective.wanted)
        got = {name for name, p in named.items() if p.grad is not None}
        wild = [name for name in sorted(got) if not bool(_gradient(named[name]).isfinite().all())]
        if wild:
            return Result(
                "gradients", "FAIL", f"{label}: the gradient of {wild[0]} is not finite", "", remedy
            )
        for part in {name.split(".")[0] for name in got}:
            missed = sorted(n for n in named if n.split(".")[0] == part and n not in got)
            if missed:
                found = f"{label} reaches {part}, but not its parameter {missed[0]}"
                return Result("gradients", "FAIL", found, "", remedy)
        reached |= got
    cut_off = sorted(set(named) - reached)
    if cut_off:
        found = f"no objective reaches {cut_off[0]} ({len(cut_off)} of {len(named)} parameters cut off)"
        return Result("gradients", "FAIL", found, "", remedy)
    found = f"{len(named)} parameters, {len(objectives)} objectives, all finite"
    return Result("gradients", "pass", found, "no exception")


def _gradient(p: Tensor) -> Tensor:
    assert p.grad is not None  # asked for parameters that have one
    return p.grad
