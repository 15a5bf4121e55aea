r"""Where a sequence changes: the posterior over all sets of change-points, levels integrated out.

.. math::
    \log r(m) = \log p(m) + \sum_{\text{segments } [a, b) \text{ of } m} S_{ab}, \qquad
    S_{ab} = \log \int \prod_{a \le t < b} p(y_t | \lambda)\,p(\lambda)\,d\lambda
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctsgfn.errors import InvalidInput, whole
from ctsgfn.subsets import Subsets
from ctsgfn.targets.model_priors import PoissonSize, SizePrior, log_binomial


@dataclass(frozen=True, eq=False)
class ChangePoints(ABC):
    r"""Change-points of a sequence whose segments have independent levels with a conjugate prior.

    Item j of a subset is a change between row j and row j + 1. Everything is also known exactly, by a
    recursion over segments of cost N^2 per change-point: with :math:`F_1(b) = S_{0b}`,

    .. math:: F_{k + 1}(b) = \log \sum_{a < b} e^{F_k(a) + S_{ab}}.

    Implementing one: ``segments``, the log marginal likelihood of every segment, and ``levels``.

    Args:
        y: [N] the sequence.
        most: most change-points.
        prior: on the set of them, normalised over sets of at most ``most``.

    Raises:
        InvalidInput: with fewer than 3 rows, or rows that are not finite, or too many change-points.

    References:
        Exact and efficient Bayesian inference for multiple changepoint problems (Fearnhead, 2006),
        Statistics and Computing 16, section 2.
    """

    y: Tensor
    most: int = 6
    prior: SizePrior = field(default_factory=PoissonSize)
    scores: Tensor = field(init=False, repr=False)
    """[N + 1, N + 1] float64: S_ab, -inf unless a < b."""
    _log_prior: Tensor = field(init=False, repr=False)  # [most + 1], of one set of each size

    def __post_init__(self) -> None:
        if self.y.ndim != 1 or len(self.y) < 3 or not bool(self.y.isfinite().all()):
            raise InvalidInput(
                f"{type(self).__name__} needs a sequence [N] of at least 3 finite numbers, got "
                f"{list(self.y.shape)}."
            )
        whole("most", self.most)
        items = len(self.y) - 1
        if self.most > items:
            raise InvalidInput(f"{len(self.y)} rows cannot have {self.most} change-points: lower most=.")
        n = items + 1
        before = torch.ones(n + 1, n + 1, dtype=torch.bool).triu(1)
        object.__setattr__(self, "scores", self.segments().masked_fill(~before, -math.inf))
        size = torch.arange(self.most + 1)
        each = self.prior.log_prob(size, items)
        total = (each + log_binomial(items, size)).logsumexp(0)
        object.__setattr__(self, "_log_prior", each - total)

    @abstractmethod
    def segments(self) -> Tensor:
        """Log marginal likelihood of rows a to b - 1, [N + 1, N + 1] float64; anything unless a < b."""

    @abstractmethod
    def levels(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and sd of the level of segments from row a to row b - 1, of the shape of a and b."""

    @property
    def measure(self) -> Subsets:
        """Counting measure on the sets of change-points."""
        return Subsets(len(self.y) - 1, 0, self.most)

    def log_density(self, x: Tensor) -> Tensor:
        """Log p(y | m) + log p(m), [B] float64, of sets of change-points [B, N - 1]."""
        start = self._neighbours(x)[0]
        end = torch.arange(1, len(self.y) + 1, device=x.device)
        last = torch.cat([x.bool(), torch.ones_like(x[:, :1], dtype=torch.bool)], -1)  # of its segment
        parts = self.scores.to(x.device)[start, end].where(last, 0.0)
        return parts.sum(-1) + self._log_prior.to(x.device)[x.sum(-1)]

    def changes(self, x: Tensor) -> Tensor:
        """Log r with one more change-point, less log r, [B, N - 1] float64; 0 where it is there already."""
        start, end = (t[:, :-1] for t in self._neighbours(x))
        cut = torch.arange(1, len(self.y), device=x.device).expand_as(start)
        s, prior, size = self.scores.to(x.device), self._log_prior.to(x.device), x.sum(-1, keepdim=True)
        gain = s[start, cut] + s[cut, end] - s[start, end]
        more = prior[(size + 1).clamp(max=self.most)] - prior[size]
        return (gain + more).masked_fill(x.bool(), 0.0)

    def row_levels(self, x: Tensor) -> Tensor:
        """Posterior mean of the level at every row, given change-points [B, N - 1]: [B, N]."""
        start, end = self._neighbours(x)
        return self.levels(start, end)[0]

    def _neighbours(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """First row, and row after the last, of the segment of every row: [B, N] long each."""
        n, here = len(self.y), x.bool()
        row = torch.arange(n, device=x.device)
        first, after = torch.zeros_like(here[:, :1]).long(), torch.full_like(here[:, :1], n, dtype=torch.long)
        start = torch.cat([first, (row[1:] * here)], -1).cummax(-1).values
        ends = torch.cat([torch.where(here, row[1:], n), after], -1)
        return start, ends.flip(-1).cummin(-1).values.flip(-1)

    # ---------------------------------------------------------------- exact answers, by recursion
    @property
    def log_z(self) -> float:
        """Log-evidence over all sets of change-points."""
        return float(self._by_number().logsumexp(0))

    def number_probabilities(self) -> Tensor:
        """Exact probability of 0, 1, .., most change-points, [most + 1] float64."""
        return self._by_number().softmax(0)

    def inclusion_probabilities(self) -> Tensor:
        """Exact probability of a change after each row but the last, [N - 1] float64."""
        forward, backward = self._forward(), self._backward()
        total = torch.full((len(self.y) - 1,), -math.inf, dtype=torch.float64)
        for k in range(1, self.most + 1):
            for i in range(k):  # i + 1 segments before the change, k - i after
                both = forward[i, 1:-1] + backward[k - i - 1, 1:-1] + self._log_prior[k]
                total = torch.logaddexp(total, both)
        return (total - self.log_z).exp()

    def sample(self, n: int) -> Tensor:
        """Draw n sets of change-points [n, N - 1] of the posterior."""
        forward = self._forward()
        left = torch.multinomial(self.number_probabilities(), n, replacement=True)
        x = torch.zeros(n, len(self.y) + 1, dtype=torch.bool)
        end = torch.full((n,), len(self.y))
        while bool((left > 0).any()):
            rows = (left > 0).nonzero().squeeze(-1)
            weight = forward[left[rows] - 1] + self.scores[:, end[rows]].T
            end[rows] = torch.multinomial(weight.softmax(-1), 1).squeeze(-1)
            x[rows, end[rows]] = True
            left[rows] -= 1
        return x[:, 1:-1]

    def _by_number(self) -> Tensor:
        return self._forward()[:, -1] + self._log_prior

    def _forward(self) -> Tensor:
        """Log-sum over all ways to cut rows 0 to b - 1 into k + 1 segments, [most + 1, N + 1]."""
        rows = [self.scores[0]]
        for _ in range(self.most):
            rows.append((rows[-1][:, None] + self.scores).logsumexp(0))
        return torch.stack(rows)

    def _backward(self) -> Tensor:
        """Log-sum over all ways to cut rows a to N - 1 into k + 1 segments, [most + 1, N + 1]."""
        rows = [self.scores[:, -1]]
        for _ in range(self.most):
            rows.append((self.scores + rows[-1]).logsumexp(1))
        return torch.stack(rows)
