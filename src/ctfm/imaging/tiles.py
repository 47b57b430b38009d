"""Segmenting a whole scan by overlapping windows, in main memory that is limited whatever the scan's size.

Windows are taken layer by layer from the feet up. What no later window touches is decided and dropped, so the sums
are as high as one window. Where they would still take too much room, the scan is cut along y and x into blocks, one
after the other; windows at their borders are then computed again.

Sums are half-precision numbers, counted down in each window from the largest logit of the voxel. This shifts all
classes of a voxel alike, so it changes no decision, and it makes the rounding (1/2048) relative to how far a class
lies below the best one: finest where classes are near a tie. Every voxel is added up in one order in any block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch

Voxels = tuple[int, int, int]
Read = Callable[[Voxels, Voxels], np.ndarray]
Device = torch.device | str
Infer = Callable[[torch.Tensor], torch.Tensor]

SIGMA = 0.125  # of the window's edge, as MONAI's Gaussian importance
LEAST_WEIGHT = 1e-3
BYTES = 2  # of a sum
FINEST_CUT = 16  # voxels between places where the scan may be cut, besides the edges of windows


@dataclass(frozen=True)
class Tiling:
    """How a scan is segmented.

    Attributes:
        classes: number of classes, at most 256.
        window: voxels (z, y, x) of a window.
        overlap: share of a window that the next one covers again, 0 to below 1.
        batch: windows at once; every batch is full, the last one repeats a window if need be.
        device: where the network works. The sums are in main memory.
        memory: bytes that the sums may take, at least ``least_memory``; it changes no result.
    """

    classes: int
    window: Voxels
    overlap: float
    batch: int
    device: Device
    memory: float

    @property
    def column_bytes(self) -> int:
        """Bytes of sums at one place (y, x)."""
        return BYTES * self.classes * self.window[0]

    @property
    def least_memory(self) -> int:
        """Bytes of sums of the smallest block."""
        return self.column_bytes * FINEST_CUT**2


@dataclass(frozen=True)
class Block:
    """A part of the scan that is decided at once.

    Attributes:
        low: where it starts along (y, x).
        high: where it ends along (y, x).
        windows: where the windows that touch it start along (y, x).
    """

    low: tuple[int, int]
    high: tuple[int, int]
    windows: list[tuple[int, int]]

    @property
    def shape(self) -> tuple[int, int]:
        """Voxels along (y, x)."""
        return self.high[0] - self.low[0], self.high[1] - self.low[1]

    @property
    def inside(self) -> tuple[slice, slice]:
        """Index (y, x) of its voxels in the scan."""
        return slice(self.low[0], self.high[0]), slice(self.low[1], self.high[1])


def starts(size: int, window: int, overlap: float) -> list[int]:
    """Return where windows start along an axis so that they cover it; the last one ends at its end."""
    if size <= window:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    return [*range(0, size - window, step), size - window]


def importance(window: Voxels, device: Device = "cpu") -> torch.Tensor:
    """Return the Gaussian weight (z, y, x) of a window's voxels: about 1 in the middle, at least 0.001."""
    axes = []
    for edge in window:
        distance = torch.arange(edge, dtype=torch.float32, device=device) - (edge - 1) / 2
        axes.append(torch.exp(-(distance**2) / (2 * (SIGMA * edge) ** 2)))
    weight = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    return weight.clamp(min=LEAST_WEIGHT)


