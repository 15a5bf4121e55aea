r"""Which Gaussian network made the data, its means, weights and variances being unknown: the BGe score."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Gamma

from ctsgfn.errors import InvalidInput
from ctsgfn.targets.gram_graphs import GramGraphs


@dataclass(frozen=True, eq=False)
class BGeGraphs(GramGraphs):
    r"""Marginal likelihood of a Gaussian network under a normal-Wishart prior, times a prior on graphs.

    .. math::
        x \sim N(\mu, W^{-1}), \qquad \mu | W \sim N(0, (\alpha_\mu W)^{-1}), \qquad
        W \sim \mathrm{Wishart}(\alpha_w, (t I)^{-1}), \quad
        t = \alpha_\mu (\alpha_w - d - 1) / (\alpha_\mu + 1)

    With :math:`R = t I + S + \frac{N \alpha_\mu}{N + \alpha_\mu} \bar x \bar x^\top` (S the centred cross
    products), :math:`a = \alpha_w - d`, k parents P, :math:`R_{jj | P} = R_{jj} - R_{jP} R_{PP}^{-1} R_{Pj}`,

    .. math::
        \log p(x_j | x_P) = \tfrac12 \log \tfrac{\alpha_\mu}{N + \alpha_\mu} - \tfrac N2 \log \pi
            + \log \frac{\Gamma(\frac{N + a + k + 1}2)}{\Gamma(\frac{a + k + 1}2)}
            + \tfrac{a + 2 k + 1}2 \log t
            - \tfrac{N + a + k + 1}2 \log R_{jj | P} - \tfrac12 \log |R_{PP}|.

    Graphs that imply the same independences score the same: data alone do not direct their edges,
    interventions do. The prior is in the units of the data: columns of unit variance suit it.

    Args:
        data: [N, d].
        mean_weight: alpha_mu, in rows of data.
        degrees: alpha_w, above d + 1; by default d + alpha_mu + 1.
        prior: as for every ``GramGraphs``, like the arguments after it.
        edges_per_node: see there.
        interventions: see there.
        max_parents: see there.
        forbidden: see there.
        required: see there.

    Raises:
        InvalidInput: when the data, a setting of the prior or the constraints make no sense.

    References:
        Parameter priors for directed acyclic graphical models and the characterization of several probability
        distributions (Geiger and Heckerman, 2002), Annals of Statistics 30, arXiv 2105.03248; Addendum on the
        scoring of Gaussian directed acyclic graphical models (Kuipers, Moffa and Heckerman, 2014),
        arXiv 1402.6863.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...
        >>> x = torch.randn(50, 1)
        >>> target = BGeGraphs(torch.cat([x, x + 0.5 * torch.randn(50, 1)], -1))
        >>> p = target.edge_probabilities()
        >>> bool(p.sum() > 0.999), round(float(p[0, 1]), 6)
        (True, 0.5)
    """

    mean_weight: float = 1.0
    degrees: float | None = None

    def _check(self) -> None:
        d = self.data.shape[1]
        if not (self.mean_weight > 0 and self._degrees > d + 1):
            raise InvalidInput(
                f"BGeGraphs needs mean_weight > 0 and degrees above d + 1 = {d + 1}, got {self.mean_weight} "
                f"and {self._degrees}."
            )

    @property
    def _degrees(self) -> float:
        return self.data.shape[1] + self.mean_weight + 1 if self.degrees is None else self.degrees

    @property
    def _scale(self) -> float:
        """T."""
        return self.mean_weight * (self._degrees - self.data.shape[1] - 1) / (self.mean_weight + 1)

    def _gram(self, rows: Tensor) -> Tensor:
        n, d = rows.shape
        mean = rows.mean(0) if n else rows.new_zeros(d)
        centred = rows - mean
        shrunk = n * self.mean_weight / (n + self.mean_weight) * torch.outer(mean, mean)
        return self._scale * torch.eye(d, dtype=rows.dtype) + centred.T @ centred + shrunk

    def _score(self, rows: Tensor, k: Tensor, log_det: Tensor, rest: Tensor) -> Tensor:
        a = self._degrees - self.data.shape[1]
        after = self._after(rows, k)
        value = 0.5 * (self.mean_weight / (rows + self.mean_weight)).log() - 0.5 * rows * math.log(math.pi)
        value = value + (0.5 * after).lgamma() - (0.5 * (a + k + 1)).lgamma()
        value = value + 0.5 * (a + 2 * k + 1) * math.log(self._scale)
        return value - 0.5 * after * rest.log() - 0.5 * log_det

    def _noise(self, rows: Tensor, k: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        after = self._after(rows, k)
        return rest / (after - 2), 1 / Gamma(0.5 * after, 0.5 * rest).sample()

    def _log_weights(self, rows: Tensor, k: Tensor, log_det: Tensor, rest: Tensor, square: Tensor) -> Tensor:
        after = self._after(rows, k)
        constant = (0.5 * (after + k)).lgamma() - (0.5 * after).lgamma() - 0.5 * k * (math.pi * rest).log()
        return constant + 0.5 * log_det - 0.5 * (after + k) * (square / rest).log1p()

    def _after(self, rows: Tensor, k: Tensor) -> Tensor:
        """Degrees of freedom of the noise variance given the data, N + a + k + 1."""
        return rows + self._degrees - self.data.shape[1] + k + 1
