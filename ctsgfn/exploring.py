"""How ``fit`` explores where a flow alone would not find, or would give up, what the target holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ctsgfn.behaviours import Behaviour, epsilon_choices, from_data, mixed, on_policy, walk_back
from ctsgfn.gflownet import GFlowNet
from ctsgfn.graph_chains import graph_chains
from ctsgfn.history import History
from ctsgfn.measures import Counting
from ctsgfn.sampler import Sampler
from ctsgfn.structure_builders import Built
from ctsgfn.target import Target, evaluate
from ctsgfn.training import Training
from ctsgfn.trajectories import Trajectories
from ctsgfn.with_parameters import WithParameters

LISTED = 4096
"""Most models of a list that are weighed one by one before training."""


def explored(built: Built, training: Training) -> tuple[History, Training]:
    """Train for the first half with walks that explore: structures have modes that a flow may not find.

    Models of a list are weighed one by one, and walks lead back from those that matter: the flow alone would
    give up models beyond one that is hundreds of nats worse.
    """
    half = None if training.steps is None else max(1, training.steps // 2)
    points = built.gfn.space.points
    listed = isinstance(points, Counting) and points.size <= LISTED
    explore = mixed(on_policy, _from_list(built) if listed else epsilon_choices(0.3), 0.5)
    first = replace(training, steps=half, stages=2)
    history = first.run(built.gfn, built.target, explore, "exploring", steps=1000)
    rest = None if training.steps is None or half is None else max(1, training.steps - half)
    return history, replace(training, steps=rest)


def many_orders(sampler: Sampler[Any, Any]) -> bool:
    """Whether structures may be grown in several orders: a number only counts up."""
    measure = sampler.target.measure
    models = measure.models if isinstance(measure, WithParameters) else measure
    return not isinstance(models, Counting)


def back_from_chains(target: Target[Any], like: Tensor) -> Behaviour:
    """Half of the walks lead back from graphs that Markov chains find: a flow alone misses modes."""
    return mixed(on_policy, from_data(graph_chains(target).to(like.device)), 0.5)


def _from_list(built: Built) -> Behaviour:
    """Walk back from atoms drawn by the root of their density."""
    points = built.gfn.space.points
    assert isinstance(points, Counting)
    atoms = torch.arange(points.size, device=built.gfn.log_z.device)[:, None]
    share = (0.5 * evaluate(built.target, atoms).double()).softmax(0)

    def behave(gfn: GFlowNet[Any], n: int) -> Trajectories[Any]:
        return walk_back(gfn, atoms[share.multinomial(n, replacement=True)])

    return behave
