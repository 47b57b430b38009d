"""Small pictures of scans for web pages: planes, windows, mosaics, thumbnails, PNG data addresses."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from ctfm.files import atomic
from ctfm.imaging.resample import AIR_HU

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from ctfm.imaging.store import Stored
    from ctfm.imaging.volume import Volume

WINDOW_HU = (-400.0, 600.0)
GAP = 4


class Sliceable(Protocol):
    """What planes are cut from: a NumPy array or an open volume file, axes (S, P, L)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along (z, y, x)."""

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        """Return a part."""


def window(values: np.ndarray, limits: tuple[float, float] = WINDOW_HU) -> np.ndarray:
    """Map HU to grey values: ``limits`` to 0 and 255, clipped; uint8 of the same shape."""
    low, high = limits
    return np.rint(np.clip((values.astype(np.float32) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def blend(grey: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Lay colours (rows, columns, 4) in [0, 1] over grey values (rows, columns), 0 to 255, as their alpha says.

    Returns:
        (rows, columns, 3) in [0, 1].
    """
    alpha = colours[..., 3:]
    return grey[..., None] / 255 * (1 - alpha) + colours[..., :3] * alpha


def planes(volume: Sliceable, at: tuple[int, int, int] | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut the axial, coronal and sagittal plane through a voxel, as they are shown by custom.

    Axial: front up, the patient's right on the left. Coronal: head up, the patient's right on the left.
    Sagittal: head up, front on the left.

    Args:
        volume: axes (S, P, L): an array, or ``Stored.handle``, of which only the planes are read.
        at: voxel (z, y, x); by default the middle.

    Returns:
        Three two-dimensional arrays, in the spacing of the volume.
    """
    z, y, x = at or tuple(n // 2 for n in volume.shape)
    whole = slice(None)
    axial = np.asarray(volume[slice(z, z + 1), whole, whole])[0]
    coronal = np.asarray(volume[whole, slice(y, y + 1), whole])[::-1, 0]
    sagittal = np.asarray(volume[whole, whole, slice(x, x + 1)])[::-1, :, 0]
    return axial, coronal, sagittal


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Scale a uint8 picture (rows, columns[, 3]) to ``shape`` (rows, columns), smoothly."""
    return np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BILINEAR))


def mosaic(
    volume: Volume | Stored,
    at: tuple[int, int, int] | None = None,
    limits: tuple[float, float] = WINDOW_HU,
    height: int = 192,
) -> np.ndarray:
    """Return axial, coronal and sagittal plane side by side, in true proportions and at one scale.

    Args:
        volume: axes (S, P, L); of a stored volume only the planes are read.
        at: voxel (z, y, x) that the planes pass through; by default the middle.
        limits: HU shown black and white.
        height: rows of the picture; the tallest plane fills them.

    Returns:
        uint8 (height, columns).
    """
    dz, dy, dx = (float(v) for v in np.linalg.norm(volume.affine[:3, :3], axis=0))
    cut = planes(volume.handle if hasattr(volume, "handle") else volume.array, at)
    sizes = [
        (plane.shape[0] * row, plane.shape[1] * column)
        for plane, (row, column) in zip(cut, ((dy, dx), (dz, dx), (dz, dy)), strict=True)
    ]
    scale = height / max(rows for rows, _ in sizes)
    tiles = []
    for plane, (rows, columns) in zip(cut, sizes, strict=True):
        shape = max(1, round(rows * scale)), max(1, round(columns * scale))
        above = (height - shape[0]) // 2
        tile = np.pad(resize(window(plane, limits), shape), ((above, height - shape[0] - above), (0, 0)))
        tiles += [tile, np.full((height, GAP), 255, np.uint8)]
    return np.concatenate(tiles[:-1], axis=1)


def thumbnail(values: np.ndarray, edge: int = 128) -> np.ndarray:
    """Make a small uint8 picture, at most ``edge`` pixels a side, of any two-dimensional values.

    The window is that of the values themselves (2nd to 98th percentile), as the units are unknown.
    """
    finite = np.nan_to_num(values.astype(np.float32), nan=AIR_HU)
    low, high = np.percentile(finite, [2, 98])
    scale = min(1.0, edge / max(values.shape))
    shape = (max(1, round(values.shape[0] * scale)), max(1, round(values.shape[1] * scale)))
    return resize(window(finite, (low, max(high, low + 1))), shape)


def png(image: np.ndarray) -> bytes:
    """Encode a uint8 picture (rows, columns) or (rows, columns, 3)."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def write_png(image: np.ndarray, path: Path | str) -> None:
    """Write a uint8 picture atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(png(image))


def data_uri(content: bytes) -> str:
    """Return PNG bytes as an address that a web page can hold in itself."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def figure_uri(figure: Figure, dpi: int = 100) -> str:
    """Return a matplotlib figure as an address that a web page can hold in itself."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    return data_uri(stream.getvalue())