def blocks(shape: Voxels, tiling: Tiling) -> list[Block]:
    """Cut a scan, (z, y, x) voxels and at least a window, so that few windows are computed more than once."""
    (_, height, width), (_, *window) = shape, tiling.window
    room = int(tiling.memory // tiling.column_bytes)
    at = [starts(n, w, tiling.overlap) for n, w in zip((height, width), window, strict=True)]
    ways = []
    for rows in {*range(FINEST_CUT, height, FINEST_CUT), height}:
        if (columns := room // rows) >= FINEST_CUT:
            (tall, y), (wide, x) = _cut(height, window[0], at[0], rows), _cut(width, window[1], at[1], columns)
            ways.append((tall * wide, len(y) * len(x), y, x))
    _, _, y, x = min(ways)
    made = []
    for sides in product(pairwise(y), pairwise(x)):
        low, high = zip(*sides, strict=True)
        rows, columns = (_touching(*sides[axis], window[axis], at[axis]) for axis in (0, 1))
        made.append(Block(low, high, list(product(rows, columns))))
    return made


def segment(
    read: Read, shape: Voxels, infer: Infer, tiling: Tiling, watch: Callable[[list], Iterable] = iter
) -> np.ndarray:
    """Give every voxel the class with the largest Gaussian-weighted sum of logits over all windows.

    Args:
        read: gives the input box (start, size) as floats, padded where it lies outside.
        shape: voxels (z, y, x) of the scan; one smaller than the window is centred in it.
        infer: maps (n, 1, z, y, x) on the device to logits (n, classes, z, y, x).
        tiling: how it is done.
        watch: wraps the list of layers of windows, to show how far it is.

    Returns:
        (z, y, x) uint8 classes.
    """
    z, y, x = (max(n, w) for n, w in zip(shape, tiling.window, strict=True))
    padded = (z, y, x)
    margin = [(p - n) // 2 for p, n in zip(padded, shape, strict=True)]
    inside = tuple(slice(m, m + n) for m, n in zip(margin, shape, strict=True))
    take = lambda start: read(tuple(s - m for s, m in zip(start, margin, strict=True)), tiling.window)  # noqa: E731
    bottoms = starts(z, tiling.window[0], tiling.overlap)
    out, weight, sums = np.empty(padded, np.uint8), importance(tiling.window, tiling.device), torch.empty(0)
    for block, (bottom, below) in watch(list(product(blocks(padded, tiling), pairwise([*bottoms, z])))):
        if bottom == 0:
            del sums  # before the next ones are made
            sums = torch.zeros((tiling.classes, tiling.window[0], *block.shape), dtype=torch.float16)
        for first in range(0, len(block.windows), tiling.batch):
            some = block.windows[first : first + tiling.batch]
            images = _images([take((bottom, y, x)) for y, x in some], tiling)
            _add(sums, infer(images), weight, block, some)  # no name is kept: the next logits take its room
        for level in range(below - bottom):
            out[(bottom + level, *block.inside)] = sums[:, level].argmax(dim=0).numpy()
        _advance(sums, below - bottom)
    return np.ascontiguousarray(out[inside])


def _images(boxes: list[np.ndarray], tiling: Tiling) -> torch.Tensor:
    """Return a full batch (n, 1, z, y, x) of boxes on the device."""
    boxes += boxes[-1:] * (tiling.batch - len(boxes))
    return torch.from_numpy(np.stack(boxes)[:, None]).float().to(tiling.device)


def _add(
    sums: torch.Tensor, logits: torch.Tensor, weight: torch.Tensor, block: Block, places: list[tuple[int, int]]
) -> None:
    """Add those parts of windows that lie in the block, class by class: no second copy of all logits is made."""
    for place, window in zip(places, logits, strict=False):
        low = [max(b, p) for b, p in zip(block.low, place, strict=True)]
        high = [min(b, p + n) for b, p, n in zip(block.high, place, weight.shape[1:], strict=True)]
        there, here = (
            (slice(None), *(slice(a - o, b - o) for a, b, o in zip(low, high, origin, strict=True)))
            for origin in (block.low, place)
        )
        best, share = window.amax(dim=0)[here].float(), weight[here]
        for total, part in zip(sums, window, strict=True):
            total[there] += ((part[here].float() - best) * share).half().to(total.device)


def _advance(sums: torch.Tensor, done: int) -> None:
    """Drop the first ``done`` slices, in place: one slice at a time, as source and target overlap."""
    height = sums.shape[1]
    for z in range(height - done):
        sums[:, z] = sums[:, z + done]
    sums[:, max(0, height - done) :] = 0


def _touching(low: int, high: int, window: int, at: list[int]) -> list[int]:
    return [start for start in at if start < high and start + window > low]


def _cut(size: int, window: int, at: list[int], longest: int) -> tuple[int, list[int]]:
    """Cut an axis into parts of at most ``longest`` voxels; return how many windows they touch in all, and the cuts."""
    best = {0: (0, 0, [0])}
    for stop in sorted({size, *at, *(start + window for start in at), *range(0, size, FINEST_CUT)} - {0}):
        best[stop] = min(
            (windows + len(_touching(start, stop, window, at)), parts + 1, [*cuts, stop])
            for start, (windows, parts, cuts) in best.items()
            if stop - start <= longest
        )
    windows, _, cuts = best[size]
    return windows, cuts
