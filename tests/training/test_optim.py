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


def test_norms_and_biases_may_be_spared_the_decay():
    net = torch.nn.Sequential(
        torch.nn.Conv3d(1, 2, 3), torch.nn.BatchNorm3d(2), torch.nn.Flatten(), torch.nn.Linear(2, 1)
    )
    decayed, spared = optim.optimizer(net, "adamw", 1e-3, 1e-2, decay_all=False).param_groups
    assert [p.ndim for p in decayed["params"]] == [5, 2] and decayed["weight_decay"] == 1e-2
    assert [p.ndim for p in spared["params"]] == [1, 1, 1, 1] and spared["weight_decay"] == 0
    before = [p.detach().clone() for p in net.parameters()]
    made = optim.optimizer(net, "adamw", 1.0, 0.5, decay_all=False)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    for old, new in zip(before, net.parameters(), strict=True):
        assert torch.allclose(new, old * (0.5 if old.ndim > 1 else 1.0))


def test_the_paper_s_rates_and_the_published_ones():
    """500 epochs of 500 steps, 10 of warm-up: ours by the step against the published schedule by the epoch."""

    def rate(step):
        return 1e-4 * optim.warmup_cosine(step, 5000, 250_000)

    assert rate(0) == pytest.approx(2e-8) and rate(249) == pytest.approx(5e-6) and rate(2499) == pytest.approx(5e-5)
    assert rate(127_500) == pytest.approx(5e-5)  # half of the way down
    assert 0 < rate(249_999) < 1e-13
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = WarmupCosineSchedule(torch.optim.SGD([parameter], lr=1.0), warmup_steps=10, t_total=500)
    assert [1e-4 * theirs.lr_lambda(epoch) for epoch in (0, 1, 10, 449)] == pytest.approx(
        [0, 1e-5, 1e-4, 2.65e-6], rel=1e-3
    )
    for epoch in (1, 5, 10, 11, 250, 449, 499):  # the published rate of an epoch is ours where that epoch begins
        published = 1e-4 * theirs.lr_lambda(epoch)
        low, high = sorted((rate(epoch * 500 - 1), rate(epoch * 500)))
        assert low * (1 - 1e-9) <= published <= high * (1 + 1e-9)


def test_the_rate_changes_with_every_step():
    made = optim.with_schedule(optim.optimizer(torch.nn.Linear(1, 1), "adamw", 2.0, 0.0), 2, 6, start=0.1, end=0.3)
    rates = []
    for _ in range(6):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert made["lr_scheduler"]["interval"] == "step"
    assert rates == pytest.approx([2 * optim.warmup_cosine(step, 2, 6, 0.1, 0.3) for step in range(6)])
