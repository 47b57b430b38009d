"""The three planes through a point as PNG, for browsers without WebGL: CT in a window, with the heat map over it."""

from __future__ import annotations

from typing import Literal

import matplotlib
import numpy as np
from scipy.ndimage import map_coordinates

from ctfm.embedding import own
from ctfm.imaging import pictures, store
from ctfm.imaging.volume import Volume
from ctfm.options import Voxels

Plane = Literal["axial", "coronal", "sagittal"]
# Axes (of z, y, x) along rows and columns, and whether the rows run against the axis; as ``pictures.planes`` cuts them.
LAYOUT = {"axial": (1, 2, False), "coronal": (0, 2, True), "sagittal": (0, 1, True)}
COLOURS = "inferno"
LONGEST_EDGE = 640  # pixels


def draw(
    volume: store.Stored,
    plane: Plane,
    at: Voxels,
    window: tuple[float, float],
    heat: tuple[Volume, float, float, float] | None = None,
) -> bytes:
    """Return a plane as PNG in true proportions, placed as by custom (see ``pictures.planes``).

    Args:
        volume: int16 HU, axes (S, P, L).
        plane: which one.
        at: voxel (z, y, x) that it passes through.
        window: HU shown black and white.
        heat: the map, similarity from which it is shown, that of full colour, and opacity 0 to 1; its axes are
            those of the volume.
    """
    cut = pictures.planes(volume.handle, at)[list(LAYOUT).index(plane)]
    shape = size(volume, plane)
    grey, colours = pictures.resize(pictures.window(cut, window), shape), np.zeros((*shape, 4))
    if heat:
        map_, low, high, opacity = heat
        values = sampled(map_, volume, plane, at, shape)
        share = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
        colours = matplotlib.colormaps[COLOURS](share)
        colours[..., 3] = np.where(values >= low, opacity, 0)
    return pictures.png(np.rint(255 * pictures.blend(grey, colours)).astype(np.uint8))


def size(volume: store.Stored, plane: Plane) -> tuple[int, int]:
    """Return rows and columns of the picture of a plane: at least one pixel a voxel, unless that is too large."""
    row, column, _ = LAYOUT[plane]
    mm = np.multiply(volume.shape, volume.spacing)[[row, column]]
    scale = min(LONGEST_EDGE / mm.max(), 2 / min(volume.spacing))
    rows, columns = (max(1, round(float(edge * scale))) for edge in mm)
    return rows, columns


def sampled(heat: Volume, volume: store.Stored, plane: Plane, at: Voxels, shape: tuple[int, int]) -> np.ndarray:
    """Return the heat map at the pixels of a plane's picture, float32 ``shape`` (rows, columns)."""
    row, column, upward = LAYOUT[plane]
    index: list[np.ndarray] = [np.asarray(float(at[axis])) for axis in range(3)]
    down = (np.arange(shape[0]) + 0.5) / shape[0] * volume.shape[row] - 0.5
    index[row] = (down[::-1] if upward else down)[:, None]
    index[column] = ((np.arange(shape[1]) + 0.5) / shape[1] * volume.shape[column] - 0.5)[None, :]
    whole = np.stack(np.broadcast_arrays(*index), axis=-1)
    there = own.of(heat).index(own.of(volume).world(whole))
    return map_coordinates(heat.array, np.moveaxis(there, -1, 0), order=1, mode="nearest").astype(np.float32)
