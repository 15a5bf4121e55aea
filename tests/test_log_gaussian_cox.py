"""The log-Gaussian Cox process: its density, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from ctsgfn.counted import CountedTarget
from ctsgfn.errors import InvalidInput, NonFinite
from ctsgfn.gaussian_fits import fit_gaussians
from ctsgfn.targets import LogGaussianCox, log_gaussian_cox


def test_density_is_a_normal_times_poissons() -> None:
    counts = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [1.0, 0.0, 0.0]])
    target = LogGaussianCox(counts, variance=1.3, length=0.2)
    cells = np.array([(i, j) for i in range(3) for j in range(3)], dtype=float)
    distance = np.linalg.norm(cells[:, None] - cells[None], axis=-1) / 3
    covariance = 1.3 * np.exp(-distance / 0.2)
    prior = stats.multivariate_normal(np.full(9, math.log(7) - 0.65), covariance)
    x = torch.randn(20, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    n = counts.flatten().double().numpy()
    poisson = stats.poisson(np.exp(x.numpy()) / 9).logpmf(n).sum(-1)
    left_out = (n * math.log(1 / 9) - np.array([math.lgamma(v + 1) for v in n])).sum()
    expected = torch.from_numpy(prior.logpdf(x.numpy()) + poisson - left_out)
    torch.testing.assert_close(target.log_density(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LogGaussianCox(torch.ones(2, 3)), r"counts \[M, M\], whole numbers of points, got \[2, 3\]"),
        (lambda: LogGaussianCox(torch.full((2, 2), 0.5)), "whole numbers of points"),
        (lambda: LogGaussianCox(torch.zeros(2, 2)), "at least one point"),
        (lambda: LogGaussianCox(torch.ones(2, 2), variance=0.0), "must be positive, got 0.0"),
        (lambda: log_gaussian_cox(torch.ones(3, 3)), r"points \[N, 2\], side >= 1, got \[3, 3\]"),
        (lambda: log_gaussian_cox(torch.tensor([[0.1, 0.2], [0.3, 1.5]])), "point 1, .*outside the unit"),
    ],
)
def test_refuses(make, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        make()


def test_names_a_point_that_is_not_finite() -> None:
    with pytest.raises(NonFinite, match="point 1 is"):
        log_gaussian_cox(torch.tensor([[0.1, 0.2], [0.3, math.nan]]))


def test_far_starts_do_not_stop_the_warm_up() -> None:
    """Curvatures up to exp(300) stand beside others of about 1."""
    torch.manual_seed(0)
    target = log_gaussian_cox(torch.rand(126, 2), side=10)
    start = torch.logspace(-1, 2, 64)[:, None] * torch.randn(64, 100)
    fits = fit_gaussians(CountedTarget(target), start)
    assert bool(torch.isfinite(fits.mean).all())
    assert bool(torch.isfinite(fits.tril).all())
