r"""Of which degree a curve is: the posterior over polynomials, coefficients and noise integrated out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput, whole
from ctsgfn.measures import Counting


@dataclass(frozen=True, eq=False)
class PolynomialOrder:
    r"""Degree m = 0 .. most of a polynomial in t, with normal noise of unknown variance; each as likely.

    .. math::
        y_i = \alpha + \sum_{j=1}^m \beta_j q_j(t_i) + \sigma \epsilon_i, \quad
        \beta \sim N(0, \sigma^2 g\,I), \quad p(\alpha, \sigma^2) \propto \sigma^{-2}

    where the :math:`q_j` are polynomials of degree j that are orthonormal on the points t, so that this is
    Zellner's g-prior. With :math:`R_m^2` the share of the variance that degree m explains,

    .. math::
        \log p(y | m) = \mathrm{const} - \tfrac m2 \log (1 + g)
            - \tfrac{N - 1}2 \log \Bigl(S - \tfrac{g}{1 + g} R_m^2 S\Bigr), \qquad
            S = \textstyle\sum_i (y_i - \bar y)^2 .

    Model m of ``Counting(most + 1)`` is the degree m.

    Args:
        t: [N] places, more than ``most + 1`` of them different.
        y: [N] values.
        most: largest degree.
        g: of the prior; N if None.

    Raises:
        InvalidInput: when shapes or values make no sense.

    References:
        Mixtures of g priors for Bayesian variable selection (Liang et al., 2008), JASA 103, eq. 6.

    Example:
        >>> t = torch.linspace(-1, 1, 30)
        >>> noise = torch.randn(30, generator=torch.Generator().manual_seed(1))
        >>> target = PolynomialOrder(t, 1 - 2 * t**2 + 0.2 * noise)
        >>> int(target.order_probabilities().argmax())
        2
    """

    t: Tensor
    y: Tensor
    most: int = 5
    g: float | None = None
    _basis: Tensor = field(init=False, repr=False)  # [N, most] orthonormal, and orthogonal to 1

    def __post_init__(self) -> None:
        whole("most", self.most)
        if self.t.ndim != 1 or self.t.shape != self.y.shape:
            raise InvalidInput(
                f"PolynomialOrder needs places [N] and values [N], got {list(self.t.shape)} and "
                f"{list(self.y.shape)}."
            )
        if not bool(self.t.isfinite().all() and self.y.isfinite().all()):
            raise InvalidInput("places and values must be finite: leave incomplete rows out.")
        if len(self.t.unique()) < self.most + 2:
            raise InvalidInput(f"degree {self.most} needs at least {self.most + 2} different places.")
        if self.g is not None and not self.g > 0:
            raise InvalidInput(f"g must be positive, got {self.g}.")
        t = self.t.double()
        unit = 2 * (t - t.min()) / (t.max() - t.min()) - 1
        powers = torch.cos(torch.arange(self.most + 1) * unit.clamp(-1, 1).arccos()[:, None])  # Chebyshev's
        object.__setattr__(self, "_basis", torch.linalg.qr(powers.double()).Q[:, 1:])

    @property
    def measure(self) -> Counting:
        """Counting measure on the degrees."""
        return Counting(self.most + 1)

    def log_density(self, x: Tensor) -> Tensor:
        """Log p(y | m) - log(most + 1), [B] float64, of degrees [B, 1]."""
        return self._evidence().to(x.device)[x[:, 0]]

    def curve(self, x: Tensor) -> Tensor:
        """Posterior mean of the curve at every place, given degrees [B, 1]: [B, N]; average it over them."""
        y, basis = self.y.double(), self._basis
        part = self._shrink * (basis.T @ (y - y.mean()))
        curves = y.mean() + torch.cat([torch.zeros(1, len(y)).double(), (basis * part).T]).cumsum(0)
        return curves.to(x.device)[x[:, 0]]

    # ---------------------------------------------------------------- exact answers
    @property
    def log_z(self) -> float:
        """Log-evidence of all degrees together."""
        return float(self._evidence().logsumexp(0))

    def order_probabilities(self) -> Tensor:
        """Exact P(m | y), [most + 1] float64."""
        return self._evidence().softmax(0)

    def sample(self, n: int) -> Tensor:
        """Draw n degrees [n, 1]."""
        return torch.multinomial(self.order_probabilities(), n, replacement=True)[:, None]

    @property
    def _shrink(self) -> float:
        g = float(len(self.y)) if self.g is None else self.g
        return g / (1 + g)

    def _evidence(self) -> Tensor:
        y, n = self.y.double(), len(self.y) - 1
        centred = y - y.mean()
        explained = torch.cat([torch.zeros(1).double(), (self._basis.T @ centred).square()]).cumsum(0)
        rest = centred.square().sum() - self._shrink * explained
        constant = math.lgamma(0.5 * n) - 0.5 * n * math.log(math.pi) - 0.5 * math.log(n + 1)
        volume = 0.5 * math.log1p(-self._shrink) * torch.arange(self.most + 1).double()
        return constant + volume - 0.5 * n * rest.log() - math.log(self.most + 1)
