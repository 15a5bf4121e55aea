r"""Which causal network made the data, and with which parameters: the joint posterior of graph and theta."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ctsgfn.acyclic import Acyclic
from ctsgfn.errors import InvalidInput
from ctsgfn.targets.mechanisms import Linear, Mechanism, PartlyLinear
from ctsgfn.targets.noises import NodeLaw, NormalNoise
from ctsgfn.with_parameters import Parameterised, WithParameters


@dataclass(frozen=True)
class NetworkParameters:
    """Which parameters a graph has: those of the mechanism of each node given its parents, and of its noise.

    Args:
        mechanism: of every node.
        noise: of every node.

    Example:
        >>> edge = torch.tensor([[[False, True], [False, False]]])
        >>> NetworkParameters(Linear(), NormalNoise(0.3))(edge).tolist()  # of node 0, then of node 1
        [[False, False, True, False]]
    """

    mechanism: Mechanism
    noise: NodeLaw

    def __call__(self, x: Tensor) -> Tensor:
        """Live parameters [B, d m] of adjacencies [B, d, d]."""
        parents = x.bool().transpose(1, 2)
        return self.of_node(parents.flatten(0, 1)).unflatten(0, parents.shape[:2]).flatten(1)

    def of_node(self, parents: Tensor) -> Tensor:
        """Live parameters [R, m] of nodes with parents [R, d]."""
        mechanism = self.mechanism.live(parents)
        return torch.cat([mechanism, mechanism.new_ones(len(parents), self.noise.size)], -1)


@dataclass(frozen=True, eq=False)
class JointGraphs:
    r"""Posterior of a causal network and its parameters, none of them integrated out.

    .. math::
        \log r(G, \theta) = \log P(G) + \sum_j \Bigl[\log p(\theta_j)
            + \sum_n \log p\bigl(x_{nj} \mid f(x_{n P_j}; \theta_j)\bigr)\Bigr]

    with normal priors: of variance ``weight_variance`` on the parameters of the mechanism, and standard on
    that of the noise. Theta holds the m parameters of node 0, then those of node 1, and so on. Rows in which
    a node was set by the experimenter are left out of its factor. The posterior is a product over nodes given
    the graph (``ctsgfn.laplace.Factored``).

    Args:
        data: [N, d].
        mechanism: ``Linear``, ``Affine`` (with an intercept) or ``HiddenLayer``.
        noise: ``NormalNoise``, ``StudentNoise`` or ``LaplaceNoise``; or ``BinaryNodes``, where the mechanism
            is the log-odds of a node.
        weight_variance: prior variance of the parameters of the mechanism.
        edges_per_node: expected edges per node of an Erdos-Renyi prior; None for the uniform prior.
        interventions: [N, d] bool, which values were set; None for none.
        graphs: those that the prior allows, with constraints; None for all acyclic graphs.
        row_weight: power of the likelihood, how often each row counts; see ``subset``.

    Raises:
        InvalidInput: when a size, a variance or the prior makes no sense.

    References:
        Joint Bayesian inference of graphical structure and parameters with a single generative flow network
        (Deleu et al., 2023), arXiv 2305.19366, sections 2 and 5.

    Example:
        >>> target = JointGraphs(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]), noise=NormalNoise(0.3))
        >>> x = Parameterised(torch.tensor([[[False, True], [False, False]]]), torch.zeros(1, 4))
        >>> x.theta[0, 2] = 2.0  # node 1 is twice node 0
        >>> target.weights(x.theta)[0].tolist(), bool(target.log_density(x) > -14)
        ([[0.0, 2.0], [0.0, 0.0]], True)
    """

    data: Tensor
    mechanism: Mechanism = Linear()  # noqa: RUF009
    noise: NodeLaw = NormalNoise(math.sqrt(0.1))  # noqa: RUF009
    weight_variance: float = 1.0
    edges_per_node: float | None = None
    interventions: Tensor | None = None
    graphs: Acyclic | None = None
    row_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.data.ndim != 2 or self.data.shape[1] < 2:
            raise InvalidInput(f"JointGraphs needs data [N, d] with d >= 2, got {list(self.data.shape)}.")
        if not bool(self.data.isfinite().all()):
            row = int((~self.data.isfinite().all(-1)).nonzero()[0])
            raise InvalidInput(f"row {row} of the data is not finite: leave such rows out, or fill them in.")
        wrong = (~self.noise.possible(self.data)).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            raise InvalidInput(
                f"the data are {float(self.data[row, column]):g} at row {row}, column {column}, which "
                f"{type(self.noise).__name__} rules out: encode them (0 and 1), or use a noise."
            )
        if not self.weight_variance > 0:
            raise InvalidInput(f"weight_variance must be positive, got {self.weight_variance}.")
        if self.edges_per_node is not None and not 0 < self.edges_per_node < (self.blocks - 1) / 2:
            raise InvalidInput(
                f"edges_per_node must lie between 0 and (d - 1) / 2 = {(self.blocks - 1) / 2:g}, got "
                f"{self.edges_per_node}."
            )
        if self.interventions is not None and self.interventions.shape != self.data.shape:
            raise InvalidInput(
                f"interventions must have the shape of the data, {list(self.data.shape)}, got "
                f"{list(self.interventions.shape)}."
            )

        if self.graphs is not None and self.graphs.nodes != self.blocks:
            raise InvalidInput(f"the data have {self.blocks} columns, and graphs is {self.graphs}.")

    @property
    def blocks(self) -> int:
        """Nodes, d."""
        return self.data.shape[1]

    @property
    def measure(self) -> WithParameters[Tensor]:
        """Acyclic graphs, and the parameters of their nodes."""
        size = self.blocks * (self.mechanism.size(self.blocks) + self.noise.size)
        graphs = Acyclic(self.blocks) if self.graphs is None else self.graphs
        return WithParameters(graphs, size, NetworkParameters(self.mechanism, self.noise))

    def log_density(self, x: Parameterised) -> Tensor:
        """Log p(D | G, theta) + log p(theta | G) + log P(G), [B]."""
        block, part, theta = self._nodes(x)
        return self.log_block(block, part, theta).reshape(len(x), self.blocks).sum(-1)

    def parts(self, model: Tensor) -> Tensor:
        """Parents of each node, [B, d, d] bool."""
        return model.bool().transpose(1, 2)

    def block_live(self, part: Tensor) -> Tensor:
        """Live parameters [R, m] of nodes with parents [R, d]."""
        return NetworkParameters(self.mechanism, self.noise).of_node(part)

    def log_block(self, block: Tensor, part: Tensor, theta: Tensor) -> Tensor:
        """Factor [R] of nodes numbered [R], with parents [R, d] and parameters [R, m]."""
        each = self._log_rows(self.data, block, part, theta)
        if self.interventions is not None:
            each = each * ~self.interventions.to(each.device).T[block]
        return self.row_weight * each.sum(-1) + self._log_prior(part, theta)

    @property
    def inner(self) -> list[int]:
        """Parameters of a block that are normal given the others: those of a linear part, in normal noise."""
        given = isinstance(self.mechanism, PartlyLinear) and isinstance(self.noise, NormalNoise)
        return self.mechanism.linear(self.blocks) if given else []  # type: ignore[attr-defined]

    @property
    def copies(self) -> tuple[Tensor, Tensor]:
        """Parameters [S, m] of a block, and signs [S, m], that leave ``log_block`` as it is: all S ways."""
        d, more = self.blocks, torch.arange(self.noise.size)
        size = self.mechanism.size(d)
        one = torch.arange(size)[None], torch.ones(1, size, dtype=torch.long)
        index, sign = self.mechanism.copies(d) if isinstance(self.mechanism, PartlyLinear) else one
        same = more.expand(len(index), -1)
        return torch.cat([index, size + same], 1), torch.cat([sign, torch.ones_like(same)], 1)

    @property
    def spread(self) -> Tensor:
        """Prior standard deviations of the parameters of a block, [m]."""
        scale = torch.ones(self.mechanism.size(self.blocks) + self.noise.size, dtype=torch.float64)
        scale[: self.mechanism.size(self.blocks)] = math.sqrt(self.weight_variance)
        return scale

    def inner_law(self, block: Tensor, part: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        r"""Means [R, q] of the inner parameters given the others, and Cholesky factors of their precision.

        .. math::
            \Lambda = \sigma^{-2} \Phi^\top \Phi + \tau^{-2}, \qquad
            \mu = \sigma^{-2} \Lambda^{-1} \Phi^\top x_j

        The inner parameters of theta are not read. NaN where a scale leaves no digits.
        """
        mechanism: Any = self.mechanism  # with normal noise, where there are inner parameters
        noise: Any = self.noise
        data, split = self.data.to(theta), mechanism.size(self.blocks)
        phi = mechanism.basis(data, part, theta[:, :split])
        precision = self.row_weight * (-2 * noise.log_scale(theta[:, split:])).exp()  # [R, 1]
        each = precision.expand(-1, len(data))
        if self.interventions is not None:
            each = each * ~self.interventions.to(each.device).T[block]
        scaled = phi * each[:, None]
        prior = torch.eye(phi.shape[1], dtype=theta.dtype, device=theta.device) / self.weight_variance
        factor, failed = torch.linalg.cholesky_ex(scaled @ phi.transpose(1, 2) + prior)
        factor = torch.where((failed == 0)[:, None, None], factor, math.nan)
        slope = (scaled @ data.T[block][..., None]).squeeze(-1)
        return torch.cholesky_solve(slope[..., None], factor).squeeze(-1), factor

    def log_likelihood(self, x: Parameterised, data: Tensor) -> Tensor:
        """Log-density [B, N'] of each row of other data [N', d], given graphs and parameters."""
        each = self._log_rows(data, *self._nodes(x))
        return each.reshape(len(x), self.blocks, len(data)).sum(1)

    def subset(self, rows: Tensor) -> JointGraphs:
        r"""The target on some of the rows, which stand for all: log-likelihoods times N over their number.

        For rows drawn evenly, log r is estimated without bias at every point.

        Args:
            rows: which, [n] long.
        """
        interventions = None if self.interventions is None else self.interventions[rows]
        weight = self.row_weight * len(self.data) / len(rows)
        return replace(self, data=self.data[rows], interventions=interventions, row_weight=weight)

    def weights(self, theta: Tensor) -> Tensor:
        """Weights [B, d, d] of linear or affine mechanisms, (i, j) that of i -> j; 0 where no edge is.

        Raises:
            InvalidInput: for other mechanisms.
        """
        if not isinstance(self.mechanism, Linear):
            raise InvalidInput(f"{type(self.mechanism).__name__} has no one weight for each edge.")
        by_node = theta.reshape(len(theta), self.blocks, -1)
        return by_node[:, :, : self.blocks].transpose(1, 2)

    def _nodes(self, x: Parameterised) -> tuple[Tensor, Tensor, Tensor]:
        """Number, parents and parameters of every node of every graph."""
        d = self.blocks
        block = torch.arange(d, device=x.theta.device).repeat(len(x))
        return block, self.parts(x.model).flatten(0, 1), x.theta.reshape(len(x) * d, x.theta.shape[-1] // d)

    def _log_rows(self, data: Tensor, block: Tensor, part: Tensor, theta: Tensor) -> Tensor:
        """Log-density [R, N] of a node in each row of data, given its parents."""
        data = data.to(theta)
        split = self.mechanism.size(self.blocks)
        mean = self.mechanism.mean(data, part, theta[:, :split])
        return self.noise.log_prob(data.T[block], mean, theta[:, split:])

    def _log_prior(self, part: Tensor, theta: Tensor) -> Tensor:
        """Log-prior [R] of parameters and parents."""
        variance = self.spread.to(theta).square()
        each = 0.5 * theta.square() / variance + 0.5 * (2 * math.pi * variance).log()
        of_theta = -(each * self.block_live(part)).sum(-1)
        if self.edges_per_node is None:
            return of_theta
        count, p = part.sum(-1).to(theta), 2 * self.edges_per_node / (self.blocks - 1)
        return of_theta + count * math.log(p) + (self.blocks - 1 - count) * math.log1p(-p)
