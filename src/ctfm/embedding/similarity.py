"""Where in a scan it looks like a query: cosine similarity of dense embeddings, its heat map, and the best matches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctfm.embedding.dense import Dense


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


def best(similar: np.ndarray, dense: Dense, count: int = 1) -> list[Match]:
    """Return the patches that are most similar, best first; equal ones in the order of the grid."""
    order = np.argsort(-similar, kind="stable")[:count]
    centres, world = dense.centres, dense.centres_world
    return [Match(int(k), tuple(centres[k]), tuple(world[k]), float(similar[k])) for k in order]


def heat(similar: np.ndarray, dense: Dense) -> np.ndarray:
    """Return the mean similarity of the patches that cover each voxel.

    Args:
        similar: (patches,) cosines.
        dense: whose patches they are.

    Returns:
        (z, y, x) float32 of the whole prepared volume; NaN outside of what was embedded.
    """
    total = np.zeros(dense.scan.volume.shape, np.float32)
    count = np.zeros(dense.scan.volume.shape, np.float32)
    for corner, value in zip(dense.grid.corners, similar, strict=True):
        low = np.asarray(corner) + dense.scan.low
        high = np.minimum(low + dense.grid.patch, dense.scan.high)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        total[box] += value
        count[box] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
