"""Thirteen targets of different kinds by ``fit`` with default settings, and five made to defeat it.

Claims, three seeds, CPU seconds of one thread:
- on each of thirteen targets |error of log Z| <= 0.05, ESS >= 0.3, and all modes, in at most 120 CPU
  seconds (many-well 32 and the hard funnel: 300);
- no silent error: |error| <= 4 standard errors, or a warning, on every run;
- that too on what is made to defeat it: needles, Cauchy tails and a density without integral.

A target is given as a density alone (and its score if it has one): exact samples and log Z stay hidden.
CPU seconds and calls are those of ``fit``; evidence, ESS and modes are from 20,000 draws afterwards.

    python benchmarks/panel.py                       # reference values and the runs that are missing
    python benchmarks/panel.py --only "hard funnel" --seeds 0
    python benchmarks/panel.py --report              # table, results/panel.json and figures/panel.png
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from counting import counted
from panel_targets import DEFEATING, LONG, PANEL
from provenance import provenance

import ctsgfn
from ctsgfn.errors import CtsgfnError

DRAWS, SEEDS = 20_000, (0, 1, 2)
ERROR, ESS, STDERRS = 0.05, 0.3, 4.0
ROUNDING = 1e-3
"""Errors of log Z below this are taken for float32 rounding, whatever the standard error."""

HERE = Path(__file__).parent
OUT, FIGURE = HERE / "results" / "panel", HERE.parent / "figures" / "panel.png"
ENTRIES = PANEL | DEFEATING


def path_of(out: Path, name: str, seed: int) -> Path:
    """Where a run is saved."""
    return out / f"{name.replace(' ', '_')}_seed{seed}.json"


def exact_log_z(target: Any, name: str, out: Path) -> tuple[float, float]:
    """Log Z and its error: in closed form, or from the long run that was saved."""
    if name not in LONG:
        return float(target.log_z), 0.0
    log_z, error = json.loads((out / "reference.json").read_text())[name]
    return log_z, error


def long_runs(out: Path) -> None:
    """Compute what has no closed form, once."""
    path = out / "reference.json"
    if not path.exists():
        record: dict[str, Any] = {name: run() for name, run in LONG.items()}
        path.write_text(json.dumps(record | provenance(), indent=1) + "\n")


def one_run(name: str, seed: int, out: Path) -> None:
    """Fit once, judge and save."""
    entry = ENTRIES[name]
    exact = entry.make()
    target, log_z = counted(exact), exact_log_z(exact, name, out)
    row: dict[str, Any] = {"target": name, "dim": target.measure.dim, "seed": seed, "log_z": log_z[0]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.process_time()
        try:
            sampler = ctsgfn.fit(target, seed=seed, progress_bar=False)
        except CtsgfnError as refusal:
            row |= {"refused": str(refusal)}
        row |= {
            "cpu_seconds": round(time.process_time() - start, 2),
            "density_calls": target.density_calls,
            "gradient_calls": target.gradient_calls,
        }
        if "refused" not in row:
            row |= judged(sampler, entry.modes, log_z, seed)
    row["warned"] = [str(w.message) for w in caught]
    row["silent_error"] = silent(row)
    row["short_of_claim"] = short(row)
    path_of(out, name, seed).write_text(json.dumps(finite(row) | provenance(), indent=1) + "\n")


def judged(sampler: Any, modes: Any, log_z: tuple[float, float], seed: int) -> dict[str, Any]:
    """What the sampler says of log Z, and what it found."""
    evidence = sampler.evidence(DRAWS, seed=100 + seed)
    found = None if modes is None else modes(sampler.sample(DRAWS, seed=200 + seed))
    return {
        "error": evidence.log_z - log_z[0],
        "stderr": math.hypot(evidence.stderr, log_z[1]),
        "gap": log_z[0] - evidence.lower_bound,
        "ess": evidence.ess,
        "pareto_k": evidence.pareto_k,
        "modes": found,
        "notes": list(sampler.notes),
    }


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None for infinite numbers, which JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def silent(row: dict[str, Any]) -> bool:
    """Whether log Z is farther off than its error says, with no warning."""
    if row["warned"] or "refused" in row:
        return False
    return not abs(row["error"]) <= max(STDERRS * row["stderr"], ROUNDING)


def short(row: dict[str, Any]) -> list[str]:
    """What a run of the panel does not meet; a target made to defeat it must not be silently wrong."""
    if row["target"] in DEFEATING:
        return ["silent error"] if silent(row) else []
    if "refused" in row:
        return ["refused"]
    failed = [] if abs(row["error"]) <= ERROR else ["log Z"]
    failed += [] if row["ess"] >= ESS else ["ESS"]
    failed += [] if row["modes"] is None or row["modes"][0] == row["modes"][1] else ["modes"]
    return failed + ([] if row["cpu_seconds"] <= ENTRIES[row["target"]].seconds else ["CPU seconds"])


def results(out: Path) -> list[dict[str, Any]]:
    """Every run that was made, in the order of the panel."""
    paths = [path_of(out, name, seed) for name in ENTRIES for seed in SEEDS]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def show(row: dict[str, Any]) -> None:
    """Print one run."""
    said = "; ".join(
        [
            *(f"short: {what}" for what in row["short_of_claim"]),
            *(["warned"] if row["warned"] else []),
            *(["refused"] if "refused" in row else []),
        ]
    )
    head = f"{row['target']:16} {row['seed']:4d} {row['cpu_seconds']:6.1f} {row['density_calls'] / 1e6:7.2f}"
    if "ess" in row:
        error = math.inf if row["error"] is None else row["error"]
        modes = "-" if row["modes"] is None else "{}/{}".format(*row["modes"])
        k = -math.inf if row["pareto_k"] is None else row["pareto_k"]
        head += f" {error:+8.4f} +- {row['stderr']:.4f} {row['ess']:6.3f} {k:6.2f} {modes:>6}"
    print(f"{head}  {said}", flush=True)


def report(rows: list[dict[str, Any]], out: Path) -> None:
    """Print the table; merge the runs into one file that says what is missing and what fell short."""
    print(f"{'target':16} seed  CPU s M calls    error of log Z        ESS      k  modes")
    for row in rows:
        show(row)
    made = {(row["target"], row["seed"]) for row in rows}
    runs = [
        {key: value for key, value in row.items() if key not in ("date", "machine", "versions")}
        for row in rows
    ]
    panel = [row for row in runs if row["target"] in PANEL]
    record = {
        "claim": f"|error| <= {ERROR}, ESS >= {ESS}, all modes, in 120 (300) CPU seconds; no silent error",
        "missing": [f"{n}, seed {s}" for n in ENTRIES for s in SEEDS if (n, s) not in made],
        "met": sum(not row["short_of_claim"] for row in panel),
        "of": len(panel),
        "defeating": list(DEFEATING),
        "silent_errors": [f"{r['target']}, seed {r['seed']}" for r in runs if r["silent_error"]],
        "runs": runs,
        **provenance(),
    }
    out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Error and ESS against CPU seconds, with the lines of the claim."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharex=True, layout="constrained")
    colours = plt.get_cmap("tab20")(range(len(PANEL)))
    for (name, entry), colour in zip(PANEL.items(), colours, strict=True):
        some = [row for row in rows if row["target"] == name and "ess" in row]
        mark = {"color": colour, "marker": "o" if entry.seconds <= 120 else "^", "s": 36, "label": name}
        seconds = [row["cpu_seconds"] for row in some]
        axes[0].scatter(seconds, [max(abs(row["error"]), 1e-5) for row in some], **mark)
        axes[1].scatter(seconds, [row["ess"] for row in some], **mark)
    axes[0].axhline(ERROR, color="black", linestyle=":")
    axes[1].axhline(ESS, color="black", linestyle=":")
    for axis in axes:
        axis.axvline(120, color="grey", linestyle=":")
        axis.axvline(300, color="grey", linestyle="--")
        axis.set(xscale="log", xlabel="CPU seconds of fit, one thread")
    axes[0].set(yscale="log", ylabel="|error of log Z| (20,000 draws)", title="pass: below the dotted line")
    axes[1].set(ylim=(0, 1.02), ylabel="ESS", title="pass: above; left of 120 s (triangles: 300 s)")
    axes[1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Make the runs that are missing, each in a process of its own; then the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=ENTRIES, default=list(ENTRIES))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=OUT, help="where runs go")
    parser.add_argument("--here", action="store_true", help="in this process")
    parser.add_argument("--report", action="store_true", help="no new runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = [(n, s) for s in options.seeds for n in options.only if not path_of(options.out, n, s).exists()]
    if options.here:
        for name, seed in wanted:
            one_run(name, seed, options.out)
        return
    if not options.report:
        long_runs(options.out)
        for name, seed in wanted:
            own = ["--here", "--only", name, "--seeds", str(seed), "--out", str(options.out)]
            subprocess.run([sys.executable, __file__, *own], check=True)
            show(json.loads(path_of(options.out, name, seed).read_text()))
    rows = results(options.out)
    report(rows, options.out)
    draw(rows, FIGURE if options.out == OUT else options.out / "panel.png")


if __name__ == "__main__":
    main()
