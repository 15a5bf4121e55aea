"""The validator: the hypotheses of the theory as nine executable checks.

Everything the theory asks of a space is an integral or holds edge by edge, and ``Measure.probe``
turns integrals into sums.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, Def. 1-7.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ctsgfn.check_charts import charts
from ctsgfn.check_flow import Probed, evidence, gradients
from ctsgfn.check_mass import normalisation
from ctsgfn.check_pairing import pairing, read_write
from ctsgfn.check_target import target_itself
from ctsgfn.check_walks import absorbing, support
from ctsgfn.errors import CtsgfnError, InvalidInput, MeasureMismatch, NoExactAnswer
from ctsgfn.gflownet import GFlowNet
from ctsgfn.objectives import Objective, detailed_balance, trajectory_balance
from ctsgfn.probing import default_dtype
from ctsgfn.report import Report, Result
from ctsgfn.seeding import seeded
from ctsgfn.space import Space
from ctsgfn.target import HasLogZ, Target

STATISTICAL = 4
"""Checks that hold z-scores against a limit: pairing, normalisation, evidence, read_write."""


def check(
    space: Space[Any, Any],
    target: Target[Any] | None = None,
    gfn: GFlowNet[Any] | None = None,
    *,
    objectives: Sequence[Objective] | None = None,
    log_z: float | None = None,
    n: int = 20_000,
    seed: int = 0,
    false_alarm: float = 1e-4,
    only: Sequence[str] | None = None,
) -> Report:
    r"""Test a space, and optionally a target and a flow on it, against the hypotheses of the theory.

    The checks, by name, in an order in which each relies on those above it:

    - ``charts``: pull inverts push; weights are Jacobians.
    - ``read_write``: read and write are inverse, and carry nu on X to ``points``; features are finite.
    - ``absorbing``: every walk ends within the horizon; the flags say the truth.
    - ``support``: each kernel scores the other's walks, and all of nu leads back to s0.
    - ``pairing``: :math:`\nu \otimes \kappa = \nu \otimes \kappa_b` on pairs of states (eq. 4).
    - ``evidence``: E[r p_B / p_F] = Z with untrained kernels, end to end. Without a target whose log Z
      is known, on the law that ``points`` is probed with.
    - ``normalisation``: laws have mass 1, and draws follow their density.
    - ``gradients``: every parameter receives a finite gradient (needs ``gfn``).
    - ``target``: measure, support, batching, dtype, known log Z (needs ``target``).

    Runs in float64 on the CPU; the default dtype, torch's generators and the flow stay as they were.

    Args:
        space: the space.
        target: a target on it.
        gfn: a flow on it.
        objectives: those whose gradients are checked; by default trajectory balance and, for a flow
            with ``log_flow``, detailed balance.
        log_z: the target's log Z where it is known and the target does not say it.
        n: probes per check (ten times as many for pairing and read_write, which take no walks).
        seed: of the probes.
        false_alarm: bound on the probability that a correct space fails any check at all; it is shared
            out over the statistical checks, and by each over its statistics.
        only: names of the checks to run, the others are skipped; by default all.

    Raises:
        MeasureMismatch: when the flow lives on another space.
        InvalidInput: when n or false_alarm make no sense, or no check has a name in only.

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid
        >>> report = check(hypergrid(2, 3), n=2000)
        >>> report.ok, report["pairing"].verdict, report["target"].verdict
        (True, 'pass', 'skipped')
    """
    if n < 1000:
        raise InvalidInput(f"check needs n >= 1000 probes to tell right from wrong, got n={n}.")
    if not 0.0 < false_alarm < 0.5:
        raise InvalidInput(f"false_alarm must be a probability in (0, 0.5), got {false_alarm}.")
    if gfn is not None and gfn.space is not space:
        raise MeasureMismatch(
            f"the flow lives on {gfn.space.name!r}, another object than the space {space.name!r} given to "
            "check: pass gfn.space."
        )
    share = false_alarm / STATISTICAL
    fits = target is not None and target.measure == space.points
    known = _known_log_z(target) if log_z is None else log_z
    probed = Probed(space.points)
    if target is None or not fits or known is None:
        judge: Target[Any] = probed
        judge_log_z = 0.0
    else:
        judge, judge_log_z = target, known
    with default_dtype(torch.float64), torch.no_grad():
        flow = None if gfn is None else copy.deepcopy(gfn).cpu().double()
        learner = target if target is not None and fits else probed
        steps: list[tuple[str, Callable[[], Result] | str]] = [
            ("charts", lambda: charts(space, n)),
            ("read_write", lambda: read_write(space, 10 * n, share)),
            ("absorbing", lambda: absorbing(space, n)),
            ("support", lambda: support(space, n)),
            ("pairing", lambda: pairing(space, 10 * n, share)),
            ("evidence", lambda: evidence(space, judge, judge_log_z, n, share)),
            ("normalisation", lambda: normalisation(space, flow, n, share)),
            ("gradients", "no flow was given"),
            ("target", "no target was given"),
        ]
        if flow is not None:
            losses = _default_objectives(flow) if objectives is None else objectives
            steps[-2] = ("gradients", lambda: gradients(flow, learner, losses))
        if target is not None:
            steps[-1] = ("target", lambda: target_itself(space, target, known, n))
        unknown = sorted(set(only or ()) - {name for name, _ in steps})
        if unknown:
            raise InvalidInput(
                f"there is no check {unknown[0]!r}: the names are {[name for name, _ in steps]}."
            )
        results = [
            _run(name, step if only is None or name in only else "not asked for", seed)
            for name, step in steps
        ]
    return Report(space.name, tuple(results))


def _known_log_z(target: object) -> float | None:
    try:
        return float(target.log_z) if isinstance(target, HasLogZ) else None
    except NoExactAnswer:
        return None


def _default_objectives(gfn: GFlowNet[Any]) -> list[Objective]:
    return [trajectory_balance] + ([detailed_balance] if gfn.log_flow is not None else [])


def _run(name: str, step: Callable[[], Result] | str, seed: int) -> Result:
    """One check from the seed. A space that raises fails the check, and the others are still run."""
    if isinstance(step, str):
        return Result(name, "skipped", step)
    with seeded(seed):
        try:
            return step()
        except Exception as error:  # kept as the cause, and raised with the report
            found = f"{type(error).__name__}: {error}"
            remedy = "" if isinstance(error, CtsgfnError) else "the traceback is that of raise_if_failed()"
            return Result(name, "FAIL", found, remedy=remedy, cause=error)
