from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch

from ctfm.training import seeds


def test_a_key_gives_the_same_draws_in_another_process():
    code = "from ctfm.training import seeds; print(seeds.number(3, 'crops', 17), seeds.generator(3, 'x').random())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert shown == [str(seeds.number(3, "crops", 17)), str(seeds.generator(3, "x").random())]


def test_every_part_of_a_key_matters():
    keys = [(0, "crops", 1), (1, "crops", 0), (0, "views", 1), (0, "crops", 1, 0), ("0", "crops", 1), (0, "crops", 11)]
    assert len({seeds.number(*key) for key in keys}) == len(keys)
    assert seeds.number(np.int64(4), "a") == seeds.number(4, "a")


def test_many_streams_are_independent_and_uniform():
    draws = np.array([seeds.generator(0, "crops", item).random() for item in range(4000)])
    assert abs(draws.mean() - 0.5) < 0.02 and abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.05


def test_torch_generator_and_the_seeded_block_leave_global_state_alone():
    before = torch.get_rng_state()
    first = torch.rand(3, generator=seeds.torch_generator("cpu", 5, "views"))
    with seeds.seeded(1, "weights"):
        inside = torch.rand(2)
    with seeds.seeded(1, "weights"):
        assert torch.equal(inside, torch.rand(2))
    assert torch.equal(first, torch.rand(3, generator=seeds.torch_generator("cpu", 5, "views")))
    assert torch.equal(before, torch.get_rng_state())
