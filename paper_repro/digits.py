r"""MLE-GFN against DDPM on handwritten digits (Table 4, Fig. C.3), scaled down to what a CPU does in minutes.

The paper trains on ImageNet-32 for three GPU days. Here: scikit-learn's 1,797 digits of 8 x 8 pixels with
17 grey levels, 1,437 for training and 360 held out (a fixed shuffle), T = 20 slices instead of 100, and
networks of 2 x 256 units on waves of the pixels (``pixels.py``) instead of convolutions. So no number here
is one of the paper's; the question is the same one: does it pay to learn p_B?

Grey level v becomes x = (v + u) 2/17 - 1 with u uniform on [0, 1) (dequantisation), so that a density of x
bounds the probability of v from below. Slices: an Ornstein-Uhlenbeck process of variance 1 with log signal-
to-noise ratios even from -5 to 7, then the data.

- ``MLE-GFN``: p_F and p_B learn means and variances, by ``maximum_likelihood`` (the evidence bound with
  the pathwise gradient) on whole walks back from data. (Zhang et al., 2022, arXiv 2209.02606, who named it,
  learn p_B by a penalty of trajectory balance.)
- ``p_B fixed``: the same with the bridge as p_B.
- ``DDPM, simple`` and ``DDPM, weighted``: p_B fixed, p_F's variances too, single slices in closed form, even
  weights or those of the bound (``denoising.py``).

The network of p_F is the same, and so is the number of its evaluations (32 walks of 20 slices an update, or
640 pairs of an image and a slice), optimiser, rate and schedule; MLE-GFN evaluates a second network, for
p_B, and its CPU time says so. ``bound``: bits a pixel, by the evidence bound on held-out images, 32 walks
each; ``weighted``: by importance weights, log of the mean over the 32 walks, which is a bound too, a
tighter one. ``frechet``: distance of means and covariances of the pixels, 5,000 draws against the images
held out (a FID without features).

    python paper_repro/digits.py [--quick] [--seeds N] [--device D] [--minutes M]
"""

from __future__ import annotations

import math
from typing import Any

import torch
from denoising import Levels, train_denoiser
from experiment import Experiment, Record, main
from pixels import PixelEncoder
from sklearn.datasets import load_digits
from torch import Tensor

from ctsgfn.behaviours import FromData
from ctsgfn.diffuse import diffuse
from ctsgfn.divergences import maximum_likelihood
from ctsgfn.gflownet import GFlowNet
from ctsgfn.importance import Importance
from ctsgfn.kernel import Kernel
from ctsgfn.kernels.heads.encoders import SlicedEncoder
from ctsgfn.kernels.heads.gaussian import GaussianStep
from ctsgfn.kernels.spaces.diffusion import Slice, ornstein_uhlenbeck, time_waves
from ctsgfn.measures import Lebesgue
from ctsgfn.seeding import seeded
from ctsgfn.target import as_target
from ctsgfn.walks import arrivals

PIXELS, GREYS, TEST = 64, 17, 360
SLICES, FIRST, LAST = 20, -5.0, 7.0
"""Slices, and log signal-to-noise ratios of the first and of the last one before the data."""
HIDDEN, LAYERS, BATCH, UPDATES, LR = 256, 2, 32, 3000, 2e-3
SCALE = 0.25
"""Size of a pixel that counts, in the network of p_B."""
METHODS = ("MLE-GFN", "p_B fixed", "DDPM, simple", "DDPM, weighted")


def images() -> tuple[Tensor, Tensor]:
    """Grey levels of the images to train on and of those held out, [N, 64] in 0 .. 16."""
    grey = torch.tensor(load_digits().data, dtype=torch.float32)
    grey = grey[torch.randperm(len(grey), generator=torch.Generator().manual_seed(0))]
    return grey[TEST:], grey[:TEST]


def dequantised(grey: Tensor) -> Tensor:
    """A point of each image's cell, in [-1, 1)^64."""
    return (grey + torch.rand_like(grey)) * (2 / GREYS) - 1


def quantised(x: Tensor) -> Tensor:
    """Grey levels of points."""
    return ((x + 1) * (GREYS / 2)).floor().clamp(0, GREYS - 1)


class Dequantised(FromData):
    """Walks back from images with fresh noise each time."""

    def __call__(self, gfn: GFlowNet[Any], n: int) -> Any:
        """Draw n trajectories."""
        return FromData(dequantised(self.x), self.reparameterised)(gfn, n)


def clock() -> list[float]:
    """Times of the slices: log signal-to-noise ratios are even, and the last slice has no noise."""
    ratio = torch.linspace(FIRST, LAST, SLICES - 1, dtype=torch.float64)
    left = torch.cat([torch.nn.functional.softplus(-ratio) / 2, torch.zeros(1)])  # time left to the data
    return (left[0] - left).tolist()


