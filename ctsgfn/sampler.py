"""The trained sampler: draws, weights, densities and the evidence, in the user's own coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from torch import Tensor

from ctsgfn.chains import GUIDES, move_on
from ctsgfn.errors import whole
from ctsgfn.evidence import Evidence, estimate_evidence
from ctsgfn.gflownet import GFlowNet
from ctsgfn.history import History
from ctsgfn.importance import Importance
from ctsgfn.predictive import Predicted, predict, require_model
from ctsgfn.psis import psis
from ctsgfn.refine import Refined, refine, require_line
from ctsgfn.sampler_files import read_sampler, write_sampler
from ctsgfn.seeding import seeded
from ctsgfn.states import S, X
from ctsgfn.summary import Summary, summarise
from ctsgfn.target import HasConstrain, Target, exact_samples
from ctsgfn.training import require_same_measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Sampler(Generic[S, X]):
    """A flow together with the target it was trained for.

    If the target was changed to other coordinates (``transformed``), every method takes and returns
    points in the original ones; log Z is the same in both.

    Args:
        gfn: the flow.
        target: the target; its measure must be ``gfn.space.points``.
        history: what the training run did.
        recipe: how the flow was built, in plain values, so that ``ctsgfn.load`` can build it again.
        notes: what ``fit`` decided and why, in sentences.

    Raises:
        MeasureMismatch: when the target is a density against another measure than the space's.

    Example:
        >>> import torch
        >>> from ctsgfn.diffuse import diffuse
        >>> from ctsgfn.kernels.spaces.hypergrid import hypergrid
        >>> from ctsgfn.target import as_target
        >>> space = hypergrid(2, 3)
        >>> gfn = GFlowNet(space, diffuse(space.kappa), diffuse(space.kappa_b))  # not trained
        >>> sampler = Sampler(gfn, as_target(lambda x: -x.double().sum(-1), space.points))
        >>> tuple(sampler.sample(5, seed=0).shape), tuple(sampler.posterior(7, seed=0)["x"].shape)
        ((5, 2), (7, 2))
        >>> exact = 2 * torch.tensor([0.0, -1.0, -2.0]).logsumexp(0)
        >>> abs(float(sampler.log_evidence(4096, seed=0) - exact)) < 0.1
        True
    """

    gfn: GFlowNet[S]
    target: Target[Any]
    history: History | None = None
    recipe: dict[str, Any] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_same_measure(self.gfn, self.target)
        self._importance: Importance[S, X] = Importance(self.gfn, self.target)
        self._original = self._importance.coordinates.original

    # ---------------------------------------------------------------- draws
    def sample(self, n: int, *, seed: int | None = None) -> X:
        """Draw n points from the policy as it is: independent, not reweighted.

        Args:
            n: number of points.
            seed: makes the draws reproducible and leaves the caller's generator as it was.

        Raises:
            InvalidInput: when n < 1, as in every method.
        """
        with seeded(seed):
            return self._importance.draw(n)

    def weighted(self, n: int, *, seed: int | None = None) -> tuple[X, Tensor]:
        """Draw n points and their Pareto-smoothed log-weights [n] (float64, of weights that sum to 1).

        Under these weights the draws represent the target, not the policy.
        """
        x, log_weight = self._weigh(n, seed)
        return x, psis(log_weight).log_weight

    def resample(self, n: int, *, pool: int | None = None, seed: int | None = None) -> X:
        """Draw n points of the target by importance resampling from a pool of weighted draws.

        Args:
            n: number of points; a point of the pool may come more than once.
            pool: number of weighted draws, by default twice n and at least 4096.
            seed: see ``sample``.

        Warns:
            UnreliableEstimate: when the weights of the pool cannot be trusted.
        """
        return self._resampled(n, pool, seed, "the resampled draws are")[0]

    def posterior(self, n: int, *, pool: int | None = None, seed: int | None = None) -> dict[str, Tensor]:
        """Return n resampled draws by name: the constrained sites of a program, else ``{"x": points}``.

        Warns:
            UnreliableEstimate: see ``resample``.
        """
        return self.named(self._resampled(n, pool, seed, "the posterior draws are")[0])

    def mcmc(self, n: int, *, steps: int = 20, pool: int | None = None, seed: int | None = None) -> X:
        """Resample n points, and move each by a few exact steps of Markov chains (``chains.move_on``).

        Copies part, and the inside of a mode is mended; how much mass a mode has stays as the weights say.

        Raises:
            InvalidInput: for targets that are not on R^d, a half-line or a box.
        """
        require_line(self.gfn)
        whole("n", n)
        whole("steps", steps)
        x = self._resampled(n + GUIDES, pool, seed, "the draws that the chains start from are")[0]
        z, guides = self._importance.encode(x).split([n, GUIDES])
        with seeded(seed):
            return self._importance.coordinates.decode(move_on(self.target, z, guides, steps))

    def predictive(self, n: int = 1000, *, pool: int | None = None, seed: int | None = None) -> Predicted:
        """Draw n data sets from a Pyro model at posterior draws, to set beside its data.

        ``print`` it for p-values, ``.plot()`` it, or take the draws of a site with ``[name]``.

        Raises:
            InvalidInput: when the target is not what ``from_pyro`` makes, or observes nothing.
        """
        require_model(self._original)
        posterior = self.named(self._resampled(n, pool, seed, "the predictive draws are")[0])
        with seeded(seed):
            return predict(self._original, posterior)

    def named(self, x: Any) -> dict[str, Tensor]:
        """Points by name, as ``posterior`` returns them: constrained sites, or ``{"x": points}``."""
        if isinstance(self._original, HasConstrain):
            return self._original.constrain(x)
        return {"x": x} if isinstance(x, Tensor) else x.tensors()

    # ---------------------------------------------------------------- densities and evidence
    def log_prob(self, x: X, n: int = 64, *, seed: int | None = None) -> Tensor:
        r"""Log-density [B] of the policy's draws at points x, against the target's own measure.

        .. math::
            \log \frac1n \sum_{i=1}^n p_F(\tau_i) / p_B(\tau_i \mid x),
            \qquad \tau_i \sim p_B(\cdot \mid x)

        The density is estimated without bias, so its logarithm errs downwards, less so with larger n.

        Args:
            x: points, in the target's coordinates.
            n: backward trajectories per point.
            seed: see ``sample``.

        Raises:
            InvalidInput: when n < 1, or a point is outside the support.
        """
        with seeded(seed):
            return self._importance.log_density(x, n).to(self.gfn.log_z.dtype)

    def evidence(
        self,
        n: int = 4096,
        *,
        samples: X | None = None,
        seed: int | None = None,
        min_ess: float = 0.1,
        max_pareto_k: float = 0.7,
        max_gap: float | None = None,
    ) -> Evidence:
        """Estimate log Z from n weighted trajectories, with bounds and diagnostics.

        ``refine`` goes on to an error of your choice.

        Args:
            n: trajectories.
            samples: exact samples of the target, for the upper bound; a target that can draw its own
                does so.
            seed: see ``sample``.
            min_ess: see ``estimate_evidence``, as for max_pareto_k and max_gap.
            max_pareto_k: see there.
            max_gap: see there; by default 1, and none where a floor stands for -inf.

        Warns:
            UnreliableEstimate: when the diagnostics say that log Z cannot be trusted.
        """
        whole("n", n, least=2)
        with seeded(seed):
            samples = exact_samples(self._original, n) if samples is None else samples
            log_weight = self._importance.weigh(n)[1]
            at_target = None if samples is None else self._importance.weigh_backwards(samples)
        result = estimate_evidence(
            log_weight,
            learned_log_z=self.gfn.log_z.item(),
            measure=str(self._original.measure),
            log_weight_at_target=at_target,
            min_ess=min_ess,
            max_pareto_k=max_pareto_k,
            max_gap=self._importance.max_gap if max_gap is None else max_gap,
        )
        result.warn_unless_reliable("the evidence is")
        return result

    def refine(
        self, error: float = 0.05, *, calls: int = 5_000_000, particles: int = 1000, seed: int | None = None
    ) -> Refined:
        """Estimate log Z to a stated error by annealing the sampler's draws to the target.

        For where ``evidence`` is not reliable, or not precise enough; how, and the arguments: see
        ``refine.refine``.

        Raises:
            InvalidInput: for targets that are not on R^d, a half-line or a box.

        Warns:
            UnreliableEstimate: when the runs do not agree, or the error was not reached.
        """
        with seeded(seed):
            result = refine(self._importance, error=error, calls=calls, particles=particles)
        result.evidence.warn_unless_reliable("the refined evidence is")
        return result

    def log_evidence(self, n: int = 4096, *, seed: int | None = None) -> Tensor:
        """Importance-weighted estimate of log Z, 0-d; ``evidence`` says how far to trust it."""
        return self._weigh(n, seed)[1].logsumexp(0) - math.log(n)

    # ---------------------------------------------------------------- reports
    def summary(self, n: int = 4096, *, seed: int | None = None) -> Summary:
        """Tabulate mean, sd, quantiles and Monte-Carlo error of every coordinate or site, and log Z.

        Warns:
            UnreliableEstimate: when the weights cannot be trusted.
        """
        whole("n", n, least=2)
        x, log_weight = self._weigh(n, seed)
        evidence = self._importance.judge(log_weight)
        evidence.warn_unless_reliable("the summary is")
        return summarise(self.named(x), psis(log_weight).log_weight, evidence, self.notes)

    def plot(self, n: int = 4096, *, seed: int | None = None) -> Figure:
        """Figure of n resampled draws: density, scatter over the log-density, or pairs of coordinates."""
        from ctsgfn.plots import plot_draws

        x = self._resampled(n, None, seed, "the draws in the figure are")[0]
        return plot_draws(self.named(x), self._original)

    def to_arviz(self, n: int = 4096, *, pool: int | None = None, seed: int | None = None) -> Any:
        """Return resampled draws as an ArviZ container (one chain), with ``lp`` and ``log_weight``.

        Raises:
            MissingExtra: when ArviZ is not installed.
        """
        from ctsgfn.arviz_export import to_arviz

        x, log_weight, evidence = self._resampled(n, pool, seed, "the exported draws are")
        return to_arviz(
            self.named(x), {"lp": self._original.log_density(x), "log_weight": log_weight}, evidence
        )

    # ---------------------------------------------------------------- files
    def save(self, path: str | Path) -> None:
        """Write the flow's parameters, and the recipe if there is one."""
        write_sampler(path, self.gfn, self.recipe, self.notes)

    @classmethod
    def load(cls, path: str | Path, target: Target[Any], gfn: GFlowNet[S]) -> Sampler[S, X]:
        """Read a saved sampler into a flow built as it was (``ctsgfn.load`` builds it for you).

        Raises:
            BadCheckpoint: when the file is no sampler, is cut short, or belongs to another model.
        """
        recipe, notes = read_sampler(path, gfn)
        return cls(gfn, target, recipe=recipe, notes=notes)

    # ---------------------------------------------------------------- inside
    def _resampled(self, n: int, pool: int | None, seed: int | None, what: str) -> tuple[X, Tensor, Evidence]:
        """Resampled points with their log-weights and what they are worth; warns about ``what``."""
        with seeded(seed):
            x, log_weight, evidence = self._importance.resample(n, pool)
        evidence.warn_unless_reliable(what, stacklevel=4)
        return x, log_weight, evidence

    def _weigh(self, n: int, seed: int | None) -> tuple[X, Tensor]:
        with seeded(seed):
            return self._importance.weigh(n)
