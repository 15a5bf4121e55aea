"""The torus: wrapped charts, the atom at s0, and an exact terminating density by convolution."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from numerics import z_scores
from registry import flow

from ctsgfn.diffuse import diffuse
from ctsgfn.errors import InvalidInput, MeasureMismatch, NoSuchEdge
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernel import Head, Kernel
from ctsgfn.kernels.heads.joint_von_mises import JointVonMises
from ctsgfn.kernels.heads.von_mises import VonMisesMixtureLaw
from ctsgfn.kernels.spaces.torus import TorusState, torus, torus_kernels
from ctsgfn.measures import Haar, Lebesgue
from ctsgfn.networks import NoContext
from ctsgfn.target import as_target
from ctsgfn.walks import backtrack, rollout

PI = math.pi


def test_increments_take_the_short_way_round() -> None:
    (turn,) = torus(1, 3).kappa.branches
    s = TorusState(torch.tensor([[3.0]]), torch.tensor([1]))
    t = turn.push(s, torch.tensor([[0.5]]))
    assert float(t.angle) == pytest.approx(3.5 - 2 * PI, abs=1e-6)
    assert t.step.tolist() == [2]
    assert float(turn.pull(s, t)) == pytest.approx(0.5, abs=1e-6)


def test_the_way_back_from_slice_one_is_the_atom() -> None:
    space = torus(2, 3)
    s = TorusState(torch.tensor([[1.0, -2.0]]), torch.tensor([1]))
    law = diffuse(space.kappa_b)(s)
    home, log_density = law.draw_move()
    assert home.angle.tolist() == [[0.0, 0.0]]
    assert home.step.tolist() == [0]
    assert log_density.tolist() == [0.0]
    elsewhere = TorusState(torch.tensor([[0.0, 0.1]]), torch.tensor([0]))
    with pytest.raises(NoSuchEdge, match="0 branches of kappa_b of the torus"):
        space.kappa_b.locate_move(s, elsewhere)


class FixedTurn(Head):
    """The same von Mises law at every state."""

    def __init__(self, loc: float, concentration: float) -> None:
        super().__init__()
        self.base = Haar(1)
        self.loc, self.concentration = loc, concentration

    def forward(self, context: torch.Tensor, s: Any, live: Any) -> VonMisesMixtureLaw:
        one = context.new_ones(len(context), 1, 1)
        return VonMisesMixtureLaw(0 * one, self.loc * one, self.concentration * one, live)


def test_fourier_coefficients_after_wrapped_steps() -> None:
    """E e^{i k x_T} = product over steps of e^{i k m} I_k / I_0; |z| < 5: rate 8 * 6e-7."""
    space, n = torus(1, 3), 40_000
    kernel = Kernel(space.kappa, NoContext(), [FixedTurn(2.0, 1.5)]).double()
    x = space.read(rollout(space, kernel, n).final)[:, 0]
    grid = torch.linspace(-PI, PI, 2001, dtype=torch.float64)[:-1]
    density = (1.5 * grid.cos()).exp()
    density = density / density.sum()
    for k in range(1, 5):
        factor = float(((k * grid).cos() * density).sum()) ** 3
        assert float(z_scores((k * x).cos(), factor * math.cos(3 * 2.0 * k)).abs()) < 5
        assert float(z_scores((k * x).sin(), factor * math.sin(3 * 2.0 * k)).abs()) < 5


def test_terminating_density_by_backward_paths() -> None:
    """E_{p_B}[p_F / p_B] is the wrapped convolution's density at x; |z| < 5: rate 5 * 6e-7."""
    space, n = torus(1, 3), 20_000
    forward = Kernel(space.kappa, NoContext(), [FixedTurn(2.0, 1.5)]).double()
    gfn = GFlowNet(space, forward, diffuse(space.kappa_b)).double()
    grid = torch.linspace(-PI, PI, 513, dtype=torch.float64)[:-1]
    step = (1.5 * (grid - 2.0).cos()).exp()
    step = step / step.sum()
    spectrum = torch.fft.fft(torch.fft.ifftshift(step)) ** 3
    exact = torch.fft.fftshift(torch.fft.ifft(spectrum).real) * 512 / (2 * PI)
    for i in (0, 100, 200, 300, 450):
        finals = space.write(grid[i].expand(n, 1))
        t = backtrack(space, gfn.backward_kernel, finals)
        with torch.no_grad():
            log_forward = forward(t.states).log_density(t.jumps)
        ratio = (log_forward - t.log_backward).reshape(n, -1).sum(-1).exp()
        assert float(z_scores(ratio, float(exact[i])).abs()) < 5


def test_features_are_periodic_and_see_the_step() -> None:
    space = torus(2, 4)
    angle = torch.rand(6, 2, dtype=torch.float64)
    step = torch.tensor([0, 1, 2, 3, 4, 4])
    here = space.features(TorusState(angle, step))
    assert here.shape == (6, space.width)
    torch.testing.assert_close(space.features(TorusState(angle - 2 * PI, step)), here)
    torch.testing.assert_close(here[:, 0], angle[:, 0].cos())
    assert here[:, -1].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(("dim", "steps"), [(0, 3), (2, 0), (-1, 3)])
def test_bad_sizes(dim: int, steps: int) -> None:
    with pytest.raises(InvalidInput, match="dim >= 1 and steps >= 1"):
        torus(dim, steps)


def test_angles_are_not_lengths() -> None:
    assert torus(2).points != Lebesgue(2, -PI, PI)
    assert as_target(lambda x: x.sum(-1), Haar(2)).measure == torus(2).points


def test_a_head_on_the_line_is_refused() -> None:
    from ctsgfn.kernels.heads.gaussian_mixture import GaussianMixture

    space = torus(2)
    with pytest.raises(MeasureMismatch, match=r"Lebesgue measure on R\^2, but .* arc length on 2 circles"):
        Kernel(space.kappa, NoContext(), [GaussianMixture(2, 1)])


@pytest.mark.parametrize("options", [{}, {"head": JointVonMises, "components": 16, "least": 1.0}], ids=str)
def test_untrained_kernels_are_nearly_uniform(options: Any) -> None:
    """Evenly spread components: the first density of a fresh flow is within 1 of uniform."""
    space = torus(2, 10)
    gfn = flow(torus_kernels, space, hidden=32, **options)
    t = rollout(space, gfn.forward_kernel, 200)
    assert t.log_forward is not None
    assert float((t.log_forward[~t.last] + 2 * math.log(2 * PI)).abs().max()) < 1.0
