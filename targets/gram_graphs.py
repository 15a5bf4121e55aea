r"""Posteriors over graphs whose local scores follow from a matrix of cross products.

.. math:: \log r(G) = \sum_j \log p(x_j | x_{\mathrm{Pa}_j}) + \log P(G)

With M the matrix of node j, P its parents and
:math:`M_{\cdot | P} = M - M_{\cdot P} M_{PP}^{-1} M_{P \cdot}`, the local score is a function of |P|, of
:math:`\log |M_{PP}|` and of the remainder :math:`M_{jj | P}`. One more parent i changes these by

.. math::
    \log |M_{P \cup i}| = \log |M_{PP}| + \log M_{ii | P}, \qquad
    M_{jj | P \cup i} = M_{jj | P} - M_{ij | P}^2 / M_{ii | P},

so that one Cholesky factor gives a score and all its changes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ctsgfn.acyclic import Acyclic
from ctsgfn.acyclic_draws import AcyclicDraws
from ctsgfn.acyclic_sums import AcyclicSums
from ctsgfn.errors import InvalidInput, NoExactAnswer
from ctsgfn.targets.gram_regression import GramRegression
from ctsgfn.targets.score_cache import CHUNK, ScoreCache

PRIORS = ("uniform", "erdos_renyi", "fair")
TABLED = 12
"""Most nodes for which all sets of parents are scored at once, and sums over all graphs are exact."""


@dataclass(frozen=True, eq=False)
class GramGraphs(ABC):
    """A posterior over acyclic graphs with the parameters integrated out: data, prior and constraints.

    Rows in which a node was set by the experimenter say nothing about its mechanism and are left out of
    its factor. Scores are in float64: up to 12 nodes they are all computed once, beyond it when they are
    first asked for.

    Args:
        data: [N, d].
        prior: on graphs, "uniform"; "erdos_renyi" with ``edges_per_node``; or "fair", which gives the sets of
            k parents of a node the weight 1 / C(d - 1, k). It is not normalised: "uniform" is 1.
        edges_per_node: expected edges per node of the Erdos-Renyi prior.
        interventions: [N, d] bool, which values were set; None for none.
        max_parents: most parents of a node; None for no bound.
        forbidden: pairs (i, j): no edge i -> j.
        required: pairs (i, j): always the edge i -> j.

    Raises:
        InvalidInput: when the data, the prior or the constraints make no sense.

    References:
        Being Bayesian about network structure (Friedman and Koller, 2003), Machine Learning 50 (the fair
        prior).

    Example:
        >>> from ctsgfn.targets import linear_gaussian_network
        >>> target = linear_gaussian_network(8)  # a GramGraphs
        >>> p = target.edge_probabilities()  # exact, over all 783,702,329,343 graphs
        >>> x = target.sample(5)
        >>> bool((target.log_density(x) < target.log_z).all()), tuple(target.changes(x).shape)
        (True, (5, 8, 8))
    """

    data: Tensor
    prior: str = field(default="uniform", kw_only=True)
    edges_per_node: float = field(default=1.0, kw_only=True)
    interventions: Tensor | None = field(default=None, kw_only=True)
    max_parents: int | None = field(default=None, kw_only=True)
    forbidden: Iterable[tuple[int, int]] = field(default=frozenset(), kw_only=True)
    required: Iterable[tuple[int, int]] = field(default=frozenset(), kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.data.ndim != 2 or self.data.shape[1] < 2:
            raise InvalidInput(
                f"{name} needs data [N, d] of at least 2 columns, got {list(self.data.shape)}."
            )
        if not bool(self.data.isfinite().all()):
            row = int((~self.data.isfinite().all(-1)).nonzero()[0])
            raise InvalidInput(f"row {row} of the data is not finite: leave such rows out, or fill them in.")
        if self.interventions is not None and self.interventions.shape != self.data.shape:
            raise InvalidInput(
                f"interventions must have the shape of the data, {list(self.data.shape)}, got "
                f"{list(self.interventions.shape)}."
            )
        self._check()
        object.__setattr__(self, "forbidden", tuple(self.forbidden))
        object.__setattr__(self, "required", tuple(self.required))
        assert self.measure is not None
        assert self._log_prior is not None

    # ---------------------------------------------------------------- what a model brings
    @abstractmethod
    def _check(self) -> None:
        """Refuse settings of the model that make no sense."""

    @abstractmethod
    def _gram(self, rows: Tensor) -> Tensor:
        """Matrix M [d, d] of the rows [n, d] that say something about a node."""

    @abstractmethod
    def _score(self, rows: Tensor, k: Tensor, log_det: Tensor, rest: Tensor) -> Tensor:
        """Log-score of a node with ``rows`` rows and k parents, log |M_PP| and M_jj|P."""

    @abstractmethod
    def _noise(self, rows: Tensor, k: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the noise variance of a node given the data, and a draw of it."""

    @abstractmethod
    def _log_weights(self, rows: Tensor, k: Tensor, log_det: Tensor, rest: Tensor, square: Tensor) -> Tensor:
        """Log-density of weights w at (w - mean)' M_PP (w - mean) = square, given the data."""

    # ---------------------------------------------------------------- the density
    @cached_property
    def measure(self) -> Acyclic:
        """Counting measure on the acyclic graphs that meet the constraints."""
        return Acyclic(self.data.shape[1], self.max_parents, self.forbidden, self.required)

    def log_density(self, x: Tensor) -> Tensor:
        """Log p(D | G) + log P(G), [B] float64, of adjacencies [B, d, d]."""
        if x.shape[-1] > TABLED:
            return self._cache(x)[0].sum(-1)
        return self._tabled(x, torch.arange(x.shape[-1], device=x.device), _bits(x)).sum(-1)

    def changes(self, x: Tensor) -> Tensor:
        """Log r with the edge i -> j added, less log r, [B, d, d] float64; 0 where the edge is there."""
        d = x.shape[-1]
        if d > TABLED:
            return self._cache(x)[1]
        node, parents = torch.arange(d, device=x.device), _bits(x)
        more = parents[:, None] | (1 << node)[:, None]  # [B, i, j]
        return self._tabled(x, node, more) - self._tabled(x, node, parents)[:, None]

    def losses(self, x: Tensor) -> Tensor:
        """Log r with the edge i -> j taken away, less log r, [B, d, d] float64; 0 where there is none."""
        d = x.shape[-1]
        if d > TABLED:
            return self._cache.losses(x)
        node, parents = torch.arange(d, device=x.device), _bits(x)
        fewer = parents[:, None] & ~(1 << node)[:, None]  # [B, i, j]
        return self._tabled(x, node, fewer) - self._tabled(x, node, parents)[:, None]

    @cached_property
    def scores(self) -> Tensor:
        """[d, 2^d] log-score and log-prior of each node with each set of parents, -inf where ruled out.

        Raises:
            NoExactAnswer: with more than 12 nodes.
        """
        d = self.data.shape[1]
        if d > TABLED:
            raise NoExactAnswer(
                f"sums over all graphs are exact up to {TABLED} nodes, and the data have {d}: sample with "
                "fit or fit_graph instead."
            )
        sets = (torch.arange(1 << d)[:, None] >> torch.arange(d) & 1).bool()
        may, must = self.measure.may.T[:, None], self.measure.must.T[:, None]
        allowed = ~(sets & ~may | ~sets & must).any(-1) & (sets.sum(-1) <= self.measure.most)
        node, number = allowed.nonzero(as_tuple=True)
        out = torch.full((d, 1 << d), -math.inf, dtype=torch.float64)
        for some in torch.arange(len(node)).split(CHUNK):
            out[node[some], number[some]] = self._local(node[some], sets[number[some]])[0]
        return out

    # ---------------------------------------------------------------- exact answers
    @cached_property
    def sums(self) -> AcyclicSums:
        """Sums over all graphs (at most 12 nodes)."""
        return AcyclicSums(self.scores)

    @cached_property
    def draws(self) -> AcyclicDraws:
        """Exact draws of graphs (at most 12 nodes)."""
        return AcyclicDraws(self.sums)

    @property
    def log_z(self) -> float:
        """Log of the sum over all graphs, exactly.

        Raises:
            NoExactAnswer: with more than 12 nodes.
        """
        return float(self.sums.log_z)

    def edge_probabilities(self) -> Tensor:
        """Exact P(i -> j | D), [d, d] float64 (at most 12 nodes)."""
        return self.sums.edge_probabilities()

    def sample(self, n: int) -> Tensor:
        """Draw n graphs [n, d, d] of the posterior, exactly (at most 12 nodes)."""
        return self.draws.sample(n)

    # ---------------------------------------------------------------- weights given graphs
    def weights(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, d, d] and covariance [B, d, d, d] of the weights given graphs [B, d, d] and the data.

        Entry (b, i, j) of the means is the weight of i -> j; entry (b, j) of the covariances is that of the
        weights into j. Both are 0 where there is no edge.
        """
        fit = self._regressions(edges)
        scale = self._noise(fit.rows, fit.k, fit.rest)[0]
        inverse = torch.cholesky_inverse(fit.factor) * scale[:, None, None]
        inverse = inverse * (fit.live[:, :, None] & fit.live[:, None])
        size, d = len(edges), edges.shape[-1]
        row = torch.arange(len(inverse))[:, None, None]
        covariance = inverse.new_zeros(size * d, d, d)
        covariance.index_put_((row, fit.place[:, :, None], fit.place[:, None]), inverse, accumulate=True)
        return fit.spread(fit.mean), covariance.view(size, d, d, d)

    def sample_weights(self, edges: Tensor) -> Tensor:
        """Draw weights [B, d, d] float64 given graphs [B, d, d]: with graphs of the posterior, jointly."""
        fit = self._regressions(edges)
        scale = self._noise(fit.rows, fit.k, fit.rest)[1].sqrt()
        noise = torch.randn(*fit.mean.shape, 1, dtype=torch.float64)
        step = torch.linalg.solve_triangular(fit.factor.transpose(1, 2), noise, upper=True).squeeze(-1)
        return fit.spread(fit.mean + scale[:, None] * step)

    def log_weights(self, edges: Tensor, weights: Tensor) -> Tensor:
        """Log-density [B] of weights [B, d, d] given graphs and the data, on the edges that are there."""
        fit = self._regressions(edges)
        gap = (weights.double().transpose(1, 2).flatten(0, 1).gather(1, fit.place) - fit.mean) * fit.live
        square = (fit.factor.transpose(1, 2) @ gap[:, :, None]).squeeze(-1).square().sum(-1)
        value = self._log_weights(fit.rows, fit.k, fit.log_det, fit.rest, square)
        return value.view(len(edges), -1).sum(-1)

    # ---------------------------------------------------------------- inside
    @cached_property
    def _cache(self) -> ScoreCache:
        return ScoreCache(self._local)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """M [d, d, d] and number of rows [d] of each node."""
        data, d = self.data.double().cpu(), self.data.shape[1]
        if self.interventions is None:
            return self._gram(data).expand(d, d, d), torch.full((d,), float(len(data))).double()
        kept = [data[~self.interventions[:, j].bool().cpu()] for j in range(d)]
        rows = torch.tensor([float(len(part)) for part in kept]).double()
        return torch.stack([self._gram(part) for part in kept]), rows

    @property
    def _ridge(self) -> float:
        """What is added to the diagonal of M for every node but j."""
        return 0.0

    def _tabled(self, x: Tensor, node: Tensor, parents: Tensor) -> Tensor:
        return self.scores.to(x.device)[node, parents]

    def _local(self, node: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [R] of nodes with sets of parents [R, d], and changes [R, d] by each further parent."""
        fit = GramRegression(*self._moments, self._ridge, node, parents)
        score = self._score(fit.rows, fit.k, fit.log_det, fit.rest) + self._log_prior[fit.k.long()]
        new = ~parents.scatter(1, node[:, None], True)
        own, cross = torch.where(new, fit.own, 1.0), torch.where(new, fit.cross, 0.0)
        more = (fit.k + 1).clamp(max=len(self._log_prior) - 1)  # of the complete set nobody asks
        grown = self._score(
            fit.rows[:, None],
            more[:, None],
            fit.log_det[:, None] + own.log(),
            fit.rest[:, None] - cross.square() / own,
        )
        change = grown + self._log_prior[more.long()][:, None] - score[:, None]
        return score, torch.where(new, change, 0.0)

    def _regressions(self, edges: Tensor) -> GramRegression:
        size, d = len(edges), edges.shape[-1]
        parents = edges.bool().cpu().transpose(1, 2).reshape(size * d, d)
        return GramRegression(*self._moments, self._ridge, torch.arange(d).repeat(size), parents)

    @cached_property
    def _log_prior(self) -> Tensor:
        """Log-prior of a set of k parents, [d]."""
        d = self.data.shape[1]
        k = torch.arange(d, dtype=torch.float64)
        if self.prior == "uniform":
            return torch.zeros_like(k)
        if self.prior == "fair":
            return (k + 1).lgamma() + (d - k).lgamma() - math.lgamma(d)
        if self.prior == "erdos_renyi":
            p = 2 * self.edges_per_node / (d - 1)
            if not 0 < p < 1:
                raise InvalidInput(
                    f"edges_per_node must lie between 0 and (d - 1) / 2 = {(d - 1) / 2:g}, got "
                    f"{self.edges_per_node}."
                )
            return k * math.log(p) + (d - 1 - k) * math.log1p(-p)
        raise InvalidInput(f"prior must be one of {', '.join(PRIORS)}, got {self.prior!r}.")


def _bits(x: Tensor) -> Tensor:
    """Parents of each node as bits of a number, [B, d]."""
    bit = 1 << torch.arange(x.shape[-1], device=x.device)
    return (x.bool().long() * bit[:, None]).sum(1)
