"""The order that networks keep their numbers in, and the way their axes run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ctfm.spec import machine


def ordered(network: nn.Module) -> Any:
    """Return a network with its weights in the machine's memory order, which the maps then follow.

    Channels last is a third faster or more; values differ by rounding alone.
    """
    wanted = torch.channels_last_3d if machine().channels_last else torch.contiguous_format
    anything: Any = network
    return anything.to(memory_format=wanted)


def to_ras(x: torch.Tensor) -> torch.Tensor:
    """Turn (B, C, Z, Y, X) towards S, P, L into (B, C, X, Y, Z) towards R, A, S."""
    return x.transpose(2, 4).flip(2, 3)


def to_spl(x: torch.Tensor) -> torch.Tensor:
    """Turn (B, C, X, Y, Z) towards R, A, S into (B, C, Z, Y, X) towards S, P, L."""
    return x.flip(2, 3).transpose(2, 4)
