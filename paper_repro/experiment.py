"""What every experiment shares: its command line, runs that can be cut off and go on, results with origin.

An experiment is a number of independent runs with names. Each run that ends is written to
``results/<experiment>.json`` (its arrays to ``.npz``) at once, and is not made again. A run that is cut off
inside a training goes on from its last checkpoint, under ``build/paper/``. ``--quick`` makes tiny runs into
``build/paper_quick/`` and leaves the results alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ctsgfn.api import fit
from ctsgfn.balance import Balance
from ctsgfn.gflownet import GFlowNet
from ctsgfn.sampler import Sampler
from ctsgfn.seeding import seeded
from ctsgfn.target import Target
from ctsgfn.training import train

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))
from provenance import provenance  # noqa: E402

Record = dict[str, Any]
"""What a run found: numbers, lists and strings; arrays go to the .npz file."""


class Experiment:
    """The runs of one script.

    Args:
        script: the script's ``__file__``; its stem names the results.
        about: its docstring, for ``--help``.
        seeds: runs of each setting where the command line does not say.
    """

    def __init__(self, script: str, about: str | None, seeds: int) -> None:
        parser = argparse.ArgumentParser(
            description=about, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--quick", action="store_true", help="tiny runs: shows that it works, no result")
        parser.add_argument("--seeds", type=int, default=seeds, help=f"runs of each setting ({seeds})")
        parser.add_argument("--device", default="cpu", help="of the networks (cpu)")
        parser.add_argument("--minutes", type=float, help="stop after so long; the same command goes on")
        chosen = parser.parse_args()
        torch.set_num_threads(1)
        self.name, self.quick, self.device = Path(script).stem, chosen.quick, torch.device(chosen.device)
        self.seeds = range(1 if chosen.quick else chosen.seeds)
        self.out = ROOT / "build" / "paper_quick" if self.quick else Path(script).resolve().parent / "results"
        self.scratch = ROOT / "build" / "paper" / self.name
        for folder in (self.out, self.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{self.name}.json"
        fresh = self.quick or not path.exists()
        self.runs: dict[str, Record] = {} if fresh else json.loads(path.read_text())["runs"]
        stored = path.with_suffix(".npz")
        self.arrays = {} if fresh or not stored.exists() else dict(np.load(stored))
        self.carried = 0.0  # CPU seconds of a run before it was cut off
        self.over = False  # the time is
        if chosen.minutes is not None:
            signal.signal(signal.SIGALRM, self._stop)
            signal.setitimer(signal.ITIMER_REAL, 60 * chosen.minutes, 2.0)  # again: fit has stages

    def run(self, key: str, make: Callable[[], Record]) -> None:
        """Make a run, unless its result is there, and write what it found."""
        if key in self.runs:
            return
        start, self.carried = time.process_time(), 0.0
        found = make()
        arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
        self.arrays |= {f"{key}/{name}": value for name, value in arrays.items()}
        self.runs[key] = {name: _plain(value) for name, value in found.items() if name not in arrays} | {
            "cpu_seconds": round(self.carried + time.process_time() - start, 1),
            **provenance(self.device),
        }
        _replace(self.out / f"{self.name}.json", json.dumps({"runs": self.runs}, indent=1) + "\n")
        if self.arrays:
            part = self.out / f"{self.name}.tmp"
            with part.open("wb") as file:
                np.savez_compressed(file, **self.arrays)
            os.replace(part, self.out / f"{self.name}.npz")
        tqdm.write(f"{self.name}: {key}, {self.runs[key]['cpu_seconds']:.0f} CPU s", file=sys.stdout)

    def train(
        self,
        key: str,
        gfn: GFlowNet[Any],
        target: Target[Any],
        look: Callable[[int], Record],
        *,
        steps: int,
        every: int,
        batch_size: int,
        seed: int,
        **options: Any,
    ) -> list[Record]:
        """Train a flow and look at it every so many updates: the curve. Looking disturbs no draw.

        Args:
            key: the name of the run.
            gfn: the flow, on the device of the experiment.
            target: its target.
            look: called with the number of updates made.
            steps: updates.
            every: updates between looks, and between checkpoints.
            batch_size: trajectories an update.
            seed: of the training.
            options: for ``ctsgfn.training.train``.
        """
        stem = self._stem(key)
        log = stem.with_name(stem.name + ".json")
        seen = json.loads(log.read_text()) if log.exists() and not self.quick else None
        curve: dict[str, Record] = seen["curve"] if seen else {}
        before, looking, start = seen["training"] if seen else 0.0, 0.0, time.process_time()
        self.carried = seen["all"] if seen else 0.0

        def on_step(step: int, arrays: Balance) -> None:
            nonlocal looking
            done = step + 1
            if done % every and done != steps:
                return
            begun = time.process_time()
            spent = before + begun - start - looking
            with seeded(1_000_000 + done):
                found: Record = {"updates": done, "trajectories": done * batch_size, "training_cpu": spent}
                found |= look(done)
            curve[str(done)] = _plain(found)
            looking += time.process_time() - begun
            if not self.quick:
                everything = self.carried + time.process_time() - start
                _replace(log, json.dumps({"curve": curve, "training": spent, "all": everything}))

        history = train(
            gfn,
            target,
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            label=key,
            checkpoint=None if self.quick else stem.with_name(stem.name + ".pt"),
            checkpoint_every=every,
            on_step=on_step,
            **options,
        )
        if history.interrupted:
            raise KeyboardInterrupt
        return [curve[step] for step in sorted(curve, key=int)]

    def fit(
        self, key: str, target: Target[Any], *, seed: int, resumes: bool, **options: Any
    ) -> Sampler[Any, Any]:
        """``ctsgfn.fit``; a run that is cut off is none.

        Args:
            key: the name of the run.
            target: what to fit.
            seed: of the run.
            resumes: go on from checkpoints; not for targets that count their calls.
            options: for ``fit``.
        """
        stem = self._stem(key)
        checkpoint = stem.with_name(stem.name + ".pt") if resumes and not self.quick else None
        sampler = fit(
            target, seed=seed, device=self.device, progress_bar=False, checkpoint=checkpoint, **options
        )
        if self.over or (sampler.history is not None and sampler.history.interrupted):
            raise KeyboardInterrupt
        return sampler

    def _stop(self, *_: Any) -> None:
        self.over = True
        raise KeyboardInterrupt

    def _stem(self, key: str) -> Path:
        return self.scratch / re.sub(r"[^A-Za-z0-9.]+", "_", key)


def main(body: Callable[[], None]) -> None:
    """Run a script's body; Ctrl-C and ``--minutes`` end it without a traceback."""
    try:
        body()
    except KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.exit("stopped: what was finished is written, and the same command goes on from there")


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_suffix(".tmp")
    part.write_text(text)
    os.replace(part, path)


def _plain(value: Any) -> Any:
    """The same with six digits, for JSON."""
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
