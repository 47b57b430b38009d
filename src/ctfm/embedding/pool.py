"""From feature maps to one vector: over the map of a patch, over the patches of a scan, over the voxels of an organ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

OVER_MAP: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "avg": lambda maps: maps.mean((2, 3, 4)),
    "max": lambda maps: maps.amax((2, 3, 4)),
    "min": lambda maps: maps.amin((2, 3, 4)),
}
OVER_PATCHES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda vectors: vectors.mean(axis=0, dtype=np.float64).astype(np.float32),
    "max": lambda vectors: vectors.max(axis=0),
    "min": lambda vectors: vectors.min(axis=0),
}
IDS = 256


class Organs:
    """Mean of the feature maps over the voxels of each organ, in every patch that shows them.

    A map is coarser than its patch: each of its cells stands for an equal part of it. Organs that are smaller than a
    cell still count, by their voxels in it.
    """

    def __init__(self) -> None:
        self._sums: np.ndarray | None = None
        self._voxels = np.zeros(IDS)

    def add(self, feature: np.ndarray, ids: np.ndarray) -> None:
        """Add one patch.

        Args:
            feature: (channels, z', y', x') map of the patch.
            ids: (z, y, x) uint8 ids of its voxels; 0 is no organ.
        """
        if not ids.any():
            return
        cells = feature.reshape(len(feature), -1)
        counts = np.bincount(
            (ids.astype(np.int64) * cells.shape[1] + _cell_of(ids.shape, feature.shape[1:])).ravel(),
            minlength=IDS * cells.shape[1],
        ).reshape(IDS, -1)
        if self._sums is None:
            self._sums = np.zeros((IDS, len(feature)))
        self._sums += counts @ cells.T.astype(np.float64)
        self._voxels += counts.sum(axis=1)

    def vectors(self) -> dict[int, np.ndarray]:
        """Return {id: (channels,) float32} of the organs that were there."""
        if self._sums is None:
            return {}
        there = np.flatnonzero(self._voxels[1:]) + 1
        return {int(i): (self._sums[i] / self._voxels[i]).astype(np.float32) for i in there}


def _cell_of(voxels: tuple[int, ...], cells: tuple[int, ...]) -> np.ndarray:
    """Return (z, y, x) of which cell each voxel lies in, numbered in row-major order."""
    z, y, x = (np.arange(n) * m // n for n, m in zip(voxels, cells, strict=True))
    return (z[:, None, None] * cells[1] + y[:, None]) * cells[2] + x
