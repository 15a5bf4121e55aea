r"""Bijections from unconstrained coordinates onto the supports of Pyro's distributions."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.distributions.transforms import CholeskyTransform
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import MixtureSameFamilyConstraint
from torch.distributions.transforms import ComposeTransform, IndependentTransform, Transform

from ctsgfn.errors import InvalidInput

CIRCULAR = (dist.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)
"""Laws of angles; their periodic densities are declared on the line, where they have infinite mass."""


class LowerTriangle(Transform):
    r"""Vectors of length d (d + 1) / 2 as Cholesky factors: rows one after another, diagonals as logs.

    .. math:: \log |\det| = \sum_i \log L_{ii}

    Torch's own transforms of these matrices take the d x d numbers of a full matrix and ignore those above
    the diagonal, over which a density would have infinite mass.

    Example:
        >>> LowerTriangle()(torch.tensor([0.0, 3.0, 0.0]))
        tensor([[1., 0.],
                [3., 1.]])
    """

    domain = constraints.real_vector
    codomain = constraints.lower_cholesky
    bijective = True

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Vector to matrix."""
        d = math.isqrt(2 * shape[-1])
        return torch.Size((*shape[:-1], d, d))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Matrix to vector."""
        return torch.Size((*shape[:-2], shape[-1] * (shape[-1] + 1) // 2))

    def _call(self, x: Tensor) -> Tensor:
        d = math.isqrt(2 * x.shape[-1])
        row, column = torch.tril_indices(d, d, device=x.device)
        place = torch.zeros(d, d, dtype=torch.long, device=x.device)
        place[row, column] = torch.arange(len(row), device=x.device)
        full = x[..., place]
        return full.tril(-1) + full.diagonal(dim1=-2, dim2=-1).exp().diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        full = y.tril(-1) + y.diagonal(dim1=-2, dim2=-1).log().diag_embed()
        row, column = torch.tril_indices(y.shape[-1], y.shape[-1], device=y.device)
        return full[..., row, column]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum of the logs of the diagonal."""
        return y.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def to_support(name: str, fn: Any) -> Transform:
    """Bijection from unconstrained coordinates onto the support of a latent site.

    Raises:
        InvalidInput: when the site is discrete, a point mass, improper, or its support has no bijection.

    Example:
        >>> to_support("tau", dist.HalfNormal(1.0))(torch.zeros(()))
        tensor(1.)
    """
    core = fn
    while isinstance(core, torch.distributions.Independent | MaskedDistribution | ExpandedDistribution):
        core = core.base_dist
    if not isinstance(core, torch.distributions.Distribution):
        raise InvalidInput(f"site {name!r} samples from {fn!r}, which is not a distribution: give it one.")
    if isinstance(core, dist.Delta):
        raise InvalidInput(
            f"latent site {name!r} is a point mass and has no density: use pyro.deterministic({name!r}, ..)."
        )
    if isinstance(core, dist.ImproperUniform):
        raise InvalidInput(
            f"latent site {name!r} has an improper prior, so the model has no evidence: give it a proper one."
        )
    if isinstance(core, CIRCULAR):
        return biject_to(constraints.interval(-math.pi, math.pi))
    try:
        support: constraints.Constraint = fn.support
        if support.is_discrete:
            raise InvalidInput(
                f"latent site {name!r} ({type(core).__name__}) is discrete, and the target needs "
                "continuous latents: sum it out, with infer={'enumerate': 'parallel'} at the site, "
                "MixtureSameFamily, or a logsumexp in pyro.factor."
            )
        return _bijection(support)
    except NotImplementedError as error:
        raise InvalidInput(
            f"the support of latent site {name!r} ({type(core).__name__}) has no known bijection from R^k: "
            "write the site through a distribution that has one."
        ) from error


def outside(fn: Any, value: Tensor) -> Tensor | None:
    """Which values of an observed site lie outside the support of its distribution; None if it is not known.

    Pyro's densities do not look at their support when validation is off, and give numbers there.

    Example:
        >>> outside(dist.Exponential(1.0), torch.tensor([1.0, -1.0]))
        tensor([False,  True])
    """
    try:
        return None if not value.numel() else ~fn.support.check(value)
    except (NotImplementedError, AttributeError):  # a support that depends on what torch does not say
        return None


def moves(fn: Any) -> bool:
    """Whether the support of a distribution has ends that are tensors, and so may depend on latents.

    Example:
        >>> moves(dist.Uniform(0.0, torch.tensor(2.0))), moves(dist.Exponential(1.0))
        (True, False)
    """
    try:
        support = fn.support
    except NotImplementedError:
        return False
    while isinstance(support, constraints.independent | MixtureSameFamilyConstraint):
        support = support.base_constraint
    return any(isinstance(end, Tensor) for end in vars(support).values())


def _bijection(support: constraints.Constraint) -> Transform:
    """Torch's bijection, or ours where torch has none that counts the dimensions right."""
    if isinstance(support, MixtureSameFamilyConstraint):
        inner = support.base_constraint
        if any(isinstance(end, Tensor) and end.ndim for end in vars(inner).values()):
            raise NotImplementedError("the components have supports of their own")
        return _bijection(inner)
    if isinstance(support, constraints.independent):
        return IndependentTransform(_bijection(support.base_constraint), support.reinterpreted_batch_ndims)
    if support is constraints.lower_cholesky:
        return LowerTriangle()
    if support is constraints.positive_definite:
        return ComposeTransform([LowerTriangle(), CholeskyTransform().inv])
    return biject_to(support)
