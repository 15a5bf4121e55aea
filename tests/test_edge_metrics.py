"""Metrics of edge probabilities, against sums over pairs in plain Python."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from scripts import script

from ctsgfn.acyclic import Acyclic

METRICS = script(Path(__file__).resolve().parents[1] / "benchmarks" / "edge_metrics.py")
OFF = ~torch.eye(4, dtype=torch.bool)


def test_expected_distance_is_the_mean_over_draws() -> None:
    """A missing, an extra and a reversed edge count one each; the truth may have a cycle."""
    draws = Acyclic(4).all()[::7]
    cycle = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]]).bool()
    for truth in (draws[5], draws[-1], cycle):
        total = 0
        for graph in draws:
            for i, j in itertools.combinations(range(4), 2):
                total += int((graph[i, j] != truth[i, j]) | (graph[j, i] != truth[j, i]))
        found = METRICS.expected_distance(draws.double().mean(0), truth)
        assert found == pytest.approx(total / len(draws))


def test_auroc_counts_pairs() -> None:
    """Ties count half; what is not among the pairs does not count."""
    torch.manual_seed(0)
    p = torch.randint(4, (4, 4)).double() / 4
    truth = Acyclic(4).all()[300]
    wins, count = 0.0, 0
    for a, b in itertools.product(range(16), repeat=2):
        there, off = truth.flatten(), OFF.flatten()
        if there[a] and not there[b] and off[a] and off[b]:
            wins += float(p.flatten()[a] > p.flatten()[b]) + 0.5 * float(p.flatten()[a] == p.flatten()[b])
            count += 1
    assert METRICS.auroc(p, truth, OFF) == pytest.approx(wins / count)
