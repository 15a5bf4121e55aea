"""A run that is killed at random, again and again, ends with the numbers of one that never was."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys, torch
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.spaces.hypergrid import hypergrid, hypergrid_kernels
from ctsgfn.target import as_target
from ctsgfn.training import train

torch.set_num_threads(1)
torch.manual_seed(0)
space = hypergrid(2, 6)
gfn = GFlowNet(space, *hypergrid_kernels(space, hidden=16))
target = as_target(lambda x: -(x - 2.0).square().sum(-1), space.points)
sizes = {"steps": 600, "batch_size": 32, "checkpoint_every": 5, "seed": 1, "progress_bar": False}
train(gfn, target, checkpoint=sys.argv[1], **sizes)
torch.save({"log_z": gfn.log_z.detach(), **gfn.state_dict()}, sys.argv[2])
"""


FIT = """
import sys

import torch

import ctsgfn
from ctsgfn.targets import Banana

torch.set_num_threads(1)
options = {"steps": 1500, "batch_size": 64, "kernel": "autoregressive", "progress_bar": False}
sampler = ctsgfn.fit(Banana(), seed=3, checkpoint=sys.argv[1], **options)
part = sampler.gfn.state_dict()
torch.save(part | {"draws": sampler.sample(100, seed=1)}, sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("script", "least"), [(SCRIPT, 3), (FIT, 1)], ids=["train", "fit"])
def test_killed_at_random_and_resumed(script: str, least: int, tmp_path: Path) -> None:
    """To the bit; a fit has fewer checkpoints, and is killed less often."""

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", script, str(tmp_path / f"{name}.ckpt"), str(tmp_path / f"{name}.pt")]
        return subprocess.Popen(command)

    def saved() -> int:
        return max((path.stat().st_mtime_ns for path in tmp_path.glob("broken*.ckpt")), default=0)

    assert start("whole").wait(timeout=300) == 0
    chance, kills = random.Random(0), 0
    for _ in range(200):
        process, before = start("broken"), saved()
        while process.poll() is None and saved() == before:
            time.sleep(0.005)  # each start gets on by one checkpoint at least
        time.sleep(chance.uniform(0.0, 0.3))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    assert process.wait(timeout=300) == 0
    assert kills >= least, "a run that was hardly killed shows nothing"
    whole, broken = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[key], broken[key]) for key in whole)
