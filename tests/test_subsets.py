"""Subsets grown item by item: their edges, their kernels, and fit on a posterior over them."""

from __future__ import annotations

import pytest
import torch

from ctsgfn import fit, load, model_posterior
from ctsgfn.builders import choose
from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput
from ctsgfn.evidence import estimate_evidence
from ctsgfn.exact import explore
from ctsgfn.gflownet import GFlowNet
from ctsgfn.importance import Importance
from ctsgfn.kernels.spaces.hypergrid import hypergrid
from ctsgfn.kernels.spaces.subsets import Subset, subset_kernels, subsets
from ctsgfn.subsets import Subsets
from ctsgfn.targets import PoissonChangePoints, SpikeAndSlab, correlated_regression


def test_every_subset_of_an_allowed_size_is_terminal() -> None:
    graph = explore(subsets(4, least=1, most=2))
    assert len(graph) == 1 + 4 + 6
    assert graph.terminal.sum() == 10
    assert len(graph.parent) == 4 + 4 * 3  # each pair is reached from both of its items


def test_edges_add_one_item() -> None:
    add = subsets(3, most=2).kappa.branches[0]
    none, one, two, full = (torch.arange(3) < k for k in range(4))
    s = Subset(torch.stack([none, one, one, two, one]))
    t = Subset(torch.stack([one, two, none, full, one]))
    assert add.owns(s, t).tolist() == [True, True, False, False, False]
    assert add.pull(s, t)[:2].tolist() == [[0], [1]]
    assert add.push(s[:2], torch.tensor([[0], [1]])).members.tolist() == t[:2].members.tolist()


def test_an_informed_kernel_climbs_from_the_start() -> None:
    """The untrained policy of a target with changes prefers the item that helps most."""
    target = PoissonChangePoints(torch.tensor([0, 1, 0, 1, 9, 7, 8, 9]), most=3)
    space = subsets(7, 0, 3)
    forward, _ = subset_kernels(space, target, hidden=8)
    law = forward(space.source(1))
    best = law.kernel.heads[0](law.context, law.s, None).logits.argmax()
    assert int(best) == int(target.changes(torch.zeros(1, 7, dtype=torch.bool)).argmax()) == 3
    assert float(law.log_stop.exp().detach()) < 0.05


def strong() -> SpikeAndSlab:
    """Two of six variables that no model can do without."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, generator=g)
    return SpikeAndSlab(x, x[:, 0] - x[:, 3] + 0.5 * torch.randn(60, generator=g))


def test_the_two_kernels_agree_on_the_order() -> None:
    """Untrained, under strong signals: the effective sample size is above 50 %, and log Z right (|z| < 5).

    Backwards evenly, the orders that the forward kernel does not draw hold most of the flow: of 4,000 draws
    fewer than 5 % are effective.
    """
    target, space = strong(), subsets(6)
    torch.manual_seed(0)
    forward, backward = subset_kernels(space, target, hidden=8)
    even = Importance(GFlowNet(space, forward, diffuse(space.kappa_b)), target).weigh(4000)[1]
    agreed = estimate_evidence(Importance(GFlowNet(space, forward, backward), target).weigh(4000)[1])
    assert agreed.ess > 0.5
    assert abs(agreed.log_z - target.log_z) < 5 * agreed.stderr
    assert estimate_evidence(even).ess < 0.05


def test_kernels_are_for_subsets() -> None:
    with pytest.raises(InvalidInput, match="has no subsets"):
        subset_kernels(hypergrid(2, 3))  # type: ignore[arg-type]


def test_fit_takes_subsets(tmp_path: object) -> None:
    """The measure picks the space; the law of the flow itself is within 0.02 in total variation.

    Answers from weighted draws are within the errors that are stated (|z| < 5).
    """
    target = correlated_regression(4, 40, block=2)
    assert choose(target.measure) == "subsets"
    assert choose(Subsets(3)) == "subsets"
    sampler = fit(target, steps=150, batch_size=64, seed=0, progress_bar=False)
    assert explore(sampler.gfn.space).total_variation(sampler.gfn.forward_kernel, target) < 0.02
    posterior = model_posterior(sampler, 4000, seed=1)
    assert posterior.evidence.ess > 0.8
    assert abs(posterior.evidence.log_z - target.log_z) < 5 * posterior.evidence.stderr
    included = posterior.inclusion_probabilities()
    assert float(((included.value - target.inclusion_probabilities()) / included.stderr).abs().max()) < 5
    assert float((included.value - target.inclusion_probabilities()).abs().max()) < 0.05
    path = f"{tmp_path}/subsets.pt"
    sampler.save(path)
    assert torch.equal(load(path, target).sample(5, seed=3), sampler.sample(5, seed=3))
