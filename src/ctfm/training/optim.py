"""Optimisers, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Any

import torch

from ctfm.errors import UserError, nearest

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def optimizer(
    module: torch.nn.Module, kind: str, lr: float, weight_decay: float, decay_all: bool = True
) -> torch.optim.Optimizer:
    """Make an optimiser over the parameters that need gradients.

    Args:
        module: the network with its heads.
        kind: ``adamw``, or ``adam`` (whose decay is an L2 term of the gradient).
        lr: peak learning rate.
        weight_decay: weight decay.
        decay_all: all parameters decay, as published; else biases and scales of norms, which are vectors, don't.

    Raises:
        UserError: unknown kind.
    """
    if kind not in OPTIMIZERS:
        raise UserError(f"no optimizer '{kind}'{nearest(kind, OPTIMIZERS)}")
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if not decay_all:
        vectors = [parameter for parameter in parameters if parameter.ndim < 2]
        matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return OPTIMIZERS[kind](groups, lr=lr, weight_decay=weight_decay)  # type: ignore[call-arg]


def warmup_cosine(step: int, warmup: float, total: int, start: float = 0.0, end: float = 0.0) -> float:
    """Return the factor on the peak learning rate at a step (counted from 0).

    It rises linearly from ``start`` to 1 over ``warmup`` steps, then falls as half a cosine to ``end``.
    The first step is above ``start``: the published schedule spent its whole first epoch at zero.
    """
    if step < warmup:
        return start + (1 - start) * min(1.0, (step + 1) / warmup)
    done = min(1.0, (step - warmup) / max(1.0, total - warmup))
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * done))


def with_schedule(
    optimizer: torch.optim.Optimizer, warmup: float, total: int, start: float = 0.0, end: float = 0.0
) -> dict[str, Any]:
    """Return what ``LightningModule.configure_optimizers`` must: the optimiser, stepped by ``warmup_cosine``."""
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total, start, end))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
