"""Recorded functions give the bits of the function itself, or are not used."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ctsgfn.traced import MOST, PATIENCE, WIDEST, Traced, _size

TABLE = torch.linspace(0.0, 1.0, 12).reshape(4, 3)


def plain(x: Tensor) -> Tensor:
    """Constants of its own, and a part that does not depend on the points."""
    return (x @ TABLE.exp().T).logsumexp(-1) + TABLE.square().sum() + torch.arange(3.0).sum()


def per_row(x: Tensor) -> Tensor:
    return torch.func.vmap(lambda row: (row * TABLE.exp()).sum().sin())(x)


def gradient(x: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.grad(lambda row: (row * TABLE.exp()).sum().sin()))(x)


def own_scratch(x: Tensor) -> Tensor:
    """Writes in place into tensors that depend on the points."""
    y = x * 2
    y.masked_fill_(x < 0, 3.0)
    return y.sum(-1)


def not_numbers(x: Tensor) -> Tensor:
    return x[:, 0].log() + x[:, 1]


def running(x: Tensor) -> Tensor:
    """Fills a fresh constant in place: were it computed once, it would add up from call to call."""
    total = torch.zeros(len(x))
    total.add_(x.sum(-1))
    return total + 1


def rewritten(x: Tensor) -> Tensor:
    """Changes a constant between two uses of it."""
    table = torch.ones(3)
    first = x @ table
    table.mul_(2.0)
    return first + x @ table


def overwriting(x: Tensor) -> Tensor:
    """Writes into a constant that the points have met before."""
    table = TABLE[0] * 1.0
    view = table[:]
    first = torch.func.vmap(lambda row: (row * view).sum())(x)
    table.mul_(2.0)
    return first + torch.func.vmap(lambda row: (row * view).sum())(x)


def logistic(x: Tensor) -> Tensor:
    """Torch's own formula writes into fresh constants."""
    data = torch.tensor([1.0, 0.0, 1.0])
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    return torch.func.vmap(lambda row: loss(row, data, reduction="sum"))(x)


RECORDED = {
    "running": running,
    "rewritten": rewritten,
    "logistic": logistic,
    "plain": plain,
    "per_row": per_row,
    "gradient": gradient,
    "own_scratch": own_scratch,
    "nan": not_numbers,
}


def warmed(fn: Callable[[Tensor], Tensor], rows: int = 16) -> Traced:
    traced = Traced(fn)
    for _ in range(PATIENCE):
        traced(torch.randn(rows, 3))
    return traced


@pytest.mark.parametrize("name", RECORDED)
def test_recordings_give_the_same_bits(name: str) -> None:
    fn = RECORDED[name]
    traced, x = warmed(fn), torch.randn(16, 3)
    assert traced.recordings == 1
    value, again = traced(x), fn(x)
    assert torch.equal(value.nan_to_num(7.0), again.nan_to_num(7.0))
    assert torch.equal(value.isnan(), again.isnan())
    assert torch.equal(traced(-x).isnan(), fn(-x).isnan()), "not those of the points it was recorded at"


def test_batches_are_filled_up_to_few_sizes() -> None:
    sizes = sorted({_size(n) for n in range(1, WIDEST + 1)})
    assert len(sizes) == 5 + 4 * 10, "4 to 8, then four in each of ten doublings"
    assert all(n <= _size(n) <= max(4, 1.25 * n) for n in range(1, WIDEST + 1))
    assert _size(WIDEST) == WIDEST
    traced = warmed(plain)
    for rows in (13, 14, 15, 16):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(traced(x), plain(x))
    assert traced.recordings == 1, "one for all of them"


def test_other_kinds_have_recordings_of_their_own() -> None:
    traced = warmed(lambda x: x.square().sum(-1))
    assert traced(torch.ones(16, 3, dtype=torch.float64)).dtype == torch.float64
    assert traced(torch.ones(16, 5)).tolist() == [5.0] * 16
    assert tuple(traced(torch.ones(0, 3)).shape) == (0,)
    assert tuple(traced(torch.ones(2 * WIDEST, 3)).shape) == (2 * WIDEST,)
    assert traced.recordings == 1


def test_gradients_go_through_the_function_itself() -> None:
    traced, x = warmed(plain), torch.randn(16, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(traced(x).sum(), x)
    (expected,) = torch.autograd.grad(plain(x).sum(), x)
    assert torch.equal(slope, expected)
    with torch.no_grad():
        assert not traced(x).requires_grad


# ------------------------------------------------------------------ what must not be recorded
def constant(x: Tensor) -> Tensor:
    """Does not depend on the points: a caller might write into the one result."""
    return torch.ones(len(x))


def branching(x: Tensor) -> Tensor:
    return x.sum(-1) if bool(x.sum() > 0) else -x.sum(-1)


def item(x: Tensor) -> Tensor:
    return x.sum(-1) * x[0, 0].item()


class Drifting:
    """A function that changes: its recording is another function than the one it was."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.sum(-1) + self.calls


REFUSED = {
    "constant": constant,
    "branching": branching,
    "item": item,
    "drifting": Drifting(),
    "random": lambda x: x.sum(-1) + torch.rand(()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_its_values_runs_as_it_is(name: str) -> None:
    traced = warmed(REFUSED[name])
    assert traced.recordings == 0
    if name not in ("drifting", "random"):
        x = torch.randn(16, 3)
        for _ in range(3):
            assert torch.equal(traced(x), REFUSED[name](x))


def test_recordings_are_few() -> None:
    traced = Traced(lambda x: x.sum(-1))
    for rows in sorted({_size(n) for n in range(1, 1000)}):
        for _ in range(PATIENCE):
            traced(torch.randn(rows, 2))
    assert traced.recordings == MOST


def test_constants_that_are_overwritten_keep_their_values() -> None:
    """Recorded or not, the earlier use sees the earlier numbers."""
    traced, x = warmed(overwriting), torch.randn(16, 3)
    assert torch.equal(traced(x), overwriting(x))
    assert torch.equal(traced(x), overwriting(x)), "and again"
