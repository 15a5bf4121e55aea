r"""Which linear Gaussian network made the data: the marginal posterior over its graph, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctsgfn.acyclic import Acyclic
from ctsgfn.errors import InvalidInput

PRIORS = ("uniform", "erdos_renyi", "fair")
MOST = 12
"""Most nodes: all 2^d sets of parents of each are scored, once."""


@dataclass(frozen=True, eq=False)
class LinearGaussianGraphs:
    r"""Marginal likelihood of a linear Gaussian network times a prior on graphs; weights integrated out.

    .. math::
        x_j \mid x_P \sim N\bigl(\textstyle\sum_{i \in P} w_{ij} x_i,\ s^2\bigr), \qquad w_{ij} \sim N(0, t^2)

    for each node j with parents P. With :math:`A = X_P^\top X_P + (s^2 / t^2) I` and
    :math:`b = X_P^\top x_j`,

    .. math::
        \log p(x_j | X_P) = -\tfrac N2 \log 2 \pi s^2 - \tfrac12 \log |A|
            - \tfrac{|P|}{2} \log \tfrac{t^2}{s^2} - \frac{x_j^\top x_j - b^\top A^{-1} b}{2 s^2},
        \qquad w_P | G, D \sim N(A^{-1} b, s^2 A^{-1}).

    Rows in which a node was set by the experimenter say nothing about its mechanism and are left out of its
    factor. Every local score is computed once, in float64.

    Args:
        data: [N, d].
        noise_variance: s^2.
        weight_variance: t^2.
        prior: on graphs, "uniform"; "erdos_renyi" with ``edges_per_node``; or "fair", which gives the sets of
            k parents of a node the weight 1 / C(d - 1, k).
        edges_per_node: expected edges per node of the Erdos-Renyi prior.
        interventions: [N, d] bool, which values were set; None for none.

    Raises:
        InvalidInput: when a size, a variance or the prior makes no sense, or there are more than 12 nodes.

    References:
        Joint Bayesian inference of graphical structure and parameters with a single generative flow network
        (Deleu et al., 2023), arXiv 2305.19366, section 3; Being Bayesian about network structure (Friedman
        and Koller, 2003), Machine Learning 50 (the fair prior).

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...
        >>> x = torch.randn(50, 1)
        >>> target = LinearGaussianGraphs(torch.cat([x, 2 * x + 0.3 * torch.randn(50, 1)], -1))
        >>> none, edge = torch.zeros(1, 2, 2), torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
        >>> bool(target.log_density(edge) > target.log_density(none))
        True
    """

    data: Tensor
    noise_variance: float = 0.1
    weight_variance: float = 1.0
    prior: str = "uniform"
    edges_per_node: float = 1.0
    interventions: Tensor | None = None
    scores: Tensor = field(init=False, repr=False)
    """[d, 2^d] float64: log-score of each node with each set of parents, the bits of a number."""

    def __post_init__(self) -> None:
        if self.data.ndim != 2 or not 2 <= self.data.shape[1] <= MOST:
            raise InvalidInput(
                f"LinearGaussianGraphs needs data [N, d], d from 2 to {MOST}, got {list(self.data.shape)}."
            )
        if not bool(self.data.isfinite().all()):
            row = int((~self.data.isfinite().all(-1)).nonzero()[0])
            raise InvalidInput(f"row {row} of the data is not finite: leave such rows out, or fill them in.")
        if not (self.noise_variance > 0 and self.weight_variance > 0):
            raise InvalidInput(
                f"the variances must be positive, got {self.noise_variance} and {self.weight_variance}."
            )
        if self.interventions is not None and self.interventions.shape != self.data.shape:
            raise InvalidInput(
                f"interventions must have the shape of the data, {list(self.data.shape)}, got "
                f"{list(self.interventions.shape)}."
            )
        dim = self.data.shape[1]
        locals_ = torch.stack([self._local(j) for j in range(dim)])
        object.__setattr__(self, "scores", locals_ + self._log_prior(dim))

    @property
    def measure(self) -> Acyclic:
        """Counting measure on acyclic graphs."""
        return Acyclic(self.data.shape[1])

    def log_density(self, x: Tensor) -> Tensor:
        """Log p(D | G) + log P(G), [B] float64, of adjacencies [B, d, d]."""
        return self._scores(x, torch.arange(x.shape[-1], device=x.device), self._parents(x)).sum(-1)

    def changes(self, x: Tensor) -> Tensor:
        """Log r with the edge i -> j added, less log r, [B, d, d] float64; 0 where the edge is there."""
        d = x.shape[-1]
        node, bit, parents = (
            torch.arange(d, device=x.device),
            1 << torch.arange(d, device=x.device),
            self._parents(x),
        )
        more = parents[:, None] | bit[:, None]  # [B, i, j]
        return self._scores(x, node, more) - self._scores(x, node, parents)[:, None]

    def _parents(self, x: Tensor) -> Tensor:
        """Parents of each node as bits of a number, [B, d]."""
        bit = 1 << torch.arange(x.shape[-1], device=x.device)
        return (x.bool().long() * bit[:, None]).sum(1)

    def _scores(self, x: Tensor, node: Tensor, parents: Tensor) -> Tensor:
        return self.scores.to(x.device)[node, parents]

    @property
    def log_z(self) -> float:
        """Log P(D), by listing the graphs.

        Raises:
            InvalidInput: with more than 5 nodes.
        """
        return float(self.log_density(self.measure.all()).logsumexp(0))

    def sample(self, n: int) -> Tensor:
        """Draw n graphs [n, d, d] of the posterior, from the list of all.

        Raises:
            InvalidInput: with more than 5 nodes.
        """
        graphs = self.measure.all()
        return graphs[torch.multinomial(self.log_density(graphs).softmax(0), n, replacement=True)]

    def edge_probabilities(self) -> Tensor:
        """Exact P(i -> j | D), [d, d] float64, by listing the graphs (at most 5 nodes)."""
        graphs = self.measure.all()
        return torch.einsum("g,gij->ij", self.log_density(graphs).softmax(0), graphs.double())

    def weights(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Exact law of the weights given graphs [B, d, d]: means [B, d, d], covariances [B, d, d, d].

        Entry (b, i, j) of the means is the weight of i -> j; entry (b, j) of the covariances is that of the
        weights into j. Both are 0 where there is no edge.
        """
        means, covariances = [], []
        for j in range(self.data.shape[1]):
            here = edges[:, :, j].to(torch.float64)
            gram, moment, _, _ = self._moments(j)
            a, b = self._system(here, gram, moment)
            covariances.append(self.noise_variance * torch.linalg.inv(a) * here[:, :, None] * here[:, None])
            means.append(torch.linalg.solve(a, b.unsqueeze(-1)).squeeze(-1) * here)
        return torch.stack(means, -1), torch.stack(covariances, 1)

    def sample_weights(self, edges: Tensor) -> Tensor:
        """Draw weights [B, d, d] given graphs [B, d, d]: with graphs of the posterior, joint draws."""
        means, covariances = self.weights(edges)
        dead = torch.diag_embed(
            (~edges.bool()).transpose(1, 2).double()
        )  # 1 on the diagonal of what is not there
        factor = torch.linalg.cholesky(covariances + dead)
        noise = (factor @ torch.randn(*means.shape, 1, dtype=torch.float64)).squeeze(-1).transpose(1, 2)
        return means + noise * edges.double()

    def _moments(self, j: int) -> tuple[Tensor, Tensor, Tensor, int]:
        """X'X, X'x_j, x_j'x_j and N of the rows that say something about node j."""
        rows = self.data.double()
        if self.interventions is not None:
            rows = rows[~self.interventions[:, j]]
        return rows.T @ rows, rows.T @ rows[:, j], rows[:, j] @ rows[:, j], len(rows)

    def _system(self, here: Tensor, gram: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
        """A [B, d, d] and b [B, d] for sets of parents [B, d] of 0 and 1; identity where there is none."""
        ridge = 1 + here * (self.noise_variance / self.weight_variance - 1)
        return gram * here[:, :, None] * here[:, None] + torch.diag_embed(ridge), moment * here

    def _local(self, j: int) -> Tensor:
        """Log p(x_j | X_P) for every set of parents, [2^d]; sets with j itself are never asked for."""
        d, (gram, moment, square, n) = self.data.shape[1], self._moments(j)
        sets = torch.arange(1 << d)
        here = ((sets[:, None] >> torch.arange(d)) & 1).double()
        a, b = self._system(here, gram, moment)
        factor = torch.linalg.cholesky(a)
        half = torch.linalg.solve_triangular(factor, b.unsqueeze(-1), upper=False).squeeze(-1)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        ratio = math.log(self.weight_variance / self.noise_variance)
        fit = (square - half.square().sum(-1)) / self.noise_variance
        return -0.5 * (n * math.log(2 * math.pi * self.noise_variance) + log_det + here.sum(-1) * ratio + fit)

    def _log_prior(self, d: int) -> Tensor:
        """Log-prior of each set of parents, [2^d]."""
        k = torch.tensor([s.bit_count() for s in range(1 << d)], dtype=torch.float64)
        if self.prior == "uniform":
            return torch.zeros_like(k)
        if self.prior == "fair":
            k = k.clamp(max=d - 1)  # the set of all nodes is never asked for
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


def linear_gaussian_network(
    nodes: int = 5,
    rows: int = 100,
    *,
    edges_per_node: float = 1.0,
    noise_variance: float = 0.1,
    seed: int = 0,
) -> LinearGaussianGraphs:
    """The posterior of a simulated network: Erdos-Renyi graph, standard normal weights, normal noise.

    Args:
        nodes: d.
        rows: N.
        edges_per_node: expected edges per node of the graph.
        noise_variance: of each node.
        seed: of the graph, the weights and the data.

    Example:
        >>> target = linear_gaussian_network(4)
        >>> tuple(target.data.shape), round(float(target.edge_probabilities().sum()), 1) > 0
        ((100, 4), True)
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(nodes, generator=generator)
    p = min(1.0, 2 * edges_per_node / (nodes - 1))
    there = (torch.rand(nodes, nodes, generator=generator) < p).triu(1)
    weight = torch.randn(nodes, nodes, generator=generator, dtype=torch.float64) * there
    x = torch.zeros(rows, nodes, dtype=torch.float64)
    for k in range(nodes):
        noise = torch.randn(rows, generator=generator, dtype=torch.float64) * math.sqrt(noise_variance)
        x[:, order[k]] = x[:, order] @ weight[:, k] + noise
    return LinearGaussianGraphs(x, noise_variance=noise_variance)
