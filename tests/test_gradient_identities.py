r"""Gradients against their definitions: exactly, by listing all trajectories of a graph, and by z-score.

References:
    GFlowNets and variational inference (Malkin et al., 2023), arXiv 2210.00580, Proposition 1 and Table 1.

False-alarm rate of the statistical test: below 1e-6 a coordinate (4.9 standard errors), fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from numerics import shaken, z_scores
from registry import SPACES
from torch import Tensor

from ctsgfn.balance import Balance, balance
from ctsgfn.behaviours import Behaviour, from_data, on_policy, reparameterised
from ctsgfn.divergences import (
    forward_kl,
    forward_kl_on_data,
    maximum_likelihood,
    reverse_kl,
    reverse_kl_score,
    reverse_wake_sleep,
    wake_sleep,
)
from ctsgfn.exact import explore
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels
from ctsgfn.kernels.spaces.finite import finite, rewards, tabular_kernels
from ctsgfn.objectives import Objective, log_partition_variance, trajectory_balance
from ctsgfn.target import as_target

EDGES = [(0, 1), (0, 2), (1, 3), (2, 3), (1, 4), (3, 4), (2, 4)]


class Listed:
    """A random flow on a small graph with every trajectory: expectations are sums."""

    def __init__(self) -> None:
        self.graph = explore(finite(EDGES, terminal=[1, 3, 4]))
        self.target = rewards(self.graph.space, [0.3, -1.0, 1.2])
        self.gfn: GFlowNet[Any] = shaken(tabular_kernels(self.graph), 0.5)
        self.walks = self.graph.trajectories()

    def arrays(self) -> Balance:
        return balance(self.gfn, self.target, self.walks)

    def gradient(self, value: Tensor, of: str) -> Tensor:
        kernel = self.gfn.forward_kernel if of == "forward" else self.gfn.backward_kernel
        parameters = list(kernel.parameters())
        found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        columns = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
        return torch.cat([c.flatten() for c in columns])


def reverse(b: Balance) -> Tensor:
    """D(P_F || P_B), with all of its dependence on both kernels."""
    forward, weight = b.total(b.log_forward), b.log_weight
    log_z = b.log_reward.exp().new_tensor(0.0)  # a constant: no gradient
    return (forward.exp() * (log_z - weight)).sum()


def forward(b: Balance) -> Tensor:
    """D(P_B || P_F)."""
    joint = b.log_reward + b.total(b.log_backward)
    posterior = (joint - joint.logsumexp(0).detach()).exp()
    return (posterior * (joint - b.total(b.log_forward))).sum()


def test_trajectories_are_all_of_them() -> None:
    """Their probabilities sum to 1, both ways."""
    listed = Listed()
    b = listed.arrays()
    assert b.total(b.log_forward).exp().sum().item() == pytest.approx(1.0)
    joint = (b.log_reward + b.total(b.log_backward)).logsumexp(0)
    assert joint.item() == pytest.approx(torch.tensor([0.3, -1.0, 1.2]).logsumexp(0).item(), abs=1e-6)


def test_on_policy_trajectory_balance_is_twice_the_reverse_divergence() -> None:
    """For the forward kernel, whatever log Z is (Malkin et al. 2023, Proposition 1)."""
    listed = Listed()
    b = listed.arrays()
    law = b.total(b.log_forward).exp().detach()
    for log_z in (-1.0, 0.0, 4.0):
        loss = (law * (log_z - b.log_weight).square()).sum()
        torch.testing.assert_close(
            listed.gradient(loss, "forward"),
            2 * listed.gradient(reverse(b), "forward"),
            atol=1e-12,
            rtol=1e-9,
        )


def test_trajectory_balance_on_data_is_twice_the_forward_divergence() -> None:
    """The twin: trajectories from the target's backward law, gradient of the backward kernel."""
    listed = Listed()
    b = listed.arrays()
    joint = b.log_reward + b.total(b.log_backward)
    law = joint.softmax(0).detach()
    for log_z in (-1.0, 0.0, 4.0):
        loss = (law * (log_z - b.log_weight).square()).sum()
        twice = 2 * listed.gradient(forward(b), "backward")
        torch.testing.assert_close(listed.gradient(loss, "backward"), twice, atol=1e-12, rtol=1e-9)


LIMITS: dict[str, tuple[Objective, str, Callable[[Balance], Tensor]]] = {
    "reverse KL, forward kernel": (reverse_kl_score, "forward", reverse),
    "reverse KL, backward kernel": (reverse_kl_score, "backward", reverse),
    "forward KL, forward kernel": (forward_kl, "forward", forward),
    "forward KL, backward kernel": (forward_kl, "backward", forward),
    "wake-sleep, forward kernel": (wake_sleep, "forward", forward),
    "wake-sleep, backward kernel": (wake_sleep, "backward", reverse),
    "reverse wake-sleep, forward kernel": (reverse_wake_sleep, "forward", reverse),
    "reverse wake-sleep, backward kernel": (reverse_wake_sleep, "backward", forward),
}
"""Which divergence each objective follows, for each kernel (Table 1)."""


def repeated(listed: Listed, law: Tensor, n: int) -> Balance:
    """A batch in which every trajectory stands as often as it is likely: n in all, to rounding."""
    counts = (law * n).round().long()
    walks = listed.walks.select(torch.arange(len(law)).repeat_interleave(counts))
    return balance(listed.gfn, listed.target, walks)


