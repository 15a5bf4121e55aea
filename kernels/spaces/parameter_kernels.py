"""Kernels of structures with parameters: those of the structures, and a law of the parameters on top."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ctsgfn.diffuse import Diffuse
from ctsgfn.kernel import Head, Kernel
from ctsgfn.kernels.heads.block_normal import BlockNormalHead
from ctsgfn.kernels.heads.gaussian_mixture import GaussianMixture
from ctsgfn.kernels.spaces.with_parameters import DrawParameters, Growing
from ctsgfn.laplace import Factored, Laplace
from ctsgfn.measures import Atom
from ctsgfn.networks import MLP, Encoder, FeatureEncoder
from ctsgfn.reference import ReferenceKernel
from ctsgfn.space import Space
from ctsgfn.states import Jump
from ctsgfn.target import Target, evaluate
from ctsgfn.with_parameters import Parameterised


class StructureEncoder(Encoder):
    """An encoder of structures, asked with the structures of growing states."""

    def __init__(self, inner: Encoder) -> None:
        super().__init__()
        self.inner, self.width = inner, inner.width

    def observe(self, s: Growing) -> Tensor | None:
        """What the encoder observes of the structure; 0 where it is sealed, for nothing is chosen there."""
        rows = (~s.sealed).nonzero().squeeze(-1)
        if len(rows) == len(s):
            return self.inner.observe(s.structure)
        seen = self.inner.observe(s[rows].structure)
        return None if seen is None else seen.new_zeros(len(s), *seen.shape[1:]).index_copy(0, rows, seen)

    def forward(self, s: Growing, seen: Tensor | None) -> Any:
        """Context of the structure."""
        return self.inner(s.structure, seen)


class StructureHead(Head):
    """A head of the space of structures, asked with the structures of growing states."""

    def __init__(self, inner: Head) -> None:
        super().__init__()
        self.base, self.inner = inner.base, inner

    def forward(self, context: Any, s: Growing, live: Tensor | None) -> Distribution:
        """Law of the structure's coordinates."""
        return self.inner(context, s.structure, live)


