r"""The two-pass gradient: exact for every objective, in memory that does not grow with length.

An objective L sees nothing but arrays of log-densities :math:`\ell`. So

.. math::
    \nabla_\theta L = \sum_i \frac{\partial L}{\partial \ell_i}\, \nabla_\theta \ell_i:

the arrays are filled without gradient, L is differentiated with respect to the *arrays*, and the
log-densities are recomputed run by run with those cotangents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ctsgfn.balance import Balance, Wanted, balance, pieces
from ctsgfn.errors import InvalidInput
from ctsgfn.gflownet import GFlowNet
from ctsgfn.networks import held
from ctsgfn.target import Target
from ctsgfn.trajectories import Trajectories

CHUNK = 6144
"""Rows per recomputed run: few enough for little memory, many enough for their own cost not to count."""

_ARRAYS = ("log_forward", "log_backward", "log_flow", "log_stop", "log_inflow")


@cache
def keep_freed_memory() -> None:
    """Make the C library keep what it is given back, for the rest of the process (at most 64 MB).

    Each run allocates the same activations again. By default glibc returns them to the system in
    between, and the page faults cost a quarter of the time; it stops after a large block was freed (man
    mallopt, M_MMAP_THRESHOLD). The block is never touched, so it costs nothing, and elsewhere it does
    no harm.
    """
    torch.empty(31_000_000, dtype=torch.uint8)


def backpropagate(
    gfn: GFlowNet[Any],
    target: Target[Any],
    trajectories: Trajectories[Any],
    objective: Callable[[Balance], Tensor],
    *,
    wanted: Wanted | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Balance]:
    """Add the objective's gradient to the ``.grad`` of the flow's parameters.

    Returns:
        The loss (0-d, detached) and the arrays it was computed from (detached).
    """
    if trajectories.pathwise or len(trajectories.owner) <= chunk:
        arrays = balance(gfn, target, trajectories, wanted=wanted)
        loss = _number(objective(arrays))
        loss.backward()
        return loss.detach(), _detached(arrays)
    keep_freed_memory()
    with torch.no_grad():
        arrays = balance(gfn, target, trajectories, wanted=wanted, chunk=4 * chunk)
    names = [name for name in _ARRAYS if getattr(arrays, name) is not None]
    leaves = {name: getattr(arrays, name).detach().requires_grad_() for name in names}
    log_z = gfn.log_z.detach().requires_grad_()
    loss = _number(objective(replace(arrays, **leaves, log_z=log_z)))
    gradients = torch.autograd.grad(loss, [*leaves.values(), log_z], allow_unused=True)
    cotangents: dict[str, Tensor | None] = dict(zip(names, gradients[:-1], strict=True))
    if gradients[-1] is not None and gfn.log_z.requires_grad:
        gfn.log_z.grad = gradients[-1] if gfn.log_z.grad is None else gfn.log_z.grad + gradients[-1]
    _recompute(gfn, trajectories, cotangents, chunk)
    return loss.detach(), arrays


def _number(loss: Tensor) -> Tensor:
    """A loss, if it is one number."""
    if isinstance(loss, Tensor) and loss.dim() == 0:
        return loss
    got = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    raise InvalidInput(
        f"the objective must return one number, a tensor without axes, got {got}: take the batch's mean()."
    )


def _recompute(
    gfn: GFlowNet[Any], trajectories: Trajectories[Any], cotangents: dict[str, Tensor | None], chunk: int
) -> None:
    """Second pass: log-densities with gradient, each run with its cotangents."""
    forward = cotangents.get("log_forward") is not None and gfn.forward_kernel.trainable
    stop = cotangents.get("log_stop") is not None and gfn.forward_kernel.trainable
    backward = cotangents.get("log_backward") is not None and gfn.backward_kernel.trainable
    flow = cotangents.get("log_flow") is not None
    inflow = cotangents.get("log_inflow") is not None
    if not (forward or stop or backward or flow or inflow):
        return
    runs = pieces(
        gfn,
        trajectories,
        forward=forward,
        backward=backward,
        flow=flow,
        stop=stop,
        inflow=inflow,
        chunk=chunk,
    )
    with held(gfn.modules(), in_runs=True):
        for where, piece in runs:
            outputs, gradients = [], []
            for name in _ARRAYS:
                value, cotangent = getattr(piece, name), cotangents.get(name)
                if value is not None and cotangent is not None and value.requires_grad:
                    outputs.append(value)
                    gradients.append(cotangent[where])
            torch.autograd.backward(outputs, gradients)


def _detached(arrays: Balance) -> Balance:
    fields: dict[str, Any] = {
        name: None if (value := getattr(arrays, name)) is None else value.detach()
        for name in (*_ARRAYS, "log_reward", "log_z")
    }
    return replace(arrays, **fields)
