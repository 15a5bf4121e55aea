r"""What a sampler over models says: which models, which items, how many, and averages over all of them.

For weighted trajectories :math:`(x_i, w_i)` of the flow, with :math:`E[w f(x)] = \int r f`,

.. math::
    P(m) = \frac{\sum_i w_i 1[m_i = m]}{\sum_i w_i}, \qquad Z_m = \frac1N \sum_i w_i 1[m_i = m],

and where models have no parameters left, :math:`Z_m = r(m)` itself, so that only Z is estimated.

References:
    Bayesian model averaging: a tutorial (Hoeting, Madigan, Raftery and Volinsky, 1999), Statistical
    Science 14.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput, UnreliableEstimate, whole
from ctsgfn.evidence import Evidence
from ctsgfn.importance import Importance
from ctsgfn.psis import effective_sample_size, psis, systematic
from ctsgfn.sampler import Sampler
from ctsgfn.seeding import seeded
from ctsgfn.with_parameters import Parameterised, WithParameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 50.0
"""Fewest effective draws of one model that are called a sample of its parameters."""


class Estimate(NamedTuple):
    """An estimate and its standard error, of one shape."""

    value: Tensor
    stderr: Tensor


@dataclass(frozen=True, repr=False)
class ModelPosterior:
    """Weighted draws of a sampler over models; made by ``model_posterior``, and it prints itself.

    Example:
        >>> from ctsgfn.evidence import estimate_evidence
        >>> m = torch.tensor([[True], [False]])
        >>> log_r = torch.tensor([1.0, 0.0]).double().log_softmax(0)
        >>> even = torch.zeros(2).double()
        >>> e = estimate_evidence(even)
        >>> posterior = ModelPosterior(m, even, m, torch.arange(2), log_r, e, torch.tensor([1, 0]), ("dose",))
        >>> posterior.model_probabilities().value.round(decimals=3).tolist()
        [0.731, 0.269]
    """

    x: Any  # [N] draws of the flow: models, or Parameterised
    log_weight: Tensor  # [N] float64, as drawn
    models: Tensor  # [K, ..] the distinct models among them, most probable first
    which: Tensor  # [N] long, the row of ``models`` of each draw
    log_r: Tensor | None  # [K] of the models, where they have no parameters
    evidence: Evidence  # of all models together
    dimension: Tensor  # [K] long: parameters of each model, or its items, or the number itself
    names: tuple[str, ...]  # of the items, in the order of the flattened model; empty for numbers

    # ---------------------------------------------------------------- models
    def model_probabilities(self) -> Estimate:
        """Posterior probability of each of ``models``, [K]; models that were not drawn have the rest."""
        if self.log_r is not None:
            value = (self.log_r - self.evidence.log_z).exp()
            return Estimate(value, value * self.evidence.stderr)
        return self.average(torch.nn.functional.one_hot(self.which, len(self.models)).double())

    def model_evidence(self) -> Estimate:
        """Log Z_m of each of ``models``, [K]: log r with the parameters integrated out, the prior kept in.

        The error is 0 where a model has no parameters, and infinite where it was drawn only once.
        """
        if self.log_r is not None:
            return Estimate(self.log_r, torch.zeros_like(self.log_r))
        k, n = len(self.models), len(self.which)
        top = self.log_weight.max()
        weight = (self.log_weight - top).exp()
        mean = weight.new_zeros(k).index_add(0, self.which, weight) / n
        square = weight.new_zeros(k).index_add(0, self.which, weight.square()) / n
        drawn = self.which.bincount(minlength=k)
        relative = ((square / mean.square() - 1) / n).clamp(min=0).sqrt()
        return Estimate(mean.log() + top, torch.where(drawn > 1, relative, math.inf))

    def unseen(self) -> float | None:
        """Posterior probability of all models that were not drawn; None where models have parameters."""
        return None if self.log_r is None else 1.0 - float(self.model_probabilities().value.sum())

    def dimension_probabilities(self) -> Estimate:
        """Posterior of how large the model is: [D + 1], of 0, 1, .. parameters, or items."""
        return self.average(torch.nn.functional.one_hot(self.dimension)[self.which].double())

    def inclusion_probabilities(self) -> Estimate:
        """Posterior probability of each item (variable, change-point, edge), in the shape of a model.

        Raises:
            InvalidInput: where models are not sets of items.
        """
        if not self.names:
            raise InvalidInput(
                "these models are numbers, not sets of items: see model_probabilities and "
                "dimension_probabilities."
            )
        return self.average(self.models[self.which].double())

    # ---------------------------------------------------------------- draws and averages
    def average(self, of: Tensor | Callable[[Any], Tensor]) -> Estimate:
        """Average over all models, by the weights: of values [N, ..] of the draws, or a function of them.

        The error is that of a ratio of means (delta method).
        """
        value = (of(self.x) if callable(of) else of).double()
        weight = psis(self.log_weight).log_weight.exp().to(value.device)
        flat = value.flatten(1) if value.dim() > 1 else value[:, None]
        mean = weight @ flat
        stderr = (weight.square() @ (flat - mean).square()).sqrt()
        return Estimate(mean.reshape(value.shape[1:]), stderr.reshape(value.shape[1:]))

    def sample(self, n: int, model: Tensor | None = None, *, seed: int | None = None) -> Any:
        """Resample n draws by their weights, of all models or of one.

        Raises:
            InvalidInput: when the model was never drawn.

        Warns:
            UnreliableEstimate: when the weights, or the few draws of the model, cannot be trusted.
        """
        whole("n", n)
        if model is None:
            rows = torch.arange(len(self.which))
            self.evidence.warn_unless_reliable("the draws of the models are")
        else:
            rows = (self.which == self._row(model)).nonzero().squeeze(-1)
            worth = effective_sample_size(self.log_weight[rows])
            if worth < FEWEST:
                warnings.warn(
                    f"the model was drawn {len(rows)} times, worth {worth:.0f} independent draws: take more "
                    "draws in model_posterior(.., n=).",
                    UnreliableEstimate,
                    stacklevel=2,
                )
        log_weight = self.log_weight[rows]
        with seeded(seed):
            chosen = systematic(log_weight - log_weight.logsumexp(0), n)
        return self.x[rows[chosen]]

    # ---------------------------------------------------------------- reports
    def plot(self, most: int = 15) -> Figure:
        """Figure of the most probable models, of the items where there are some, and of the dimension."""
        from ctsgfn.model_plots import plot_models

        labels = [self.describe(row) for row in range(min(most, len(self.models)))]
        items = self.inclusion_probabilities() if self.names else None
        return plot_models(
            labels, self.model_probabilities(), items, self.names, self.dimension_probabilities()
        )

    def to_arviz(self, n: int = 4096, *, seed: int | None = None) -> Any:
        """Return n resampled draws as an ArviZ container: ``model``, and ``theta`` where there is one.

        Raises:
            MissingExtra: when ArviZ is not installed.
        """
        from ctsgfn.arviz_export import to_arviz

        x = self.sample(n, seed=seed)
        named = {"model": x} if isinstance(x, Tensor) else {"model": x.model, "theta": x.theta}
        return to_arviz(named, {}, self.evidence)

    def describe(self, row: int) -> str:
        """One of ``models`` in words: its items, or its number."""
        model = self.models[row]
        if not self.names:
            return str(model.flatten().tolist()[0] if model.numel() == 1 else model.flatten().tolist())
        there = [name for name, here in zip(self.names, model.flatten().tolist(), strict=True) if here]
        return " ".join(there) if there else "none"

    def __str__(self) -> str:
        probability, evidence = self.model_probabilities(), self.model_evidence()
        lines = [f"{len(self.models)} models in {len(self.which)} draws; log Z {self.evidence.log_z:.3f} "
                 f"+- {self.evidence.stderr:.3f}"]  # fmt: skip
        for row in range(min(8, len(self.models))):
            lines.append(
                f"  {float(probability.value[row]):.4f} +- {float(probability.stderr[row]):.4f}  log Z_m "
                f"{float(evidence.value[row]):.3f}  {self.describe(row)}"
            )
        rest = 1 - float(probability.value[:8].sum())
        lines.append(f"  {max(0.0, rest):.4f}            all others")
        if self.names:
            items = self.inclusion_probabilities()
            order = items.value.flatten().argsort(descending=True)[:12].tolist()
            each = [f"{self.names[i]} {float(items.value.flatten()[i]):.3f}" for i in order]
            lines.append("items: " + ", ".join(each) + (", .." if len(self.names) > 12 else ""))
        size = self.dimension_probabilities().value
        lines.append(
            "dimension: " + ", ".join(f"{k}: {p:.3f}" for k, p in enumerate(size.tolist()) if p > 5e-4)
        )
        reasons = "; ".join(self.evidence.reasons)
        return "\n".join([*lines, "reliable" if self.evidence.reliable else f"NOT reliable: {reasons}"])

    __repr__ = __str__

    # ---------------------------------------------------------------- inside
    def _row(self, model: Tensor) -> int:
        same = (self.models == model.to(self.models)).flatten(1).all(-1).nonzero()
        if not len(same):
            raise InvalidInput(f"the model {model.flatten().long().tolist()} was not drawn: take more draws.")
        return int(same[0])


def model_posterior(
    sampler: Sampler[Any, Any],
    n: int = 16_384,
    *,
    names: Sequence[str] | None = None,
    seed: int | None = None,
) -> ModelPosterior:
    """Draw from a sampler over models, and sort the draws by model.

    The target is on discrete structures (subsets, graphs, numbers), or on structures with parameters.

    Args:
        sampler: what ``fit`` made.
        n: weighted draws.
        names: of the items of a model; by default "0", "1", ..
        seed: makes the draws reproducible.

    Raises:
        InvalidInput: when the points of the target are not models, or the names do not fit.

    Warns:
        UnreliableEstimate: when the weights cannot be trusted.

    Example:
        >>> from ctsgfn.diffuse import diffuse
        >>> from ctsgfn.gflownet import GFlowNet
        >>> from ctsgfn.kernels.spaces.subsets import subsets
        >>> from ctsgfn.target import as_target
        >>> space = subsets(2)
        >>> gfn = GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b))  # not trained
        >>> target = as_target(lambda m: m[:, 0].double() - 0.5 * m[:, 1].double(), space.points)
        >>> posterior = model_posterior(Sampler(gfn, target), 4000, names=["age", "dose"], seed=0)
        >>> posterior.describe(0), tuple(posterior.inclusion_probabilities().value.shape)
        ('age', (2,))
        >>> abs(float(posterior.model_probabilities().value.sum()) - 1) < 0.1
        True
    """
    whole("n", n, least=2)
    importance: Importance[Any, Any] = Importance(sampler.gfn, sampler.target)
    with seeded(seed):
        x, log_weight = importance.weigh(n)
    log_weight = log_weight.cpu()
    model = x.model if isinstance(x, Parameterised) else x
    if not isinstance(model, Tensor) or model.is_floating_point():
        raise InvalidInput(
            f"the points of this target are against {sampler.target.measure}, not models: model_posterior is "
            "for subsets, graphs and numbers, with or without parameters."
        )
    evidence = importance.judge(log_weight)
    evidence.warn_unless_reliable("the posterior of the models is")
    measure: Any = importance.coordinates.original.measure
    found, which = torch.unique(model.flatten(1).cpu().long(), dim=0, return_inverse=True)
    distinct = found.reshape(-1, *model.shape[1:]).to(model)
    log_r = None
    if isinstance(measure, WithParameters):
        dimension = measure.live(distinct).sum(-1)
        weight = (log_weight - log_weight.max()).exp()
        best = weight.new_zeros(len(found)).index_add(0, which, weight)
    else:
        dimension = found.sum(-1)
        with torch.no_grad():
            best = log_r = importance.coordinates.original.log_density(distinct).double().cpu()
    order = best.argsort(descending=True)
    rank = torch.empty_like(order).index_copy(0, order, torch.arange(len(order)))
    items = model[0].numel() if model.dtype == torch.bool else 0
    labels = tuple(map(str, range(items))) if names is None else tuple(names)
    if len(labels) != items:
        raise InvalidInput(f"{len(labels)} names were given for models of {items} items.")
    return ModelPosterior(
        x=x,
        log_weight=log_weight,
        models=distinct.cpu()[order],
        which=rank[which],
        log_r=None if log_r is None else log_r[order],
        evidence=evidence,
        dimension=dimension.cpu()[order],
        names=labels,
    )
