"""Which cases and which crops: subsets drawn by seed, crops whose centres are drawn evenly over labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ctfm.errors import UserError
from ctfm.training.seeds import generator

T = TypeVar("T")
CANDIDATES = 256  # voxels remembered per label and case


def few_shot(items: Sequence[T], shots: float | str, seed: int, stream: str = "few-shot") -> list[T]:
    """Draw ``shots`` items at random by seed. Subsets of one seed are nested: five are among its ten.

    Args:
        items: sorted, so that the draw depends on nothing else.
        shots: how many, ``all``, or below 1 which share of them.
        seed: of the draw.
        stream: names the purpose; other streams draw independently.

    Returns:
        The items drawn, in the order of ``items``.

    Raises:
        UserError: there are fewer than asked for.
    """
    order = generator(seed, stream).permutation(len(items))
    return [items[i] for i in sorted(order[: _size(len(items), shots)])]


def first(items: Sequence[T], shots: float | str) -> list[T]:
    """Take the first ``shots`` items, as the published few-shot runs did; see ``few_shot``."""
    return list(items[: _size(len(items), shots)])


def _size(count: int, shots: float | str) -> int:
    """Return how many items that is. A share is rounded (as published: half to even), and at least one item."""
    if shots == "all":
        return count
    share = float(shots)
    size = max(1, round(count * share)) if 0 < share < 1 else int(shots)
    if size > count:
        raise UserError(f"{size} cases are asked for and there are {count}; ask for fewer, or for all")
    return size


@dataclass(frozen=True)
class LabelIndex:
    """Where the labels of a case are: for each label, up to 256 of its voxels, drawn at random.

    Attributes:
        classes: labels present, ascending.
        voxels: for each, (n, 3) voxels (z, y, x).
    """

    classes: tuple[int, ...]
    voxels: tuple[np.ndarray, ...]


def index(labels: np.ndarray, rng: np.random.Generator) -> LabelIndex:
    """Index a (z, y, x) map of classes, 0 being background, in one pass."""
    flat = labels.ravel()
    places = np.flatnonzero(flat)
    ids = flat[places]
    places = places[np.argsort(ids, kind="stable")]  # for uint8 a radix sort
    counts = np.bincount(ids, minlength=1)
    classes = np.flatnonzero(counts)
    ends = np.cumsum(counts[classes])
    voxels = []
    for end, count in zip(ends, counts[classes], strict=True):
        chosen = rng.integers(end - count, end, CANDIDATES) if count > CANDIDATES else np.arange(end - count, end)
        voxels.append(np.stack(np.unravel_index(places[chosen], labels.shape), axis=1).astype(np.int32))
    return LabelIndex(tuple(int(c) for c in classes), tuple(voxels))


def crop_start(
    where: LabelIndex, shape: Sequence[int], patch: Sequence[int], rng: np.random.Generator
) -> tuple[int, int, int]:
    """Draw a crop: a label evenly over those present, then one of its voxels, which becomes the centre.

    The crop is moved inside the scan. Along an axis where the scan is smaller than the crop it is centred, so
    that the start is negative. A case without labels gives a crop anywhere.

    Returns:
        First voxel (z, y, x) of the crop.
    """
    if where.classes:
        voxels = where.voxels[rng.integers(len(where.classes))]
        centre = voxels[rng.integers(len(voxels))]
    else:
        centre = rng.integers(0, shape)
    start = []
    for c, n, p in zip(centre, shape, patch, strict=True):
        start.append(-((p - n) // 2) if n <= p else int(np.clip(c - p // 2, 0, n - p)))
    z, y, x = start
    return z, y, x


def epoch_order(count: int, epoch: int, seed: int) -> np.ndarray:
    """Return the order of ``count`` cases in an epoch: each once, anew in each epoch."""
    return generator(seed, "order", epoch).permutation(count)
