"""Where in a scan it looks like a query: cosine similarity of dense embeddings, its heat map, and the best matches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import ndimage

from ctfm.embedding.dense import Dense
from ctfm.embedding.read import Scan
from ctfm.options import Voxels


class Placed(Protocol):
    """What has a grid."""

    @property
    def shape(self) -> Voxels:
        """Voxels along (z, y, x)."""

    @property
    def affine(self) -> np.ndarray:
        """(4, 4), maps (z, y, x, 1) to LPS mm."""


@dataclass(frozen=True)
class Match:
    """A place that looks like the query.

    Attributes:
        patch: its place in the order of the grid.
        centre: of the patch, voxel (z, y, x) of the scan as it was prepared.
        point_mm: the same in LPS mm.
        similarity: cosine.
    """

    patch: int
    centre: tuple[float, float, float]
    point_mm: tuple[float, float, float]
    similarity: float


def cosines(query: np.ndarray, dense: Dense) -> np.ndarray:
    """Return the cosine of a query (channels,) with each patch, (patches,) float64; with a zero vector it is 0."""
    vectors = np.asarray(dense.vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(np.asarray(query, np.float64))
    return (vectors @ np.asarray(query, np.float64)) / np.where(lengths == 0, 1, lengths)


def best(similar: np.ndarray, dense: Dense, count: int = 1, apart_mm: float = 0.0) -> list[Match]:
    """Return the patches that are most similar, best first; equal ones in the order of the grid.

    Args:
        similar: (patches,) cosines.
        dense: whose patches they are.
        count: at most so many.
        apart_mm: a patch whose centre is nearer to that of a better one is left out.
    """
    centres, world = dense.centres, dense.centres_world
    chosen: list[int] = []
    for k in np.argsort(-similar, kind="stable"):
        if len(chosen) == count:
            break
        if apart_mm == 0 or all(np.linalg.norm(world[k] - world[other]) >= apart_mm for other in chosen):
            chosen.append(int(k))
    return [Match(k, tuple(centres[k]), tuple(world[k]), float(similar[k])) for k in chosen]


def heat(similar: np.ndarray, dense: Dense) -> np.ndarray:
    """Return the mean similarity of the patches that cover each voxel.

    Args:
        similar: (patches,) cosines.
        dense: whose patches they are.

    Returns:
        (z, y, x) float32 of the whole prepared volume; NaN outside of what was embedded.
    """
    scan, grid = dense.scan, dense.grid
    mean = np.asarray(similar, np.float32).reshape(grid.shape)
    for starts, edge, size in zip(grid.starts, grid.patch, scan.shape, strict=True):
        place = np.arange(size)
        covers = (place >= np.asarray(starts)[:, None]) & (place < np.asarray(starts)[:, None] + edge)
        mean = np.tensordot(
            mean, (covers / covers.sum(axis=0)).astype(np.float32), (0, 0)
        )  # the patches are a product of three axes
    whole = np.full(scan.volume.shape, np.nan, np.float32)
    whole[tuple(slice(a, b) for a, b in zip(scan.low, scan.high, strict=True))] = mean
    return whole


def on_grid_of(heat: np.ndarray, scan: Scan, reference: Placed, outside: float = np.nan) -> np.ndarray:
    """Bring a heat map onto another grid, by linear interpolation.

    Args:
        heat: (z, y, x) of the prepared volume, as ``heat`` gives it.
        scan: whose heat map it is.
        reference: the other grid: anything with ``shape`` and ``affine`` as a ``Volume`` has them, such as ``own.Own``;
            its axes may run anyhow, and need not be at right angles.
        outside: value where nothing was embedded: more than a voxel beyond the scan's box.

    Returns:
        float32 of the reference's shape (z, y, x).
    """
    box = heat[tuple(slice(a, b) for a, b in zip(scan.low, scan.high, strict=True))]
    to = np.linalg.inv(scan.volume.affine) @ reference.affine
    return ndimage.affine_transform(
        np.pad(box, 1, mode="edge"),
        to[:3, :3],
        to[:3, 3] - scan.low + 1,
        tuple(reference.shape),
        np.float32,
        order=1,
        mode="constant",
        cval=outside,
    )
