r"""Fitting on circles: a law of all angles together, of two families, as the only step.

A warm-up finds the modes. A mixture of sheared von Mises laws and an autoregressive one are fitted to its
particles; the better is then learned by the flow's own objective, on the flow's draws and on the particles,
and the other where it falls short. On its own draws alone a flow gives up the modes that it does not happen
to start in.
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
from ctsgfn.judging import USABLE, better, judge, loss, said, shortcoming
from ctsgfn.kernel import Head
from ctsgfn.likelihood import fit_likelihood
from ctsgfn.sampler import Sampler
from ctsgfn.target import Target, batched
from ctsgfn.training import Training

COMPONENTS, FOR_EACH = 32, 8
"""Components of the mixture, and those for each angle given the ones before it."""

TURNS = 2
"""Turns of a flow whose objective differentiates through its draws: choosing components has no gradient."""

MIXTURE = "a mixture of all angles together as the only step"
AUTOREGRESSIVE = "one angle after another, in a single step"


def fit_circles(
    target: Target[Tensor],
    like: Tensor,
    slices: int | None,
    hidden: int,
    training: Training,
    behaviour: Behaviour | None,
) -> Sampler[Any, Tensor]:
    """Warm up, fit both laws, and train the better; the other too where it falls short.

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

    def built(turns: int, **law: Any) -> Sampler[Any, Tensor]:
        kind = str(like.dtype).removeprefix("torch.")
        options = {"slices": turns, "hidden": hidden, "dtype": kind, "flow": training.reads_flow, **law}
        gfn, inner, *_ = build_torus(target, options)
        return Sampler(gfn.to(like), inner, recipe={"builder": "torus", "options": options})

    z, wider = warm_up_circles(target, dim, like=like)
    if behaviour is None:
        found = from_data(torch.cat([z, z, wider]))
        behaviour = on_policy if training.pathwise else mixed(on_policy, found, 0.5)
    if slices is not None or training.pathwise:
        turned = built(TURNS if slices is None else slices)
        turned.history = training.run(turned.gfn, turned.target, behaviour, "training", steps=1000)
        return turned
    tried = {
        MIXTURE: built(1, clusters=vars(Clusters.of(z, COMPONENTS))),
        AUTOREGRESSIVE: built(1, autoregressive={"components": FOR_EACH, "order": None}),
    }
    held = len(z) // 3
    for sampler in tried.values():
        head = sampler.gfn.forward_kernel.heads[0]
        assert isinstance(head, Head)
        fit_likelihood(head, z[held:], z[:held], steps=400, lr=1e-2)
    untrained = {name: loss(judge(sampler.gfn, sampler.target, z)) for name, sampler in tried.items()}
    first, second = sorted(tried, key=lambda name: untrained[name])
    sampler = tried[first]
    once = replace(training, stages=2)
    sampler.history = once.run(sampler.gfn, sampler.target, behaviour, "first", steps=1000)
    judged = judge(sampler.gfn, sampler.target, z)
    short = shortcoming(judged, *USABLE)
    notes = [f"{first}: {said(judged)}"]
    if short and not sampler.history.interrupted:
        notes[0] += f", not enough ({short})"
        training.say(f"{notes[0]}; trying {second}.")
        other = tried[second]
        other.history = training.run(other.gfn, other.target, behaviour, "second", steps=1000)
        again = judge(other.gfn, other.target, z)
        improved = better(again, judged)
        notes.append(f"{second}: {said(again)}, {'kept' if improved else 'no better and dropped'}")
        sampler = other if improved else sampler
    sampler.notes = tuple(f"{note}." for note in notes)
    return sampler
