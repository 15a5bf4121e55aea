r"""DDPM on a time-sliced space: one random slice at a time, in closed form.

With :math:`p_B` the reversal of a stationary Ornstein-Uhlenbeck process of variance 1, slice k of a walk
back from :math:`x_T` is :math:`x_k = A x_T + n \epsilon`, with :math:`n^2 = 1 - A^2`, and the mean of the
step ahead given both ends is, in the coordinates of the step,

.. math::
    \mathbb E[a \mid x_k, x_T] = \frac{\sigma_k}{n} \cdot \frac{n x_k - \epsilon}{A_k}

so that a head :math:`N(\frac{\sigma_k}{n} \mu, I)` predicts the noise. ``simple`` is
:math:`\mathbb E\,|\mu - \mu^*|^2` with slices drawn evenly, ``weighted`` has the factors of the evidence
bound, :math:`\frac12 \sigma_k^2 / n^2`.

References:
    Denoising diffusion probabilistic models (Ho et al., 2020), arXiv 2006.11239, eq. 12 and 14.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.diffusion import Slice
from ctsgfn.kernels.spaces.time_grid import TimeGrid
from ctsgfn.training import cosine


@dataclass(frozen=True)
class Levels:
    """Noise of each slice 0 .. T - 1, and the step that leaves it; slice 0 has none to predict."""

    carried: Tensor  # [T] A, the factor of the data on the slice
    noise: Tensor  # [T] n, 1 on slice 0
    decay: Tensor  # [T] A_k of the step
    pace: Tensor  # [T] sigma_k / n, 1 on slice 0

    @classmethod
    def of(cls, grid: TimeGrid) -> Levels:
        """The levels of a stationary grid of variance 1."""
        decay, std = grid.ahead[:-1, 0], grid.ahead[:-1, 1]
        later = decay.flip(0).cumprod(0).flip(0)  # the product from this step on
        carried = torch.cat([torch.zeros(1, dtype=torch.float64), later[1:]])
        noise = (1 - carried.square()).sqrt()
        pace = std / noise
        return cls(*(v.float() for v in (carried, noise, decay, pace)))


def train_denoiser(
    gfn: GFlowNet[Slice],
    levels: Levels,
    draw: Callable[[int], Tensor],
    *,
    weighted: bool,
    updates: int,
    rows: int,
    lr: float,
    label: str,
) -> list[float]:
    """Minimise DDPM's loss with the optimiser and schedule of ``ctsgfn.training.train``.

    Args:
        gfn: a flow whose forward head has a mean only.
        levels: of its grid.
        draw: n -> data [n, d].
        weighted: the factors of the bound, instead of none.
        updates: of Adam.
        rows: pairs of data and slices each.
        lr: Adam's rate at the start.
        label: what the progress bar says.

    Returns:
        The loss of each update.
    """
    kernel: Any = gfn.forward_kernel
    (head,), device = kernel.heads, kernel.anchor.device
    parameters = [p for p in kernel.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=lr)
    losses = []
    for update in tqdm(range(updates), desc=label, disable=None):
        for group in optimiser.param_groups:
            group["lr"] = lr * cosine(update / updates)
        step = torch.randint(1, len(levels.noise), (rows,))
        carried, noise, decay, pace = (v[step, None].to(device) for v in vars(levels).values())
        epsilon = torch.randn_like(data := draw(rows).to(device))
        s = Slice(carried * data + noise * epsilon, step.to(device))
        mu = head(kernel.encoder(s, None), s, None).loc / pace
        error = (mu - (noise * s.x - epsilon) / decay).square().sum(-1)
        loss = (0.5 * pace[:, 0].square() * error if weighted else error).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimiser.step()
        losses.append(loss.item())
    return losses
