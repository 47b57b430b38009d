"""Several processes train as one: the same weights and rows, and they stop and go on together."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys

import pytest
import torch

from ctfm.training import checkpoints, optim, seeds
from tests.conftest import ROOT

CODE = """
import os, signal, sys
from pathlib import Path
import lightning, torch
from ctfm.training import loop, optim, seeds
folder, count, stop = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
loop.devices = lambda: count
class Line(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        with seeds.seeded(0):
            self.net = torch.nn.Linear(4, 1)
    def training_step(self, batch, batch_idx):
        if self.global_step == stop and loop.rank() == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": (self.net(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()}
    def configure_optimizers(self):
        return optim.with_schedule(optim.optimizer(self, "adamw", 1e-2, 0), 2, 8)
def loader(first_step):
    share = 4 // count
    for step in range(first_step, 8):
        x = torch.randn(4, 4, generator=seeds.torch_generator("cpu", step))
        yield {"x": x[loop.rank() * share :][:share], "names": ["a"] * share}
facts = loop.fit(Line(), loader, steps=8, steps_per_epoch=4, folder=folder, fingerprint="a", checkpoint_every=1)
assert facts["samples"] == 32
"""


def run(folder, count, stop=-1) -> int:
    script = folder.parent / "line.py"
    script.write_text(CODE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), str(folder), str(count), str(stop)]
    ended = subprocess.run(command, capture_output=True, env=environment, timeout=180)
    assert ended.returncode in (0, 128 + signal.SIGTERM), ended.stderr.decode()[-2000:]
    return ended.returncode


def result(folder):
    with (folder / "metrics.csv").open() as stream:
        losses = [float(row["loss"]) for row in csv.DictReader(stream)]
    return losses, checkpoints.read(folder / "checkpoints/last.ckpt")["state_dict"]["net.weight"]


def plain():
    """Train in one process by a plain loop; return the mean losses of both epochs and the weights."""
    with seeds.seeded(0):
        net = torch.nn.Linear(4, 1)
    made = optim.with_schedule(optim.optimizer(net, "adamw", 1e-2, 0), 2, 8)
    losses = []
    for step in range(8):
        x = torch.randn(4, 4, generator=seeds.torch_generator("cpu", step))
        loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
        made["optimizer"].zero_grad()
        loss.backward()
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
        losses.append(float(loss.detach()))
    return [sum(losses[:4]) / 4, sum(losses[4:]) / 4], net.weight.detach()


def test_two_processes_stop_together_and_end_where_one_does(tmp_path):
    assert run(tmp_path / "two", 2, stop=5) == 128 + signal.SIGTERM
    assert checkpoints.progress(tmp_path / "two/checkpoints/last.ckpt").step == 6
    assert run(tmp_path / "two", 2) == 0
    (losses, weight), (losses_two, weight_two) = plain(), result(tmp_path / "two")
    assert losses_two == pytest.approx(losses, rel=1e-6)
    assert torch.allclose(weight_two, weight, atol=1e-6)
