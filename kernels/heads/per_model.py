r"""A law of the parameters for each of a few models, with nothing in common.

.. math::
    q(\theta | m) = q_m\bigl(z\bigr) \prod_i \frac{1}{s_{mi}}, \qquad z_i = \frac{\theta_i - c_{mi}}{s_{mi}}

on the live axes of model m, where :math:`q_m` is an autoregressive mixture of normals: it takes several modes
and curved ridges, where one normal law per model does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ctsgfn.distributions import CoordinateLaw
from ctsgfn.errors import InvalidInput
from ctsgfn.kernel import Head
from ctsgfn.kernels.heads.autoregressive import AutoregressiveMixture
from ctsgfn.measures import Lebesgue


class OneModel(nn.Module):
    """The law of one model, on its live axes.

    Args:
        law: an autoregressive mixture without context, in the scaled coordinates.
        axes: [k] long, the live axes.
        location: [k] c.
        scale: [k] s.

    Raises:
        InvalidInput: when the sizes do not fit, or a scale is not positive.
    """

    axes: Tensor
    location: Tensor
    scale: Tensor

    def __init__(self, law: AutoregressiveMixture, axes: Tensor, location: Tensor, scale: Tensor) -> None:
        super().__init__()
        if not len(axes) == len(location) == len(scale) == law.dim:
            raise InvalidInput(
                f"a law on R^{law.dim} needs as many axes, locations and scales, got {len(axes)}, "
                f"{len(location)} and {len(scale)}."
            )
        if not bool((scale > 0).all()):
            raise InvalidInput("the scales must be positive.")
        self.law = law
        for name, value in (("axes", axes), ("location", location), ("scale", scale)):
            self.register_buffer(name, value)

    def draw(self, n: int) -> Tensor:
        """Draw n points [n, k]."""
        return self.location + self.scale * self.law(self.location.new_zeros(n, 0), None, None).draw()

    def log_prob(self, theta: Tensor) -> Tensor:
        """Log-density [n] at [n, k]."""
        z = (theta - self.location) / self.scale
        log_density: Tensor = self.law(z[:, :0], None, None).log_prob(z)
        return log_density - self.scale.log().sum()


class PerModelLaw(CoordinateLaw):
    """The law of each row's model, 0 on dead axes.

    Args:
        models: the laws, None for a model without parameters.
        number: [B] long, which of them each row has.
        size: width of theta.
        like: a tensor of the dtype and device of the draws.
    """

    def __init__(self, models: Sequence[OneModel | None], number: Tensor, size: int, like: Tensor) -> None:
        super().__init__(len(number), size)
        self.models, self.number, self.like = models, number, like

    def draw(self) -> Tensor:
        """One draw per row, [B, size]."""
        theta = self.like.new_zeros(*self.batch_shape, *self.event_shape)
        for model, rows in self._parts():
            theta[rows[:, None], model.axes] = model.draw(len(rows))
        return theta

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [B] at [B, size]."""
        out = self.like.new_zeros(len(value))
        for model, rows in self._parts():
            out = out.index_add(0, rows, model.log_prob(value[rows[:, None], model.axes]))
        return out

    def _parts(self) -> list[tuple[OneModel, Tensor]]:
        """The laws that have rows, and these."""
        numbers = self.number.unique().tolist()
        pairs = [(self.models[k], (self.number == k).nonzero().squeeze(-1)) for k in numbers]
        return [(model, rows) for model, rows in pairs if model is not None]


class PerModelHead(Head):
    """A law for each model, whose number is read off the state; contexts are not used.

    Args:
        size: width of theta.
        models: the laws of models 0, 1, ..; None for one without parameters.
        number: states -> [B] long.

    Raises:
        InvalidInput: when no model has parameters.

    Example:
        >>> import torch
        >>> line = OneModel(AutoregressiveMixture(1, 0, 1), torch.tensor([1]), torch.zeros(1), torch.ones(1))
        >>> head = PerModelHead(2, [None, line], lambda s: s[:, 0])
        >>> law = head(torch.zeros(2, 0), torch.tensor([[0], [1]]), None)
        >>> law.sample()[:, 0].tolist(), [round(v, 4) for v in law.log_prob(torch.zeros(2, 2)).tolist()]
        ([0.0, 0.0], [0.0, -0.9189])
    """

    def __init__(self, size: int, models: Sequence[OneModel | None], number: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.base, self.size = Lebesgue(size), size
        self.present = tuple(model is not None for model in models)
        self.laws = nn.ModuleList(model for model in models if model is not None)
        if not len(self.laws):
            raise InvalidInput("no model has parameters: a head for them is not needed.")
        self.number = number

    def forward(self, context: Any, s: Any, live: Tensor | None) -> PerModelLaw:
        """Law of theta, [B, size]."""
        del context, live
        laws = iter(self.laws)
        models = [next(laws) if here else None for here in self.present]
        like = self.laws[0].location
        assert isinstance(like, Tensor)
        return PerModelLaw(models, self.number(s), self.size, like)  # type: ignore[arg-type]
