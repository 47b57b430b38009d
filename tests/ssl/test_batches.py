"""Objectives over several processes give the loss and the gradient of one process with the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT

CODE = """
import json, sys
import torch
from torch import distributed, nn
from ctfm import plugins
from ctfm.training import seeds
name, sampling, rank, world, store = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
plugin = plugins.get("ssl", name)
options = {"simclr": {}, "simsiam": {"projection": 12, "prediction": 6}, "vicreg": {"expander": 12}}[name]
with seeds.seeded(0):
    net = nn.Linear(6, 5).double()
    method = plugin.Method(plugin.Settings(sampling=sampling, **options), 5).double().eval()  # BatchNorm as constants
views = torch.rand(int(sys.argv[6]), 3, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
mine = views.tensor_split(world)[rank][..., None, None, None]
loss, _ = method.loss(lambda x: [net(x[:, :, 0, 0, 0])[:, :, None, None, None]], mine)
loss.backward()
gradients = [p.grad for p in (*net.parameters(), *method.parameters())]
gradient = torch.cat([g.flatten() for g in gradients])
distributed.all_reduce(gradient)  # the mean, as DDP
value = loss.detach().clone()
distributed.all_reduce(value)
if rank == 0:
    print(json.dumps([float(value) / world, (gradient / world).tolist()]))
distributed.barrier()
distributed.destroy_process_group()
"""


def run(folder, name: str, sampling: str, world: int, scans: int = 4) -> tuple[float, torch.Tensor]:
    store = folder / f"store-{world}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, name, sampling, str(rank), str(world), str(store), str(scans)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for rank in range(world)
    ]
    ended = [process.communicate(timeout=120) for process in started]
    assert all(process.returncode == 0 for process in started), [errors[-1500:] for _, errors in ended]
    value, gradient = json.loads(ended[0][0].splitlines()[-1])
    return value, torch.tensor(gradient)


@pytest.mark.parametrize("sampling", ["intra", "cross"])
@pytest.mark.parametrize("name", ["simclr", "simsiam", "vicreg"])
def test_two_processes_are_one_with_the_whole_batch(tmp_path, name, sampling):
    one, gradient = run(tmp_path, name, sampling, 1)
    two, other = run(tmp_path, name, sampling, 2)
    assert two == pytest.approx(one, rel=1e-12) and gradient.any()
    assert torch.allclose(gradient, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["simclr", "vicreg"])
def test_processes_with_different_numbers_of_scans_are_one_batch_too(tmp_path, name):
    one, gradient = run(tmp_path, name, "cross", 1, scans=3)
    two, other = run(tmp_path, name, "cross", 2, scans=3)
    assert two == pytest.approx(one, rel=1e-12)
    assert torch.allclose(gradient, other, rtol=1e-9, atol=1e-12)
