r"""Where a curve bends: the posterior over the knots of a spline, coefficients and noise integrated out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput, whole
from ctsgfn.subsets import Subsets
from ctsgfn.targets.model_priors import BetaBinomial, SizePrior
from ctsgfn.targets.spike_and_slab import NormalSlab, Slab, SpikeAndSlab


@dataclass(frozen=True, eq=False)
class SplineKnots:
    r"""Which of a grid of places are knots of a spline of degree q in t, with normal noise.

    .. math::
        y_i = \sum_{k=0}^q \alpha_k p_k(t_i) + \sum_{j \in m} \beta_j b_j(t_i) + \sigma \epsilon_i, \quad
        p(\alpha, \sigma^2) \propto \sigma^{-2}, \quad \beta_m \sim N(0, \sigma^2 P_m^{-1})

    where the :math:`p_k` are polynomials that are orthonormal on the points t, and :math:`b_j` is
    :math:`(t - \kappa_j)_+^q` less its projection on them, scaled to mean square 1. In the N - q - 1
    directions of the data that are orthogonal to all polynomials this is a selection of variables
    (``SpikeAndSlab``, on N - q rows that sum to 0: its constant is part of log Z).

    Args:
        t: [N] places.
        y: [N] values.
        knots: [p] places :math:`\kappa` where a knot may be, strictly inside the range of t.
        degree: q: 1 for broken lines, 3 for cubic splines.
        slab: see ``SpikeAndSlab``.
        prior: on the set of knots, likewise.

    Raises:
        InvalidInput: when shapes or values make no sense, or knots have too few places between them.

    References:
        Nonparametric regression using Bayesian variable selection (Smith and Kohn, 1996), Journal of
        Econometrics 75.

    Example:
        >>> t = torch.linspace(0, 1, 60)
        >>> noise = torch.randn(60, generator=torch.Generator().manual_seed(1))
        >>> target = SplineKnots(t, (t - 0.5).abs() + 0.02 * noise, torch.linspace(0.1, 0.9, 9), degree=1)
        >>> int(target.inclusion_probabilities().argmax())  # the knot at 0.5
        4
    """

    t: Tensor
    y: Tensor
    knots: Tensor
    degree: int = 3
    slab: Slab = field(default_factory=NormalSlab)
    prior: SizePrior = field(default_factory=BetaBinomial)
    selection: SpikeAndSlab = field(init=False, repr=False)
    _basis: Tensor = field(init=False, repr=False)  # [N, p] b
    _straight: Tensor = field(init=False, repr=False)  # [N] the polynomial fitted to y

    def __post_init__(self) -> None:
        whole("degree", self.degree)
        if self.t.ndim != 1 or self.t.shape != self.y.shape or self.knots.ndim != 1 or not len(self.knots):
            raise InvalidInput(
                f"SplineKnots needs places [N], values [N] and knots [p], got {list(self.t.shape)}, "
                f"{list(self.y.shape)} and {list(self.knots.shape)}."
            )
        t, y, knots, n, few = (
            self.t.double(),
            self.y.double(),
            self.knots.double(),
            len(self.t),
            self.degree + 1,
        )
        if not bool(t.isfinite().all() and y.isfinite().all()):
            raise InvalidInput("places and values must be finite: leave incomplete rows out.")
        if not bool(((knots > t.min()) & (knots < t.max())).all()):
            raise InvalidInput("knots must lie strictly inside the range of the places.")
        if len(t.unique()) < few + 2:
            raise InvalidInput(f"a spline of degree {self.degree} needs {few + 2} different places at least.")
        unit = 2 * (t - t.min()) / (t.max() - t.min()) - 1
        powers = torch.cos(torch.arange(few) * unit.clamp(-1, 1).arccos()[:, None])  # Chebyshev's
        every = torch.linalg.qr(powers, mode="complete").Q
        flat, rest = every[:, :few], every[:, few:]
        basis = (t[:, None] - knots).clamp(min=0.0) ** self.degree
        basis = basis - flat @ (flat.T @ basis)
        basis = basis / basis.square().mean(0).sqrt()
        if torch.linalg.matrix_rank(basis) < len(knots):
            raise InvalidInput("some knots make the same curves at these places: leave some of them out.")
        # one row more than directions that are left, on which SpikeAndSlab spends its intercept
        level = torch.linalg.qr(torch.ones(n - self.degree, 1).double(), mode="complete").Q[:, 1:]
        rows = level @ rest.T
        selection = SpikeAndSlab(rows @ basis, rows @ y, self.slab, self.prior)
        for name, value in (("selection", selection), ("_basis", basis), ("_straight", flat @ (flat.T @ y))):
            object.__setattr__(self, name, value)

    @property
    def measure(self) -> Subsets:
        """Counting measure on the sets of knots."""
        return self.selection.measure

    def log_density(self, x: Tensor) -> Tensor:
        """Log p(y | m) + log p(m), [B] float64, of sets of knots [B, p]."""
        return self.selection.log_density(x)

    def changes(self, x: Tensor) -> Tensor:
        """Log r with one knot more, less log r, [B, p] float64; 0 where it is there already."""
        return self.selection.changes(x)

    def curve(self, x: Tensor) -> Tensor:
        """Posterior mean of the curve at every place, given knots [B, p]: [B, N]; average it over them."""
        mean, _ = self.selection.coefficients(x)
        return self._straight.to(mean) + mean @ self._basis.T.to(mean)

    # ---------------------------------------------------------------- exact answers, by listing all sets
    @property
    def log_z(self) -> float:
        """Log-evidence of all sets together (at most 16 knots)."""
        return self.selection.log_z

    def sample(self, n: int) -> Tensor:
        """Draw n sets of knots [n, p] of the posterior (at most 16 knots)."""
        return self.selection.sample(n)

    def inclusion_probabilities(self) -> Tensor:
        """Exact probability of each knot, [p] float64 (at most 16 knots)."""
        return self.selection.inclusion_probabilities()
