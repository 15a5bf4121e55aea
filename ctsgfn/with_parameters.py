r"""Models with parameters: a discrete structure, and as many real numbers as it asks for.

The points are pairs :math:`(m, \theta)`, where :math:`\theta` has one coordinate for each of ``size``
parameters that any model may have; those that the model m does not have are dead, and exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor
from torch.distributions import StudentT

from ctsgfn.errors import whole
from ctsgfn.measures import Measure
from ctsgfn.states import Batch, X


@dataclass(frozen=True)
class Parameterised(Batch):
    """Models and their parameters: what the target sees.

    Example:
        >>> x = Parameterised(torch.tensor([[0], [1]]), torch.tensor([[0.5, 0.0], [0.1, -2.0]]))
        >>> len(x), x[1:].model.tolist(), list(x.tensors())
        (2, [[1]], ['model', 'theta'])
    """

    model: Any  # [B, ..] a tensor, or a batch
    theta: Tensor  # [B, size], 0 where the model has no such parameter


@dataclass(frozen=True)
class WithParameters(Generic[X]):
    r"""Sum over models of Lebesgue measure on their parameters: the dimension depends on the model.

    .. math::
        \int f\,d\mu = \sum_m w(m) \int_{\mathbb R^{k_m}} f(m, \theta)\,d\theta,
        \qquad k_m = |\mathrm{live}(m)|

    where w is the measure of the models (1 for a counting measure). Two such measures are equal when their
    fields are: give ``live`` as a function of a module, or as a frozen dataclass with ``__call__``.

    Args:
        models: the measure of the models.
        size: most parameters that a model can have, the width of theta.
        live: models [B, ..] -> [B, size] bool, which of the parameters each model has.

    Raises:
        InvalidInput: when size < 1.

    References:
        Reversible jump Markov chain Monte Carlo computation and Bayesian model determination (Green, 1995),
        Biometrika 82, section 3.

    Example:
        A model m of {0, 1, 2} has its first m parameters.

        >>> from ctsgfn.measures import Counting
        >>> def first(m):
        ...     return torch.arange(2) < m
        >>> measure = WithParameters(Counting(3), 2, first)
        >>> str(measure)
        'counting measure on {0, .., 2} with up to 2 parameters'
        >>> x, w = measure.probe(4096)
        >>> normal = (-0.5 * x.theta.square() - 0.919).masked_fill(~first(x.model), 0.0).sum(-1)
        >>> abs(float((w + normal).exp().mean()) - 3) < 0.2
        True
    """

    models: Measure[X]
    size: int
    live: Callable[[X], Tensor]

    def __post_init__(self) -> None:
        whole("WithParameters size", self.size)

    def __str__(self) -> str:
        return f"{self.models} with up to {self.size} parameter{'s' if self.size > 1 else ''}"

    def probe(self, n: int) -> tuple[Parameterised, Tensor]:
        """Probe the models; Student-t with 3 degrees of freedom on the live parameters."""
        model, w = self.models.probe(n)
        law, live = _probe_law(), self.live(model)
        theta = law.sample(torch.Size((n, self.size))) * live
        return Parameterised(model, theta), w - (law.log_prob(theta) * live).sum(-1)

    def log_probe(self, x: Parameterised) -> Tensor:
        """Log-density of the probe law, [B]."""
        of_theta = _probe_law().log_prob(x.theta.double().cpu()).to(x.theta.device)
        return self.models.log_probe(x.model) + (of_theta * self.live(x.model)).sum(-1)

    def contains(self, x: Parameterised) -> Tensor:
        """Which points have a model of the support, finite parameters, and 0 for those it lacks: [B]."""
        inside = self.models.contains(x.model)
        rows = inside.nonzero().squeeze(-1)  # live need not know what to do with other models
        theta = x.theta[rows]
        sound = (torch.isfinite(theta) & (self.live(x.model[rows]) | (theta == 0))).all(-1)
        return inside.index_copy(0, rows, sound)


def _probe_law() -> StudentT:
    return StudentT(torch.tensor(3.0, dtype=torch.float64))
