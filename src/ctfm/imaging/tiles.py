"""Segmenting a whole scan by overlapping windows, with memory that does not grow with its height."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch

Voxels = tuple[int, int, int]
Read = Callable[[Voxels, Voxels], np.ndarray]
Device = torch.device | str
Infer = Callable[[torch.Tensor], torch.Tensor]

SIGMA = 0.125  # of the window's edge, as MONAI's Gaussian importance
LEAST_WEIGHT = 1e-3


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


def segment(
    read: Read, shape: Voxels, infer: Infer, *, classes: int, window: Voxels, overlap: float, batch: int, device: Device
) -> np.ndarray:
    """Give every voxel the class with the largest Gaussian-weighted sum of logits over all windows.

    Sums are kept for one layer of windows only: what no later window touches is decided and dropped. They lie
    on ``device`` when its memory allows, else in main memory.

    Args:
        read: gives the input box (start, size) as floats, padded where it lies outside.
        shape: voxels (z, y, x) of the scan.
        infer: maps (n, 1, z, y, x) on ``device`` to logits (n, classes, z, y, x).
        classes: number of classes, at most 256.
        window: voxels (z, y, x) of a window; a smaller scan is centred in one.
        overlap: share of a window that the next one covers again, 0 to below 1.
        batch: windows at once, the last one repeated if need be: a lone window takes a CPU eight times as long.
        device: where ``infer`` works.

    Returns:
        (z, y, x) uint8 classes.
    """
    padded = tuple(max(w, n) for w, n in zip(window, shape, strict=True))
    margin = [(p - n) // 2 for p, n in zip(padded, shape, strict=True)]
    at = [starts(n, w, overlap) for n, w in zip(padded, window, strict=True)]
    places = [(y - margin[1], x - margin[2]) for y, x in product(at[1], at[2])]
    out = np.empty(padded, np.uint8)
    sums = _zeros((classes, window[0], *padded[1:]), torch.device(device))
    weight = importance(window, device)
    for z, below in zip(at[0], [*at[0][1:], padded[0]], strict=True):
        for y, x, logits in _layer(read, infer, z - margin[0], places, window, batch, device):
            target = sums[:, :, y + margin[1] :, x + margin[2] :][:, :, : window[1], : window[2]]
            target += (logits.float() * weight).to(sums)
        out[z:below] = sums[:, : below - z].argmax(dim=0).to(torch.uint8).cpu().numpy()
        _advance(sums, below - z)
    inside = tuple(slice(m, m + n) for m, n in zip(margin, shape, strict=True))
    return np.ascontiguousarray(out[inside])


def _layer(
    read: Read,
    infer: Infer,
    z: int,
    places: list[tuple[int, int]],
    window: Voxels,
    batch: int,
    device: Device,
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield (y, x, logits) of the windows that start at height ``z``; every batch is full."""
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        boxes = [read((z, y, x), window) for y, x in some]
        boxes += boxes[-1:] * (batch - len(boxes))
        images = torch.from_numpy(np.stack(boxes)[:, None]).float().to(device)
        for (y, x), logits in zip(some, infer(images), strict=False):
            yield y, x, logits


def _advance(sums: torch.Tensor, done: int) -> None:
    """Drop the first ``done`` slices, in place: one slice at a time, as source and target overlap."""
    height = sums.shape[1]
    for z in range(height - done):
        sums[:, z] = sums[:, z + done]
    sums[:, max(0, height - done) :] = 0


def _zeros(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return single-precision zeros on the device if they fit in half of its free memory, else in main memory."""
    need = 4 * int(np.prod(shape))
    if device.type == "cuda" and need > torch.cuda.mem_get_info(device)[0] // 2:
        return torch.zeros(shape)
    return torch.zeros(shape, device=device)
