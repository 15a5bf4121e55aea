"""A fit that is killed at random times, and run again each time, ends where an undisturbed one ends."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys

import torch

import ctsgfn
from ctsgfn.targets import Banana

torch.set_num_threads(1)
checkpoint = None if sys.argv[2] == "none" else sys.argv[2]
options = {"steps": 1500, "batch_size": 64, "kernel": "autoregressive", "progress_bar": False}
sampler = ctsgfn.fit(Banana(), seed=3, checkpoint=checkpoint, **options)
part = sampler.gfn.state_dict()
torch.save(part | {"draws": sampler.sample(100, seed=1)}, sys.argv[1])
"""


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments])


@pytest.mark.slow
def test_killed_at_random_and_run_again(tmp_path: Path) -> None:
    """To the bit, in weights and draws; at least one of the kills hits a run that had saved something."""
    whole, ended, checkpoint = (str(tmp_path / name) for name in ("whole.pt", "ended.pt", "run.pt"))
    begin = time.monotonic()
    assert start(whole, "none").wait() == 0
    seconds, chance = time.monotonic() - begin, random.Random(0)
    resumed = 0
    for _ in range(4):
        run = start(ended, checkpoint)
        time.sleep(seconds * chance.uniform(0.3, 0.9))
        resumed += any(tmp_path.glob("run_*.pt"))
        run.kill()
        run.wait()
        Path(ended).unlink(missing_ok=True)
    assert start(ended, checkpoint).wait() == 0
    assert resumed > 0
    expected, found = torch.load(whole), torch.load(ended)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key
