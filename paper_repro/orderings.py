"""The orderings that the paper claims, checked on our results: a block of the README.

Means over runs are compared; where both sides have several runs, Welch's t-test on logarithms says how sure
the difference is, and with one run on a side nothing does. Divergences on the Box that are under twice the
score of two samples of the target say nothing of each other: the exact divergence then decides.

python paper_repro/orderings.py
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import mean
from typing import Any

from rows import README, Block, Runs, read
from scipy.stats import ttest_ind

BLOCK = Block(README, "orderings")


def compared(lower: list[float], upper: list[float]) -> str:
    """Whether the first are smaller, and how sure that is."""
    verdict = "holds" if mean(lower) < mean(upper) else "**does not hold**"
    if min(len(lower), len(upper)) < 2:
        return f"{verdict}, one run" if len(lower) == len(upper) == 1 else f"{verdict}, one run on a side"
    logs = [[math.log(value) for value in values] for values in (lower, upper)]
    p = float(ttest_ind(*logs, equal_var=False).pvalue)
    return f"{verdict}, p = {p:.2g}" if p < 0.1 else f"not to be told apart, p = {p:.2f}"


def line(claim: str, ours: str, verdict: str) -> str:
    """A row."""
    return f"| {claim} | {ours} | {verdict} |\n"


# ------------------------------------------------------------------ the Box
def final(runs: Runs, name: str, key: str) -> list[float]:
    """A metric at the end of the runs of a setting."""
    return [run["final"][key] for label, run in runs.items() if label.startswith(f"{name}, seed")]


def box() -> Iterator[str]:
    """TB below DB, learned below uniform P_B, the short step harder."""
    runs = read("box_curves")
    floor = 2 * mean(runs["floor"]["jsd_clipped"])
    pairs = []
    for d in ("0.25", "0.1"):
        for kind in ("uniform", "learned"):
            claim = f"rho {d}, {kind} P_B: TB below DB"
            pairs.append((claim, f"delta {d}, TB, {kind}", f"delta {d}, DB, {kind}"))
        for loss in ("TB", "DB"):
            claim = f"rho {d}, {loss}: learned below uniform P_B"
            pairs.append((claim, f"delta {d}, {loss}, learned", f"delta {d}, {loss}, uniform"))
    for kind in ("uniform", "learned"):
        for loss in ("TB", "DB"):
            claim = f"{loss}, {kind} P_B: rho 0.25 below rho 0.1"
            pairs.append((claim, f"delta 0.25, {loss}, {kind}", f"delta 0.1, {loss}, {kind}"))
    for claim, below, above in pairs:
        sides = [final(runs, name, "jsd_clipped") for name in (below, above)]
        if not all(sides):
            continue
        metric = "JSD"
        if max(map(mean, sides)) < floor:
            sides, metric = [final(runs, name, "jsd_exact") for name in (below, above)], "exact JSD"
        yield line(claim, f"{metric} {mean(sides[0]):.1e} against {mean(sides[1]):.1e}", compared(*sides))


# ------------------------------------------------------------------ the other experiments
BLACK_BOX = [
    f"{policy} {loss}"
    for policy in ("off-policy", "on-policy")
    for loss in ("TB", "reverse KL", "forward KL")
]


def control() -> Iterator[str]:
    """Off-policy trajectory balance is the best of the black-box rows."""
    runs = list(read("control").values())
    for target in ("nine Gaussians", "funnel"):
        found = {
            method: [abs(r["B"]) for r in runs if (r["target"], r["method"]) == (target, method) and "B" in r]
            for method in BLACK_BOX
        }
        found = {method: values for method, values in found.items() if values}
        if BLACK_BOX[0] not in found or len(found) == 1:
            continue
        rival = min((m for m in found if m != BLACK_BOX[0]), key=lambda m: mean(found[m]))
        ours = f"B {mean(found[BLACK_BOX[0]]):.3f} against {mean(found[rival]):.3f} ({rival})"
        verdict = compared(found[BLACK_BOX[0]], found[rival])
        yield line(f"{target}: off-policy TB best of the black-box rows", ours, verdict)


def structure() -> Iterator[str]:
    """The flow below DiBS."""
    flow, particles = (list(read(name).values()) for name in ("structure", "structure_dibs"))
    for nodes in (3, 4, 5):
        sides = [[r["edges_rmse"] for r in runs if r["nodes"] == nodes] for runs in (flow, particles)]
        if all(sides):
            ours = f"RMSE {mean(sides[0]):.1e} against {mean(sides[1]):.1e}"
            yield line(f"d = {nodes}, edges: the flow below DiBS", ours, compared(*sides))


def digits() -> Iterator[str]:
    """A learned p_B pays."""
    runs = list(read("digits").values())

    def of(method: str, key: str) -> list[float]:
        return [run[key] for run in runs if run.get("method") == method]

    rows = (
        ("NLL: MLE-GFN below DDPM", "DDPM, simple", "test_bound", "bits a pixel"),
        ("NLL: learned below fixed P_B, all else equal", "p_B fixed", "test_bound", "bits a pixel"),
        ("FID: MLE-GFN below DDPM", "DDPM, simple", "frechet", "Fréchet distance"),
    )
    for claim, rival, key, unit in rows:
        sides = of("MLE-GFN", key), of(rival, key)
        if all(sides):
            ours = f"{unit} {mean(sides[0]):.3f} against {mean(sides[1]):.3f}"
            yield line(f"digits, {claim}", ours, compared(*sides))


def variational() -> Iterator[str]:
    """Off-policy trajectories help trajectory balance, and not the others."""
    runs: list[dict[str, Any]] = list(read("vi").values())
    for name in dict.fromkeys(run["algorithm"] for run in runs if "algorithm" in run):
        helps = name == "TB"
        policies = ("off-policy", "on-policy") if helps else ("on-policy", "off-policy")
        sides = [
            [r["tv"] for r in runs if (r.get("algorithm"), r.get("policy")) == (name, policy)]
            for policy in policies
        ]
        ours = f"total variation {mean(sides[0]):.4f} {policies[0]}, {mean(sides[1]):.4f} {policies[1]}"
        claim = "better" if helps else "worse"
        yield line(f"hypergrid, {name}: {claim} off-policy", ours, compared(*sides))


def table() -> str:
    """All claims, in Markdown."""
    head = "| claim | ours | |\n|---|---|---|\n"
    return head + "".join(row for part in (box, control, structure, digits, variational) for row in part())


if __name__ == "__main__":
    BLOCK.write(table())
