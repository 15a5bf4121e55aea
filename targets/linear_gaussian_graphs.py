r"""Which linear Gaussian network made the data, the noise variance being known: in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput
from ctsgfn.targets.gram_graphs import GramGraphs
from ctsgfn.targets.random_networks import random_network


@dataclass(frozen=True, eq=False)
class LinearGaussianGraphs(GramGraphs):
    r"""Marginal likelihood of a linear Gaussian network times a prior on graphs; weights integrated out.

    .. math::
        x_j \mid x_P \sim N\bigl(\textstyle\sum_{i \in P} w_{ij} x_i,\ s^2\bigr), \qquad w_{ij} \sim N(0, t^2)

    for each node j with parents P. With :math:`A = X_P^\top X_P + (s^2 / t^2) I` and
    :math:`b = X_P^\top x_j`,

    .. math::
        \log p(x_j | X_P) = -\tfrac N2 \log 2 \pi s^2 - \tfrac12 \log |A|
            - \tfrac{|P|}{2} \log \tfrac{t^2}{s^2} - \frac{x_j^\top x_j - b^\top A^{-1} b}{2 s^2},
        \qquad w_P | G, D \sim N(A^{-1} b, s^2 A^{-1}).

    There is no intercept: centre the columns.

    Args:
        data: [N, d].
        noise_variance: s^2.
        weight_variance: t^2.
        prior: as for every ``GramGraphs``, like the arguments after it.
        edges_per_node: see there.
        interventions: see there.
        max_parents: see there.
        forbidden: see there.
        required: see there.

    Raises:
        InvalidInput: when the data, a variance, the prior or the constraints make no sense.

    References:
        Joint Bayesian inference of graphical structure and parameters with a single generative flow network
        (Deleu et al., 2023), arXiv 2305.19366, section 3.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...
        >>> x = torch.randn(50, 1)
        >>> target = LinearGaussianGraphs(torch.cat([x, 2 * x + 0.3 * torch.randn(50, 1)], -1))
        >>> none, edge = torch.zeros(1, 2, 2), torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
        >>> bool(target.log_density(edge) > target.log_density(none))
        True
    """

    noise_variance: float = 0.1
    weight_variance: float = 1.0

    def _check(self) -> None:
        if not (self.noise_variance > 0 and self.weight_variance > 0):
            raise InvalidInput(
                f"the variances must be positive, got {self.noise_variance} and {self.weight_variance}."
            )

    @property
    def _ridge(self) -> float:
        return self.noise_variance / self.weight_variance

    def _gram(self, rows: Tensor) -> Tensor:
        return rows.T @ rows

    def _score(self, rows: Tensor, k: Tensor, log_det: Tensor, rest: Tensor) -> Tensor:
        constant = rows * math.log(2 * math.pi * self.noise_variance) - k * math.log(self._ridge)
        return -0.5 * (constant + log_det + rest / self.noise_variance)

    def _noise(self, rows: Tensor, k: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        known = torch.full_like(rest, self.noise_variance)
        return known, known

    def _log_weights(self, rows: Tensor, k: Tensor, log_det: Tensor, rest: Tensor, square: Tensor) -> Tensor:
        constant = k * math.log(2 * math.pi * self.noise_variance)
        return 0.5 * (log_det - constant - square / self.noise_variance)


def linear_gaussian_network(
    nodes: int = 5,
    rows: int = 100,
    *,
    edges_per_node: float = 1.0,
    noise_variance: float = 0.1,
    seed: int = 0,
) -> LinearGaussianGraphs:
    """The posterior of a ``random_network``: Erdos-Renyi graph, standard normal weights, normal noise.

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
    network = random_network(
        nodes, rows, edges_per_node=edges_per_node, noise_variance=noise_variance, seed=seed
    )
    return LinearGaussianGraphs(network.data, noise_variance=noise_variance)
