"""A space of one's own: a model is chosen, then its parameters, one or two of them.

Data y at times t are a constant, or a line; both with normal priors and noise, so that the evidence of
each is known. One flow samples both, and says how much more likely one is. Run it by
``python examples/two_models.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import ctsgfn
from ctsgfn import Atom, Batch, Branch, Counting, Lebesgue, ReferenceKernel, Space, Sum
from ctsgfn.measures import Pushforward

# ---------------------------------------------------------------- the space


@dataclass(frozen=True)
class Model(Batch):
    """s0 (kind -1), a model (its number of parameters less 1), or a model with its parameters."""

    kind: Tensor  # [B] long
    theta: Tensor  # [B, 2], 0 where there is no parameter
    done: Tensor  # [B] bool


class Choose(Branch[Model]):
    """From s0 to one of two models."""

    base = Counting(2)

    def push(self, s: Model, a: Tensor) -> Model:
        """Set the model."""
        return replace(s, kind=a[:, 0])

    def pull(self, s: Model, t: Model) -> Tensor:
        """Read it."""
        return t.kind[:, None]


class Draw(Branch[Model]):
    """From a model to its parameters: only the first axis is live where it has one."""

    base = Lebesgue(2)

    def push(self, s: Model, a: Tensor) -> Model:
        """Set the parameters."""
        return replace(s, theta=a, done=torch.ones_like(s.done))

    def pull(self, s: Model, t: Model) -> Tensor:
        """Read them."""
        return t.theta

    def live(self, s: Model) -> Tensor:
        """Which of the two axes are in the support."""
        return s.kind[:, None] >= torch.arange(2, device=s.kind.device)

    def owns(self, s: Model, t: Model) -> Tensor:
        """Edges to models with parameters."""
        return t.done

    def intrinsic(self, t: Model) -> Tensor:
        """Length or area is measured in the parameters."""
        return t.theta


class Undo(Branch[Model]):
    """One step back, whatever the step was."""

    base = Atom()

    def push(self, s: Model, a: Tensor) -> Model:
        """Drop the parameters, or the model."""
        return model(torch.where(s.done, s.kind, -1), torch.zeros_like(s.theta), done=False)

    def pull(self, s: Model, t: Model) -> Tensor:
        """No coordinates."""
        return s.theta[:, :0]


def model(kind: Tensor, theta: Tensor, done: bool) -> Model:
    """States of the given kinds and parameters [B, 0 .. 2]."""
    return Model(
        kind, torch.nn.functional.pad(theta, (0, 2 - theta.shape[-1])), torch.full_like(kind, done).bool()
    )


def pieces() -> tuple[Pushforward[Model], ...]:
    """Reference measure on the states, piece by piece: s0, the models, the parameters of each."""

    def with_parameters(n: int) -> Pushforward[Model]:
        return Pushforward(
            Lebesgue(n),
            push=lambda a: model(torch.full((len(a),), n - 1, device=a.device), a, done=True),
            pull=lambda s: s.theta[:, :n],
            owns=lambda s: s.done & (s.kind == n - 1),
        )

    start = Pushforward(
        Atom(),
        push=lambda a: model(torch.full((len(a),), -1), a.new_zeros(len(a), 2), done=False),
        pull=lambda s: s.theta[:, :0],
        owns=lambda s: s.kind < 0,
    )
    chosen = Pushforward(
        Counting(2),
        push=lambda a: model(a[:, 0], torch.zeros(len(a), 2), done=False),
        pull=lambda s: s.kind[:, None],
        owns=lambda s: (s.kind >= 0) & ~s.done,
    )
    return start, chosen, with_parameters(1), with_parameters(2)


def two_models() -> Space[Model, Model]:
    """s0 -> a model -> its parameters -> sink."""
    parts = pieces()
    return Space(
        name="two models",
        source=lambda n: model(torch.full((n,), -1), torch.zeros(n, 2), done=False),
        nu=Sum(parts),
        kappa=ReferenceKernel(
            (Choose(), Draw()),
            allowed=lambda s: torch.stack([s.kind < 0, (s.kind >= 0) & ~s.done], -1),
            sink=lambda s: s.done,
            forced=True,
            name="kappa of two models",
        ),
        kappa_b=ReferenceKernel(
            (Undo(),), allowed=lambda s: (s.kind >= 0)[:, None], forced=True, name="kappa_b of two models"
        ),
        progress=lambda s: (s.kind >= 0).float() + s.done.float(),
        horizon=3,
        points=Sum(parts[2:]),
        read=lambda s: s,
        write=lambda s: s,
        features=lambda s: torch.stack([s.kind == -1, s.kind == 0, s.kind == 1], -1).to(s.theta.dtype),
        width=3,
        synchronous=True,
    )


# ---------------------------------------------------------------- the target
T = torch.linspace(-1.0, 1.0, 12)
Y = 0.3 + 0.5 * T + 0.4 * Normal(0.0, 1.0).icdf((torch.arange(12) * 0.618 + 0.3).frac())


def log_density(s: Model) -> Tensor:
    """Even prior of the models, standard normal prior of the parameters, noise of 0.4: [B]."""
    live = s.kind[:, None] >= torch.arange(2, device=s.kind.device)
    prior = torch.where(live, Normal(0.0, 1.0).log_prob(s.theta), 0.0).sum(-1) - torch.tensor(2.0).log()
    mean = s.theta[:, :1] + s.theta[:, 1:] * T.to(s.theta)
    return prior + Normal(mean, 0.4).log_prob(Y.to(s.theta)).sum(-1)


def exact(n: int) -> Tensor:
    """Log evidence of the model with n parameters."""
    basis = torch.stack([torch.ones(12), T])[:n].double()
    covariance = basis.T @ basis + 0.16 * torch.eye(12).double()
    return MultivariateNormal(torch.zeros(12).double(), covariance).log_prob(Y.double())


def main() -> None:
    """Check the space, fit, and compare with what is known."""
    space = two_models()
    target = ctsgfn.as_target(log_density, space.points)
    print(ctsgfn.check(space, target))
    sampler = ctsgfn.fit(target, space=space, steps=600, seed=0)
    evidence = sampler.evidence(20_000, seed=1)
    draws = sampler.resample(20_000, seed=2)
    line = float((draws.kind == 1).double().mean())
    both = torch.stack([exact(1), exact(2)]) - torch.tensor(2.0).log()
    print(
        f"log evidence of both: {evidence.log_z:.3f} +- {evidence.stderr:.3f}; exact {both.logsumexp(0):.3f}"
    )
    print(f"probability of the line: {line:.3f}; exact {both.softmax(0)[1]:.3f}")
    print(f"its slope: {draws.theta[draws.kind == 1, 1].mean():.3f}")


if __name__ == "__main__":
    main()
