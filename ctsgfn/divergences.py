r"""The Kullback-Leibler family: objectives whose gradient is that of a divergence of trajectories.

:math:`P_F` is the law of trajectories under the forward kernel, :math:`P_B = \frac{r}{Z} p_B` the one
they should have, and :math:`w = \log r + \sum \log p_B - \sum \log p_F` the log importance weight.
What is returned is an estimate of the divergence (up to log Z where it says so) whose *gradient* is
the estimator named; log Z is not learned. Baselines leave out the trajectory that they multiply.

References:
    GFlowNets and variational inference (Malkin et al., 2023), arXiv 2210.00580, section 2 and Table 1.
"""

from __future__ import annotations

import math

from torch import Tensor

from ctsgfn.balance import Balance
from ctsgfn.errors import InvalidInput
from ctsgfn.objectives import objective


@objective(reparameterised=True)
def reverse_kl(b: Balance) -> Tensor:
    r"""Reverse Kullback-Leibler divergence by the pathwise gradient: the negative evidence bound.

    .. math::
        D(P_F \| P_B) - \log Z = -\,\mathbb E_{P_F}[w]

    Args:
        b: the arrays of trajectories drawn with ``rollout(.., reparameterised=True)``.

    References:
        Auto-encoding variational Bayes (Kingma and Welling, 2014), arXiv 1312.6114; for diffusions,
        Path integral sampler (Zhang and Chen, 2022), arXiv 2111.15141.

    Example:
        >>> reverse_kl.reparameterised
        True
    """
    return -b.log_weight.mean()


@objective()
def reverse_kl_score(b: Balance) -> Tensor:
    r"""Reverse Kullback-Leibler divergence by the score-function gradient.

    .. math::
        \nabla D(P_F \| P_B) = \mathbb E_{P_F}\bigl[(\bar w - w)\, \nabla \log p_F - \nabla \log p_B\bigr]

    with the mean over the other trajectories of the batch as baseline. Its value is the negative
    evidence bound, D - log Z.

    Args:
        b: the arrays of at least two trajectories drawn on-policy.

    Raises:
        InvalidInput: on a single trajectory.

    References:
        Simple statistical gradient-following algorithms (Williams, 1992); the baseline: Buy 4 REINFORCE
        samples, get a baseline for free (Kool et al., 2019).

    Example:
        >>> from ctsgfn.kernels.spaces.finite import solved_diamond
        >>> from ctsgfn.behaviours import on_policy
        >>> from ctsgfn.balance import balance
        >>> gfn, target = solved_diamond()
        >>> b = balance(gfn, target, on_policy(gfn, 8))
        >>> round((reverse_kl_score(b) + gfn.log_z).item(), 5)
        0.0
    """
    cost = -b.log_weight.detach()
    surrogate = (_left_out(cost) * b.total(b.log_forward) - b.total(b.log_backward)).mean()
    return _with_gradient(cost.mean(), surrogate)


@objective()
def forward_kl(b: Balance) -> Tensor:
    r"""Forward Kullback-Leibler divergence from the flow's own trajectories.

    .. math::
        \nabla D(P_B \| P_F) \approx \sum_i \omega_i\,
            \bigl[(w_i - \bar w)\, \nabla \log p_B - \nabla \log p_F\bigr], \qquad
        \omega = \mathrm{softmax}(w), \quad \bar w = \sum_i \omega_i w_i

    Self-normalised importance weights: consistent, biased at a finite batch.

    Args:
        b: the arrays of trajectories drawn on-policy.

    References:
        Reweighted wake-sleep (Bornschein and Bengio, 2015), arXiv 1406.2751, eq. 6; Malkin et al., 2023,
        arXiv 2210.00580, Table 1.

    Example:
        >>> from ctsgfn.kernels.spaces.finite import solved_diamond
        >>> from ctsgfn.behaviours import on_policy
        >>> from ctsgfn.balance import balance
        >>> gfn, target = solved_diamond()
        >>> abs(round(forward_kl(balance(gfn, target, on_policy(gfn, 8))).item(), 5))
        0.0
    """
    log_weight = b.log_weight.detach()
    weight = log_weight.softmax(0)
    mean = (weight * log_weight).sum()
    surrogate = (weight * ((log_weight - mean) * b.total(b.log_backward) - b.total(b.log_forward))).sum()
    evidence = log_weight.logsumexp(0) - math.log(b.size)
    return _with_gradient(mean - evidence, surrogate)


@objective()
def forward_kl_on_data(b: Balance) -> Tensor:
    r"""Forward Kullback-Leibler divergence from samples of the target, walked back to s0.

    .. math::
        \nabla D(P_B \| P_F) = \mathbb E_{P_B}\bigl[(w - \bar w)\, \nabla \log p_B - \nabla \log p_F\bigr]

    For the forward kernel this is maximum likelihood on whole trajectories. Its value is the upper
    evidence bound, D + log Z.

    Args:
        b: the arrays of at least two trajectories, from ``from_data(samples)`` or ``backtrack``.

    Raises:
        InvalidInput: on a single trajectory.

    References:
        Generative flow networks for discrete probabilistic modeling (Zhang et al., 2022), arXiv
        2202.01361, section 3; Malkin et al., 2023, arXiv 2210.00580, section 2.2.

    Example:
        >>> from ctsgfn.kernels.spaces.finite import solved_diamond
        >>> from ctsgfn.behaviours import on_policy
        >>> from ctsgfn.balance import balance
        >>> gfn, target = solved_diamond()
        >>> b = balance(gfn, target, on_policy(gfn, 8))  # solved: its own samples are the target's
        >>> abs(round((forward_kl_on_data(b) - gfn.log_z).item(), 5))
        0.0
    """
    log_weight = b.log_weight.detach()
    surrogate = (_left_out(log_weight) * b.total(b.log_backward) - b.total(b.log_forward)).mean()
    return _with_gradient(log_weight.mean(), surrogate)