class StructureGate(nn.Module):
    """A gate of the space of structures; what was its mass at the sink is now that of sealing."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, context: Any) -> Tensor:
        """Logits, and one more for the sink, which is open only where nothing else is."""
        return nn.functional.pad(self.inner(context), (0, 1))


class GivenStructure(Head):
    """A head for the parameters, on a network of its own that reads the structure.

    The network is asked only where parameters are drawn: once per trajectory.

    Args:
        encoder: structures -> context.
        head: on Lebesgue measure of the parameters.
    """

    def __init__(self, encoder: Encoder, head: Head) -> None:
        super().__init__()
        self.base, self.encoder, self.head = head.base, encoder, head

    def forward(self, context: Any, s: Growing, live: Tensor | None) -> Distribution:
        """Law of theta, [B, size]."""
        del context
        return self.head(self.encoder(s.structure, self.encoder.observe(s.structure)), s, live)


def laplace_head(
    laplace: Laplace, structure: Space[Any, Any], *, hidden: int = 64, layers: int = 2, near: bool = True
) -> GivenStructure:
    """Normal laws of the blocks of theta, near the approximations of each model.

    The network sees, for each block of a ``Factored`` target, what the block depends on and which one it is;
    otherwise the structure's features.

    Args:
        laplace: the approximations, of a target on models of the structure's space.
        structure: the space of structures.
        hidden: width of the network.
        layers: its hidden layers.
        near: False starts from standard normals instead.
    """
    target = laplace.target
    if isinstance(target, Factored):
        blocks = laplace.blocks

        def of_blocks(s: Any) -> Tensor:
            part = target.parts(structure.read(s))
            which = torch.eye(blocks, device=part.device).expand(len(part), -1, -1)
            return torch.cat([part.to(which.dtype), which], -1)

        width = of_blocks(structure.source(1)).shape[-1]
        encoder = FeatureEncoder(of_blocks, MLP(width, hidden, layers), hidden)
    else:
        encoder = FeatureEncoder(structure.features, MLP(structure.width, hidden, layers), hidden)
    guess = (lambda s: laplace(structure.read(s.structure))) if near else None
    return GivenStructure(encoder, BlockNormalHead(laplace.blocks, laplace.width, hidden, guess))


def with_parameters_kernels(
    space: Space[Growing, Parameterised],
    structure: Space[Any, Any],
    structure_kernels: tuple[Kernel[Any], Kernel[Any]],
    theta_head: Head | None = None,
    *,
    hidden: int = 64,
    layers: int = 2,
    components: int = 4,
) -> tuple[Kernel[Growing], Kernel[Growing]]:
    """The kernels of the structures, and a law of the parameters given the structure.

    Args:
        space: made by ``with_parameters``.
        structure: the space that it was made from.
        structure_kernels: forward and backward on that space; their modules are taken over.
        theta_head: a head on Lebesgue measure of the parameters, asked with growing states; by default a
            mixture of diagonal normals on a network of the structure's features (``GivenStructure``).
        hidden: width of that network.
        layers: its hidden layers.
        components: of that mixture.

    Raises:
        MeasureMismatch: when the head is a density against another measure.

    Example:
        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
        >>> from ctsgfn.kernels.spaces.with_parameters import with_parameters
        >>> grid = hypergrid(2, 3)
        >>> space = with_parameters(grid, 2, lambda cell: cell > 0)
        >>> forward, backward = with_parameters_kernels(space, grid, hypergrid_kernels(grid, hidden=8))
        >>> jump = forward(space.source(5)).sample()
        >>> jump.stop.tolist()  # first parameters, then the sink
        [False, False, False, False, False]
    """
    draw = space.kappa.branches[-1]
    assert isinstance(draw, DrawParameters)
    if theta_head is None:
        encoder = FeatureEncoder(structure.features, MLP(structure.width, hidden, layers), hidden)
        theta_head = GivenStructure(encoder, GaussianMixture(draw.base.dim, hidden, components))

    def extended(reference: ReferenceKernel[Growing], inner: Kernel[Any], last: Head) -> Kernel[Growing]:
        heads = [*[StructureHead(head) for head in inner.heads], last]  # type: ignore[arg-type]
        gate = None if inner.gate is None else StructureGate(inner.gate)
        return Kernel(reference, StructureEncoder(inner.encoder), heads, gate)

    forward, backward = structure_kernels
    return extended(space.kappa, forward, theta_head), extended(space.kappa_b, backward, Diffuse(Atom()))


def structure_kernel(structure: Space[Any, Any], kernel: Kernel[Growing]) -> Kernel[Any]:
    """The forward kernel of the structures inside one of structures with parameters; modules are shared.

    Where it stops, the other draws parameters: so both end in the same structures with the same probability.

    Args:
        structure: the space of structures.
        kernel: made by ``with_parameters_kernels``.
    """
    encoder, gate = kernel.encoder, kernel.gate
    assert isinstance(encoder, StructureEncoder)
    heads = [head.inner for head in kernel.heads if isinstance(head, StructureHead)]
    inner = gate.inner if isinstance(gate, StructureGate) else None
    return Kernel(structure.kappa, encoder.inner, heads, inner).to(kernel.anchor)


class SealedFlow(nn.Module):
    r"""The flow of states without a network: what the terminal equation says of it.

    .. math::
        u(G) = \frac{r(G, \theta)}{p_F(G, (G, \theta))}, \qquad u(G, \theta) = r(G, \theta)

    where the first holds at every theta of a balanced flow, and is taken at the mean of its law. Detailed
    balance with this flow is the modified detailed balance of graphs and parameters; the edges that seal ask
    that r and the law of theta agree in shape, so no gradient in theta is needed, and none is divided by the
    number of parameters, which may be 0.

    Args:
        space: made by ``with_parameters``; every structure may be sealed.
        kernel: the forward kernel, with a normal head for the parameters; it is not owned.
        target: on the space's points.

    References:
        Joint Bayesian inference of graphical structure and parameters with a single generative flow network
        (Deleu et al., 2023), arXiv 2305.19366, eq. 6-8.
    """

    def __init__(
        self, space: Space[Growing, Parameterised], kernel: Kernel[Growing], target: Target[Any]
    ) -> None:
        super().__init__()
        self.space, self.target = space, target
        self._kernel = (kernel,)  # no second owner of its parameters

    def forward(self, s: Growing) -> Tensor:
        """Log u, [B]."""
        kernel, draw = self._kernel[0], self.space.kappa.branches[-1]
        head = kernel.heads[-1]
        assert isinstance(head, Head)
        rows = (~s.sealed).nonzero().squeeze(-1)
        grown = s[rows]
        law = kernel(grown)
        theta = head(law.context, grown, draw.live(grown)).mean.detach()
        t = s.put(rows, draw.push(grown, theta))
        with torch.no_grad():
            log_reward = evaluate(self.target, self.space.read(t)).to(kernel.anchor.dtype)
        sealing = law.log_density(Jump(t[rows], torch.zeros_like(grown.sealed)))
        return log_reward.index_add(0, rows, -sealing)
