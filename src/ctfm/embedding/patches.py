"""A whole scan as a grid of overlapping patches: exactly the published sliding window, cut layer by layer.

The window is that of the paper's code (MONAI's SlidingWindowSplitter): patches start at multiples of
round(edge * (1 - overlap)) from the corner of the box, and the box is padded with zeros at its far end so that the
last ones are whole. Along z, y and x the patches are in row-major order, z slowest. One difference: a box that is
smaller than a patch is padded to a whole one, where MONAI would hand out a smaller patch.

Each layer of patches is read and scaled once, whatever the overlap along y and x; only it is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from ctfm.embedding import own
from ctfm.embedding.read import Scan
from ctfm.options import Voxels

Index = tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """Where the patches of a scan lie.

    Attributes:
        patch: voxels (z, y, x) of a patch.
        starts: first voxels of the patches along z, y and x, counted from the corner of the box.
    """

    patch: Voxels
    starts: tuple[list[int], list[int], list[int]]

    @property
    def shape(self) -> Voxels:
        """Patches along (z, y, x)."""
        z, y, x = map(len, self.starts)
        return z, y, x

    def __len__(self) -> int:
        """Return how many patches there are."""
        return math.prod(self.shape)

    @property
    def corners(self) -> list[Index]:
        """First voxel (z, y, x) of each patch, counted from the corner of the box; in order."""
        return list(product(*self.starts))

    def boxes_mm(self, scan: Scan) -> np.ndarray:
        """Return (patches, 6): z0, y0, x0, z1, y1, x1 in mm from the outer corner of the volume's first voxel.

        Patches at the far end reach beyond the volume where they were padded.
        """
        low = np.asarray(self.corners, float) + scan.low
        return np.hstack([low, low + self.patch]) * np.tile(scan.spacing_mm, 2)

    def centres_world(self, scan: Scan) -> np.ndarray:
        """Return (patches, 3): the centre of each patch in LPS mm."""
        index = np.asarray(self.corners, float) + scan.low + (np.asarray(self.patch) - 1) / 2
        return own.of(scan.volume).world(index)


def grid(shape: Voxels, patch: Voxels, overlap: float) -> Grid:
    """Return the patches that cover a box of ``shape`` (z, y, x) voxels.

    Args:
        shape: of the box.
        patch: voxels (z, y, x) of a patch.
        overlap: share of a patch that the next one covers again, 0 to below 1.
    """
    z, y, x = (_starts(n, p, overlap) for n, p in zip(shape, patch, strict=True))
    return Grid(patch, (z, y, x))


def batches(scan: Scan, cut: Grid, size: int, device: torch.device | str = "cpu") -> Iterator[torch.Tensor]:
    """Yield the patches in order, (n, 1, z, y, x) float32 in [0, 1] on the device; n is ``size``, or less at the end.

    Args:
        scan: what is cut.
        cut: where.
        size: patches at once.
        device: where they go; a layer of patches is copied there once.
    """
    waiting: list[torch.Tensor] = []
    for layer in _layers(scan, cut, device):
        for view in layer:
            waiting.append(view)
            if len(waiting) == size:
                yield torch.stack(waiting)[:, None]
                waiting = []
    if waiting:
        yield torch.stack(waiting)[:, None]


def labels(scan: Scan, cut: Grid) -> Iterator[np.ndarray]:
    """Yield the label ids (z, y, x) of each patch, in order."""
    yield from (scan.read_labels(corner, cut.patch) for corner in cut.corners)


def _layers(scan: Scan, cut: Grid, device: torch.device | str) -> Iterator[Iterator[torch.Tensor]]:
    (high, tall, wide), (_, ys, xs) = cut.patch, cut.starts
    size = (high, ys[-1] + tall, xs[-1] + wide)
    for z in cut.starts[0]:
        slab = torch.from_numpy(scan.read((z, 0, 0), size)).to(device)
        yield (slab[:, y : y + tall, x : x + wide] for y, x in product(ys, xs))


def _starts(size: int, patch: int, overlap: float) -> list[int]:
    step = max(1, round(patch * (1 - overlap)))
    return [step * k for k in range(max(0, math.ceil((size - patch) / step)) + 1)]
