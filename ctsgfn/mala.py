r"""Parallel Metropolis-adjusted Langevin chains, as local search and as the warm-up's move.

References:
    Exponential convergence of Langevin distributions and their discrete approximations (Roberts and
    Tweedie, 1996), Bernoulli 2(4); step size adapted to the acceptance rate 0.574 of Roberts and
    Rosenthal (1998).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.target import HasScore, Target, evaluate, score

_GOAL = 0.574


@dataclass(frozen=True)
class Chains:
    """What parallel chains did."""

    path: Tensor  # [steps, B, d] states after each step
    log_density: Tensor  # [B] at the last states
    acceptance: float  # mean over the steps
    step_size: float  # adapted, for the next call


def mala(
    target: Target[Tensor], start: Tensor, *, steps: int, step_size: float, scale: Tensor | None = None
) -> Chains:
    r"""Run chains :math:`x' = x + \tfrac12 \epsilon^2 \Sigma\,\nabla\log r(x) + \epsilon\,\Sigma^{1/2} z`.

    Args:
        target: the target, differentiable.
        start: starting points [B, d].
        steps: steps of every chain.
        step_size: :math:`\epsilon`; adapted towards acceptance 0.574 as the chains run.
        scale: diagonal of :math:`\Sigma^{1/2}`, [d] or [B, d]; ones if None.

    Raises:
        InvalidInput: when there is nothing to do.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> from ctsgfn.target import as_target
        >>> normal = as_target(lambda x: -0.5 * x.square().sum(-1), Lebesgue(2))
        >>> chains = mala(normal, torch.zeros(100, 2), steps=50, step_size=1.0)
        >>> tuple(chains.path.shape), bool(0.3 < chains.acceptance < 0.9)
        ((50, 100, 2), True)
    """
    if steps < 1 or len(start) < 1 or not step_size > 0:
        raise InvalidInput("mala needs steps >= 1, at least one start, and a positive step size.")
    sd = torch.ones_like(start) if scale is None else scale
    x, path, accepted = start.detach(), [], 0.0
    value, slope = value_and_score(target, x)
    for _ in range(steps):
        ahead = x + 0.5 * step_size**2 * sd.square() * slope + step_size * sd * torch.randn_like(x)
        new_value, new_slope = value_and_score(target, ahead)
        back = x - ahead - 0.5 * step_size**2 * sd.square() * new_slope
        forth = ahead - x - 0.5 * step_size**2 * sd.square() * slope
        log_ratio = (
            new_value - value + ((forth / sd).square() - (back / sd).square()).sum(-1) / (2 * step_size**2)
        )
        accept = torch.rand_like(log_ratio).log() < log_ratio
        x = torch.where(accept[:, None], ahead, x)
        value = torch.where(accept, new_value, value)
        slope = torch.where(accept[:, None], new_slope, slope)
        rate = float(accept.double().mean())
        accepted += rate
        step_size *= float(torch.tensor(0.3 * (rate - _GOAL)).exp())
        path.append(x)
    return Chains(torch.stack(path), value, accepted / steps, step_size)


def value_and_score(target: Target[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Log-density [B] and its gradient [B, d], detached, in one evaluation where it can be."""
    if isinstance(target, HasScore):
        return evaluate(target, x).detach(), score(target, x)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = evaluate(target, leaf)
        if not value.requires_grad:
            raise InvalidInput(
                "the log-density has no gradient with respect to its points: write it in torch operations, "
                "or do without moves that need the score."
            )
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), slope


def differentiable(target: Target[Tensor], x: Tensor) -> bool:
    """Whether a target has a score, of its own or by autograd, as seen at points [B, d].

    One that is 0 at all of them, as of a density that is constant on cells, leads nowhere and is none.

    Example:
        >>> from ctsgfn.measures import Lebesgue
        >>> from ctsgfn.target import as_target
        >>> steps = as_target(lambda x: -x.floor().abs().sum(-1).detach(), Lebesgue(1))
        >>> differentiable(steps, torch.zeros(1, 1))
        False
    """
    if isinstance(target, HasScore):
        return True
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = target.log_density(leaf)
        if not value.requires_grad:
            return False
        (slope,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    return slope is not None and bool((slope != 0).any())