@pytest.mark.parametrize("name", LIMITS)
def test_objectives_follow_their_divergence(name: str) -> None:
    """On an on-policy batch so large that its sampling error is that of rounding the counts."""
    loss, of, divergence = LIMITS[name]
    listed = Listed()
    b = listed.arrays()
    n = 40_000
    batch = repeated(listed, b.total(b.log_forward).exp().detach(), n)
    found, expected = listed.gradient(loss(batch), of), listed.gradient(divergence(b), of)
    assert float(expected.abs().max()) > 1e-2
    torch.testing.assert_close(found, expected, atol=5.0 / n * len(b.log_reward), rtol=1e-3)


@pytest.mark.parametrize("of", ["forward", "backward"])
def test_likelihood_of_data_follows_the_forward_divergence(of: str) -> None:
    listed = Listed()
    b = listed.arrays()
    n = 40_000
    law = (b.log_reward + b.total(b.log_backward)).softmax(0).detach()
    found = listed.gradient(forward_kl_on_data(repeated(listed, law, n)), of)
    expected = listed.gradient(forward(b), of)
    torch.testing.assert_close(found, expected, atol=5.0 / n * len(b.log_reward), rtol=1e-3)


def test_wake_sleep_losses_update_their_own_kernel_only() -> None:
    """Cutting the gradient of one kernel leaves that of the other as it is."""
    listed = Listed()
    walks = on_policy(listed.gfn, 500).forget()
    for loss in (wake_sleep, reverse_wake_sleep):
        both = {}
        for of, frozen in (("forward", listed.gfn.backward_kernel), ("backward", listed.gfn.forward_kernel)):
            whole = listed.gradient(loss(balance(listed.gfn, listed.target, walks)), of)
            frozen.requires_grad_(False)
            alone = listed.gradient(loss(balance(listed.gfn, listed.target, walks)), of)
            frozen.requires_grad_(True)
            torch.testing.assert_close(alone, whole)
            both[of] = whole
        assert all(bool(g.any()) for g in both.values())


def test_variance_of_the_weights_has_the_gradient_of_trajectory_balance_at_its_best_log_z() -> None:
    listed = Listed()
    b = listed.arrays()
    best = b.log_weight.mean().detach()
    twin = (best - b.log_weight).square().mean()
    for of in ("forward", "backward"):
        torch.testing.assert_close(
            listed.gradient(log_partition_variance(b), of), listed.gradient(twin, of), atol=1e-12, rtol=1e-9
        )


# ------------------------------------------------------------------ on a continuous space, by z-score
def per_batch(
    gfn: GFlowNet[Any], target: Any, loss: Objective, draw: Behaviour, *, of: str = "forward", batches: int
) -> Tensor:
    """Gradients of a kernel on independent batches, projected at random: [batches, 8]."""
    kernel = gfn.forward_kernel if of == "forward" else gfn.backward_kernel
    parameters = [p for p in kernel.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(0)
    size = sum(p.numel() for p in parameters)
    directions = torch.randn(size, 8, generator=generator, dtype=torch.float64) / size**0.5
    rows = []
    for _ in range(batches):
        walk = draw(gfn, 64)
        found = torch.autograd.grad(loss(balance(gfn, target, walk)), parameters, allow_unused=True)
        columns = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
        rows.append(torch.cat([c.flatten() for c in columns]) @ directions)
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["diffusion", "ornstein_uhlenbeck"])
def test_three_estimators_of_one_gradient_on_a_continuous_space(name: str) -> None:
    """Half of trajectory balance, the score function and the pathwise gradient agree in the mean."""
    case = SPACES[name]
    space = case.space()
    gfn = shaken(case.kernels(space), 0.05)
    gfn.log_z.data.fill_(case.log_z(space))
    target, batches = case.target(space), 300
    halves = per_batch(gfn, target, trajectory_balance, on_policy, batches=batches) / 2
    scores = per_batch(gfn, target, reverse_kl_score, on_policy, batches=batches)
    pathwise = per_batch(gfn, target, reverse_kl, reparameterised, batches=batches)
    assert float(z_scores(halves - scores, 0.0).abs().max()) < 4.9
    assert float(z_scores(pathwise - scores, 0.0).abs().max()) < 4.9
    assert float(z_scores(pathwise, 0.0).abs().max()) > 10  # there is something to agree on


@pytest.mark.parametrize("of", ["forward", "backward"])
def test_two_estimators_of_the_likelihood_of_data(of: str) -> None:
    """The score function and the pathwise gradient of the evidence bound agree in the mean."""
    space = diffusion(2, steps=4)
    kernels = diffusion_kernels(space, hidden=8, learned_backward=True)
    gfn: GFlowNet[Any] = shaken(GFlowNet(space, *kernels), 0.3)
    data = torch.tensor([[1.0, -2.0], [0.5, 0.0]]).double()
    unknown = as_target(lambda x: x[:, 0] * 0, space.points)
    by_score = per_batch(gfn, unknown, forward_kl_on_data, from_data(data), of=of, batches=150)
    draw = from_data(data, reparameterised=True)
    pathwise = per_batch(gfn, unknown, maximum_likelihood, draw, of=of, batches=150)
    assert float(z_scores(pathwise - by_score, 0.0).abs().max()) < 4.9
    assert float(z_scores(pathwise, 0.0).abs().max()) > 10  # there is something to agree on
