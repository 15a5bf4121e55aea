r"""A log-density over models and their parameters as a target: what a user with several models writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from ctsgfn.errors import InvalidInput
from ctsgfn.measures import Lebesgue, Measure
from ctsgfn.target import Density, Transformed, as_target
from ctsgfn.with_parameters import Parameterised, WithParameters


class OnParameters(Transform):
    r"""Charts of single parameters, on those that a model has: :math:`(m, z) \mapsto (m, (T_j(z_j))_j)`.

    Args:
        charts: one per parameter, from the line to where it lives; None leaves it as it is.
        live: models -> [B, size] bool.

    Example:
        >>> from torch.distributions.transforms import ExpTransform
        >>> charts = OnParameters([None, ExpTransform()], lambda m: torch.arange(2) < m)
        >>> z = Parameterised(torch.tensor([[2], [1]]), torch.zeros(2, 2))
        >>> charts(z).theta.tolist(), charts.log_abs_det_jacobian(z, charts(z)).tolist()
        ([[0.0, 1.0], [0.0, 0.0]], [0.0, 0.0])
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, charts: Sequence[Transform | None], live: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.charts, self.live = tuple(charts), live

    def _call(self, z: Parameterised) -> Parameterised:
        return self._each(z, lambda chart, column: chart(column))

    def _inverse(self, x: Parameterised) -> Parameterised:
        return self._each(x, lambda chart, column: chart.inv(column))

    def log_abs_det_jacobian(self, x: Parameterised, y: Parameterised) -> Tensor:
        """Sum over the live parameters of x, [B]; y is where it is mapped to."""
        live, total = self.live(x.model), x.theta.new_zeros(len(x))
        for j, chart in enumerate(self.charts):
            if chart is not None:
                rows = live[:, j].nonzero().squeeze(-1)
                part = chart.log_abs_det_jacobian(x.theta[rows, j], y.theta[rows, j])
                total = total.index_add(0, rows, part)
        return total

    def _each(self, x: Parameterised, of: Callable[[Transform, Tensor], Tensor]) -> Parameterised:
        """Change the live entries of each column that has a chart; a dead one stays 0."""
        live, columns = self.live(x.model), list(x.theta.unbind(-1))
        for j, chart in enumerate(self.charts):
            if chart is not None:
                rows = live[:, j].nonzero().squeeze(-1)
                columns[j] = columns[j].index_copy(0, rows, of(chart, columns[j][rows]))
        return Parameterised(x.model, torch.stack(columns, -1))


def as_model_target(
    log_density: Callable[[Any, Tensor], Tensor],
    models: Measure[Any],
    size: int,
    live: Callable[[Any], Tensor],
    *,
    charts: Sequence[Transform | None] | None = None,
) -> Density[Parameterised] | Transformed:
    r"""Wrap a log-density of models and their parameters, :math:`(m, \theta) \mapsto \log r(m, \theta)`.

    Args:
        log_density: models [B, ..] and theta [B, size] -> [B], differentiable in theta for the best kernels,
            in the dtype of theta (``y.to(theta)`` for data y); a parameter that a model does not have is 0,
            and must not enter.
        models: the measure of the models: ``Subsets(p)``, ``Counting(n)``, ``Acyclic(nodes)``, ..
        size: most parameters that a model can have.
        live: models -> [B, size] bool, which parameters each has.
        charts: of parameters that are not on the whole line, one entry each: ``ExpTransform()`` for a
            half-line, ``SigmoidTransform()`` for (0, 1). The Jacobians are added for you, and all that a
            sampler takes and returns is in the parameters' own coordinates.

    Raises:
        InvalidInput: when the charts are not one per parameter.

    Example:
        A standard normal, or one with a standard deviation of its own, exponential a priori.

        >>> from torch.distributions import Normal
        >>> from torch.distributions.transforms import ExpTransform
        >>> from ctsgfn.measures import Counting
        >>> y = torch.tensor([0.3, -2.0, 1.1])
        >>> def log_density(m, theta):
        ...     free = m[:, 0] == 1
        ...     sd = torch.where(free, theta[:, 0], 1.0)
        ...     return Normal(0.0, sd[:, None]).log_prob(y).sum(-1) - free * theta[:, 0]
        >>> target = as_model_target(log_density, Counting(2), 1, lambda m: m == 1, charts=[ExpTransform()])
        >>> str(target.measure)
        'counting measure on {0, .., 1} with up to 1 parameter'
    """
    measure = WithParameters(models, size, live)
    target: Density[Parameterised] = as_target(lambda x: log_density(x.model, x.theta), measure)
    if charts is None:
        return target
    if len(charts) != size:
        raise InvalidInput(f"{len(charts)} charts were given for {size} parameters: one each, or None.")
    return Transformed(target, OnParameters(charts, live), measure)  # type: ignore[arg-type]


def one_model(target: Any, model: Tensor) -> Density[Tensor]:
    """The parameters of one model alone, as a target on R^k: for a fit, and an evidence, of their own.

    Args:
        target: on ``WithParameters`` with models that are tensors.
        model: [..], one of them.

    Raises:
        InvalidInput: when the target is on something else, or the model has no parameters.

    Example:
        >>> from ctsgfn.measures import Counting
        >>> def first(m):
        ...     return torch.arange(2) < m
        >>> both = as_model_target(lambda m, theta: -theta.square().sum(-1), Counting(3), 2, first)
        >>> alone = one_model(both, torch.tensor([1]))
        >>> str(alone.measure), alone.log_density(torch.tensor([[2.0]])).tolist()
        ('Lebesgue measure on R^1', [-4.0])
    """
    measure = target.measure
    if not isinstance(measure, WithParameters):
        raise InvalidInput(f"one_model needs a target on models with parameters, got one on {measure}.")
    axes = measure.live(model[None])[0].nonzero().squeeze(-1)
    if not len(axes):
        raise InvalidInput(f"the model {model.tolist()} has no parameters.")

    def log_density(z: Tensor) -> Tensor:
        theta = z.new_zeros(len(z), measure.size).index_copy(1, axes.to(z.device), z)
        return target.log_density(Parameterised(model.to(z.device).expand(len(z), *model.shape), theta))

    return as_target(log_density, Lebesgue(len(axes)))
