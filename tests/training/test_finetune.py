"""The frozen encoder and the optimiser of fine-tuning."""

from __future__ import annotations

from itertools import pairwise

import torch

from ctfm.config import Augment
from ctfm.training.finetune import FineTuning, Recipe


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.BatchNorm3d(2))
        self.head = torch.nn.Conv3d(2, 1, 1)


def made(frozen):
    return FineTuning(Net(), (1, 1, 1), Recipe(1e-3, 0.1, 2, 10, 0.1, 0.01, Augment(), 0, frozen))


def test_a_frozen_encoder_neither_learns_nor_drifts():
    for frozen in (True, False):
        module = made(frozen).train()
        assert module.net.head.training and module.net.encoder.training is not frozen
        assert all(p.requires_grad is not frozen for p in module.net.encoder.parameters())
        (group,) = module.configure_optimizers()["optimizer"].param_groups
        assert len(group["params"]) == (2 if frozen else 6)


def test_the_learning_rate_warms_up_and_decays_by_the_step():
    schedule = made(False).configure_optimizers()["lr_scheduler"]
    rates = []
    for _ in range(11):
        rates.append(schedule["scheduler"].get_last_lr()[0])
        schedule["scheduler"].optimizer.step()
        schedule["scheduler"].step()
    assert schedule["interval"] == "step" and max(rates) == 1e-3 == rates[1]
    assert rates[10] == 1e-5 and all(a > b for a, b in pairwise(rates[2:]))