@objective(walked_back=True)
def maximum_likelihood(b: Balance) -> Tensor:
    r"""Maximum likelihood of data by the evidence bound, both kernels learning by the pathwise gradient.

    .. math::
        -\log p(x) \;\le\; \mathbb E_{\tau \sim p_B(\cdot | x)}
            \bigl[\log p_B(\tau | x) - \log p_F(\tau)\bigr]

    averaged over the data: the bound of a variational autoencoder, and of a diffusion model whose noising
    kernel is learned too. In the mean its gradient is that of ``forward_kl_on_data``; p_B's does not grow
    noisy with the spread of the log-weights, but it needs steps without choices. The target's log-density at
    the data is added: constant 0 says that only data are known.

    Args:
        b: the arrays of trajectories from ``from_data(samples, reparameterised=True)``.

    References:
        Unifying generative models with GFlowNets and beyond (Zhang et al., 2022), arXiv 2209.02606;
        Lahlou et al., 2023, arXiv 2301.12594, section 4.5; with a fixed p_B: Denoising diffusion
        probabilistic models (Ho et al., 2020), arXiv 2006.11239, eq. 3.

    Example:
        >>> import torch
        >>> from ctsgfn.behaviours import from_data
        >>> from ctsgfn.gflownet import GFlowNet
        >>> from ctsgfn.kernels.spaces.diffusion import diffusion, diffusion_kernels
        >>> from ctsgfn.target import as_target
        >>> from ctsgfn.training import train
        >>> space = diffusion(1, steps=4)
        >>> gfn = GFlowNet(space, *diffusion_kernels(space, hidden=8, learned_backward=True))
        >>> unknown = as_target(lambda x: torch.zeros(len(x)), space.points)
        >>> data = from_data(1 + 0.5 * torch.randn(500, 1), reparameterised=True)
        >>> h = train(gfn, unknown, objective=maximum_likelihood, behaviour=data, steps=150, lr=1e-2,
        ...           batch_size=64, seed=0, progress_bar=False)
        >>> h.loss[-1] < h.loss[0] - 0.5
        True
    """
    return b.log_weight.mean()


@objective()
def wake_sleep(b: Balance) -> Tensor:
    r"""Each kernel learns by maximum likelihood: p_F by :math:`D(P_B \| P_F)`, p_B by :math:`D(P_F \| P_B)`.

    .. math::
        -\sum_i \omega_i \nabla \log p_F \quad\text{and}\quad -\mathbb E_{P_F}[\nabla \log p_B]

    with the self-normalised weights of ``forward_kl``. Its value estimates the sum of the two.

    Args:
        b: the arrays of trajectories drawn on-policy.

    References:
        The wake-sleep algorithm for unsupervised neural networks (Hinton et al., 1995); Malkin et al.,
        2023, arXiv 2210.00580, Table 1.

    Example:
        >>> from ctsgfn.kernels.spaces.finite import solved_diamond
        >>> from ctsgfn.behaviours import on_policy
        >>> from ctsgfn.balance import balance
        >>> gfn, target = solved_diamond()
        >>> abs(round(wake_sleep(balance(gfn, target, on_policy(gfn, 8))).item(), 5))
        0.0
    """
    log_weight = b.log_weight.detach()
    weight = log_weight.softmax(0)
    surrogate = -(weight * b.total(b.log_forward)).sum() - b.total(b.log_backward).mean()
    return _with_gradient((weight * log_weight).sum() - log_weight.mean(), surrogate)


@objective()
def reverse_wake_sleep(b: Balance) -> Tensor:
    r"""Each kernel learns by the score: p_F by :math:`D(P_F \| P_B)`, p_B by :math:`D(P_B \| P_F)`.

    .. math::
        \mathbb E_{P_F}\bigl[(\bar w - w)\, \nabla \log p_F\bigr] \quad\text{and}\quad
        \sum_i \omega_i\, (w_i - \bar w)\, \nabla \log p_B

    with the baselines of ``reverse_kl_score`` and ``forward_kl``. Its value estimates the sum of the two.

    Args:
        b: the arrays of at least two trajectories drawn on-policy.

    Raises:
        InvalidInput: on a single trajectory.

    References:
        GFlowNets and variational inference (Malkin et al., 2023), arXiv 2210.00580, Table 1.

    Example:
        >>> from ctsgfn.kernels.spaces.finite import solved_diamond
        >>> from ctsgfn.behaviours import on_policy
        >>> from ctsgfn.balance import balance
        >>> gfn, target = solved_diamond()
        >>> abs(round(reverse_wake_sleep(balance(gfn, target, on_policy(gfn, 8))).item(), 5))
        0.0
    """
    log_weight = b.log_weight.detach()
    weight = log_weight.softmax(0)
    mean = (weight * log_weight).sum()
    forward = (_left_out(-log_weight) * b.total(b.log_forward)).mean()
    backward = (weight * (log_weight - mean) * b.total(b.log_backward)).sum()
    return _with_gradient(mean - log_weight.mean(), forward + backward)


def _left_out(v: Tensor) -> Tensor:
    """Each entry less the mean of the others, [N]."""
    if len(v) < 2:
        raise InvalidInput(
            "this objective takes the other trajectories of the batch as its baseline and got one: use "
            "batch_size >= 2."
        )
    return (v - v.mean()) * (len(v) / (len(v) - 1))


def _with_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """``value``, with the gradient of ``surrogate``."""
    return value + (surrogate - surrogate.detach())
