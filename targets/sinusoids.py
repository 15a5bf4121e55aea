r"""How many sinusoids are in a noisy series, and their frequencies: the posterior over both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from ctsgfn.errors import InvalidInput, whole
from ctsgfn.measures import Counting
from ctsgfn.with_parameters import Parameterised, WithParameters


@dataclass(frozen=True)
class Frequencies:
    """Live parameters of a sum of m sinusoids: the first m of ``most``."""

    most: int

    def __call__(self, model: Tensor) -> Tensor:
        """Live mask [B, most]."""
        return torch.arange(self.most, device=model.device) < model


@dataclass(frozen=True, eq=False)
class Sinusoids:
    r"""A sum of m = 0 .. most sinusoids in normal noise; amplitudes and noise variance are integrated out.

    .. math::
        y_t = \sum_{j=1}^m a_j \cos \omega_j t + b_j \sin \omega_j t + \sigma \epsilon_t, \qquad
        0 < \omega_1 < \dots < \omega_m < \pi

    with ordered uniform frequencies, density :math:`m! / \pi^m`, a g-prior :math:`N(0, \sigma^2 g\,
    (D^\top D)^{-1})` on the amplitudes, :math:`p(\sigma^2) \propto \sigma^{-2}`, and m a priori Poisson, cut
    off. With D the [N, 2 m] matrix of cosines and sines and P the projection on its columns,

    .. math::
        \log p(y | m, \omega) = \mathrm{const} - m \log (1 + g)
            - \tfrac N2 \log \bigl(y^\top y - \tfrac{g}{1 + g} y^\top P y\bigr).

    Model m of ``Counting(most + 1)`` has m parameters on the whole line, sticks broken off :math:`(0, \pi)`.

    Args:
        y: [N], at times 0, 1, ..
        most: most sinusoids.
        mean: of the Poisson prior on m.
        g: of the g-prior; N if None.

    Raises:
        InvalidInput: on fewer than 4 numbers, or numbers that are not finite or all 0, or a mean or g that is
            not positive.

    References:
        Joint Bayesian model selection and estimation of noisy sinusoids via reversible jump MCMC (Andrieu and
        Doucet, 1999), IEEE Trans. Signal Processing 47.

    Example:
        >>> t = torch.arange(32.0)
        >>> target = Sinusoids((0.8 * t).cos() + 0.1 * (2.1 * t).sin(), most=2)
        >>> x = Parameterised(torch.tensor([[0], [1]]), torch.tensor([[0.0, 0.0], [target.theta(0.8), 0.0]]))
        >>> level = target.log_density(x)
        >>> bool(level[1] > level[0] + 10), round(float(target.frequencies(x)[1, 0]), 4)
        (True, 0.8)
    """

    y: Tensor
    most: int = 3
    mean: float = 1.0
    g: float | None = None

    def __post_init__(self) -> None:
        whole("most", self.most)
        if self.y.ndim != 1 or len(self.y) < 4 or not bool(self.y.isfinite().all() and (self.y != 0).any()):
            raise InvalidInput(
                "Sinusoids needs a series [N] of at least 4 finite numbers, not all 0, got "
                f"{list(self.y.shape)}."
            )
        if not (self.mean > 0 and (self.g is None or self.g > 0)):
            raise InvalidInput(f"mean and g must be positive, got {self.mean} and {self.g}.")

    @property
    def measure(self) -> WithParameters[Tensor]:
        """Numbers of sinusoids, with a frequency each."""
        return WithParameters(Counting(self.most + 1), self.most, Frequencies(self.most))

    def frequencies(self, x: Parameterised) -> Tensor:
        """Frequencies [B, most] in increasing order; 0 where there is none."""
        return self._broken(x)[0]

    @staticmethod
    def theta(frequency: float) -> float:
        """The first parameter of a model, at its lowest frequency."""
        return math.log(frequency / (math.pi - frequency))

    def log_density(self, x: Parameterised) -> Tensor:
        """Log p(y | m, omega) + log p(omega | m) + log p(m), and the Jacobian of the sticks: [B] float64."""
        omega, log_det = self._broken(x)
        m, y = x.model[:, 0].double(), self.y.double().to(omega.device)
        n, live = len(y), Frequencies(self.most)(x.model)
        g = float(n) if self.g is None else self.g
        phase = omega[:, :, None] * torch.arange(n, dtype=torch.float64, device=omega.device)
        d = torch.cat([phase.cos(), phase.sin()], 1) * live.repeat(1, 2)[:, :, None]  # [B, 2 most, N]
        gram = d @ d.mT + torch.diag_embed((~live).double().repeat(1, 2) + 1e-9)  # two equal frequencies
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), (d @ y)[:, :, None], upper=False)
        rest = y @ y - g / (1 + g) * half.square().sum((1, 2))
        evidence = math.lgamma(0.5 * n) - 0.5 * n * math.log(math.pi) - 0.5 * n * rest.log()
        number = torch.arange(self.most + 1, dtype=torch.float64, device=omega.device)
        poisson = number * math.log(self.mean) - (number + 1).lgamma()
        log_prior = poisson.log_softmax(0)[x.model[:, 0]] + (m + 1).lgamma() - m * math.log(math.pi)
        return evidence - m * math.log1p(g) + log_prior + log_det

    def _broken(self, x: Parameterised) -> tuple[Tensor, Tensor]:
        """Frequencies, each a share of what is left above the one before, and log |det| [B]."""
        live, theta = Frequencies(self.most)(x.model), x.theta.double()
        left = pad(logsigmoid(-theta).where(live, 0.0).cumsum(-1), (1, 0))  # log share of what is left
        omega = math.pi * -left[:, 1:].expm1()
        slope = logsigmoid(theta) + logsigmoid(-theta) + left[:, :-1] + math.log(math.pi)
        return omega.where(live, 0.0), slope.where(live, 0.0).sum(-1)
