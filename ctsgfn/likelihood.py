"""Maximum likelihood of a head that looks at no state, stopped by points it has not seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head

_EVERY = 20
"""Updates between looks at the points held out."""


def fit_likelihood(
    head: Head, x: Tensor, held: Tensor, *, steps: int = 1000, patience: int = 200, lr: float = 3e-3
) -> float:
    """Climb the likelihood of points with Adam, and keep the parameters that best predict others.

    Args:
        head: a head whose context has width 0; fitted in place.
        x: points [N, k] to fit.
        held: other points [M, k], which decide where to stop.
        steps: updates at most, of 256 points each; the rate decays over them by a cosine.
        patience: stop after so many updates without a gain.
        lr: Adam's rate at the start.

    Returns:
        The mean log-density of the points held out.

    Raises:
        InvalidInput: without points on either side.

    Example:
        >>> from ctsgfn.kernels.heads.autoregressive import AutoregressiveMixture
        >>> head = AutoregressiveMixture(1, width=0, components=2, hidden=4)
        >>> x = torch.randn(2000, 1) + 5
        >>> fit_likelihood(head, x[:1000], x[1000:], lr=0.1) > -1.5
        True
    """
    if len(x) == 0 or len(held) == 0:
        raise InvalidInput(f"likelihood needs points to fit and to hold out, got {len(x)} and {len(held)}.")
    parameters = [p for p in head.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=lr, fused=True)
    best, when, state = _mean(head, held), 0, _copy(head)
    for step in range(1, steps + 1):
        rate = lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = x[torch.randint(len(x), (256,), device=x.device)]
        optimiser.zero_grad(set_to_none=True)
        (-_log_prob(head, batch).mean()).backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimiser.step()
        if step % _EVERY == 0:
            value = _mean(head, held)
            if value > best:
                best, when, state = value, step, _copy(head)
            elif step - when >= patience:
                break
    head.load_state_dict(state)
    return best


def _log_prob(head: Head, x: Tensor) -> Tensor:
    return head(x[:, :0], None, None).log_prob(x)


def _mean(head: Head, x: Tensor) -> float:
    with torch.no_grad():
        return float(_log_prob(head, x).double().mean())


def _copy(head: Head) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in head.state_dict().items()}
