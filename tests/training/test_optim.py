from __future__ import annotations

import pytest
import torch
from monai.optimizers import WarmupCosineSchedule

from ctfm.errors import UserError
from ctfm.training import optim


def test_the_schedule_is_monais_after_the_warm_up():
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = WarmupCosineSchedule(torch.optim.SGD([parameter], lr=1.0), warmup_steps=10, t_total=100)
    for step in range(10, 100):
        assert optim.warmup_cosine(step, 10, 100) == pytest.approx(theirs.lr_lambda(step), abs=1e-12)


def test_the_warm_up_rises_from_above_zero_to_one():
    rise = [optim.warmup_cosine(step, 10, 100) for step in range(10)]
    assert rise == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert optim.warmup_cosine(0, 0, 100) == 1.0
    assert optim.warmup_cosine(0, 10, 100, start=0.5) == pytest.approx(0.55)
    assert 0 < optim.warmup_cosine(99, 10, 100) < 1e-3
    assert optim.warmup_cosine(100, 10, 100, end=0.1) == pytest.approx(0.1)
    assert 0 < optim.warmup_cosine(0, 2.5, 10) < optim.warmup_cosine(1, 2.5, 10) < optim.warmup_cosine(2, 2.5, 10) == 1


def test_optimisers_take_what_needs_gradients():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    module[0].requires_grad_(False)
    made = optim.optimizer(module, "adamw", 1e-3, 1e-2)
    assert isinstance(made, torch.optim.AdamW) and len(made.param_groups[0]["params"]) == 2
    assert (made.param_groups[0]["lr"], made.param_groups[0]["weight_decay"]) == (1e-3, 1e-2)
    assert type(optim.optimizer(module, "adam", 1e-3, 0)) is torch.optim.Adam
    with pytest.raises(UserError, match="did you mean 'adamw'"):
        optim.optimizer(module, "adamww", 1e-3, 0)


def test_the_rate_changes_with_every_step():
    made = optim.with_schedule(optim.optimizer(torch.nn.Linear(1, 1), "adamw", 2.0, 0.0), 2, 6)
    rates = []
    for _ in range(6):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert made["lr_scheduler"]["interval"] == "step"
    assert rates == pytest.approx([2 * optim.warmup_cosine(step, 2, 6) for step in range(6)])
