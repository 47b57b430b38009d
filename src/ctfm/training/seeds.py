"""Stateless randomness: every random draw is a function of a key such as (seed, "crops", item)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Key = int | str


def number(*key: Key) -> int:
    """Return a 63-bit number that depends on every part of ``key`` and on nothing else."""
    text = json.dumps([part if isinstance(part, str) else int(part) for part in key])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*key: Key) -> np.random.Generator:
    """Return a NumPy generator of its own for ``key``."""
    return np.random.default_rng(number(*key))


def torch_generator(device: torch.device | str, *key: Key) -> torch.Generator:
    """Return a torch generator on ``device`` of its own for ``key``."""
    import torch

    return torch.Generator(device=device).manual_seed(number(*key))


@contextmanager
def seeded(*key: Key) -> Iterator[None]:
    """Seed torch's global CPU generator by ``key`` inside the block, and put it back after.

    Layers draw their initial weights from it.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number(*key))
        yield
