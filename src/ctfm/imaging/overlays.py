"""Colours laid over CT: planes of scans with what was found there beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ctfm.files import atomic
from ctfm.imaging.pictures import Sliceable, blend, planes, window
from ctfm.imaging.volume import Volume

INCHES = 2.4


class Shown(NamedTuple):
    """A plane: HU (rows, columns), colours (rows, columns, 4) in [0, 1] over it, distances of rows and columns, mm."""

    hu: np.ndarray
    colours: np.ndarray
    row_mm: float
    column_mm: float

    def blended(self) -> np.ndarray:
        """Return the picture (rows, columns, 3) in [0, 1]: the colours over the CT, as their alpha says."""
        return blend(window(self.hu), self.colours)


class _Places:
    """What stands for a volume whose voxels are their own places (z, y, x); no array of all of them is made."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape: tuple[int, ...] = shape

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        spans = [np.arange(n)[part] for n, part in zip(self.shape, key, strict=True)]
        return np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1)


def cut(
    volume: Volume, paint: Callable[[np.ndarray], np.ndarray], at: tuple[int, int, int] | None = None
) -> tuple[Shown, Shown, Shown]:
    """Return the axial, coronal and sagittal plane through a voxel, coloured.

    Args:
        volume: HU, axes (S, P, L).
        paint: gives the colours (..., 4) of voxels (..., 3) named by (z, y, x).
        at: voxel (z, y, x); by default the middle.
    """
    dz, dy, dx = volume.spacing
    places: Sliceable = _Places(volume.shape)
    parts = zip(planes(volume.array, at), planes(places, at), ((dy, dx), (dz, dx), (dz, dy)), strict=True)
    axial, coronal, sagittal = (Shown(hu, paint(place), *edges) for hu, place, edges in parts)
    return axial, coronal, sagittal


def draw(title: str, rows: Sequence[tuple[str, Sequence[Shown]]]) -> Figure:
    """Draw a row for each scan: its planes, and each again with the colours. No global state of matplotlib is used."""
    columns = 2 * max(len(shown) for _, shown in rows)
    figure = Figure(figsize=(INCHES * columns, INCHES * len(rows) + 0.3), layout="constrained", facecolor="white")
    for axes, (name, shown) in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for place, plane in enumerate(shown):
            bare = plane._replace(colours=np.zeros_like(plane.colours))
            for ax, one in zip(axes[2 * place : 2 * place + 2], (bare, plane), strict=True):
                ax.imshow(one.blended(), aspect=plane.row_mm / plane.column_mm, interpolation="nearest")
        for ax in axes:
            ax.set_axis_off()
        axes[0].set_title(name, fontsize=8, loc="left")
    figure.suptitle(title, fontsize=8)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a picture as PNG, atomically; the same picture, the same bytes."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})
