r"""Fitting on circles: a mixture of joint laws of all angles first, and two turns where it falls short.

A warm-up finds the modes; a mixture of sheared von Mises laws, fitted to its particles, takes the only step,
and all of it is then learned by the flow's own objective, on the flow's draws and on the particles. On its
own draws alone a flow gives up the modes that it does not happen to start in.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ctsgfn.behaviours import Behaviour, from_data, mixed, on_policy
from ctsgfn.builders import build_torus
from ctsgfn.circle_clusters import Clusters
from ctsgfn.circle_warmup import warm_up_circles
from ctsgfn.judging import USABLE, better, judge, said, shortcoming
from ctsgfn.kernel import Head
from ctsgfn.likelihood import fit_likelihood
from ctsgfn.sampler import Sampler
from ctsgfn.target import Target, batched
from ctsgfn.training import Training

COMPONENTS = 32
"""Components of the mixture."""

TURNS = 2
"""Turns where the mixture falls short; with more of them, ESS fell on every target that was tried."""

MIXTURE, AFTER = "a mixture of all angles together as the only step", "a mixture for each angle, two turns"


def fit_circles(
    target: Target[Tensor],
    like: Tensor,
    slices: int | None,
    hidden: int,
    training: Training,
    behaviour: Behaviour | None,
) -> Sampler[Any, Tensor]:
    """Warm up, fit a mixture, and go on to two turns where it falls short.

    Args:
        target: a target of angles.
        like: a tensor of the dtype and device to work in.
        slices: turns, if the user wants so many and no other.
        hidden: width of the networks.
        training: of the training runs.
        behaviour: who draws; by default the flow, and walks back from the particles.
    """
    dim = target.measure.dim
    batched(target, torch.zeros(3 if dim == 2 else 2, dim).to(like))  # shape, kind, device: before all else

    def built(turns: int, clusters: dict[str, Tensor] | None = None) -> Sampler[Any, Tensor]:
        kind = str(like.dtype).removeprefix("torch.")
        options = {"slices": turns, "clusters": clusters, "hidden": hidden, "dtype": kind}
        options["flow"] = training.reads_flow
        gfn, inner, *_ = build_torus(target, options)
        return Sampler(gfn.to(like), inner, recipe={"builder": "torus", "options": options})

    z, wider = warm_up_circles(target, dim, like=like)
    if behaviour is None:
        found = from_data(torch.cat([z, z, wider]))
        behaviour = on_policy if training.pathwise else mixed(on_policy, found, 0.5)
    turned = built(TURNS if slices is None else slices)
    if slices is not None or training.pathwise:
        turned.history = training.run(turned.gfn, turned.target, behaviour, "training", steps=1000)
        return turned
    sampler = built(1, vars(Clusters.of(z, COMPONENTS)))
    head = sampler.gfn.forward_kernel.heads[0]
    assert isinstance(head, Head)
    fit_likelihood(head, z[len(z) // 3 :], z[: len(z) // 3], steps=400, lr=1e-2)
    first = replace(training, stages=2)
    sampler.history = first.run(sampler.gfn, sampler.target, behaviour, "mixture", steps=1000)
    judged = judge(sampler.gfn, sampler.target, z)
    short = shortcoming(judged, *USABLE)
    notes = [f"{MIXTURE}: {said(judged)}"]
    if short and not sampler.history.interrupted:
        notes[0] += f", not enough ({short})"
        training.say(f"{notes[0]}; trying {AFTER}.")
        turned.history = training.run(turned.gfn, turned.target, behaviour, "turns", steps=1000)
        again = judge(turned.gfn, turned.target, z)
        improved = better(again, judged)
        notes.append(f"{AFTER}: {said(again)}, {'kept' if improved else 'no better and dropped'}")
        sampler = turned if improved else sampler
    sampler.notes = tuple(f"{note}." for note in notes)
    return sampler
