r"""Two fitted models compared by their evidences.

.. math:: B = \frac{Z_a}{Z_b} = \frac{p(y \mid a)}{p(y \mid b)}

References:
    Bayes factors (Kass and Raftery, 1995), JASA 90, section 3.2: the words, by 2 log B.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

from ctsgfn.coordinates import Coordinates
from ctsgfn.errors import InvalidInput, UnreliableEstimate
from ctsgfn.evidence import Evidence
from ctsgfn.predictive import observations, same_data
from ctsgfn.pyro_target import PyroTarget
from ctsgfn.refine import Refined
from ctsgfn.sampler import Sampler
from ctsgfn.seeding import seeded

WORDS = (
    (2.0, "not worth more than a bare mention"),
    (6.0, "positive"),
    (10.0, "strong"),
    (math.inf, "very strong"),
)
"""Kass and Raftery's words for evidence with 2 log B up to a bound."""


@dataclass(frozen=True)
class BayesFactor:
    """The Bayes factor of a first model against a second; it prints itself.

    Example:
        >>> from ctsgfn.evidence import estimate_evidence
        >>> import torch
        >>> a, b = (estimate_evidence(torch.full((100,), v)) for v in (-4.0, -8.0))
        >>> factor = bayes_factor(a, b)
        >>> factor.log, factor.words, round(factor.probability, 3)
        (4.0, 'strong', 0.982)
    """

    log: float  # log Z_a - log Z_b
    stderr: float
    first: Evidence
    second: Evidence

    @property
    def words(self) -> str:
        """How strong the evidence for the favoured model is, after Kass and Raftery."""
        return _words(self.log)

    @property
    def probability(self) -> float:
        """Posterior probability of the first model, where both were as likely before the data."""
        return 1 / (1 + math.exp(-self.log)) if self.log > -700 else 0.0

    @property
    def reliable(self) -> bool:
        """Whether both evidences are."""
        return self.first.reliable and self.second.reliable

    def __str__(self) -> str:
        favoured = "first" if self.log >= 0 else "second"
        ends = {_words(self.log - 2 * self.stderr), _words(self.log + 2 * self.stderr), self.words}
        within = "" if len(ends) == 1 else "; within 2 errors the words could be others"
        rows = [
            f"log Bayes factor  {self.log:.3f} +- {self.stderr:.3f}",
            f"in favour of the {favoured} model: {self.words}{within} (Kass and Raftery, 1995)",
            f"probability       {self.probability:.4g} of the first, if both were as likely before",
            f"log Z             {self.first.log_z:.3f} +- {self.first.stderr:.3f}, "
            f"{self.second.log_z:.3f} +- {self.second.stderr:.3f}",
        ]
        return "\n".join([*rows, "reliable" if self.reliable else f"NOT reliable: {_doubts(self)}"])


Fitted = Sampler[Any, Any] | Evidence | Refined
"""A fitted model, or what it said about its evidence."""


def bayes_factor(a: Fitted, b: Fitted, n: int = 16_384, *, seed: int | None = None) -> BayesFactor:
    """Compare two models of the same data by their evidences.

    The models may have parameters of different number and kind, so their evidences are integrals
    against different measures; each integrates its own parameters out, and what is left is a density of
    the data in both. But both must hold all constants of prior and likelihood (a Pyro model does), and
    both must explain the same data.

    Args:
        a: the first model: its sampler, or an evidence (``sampler.evidence()``, ``sampler.refine()``).
        b: the second.
        n: trajectories for the evidence of a sampler.
        seed: makes the draws reproducible.

    Raises:
        InvalidInput: for anything else, and for Pyro models that were given different data.

    Warns:
        UnreliableEstimate: when one of the evidences is not reliable.

    Example:
        >>> import torch
        >>> from ctsgfn.evidence import estimate_evidence
        >>> print(bayes_factor(*(estimate_evidence(torch.full((100,), v)) for v in (-4.0, -7.0))))
        log Bayes factor  3.000 +- 0.000
        in favour of the first model: positive (Kass and Raftery, 1995)
        probability       0.9526 of the first, if both were as likely before
        log Z             -4.000 +- 0.000, -7.000 +- 0.000
        reliable
    """
    for name, model in (("a", a), ("b", b)):
        if not isinstance(model, Sampler | Evidence | Refined):
            raise InvalidInput(
                f"{name} must be a fitted sampler or its evidence, got {type(model).__name__}: fit the model "
                "first."
            )
    data = [observations(target) for target in map(_target, (a, b)) if isinstance(target, PyroTarget)]
    if len(data) == 2 and (reason := same_data(*data)):
        raise InvalidInput(
            f"a Bayes factor compares two models of the same data, and {reason}: fit both to the same."
        )
    with seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEstimate)  # said once, below, for both
        first, second = (_evidence(model, n) for model in (a, b))
    factor = BayesFactor(first.log_z - second.log_z, math.hypot(first.stderr, second.stderr), first, second)
    if not factor.reliable:
        warnings.warn(
            f"the Bayes factor is not reliable: {_doubts(factor)}. Use sampler.refine(), or train longer.",
            UnreliableEstimate,
            stacklevel=2,
        )
    return factor


def _target(model: Fitted) -> Any:
    return Coordinates(model.target).original if isinstance(model, Sampler) else None


def _evidence(model: Fitted, n: int) -> Evidence:
    if isinstance(model, Sampler):
        return model.evidence(n)
    return model.evidence if isinstance(model, Refined) else model


def _words(log: float) -> str:
    return next(words for bound, words in WORDS if 2 * abs(log) <= bound)


def _doubts(factor: BayesFactor) -> str:
    sides = (("first", factor.first), ("second", factor.second))
    return "; ".join(f"of the {name} model, {reason}" for name, e in sides for reason in e.reasons)
