"""Several processes train as one: the same weights and rows, and they stop and go on together."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from ctfm.errors import UserError
from ctfm.training import checkpoints, optim, processes, seeds
from tests.conftest import ROOT
from tests.training import corpora

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


# Pre-training as it is, in double precision.
REAL = """
import json, os, sys
from pathlib import Path
import torch
from ctfm.config import Pretrain
from ctfm.stages import pretrain
from ctfm.training import corpus, loop
from tests.training.batchnorm import use_on_a_cpu
folder, count, entry = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
torch.set_num_threads(1)
loop.devices, loop.precision = lambda: count, lambda: "64-true"
os.environ["CTFM_MACHINE"] = '{"loader_workers": 0, "tensorboard": false}'
views = pretrain.Pretraining.views

def double_views(self, batch):
    torch.set_default_dtype(torch.float32)
    seen = views(self, batch).double()
    torch.set_default_dtype(torch.float64)
    return seen

pretrain.Pretraining.views = double_views

use_on_a_cpu()
for sampling in ("intra", "cross"):
    for broken in (False, True):
        settings = Pretrain(**entry, method_options={"sampling": sampling})
        scans = corpus.read(Path(sys.argv[4]))
        if broken:
            scans.files[2] = Path("gone")
        name = f"{sampling}-{broken}"
        facts = pretrain._fit(settings, scans, folder / name, name)
        assert list(facts["skipped"]) == (["1.2"] if broken else []), facts["skipped"]
"""
ENTRY = {
    "corpus": "c",
    "encoder_options": {"init_filters": 4, "blocks_down": [1, 1, 1, 1, 1]},
    "epochs": 1,
    "steps_per_epoch": 2,
    "global_batch": 4,
    "crops_per_scan": 2,
    "patch": [8, 16, 16],
    "warmup_epochs": 0,
}


def script(folder, code, *arguments) -> int:
    path = folder / "script.py"
    path.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(path), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, env=environment, timeout=180)
    assert ended.returncode in (0, 128 + signal.SIGTERM), ended.stderr.decode()[-2000:]
    return ended.returncode


def run(folder, count, stop=-1) -> int:
    return script(folder.parent, CODE, folder, count, stop)


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


def test_pretraining_in_two_processes_is_pretraining_in_one(tmp_path):
    """The scans of a step are shared out; losses, gradients, weights and statistics are those of the whole step."""
    index = corpora.write(tmp_path / "volumes", count=5)
    for count in (1, 2):
        assert script(tmp_path, REAL, tmp_path / str(count), count, json.dumps(ENTRY), index) == 0
    for name in ("intra-False", "intra-True", "cross-False", "cross-True"):
        tables, states = [], []
        for count in (1, 2):
            with (tmp_path / str(count) / name / "metrics.csv").open() as stream:
                tables.append(next(csv.DictReader(stream)))
            states.append(checkpoints.read(tmp_path / str(count) / name / "checkpoints/last.ckpt")["state_dict"])
        assert tables[0]["skipped"] == tables[1]["skipped"] and (tables[0]["skipped"] != "0") is name.endswith("True")
        # Where processes hold different numbers of scans, what is only watched is the mean over processes.
        columns = ("loss", "grad_norm") if name == "cross-True" else ("loss", "grad_norm", "alignment")
        for column in columns:
            assert float(tables[1][column]) == pytest.approx(float(tables[0][column]), rel=1e-9), (name, column)
        assert list(states[0]) == list(states[1])
        for key, value in states[0].items():
            assert torch.allclose(value, states[1][key], rtol=1e-6, atol=1e-9), (name, key)


def test_tasks_of_srun_are_the_processes_and_a_job_of_one_task_is_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    names = {"STEP_NUM_TASKS": "4", "NTASKS": "4", "NTASKS_PER_NODE": "2", "STEP_NUM_NODES": "2", "PROCID": "3"}
    for name, value in names.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = processes.by_slurm(), processes.devices(), processes.gpus(), processes.nodes(), processes.rank()
    assert found == (True, 4, 0, 2, 3)
    assert (processes.environment().world_size(), processes.environment().global_rank()) == (4, 3)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert (processes.by_slurm(), processes.nodes(), processes.rank()) == (False, 1, 0)
    assert not processes.environment().creates_processes_externally
    # A batch script is no task of srun, though it knows the job's number of tasks.
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    assert not processes.by_slurm()


def test_a_task_that_sees_too_few_gpus_says_how_srun_must_be_started():
    processes.check_gpus(tasks=2, visible=4)
    with pytest.raises(UserError, match=r"2 tasks on a node, but each sees 1 GPU.*--gpu-bind=none"):
        processes.check_gpus(tasks=2, visible=1)
