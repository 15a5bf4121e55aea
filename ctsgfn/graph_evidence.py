r"""The posterior over graphs alone, where the parameters of their nodes are integrated out approximately."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ctsgfn.acyclic import Acyclic
from ctsgfn.laplace import Factored
from ctsgfn.with_parameters import WithParameters


class BlockEvidences(Protocol):
    """What is known of the blocks of a ``Factored`` target: see ``Laplace`` and ``NestedFits``."""

    target: Any
    measure: WithParameters[Any]

    def log_evidence(self, model: Any) -> Tensor:
        """Approximate log-evidence of models, [B] float64."""

    def log_evidence_of(self, block: Tensor, part: Tensor) -> Tensor:
        """Approximate log-evidence [R] of blocks with parts [R, w]."""


class GraphEvidence:
    r"""Log-evidence of graphs by approximations, as a target on them that can be climbed.

    .. math:: \log r(G) = \sum_j \log \int p(x_j, \theta_j \mid x_{P_j})\,d\theta_j

    Each node with each set of parents is approximated once, by a normal law (``ctsgfn.laplace``) or a mixture
    (``ctsgfn.nested_fits``); adding an edge changes one of the terms.

    Args:
        blocks: evidences of a ``Factored`` target on acyclic graphs with parameters, whose blocks are the
            nodes and depend on their parents; see ``serves``.

    Example:
        >>> from ctsgfn.laplace import Laplace
        >>> from ctsgfn.targets import JointGraphs, linear_gaussian_network
        >>> marginal = linear_gaussian_network(3)
        >>> approximate = GraphEvidence(Laplace(JointGraphs(marginal.data)))
        >>> graphs = marginal.measure.all()
        >>> torch.allclose(approximate.log_density(graphs), marginal.log_density(graphs))
        True
    """

    def __init__(self, blocks: BlockEvidences) -> None:
        self.blocks, self.target = blocks, blocks.target
        self.measure = blocks.measure.models

    @staticmethod
    def serves(target: Any) -> bool:
        """Whether the blocks of a target are the nodes of acyclic graphs, which depend on their parents."""
        models = target.measure.models
        if (
            not isinstance(target, Factored)
            or not isinstance(models, Acyclic)
            or target.blocks != models.nodes
        ):
            return False
        x = torch.ones(1, models.nodes, models.nodes, dtype=torch.bool).triu(1)
        return torch.equal(target.parts(x), x.transpose(1, 2))

    def log_density(self, x: Tensor) -> Tensor:
        """Log-evidence [B] float64 of adjacencies [B, d, d]."""
        return self.blocks.log_evidence(x)

    def changes(self, x: Tensor) -> Tensor:
        """Log r with the edge i -> j added, less log r, [B, d, d] float64; 0 where the edge is there."""
        return self._with(x, added=True)

    def losses(self, x: Tensor) -> Tensor:
        """Log r with the edge i -> j taken away, less log r, [B, d, d] float64; 0 where there is none."""
        return self._with(x, added=False)

    def _with(self, x: Tensor, *, added: bool) -> Tensor:
        """Change of the term of j when its parent i is added, or taken away."""
        d = x.shape[-1]
        one = torch.eye(d, dtype=torch.bool, device=x.device)
        parents = x.bool().transpose(1, 2)  # [B, j, i]
        other = one & ~one[:, :, None]  # [j, i, d]: i, which is not j
        changed = parents[:, :, None] | other if added else parents[:, :, None] & ~other
        every = torch.cat([parents[:, :, None], changed], 2)
        node = torch.arange(d, device=x.device)[:, None].expand(len(x), d, d + 1)
        value = self.blocks.log_evidence_of(node.flatten(), every.flatten(0, 2)).reshape(len(x), d, d + 1)
        return (value[:, :, 1:] - value[:, :, :1]).transpose(1, 2)