def build(method: str) -> tuple[GFlowNet[Slice], Levels]:
    """A flow, and the levels of its slices."""
    space = ornstein_uhlenbeck(PIXELS, SLICES, clock=clock())
    grid = space.kappa.branches[0].grid  # type: ignore[attr-defined]
    levels, likelihood = Levels.of(grid), not method.startswith("DDPM")
    waves = time_waves(torch.arange(SLICES + 1) / SLICES)
    pace = torch.cat([torch.tensor([1.0 if likelihood else 0.0]), levels.pace[1:]])[:, None]

    bound = 2.0 if likelihood else None
    encoder = PixelEncoder(PIXELS, waves, HIDDEN, LAYERS)
    ahead = GaussianStep(PIXELS, encoder.width, pace=lambda s: pace.to(s.x)[s.step], log_variance_bound=bound)
    forward = Kernel(space.kappa, encoder, [ahead])
    backward = diffuse(space.kappa_b)
    if method == "MLE-GFN":
        back = GaussianStep(PIXELS, HIDDEN // 2, log_variance_bound=bound)
        backward = Kernel(space.kappa_b, SlicedEncoder(PIXELS, waves, SCALE, HIDDEN // 2), [back])
    return GFlowNet(space, forward, backward), levels


UNKNOWN = as_target(lambda x: torch.zeros(len(x)).to(x), Lebesgue(PIXELS))
"""Only data are known of the target."""


@torch.no_grad()
def bits(gfn: GFlowNet[Slice], grey: Tensor, walks: int) -> Record:
    """Bits a pixel of images, by the bound and by importance weights, with standard errors over images."""
    x = torch.stack([dequantised(grey) for _ in range(walks)], dim=1).flatten(0, 1)
    log_density = -Importance(gfn, UNKNOWN).weigh_ends(x.to(gfn.log_z)).cpu().unflatten(0, (-1, walks))
    log_p = log_density + PIXELS * math.log(2 / GREYS)  # of the cells, one walk each
    unit = -1 / (PIXELS * math.log(2))
    found: Record = {}
    for name, value in {"bound": log_p.mean(1), "weighted": log_p.logsumexp(1) - math.log(walks)}.items():
        found[name] = unit * float(value.mean())
        found[f"{name}_stderr"] = -unit * float(value.std()) / math.sqrt(len(grey))
    return found


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of normals with the moments of two sets of images (pixels in [0, 1])."""
    a, b = (v.double() / (GREYS - 1) for v in (a, b))
    first, second = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2 * shared)


def one(lab: Experiment, method: str, seed: int) -> Record:
    """Train and score."""
    train, test = images()
    updates, walks, draws = (4, 2, 100) if lab.quick else (UPDATES, 32, 5000)
    if lab.quick:
        test = test[:20]
    key = f"{method}, seed {seed}"
    with seeded(seed):
        gfn, levels = build(method)
        gfn = gfn.to(lab.device)
    curve: list[Record] = []
    if method.startswith("DDPM"):
        with seeded(seed + 1):
            train_denoiser(
                gfn, levels, lambda n: dequantised(train[torch.randint(len(train), (n,))]),
                weighted=method.endswith("weighted"), updates=updates, rows=BATCH * SLICES, lr=LR, label=key,
            )  # fmt: skip
    else:
        curve = lab.train(
            key, gfn, UNKNOWN, lambda done: bits(gfn, test[:100], max(1, walks // 8)),
            steps=updates, every=max(2, updates // 10), batch_size=BATCH, seed=seed, lr=LR,
            objective=maximum_likelihood, behaviour=Dequantised(train, reparameterised=True),
        )  # fmt: skip
    with seeded(seed + 2):
        drawn = quantised(arrivals(gfn.space, gfn.forward_kernel, draws).x.cpu())
        found = {f"test_{k}": v for k, v in bits(gfn, test, walks).items()}
        found |= {f"train_{k}": v for k, v in bits(gfn, train[: len(test)], walks // 2).items()}
    return {
        "method": method,
        "seed": seed,
        "curve": curve,
        **found,
        "frechet": frechet(drawn, test),
        "parameters": sum(p.numel() for p in gfn.parameters()),
        "samples": drawn[:100].to(torch.uint8).view(-1, 8, 8).numpy(),
    }


def data() -> Record:
    """What needs no flow: the floor of the distance, and two plain models of the images."""
    train, test = images()
    counts = torch.stack([(train == level).sum(0) for level in range(GREYS)]) + 1 / GREYS
    log_p = (counts / counts.sum(0)).log()
    histogram = log_p.gather(0, test.long()).mean()
    x = torch.cat([dequantised(train) for _ in range(20)]).double()
    law = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    normal = torch.stack([law.log_prob(dequantised(test).double()) for _ in range(20)]).mean() / PIXELS
    return {
        "histograms": -float(histogram) / math.log(2),
        "normal": -(float(normal) + math.log(2 / GREYS)) / math.log(2),
        "frechet_floor": frechet(train, test),
        "samples": test[:100].to(torch.uint8).view(-1, 8, 8).numpy(),
    }


def body() -> None:
    """All runs."""
    lab = Experiment(__file__, __doc__, seeds=3)
    with seeded(0):
        lab.run("data", data)
    for seed in lab.seeds:
        for method in METHODS:
            lab.run(f"{method}, seed {seed}", lambda m=method, s=seed: one(lab, m, s))


if __name__ == "__main__":
    main(body)
