"""Distances in mm between the surfaces of a true and a predicted mask: ASD, ASSD, HD95 and NSD.

The surface of a mask is the set of centres of its border voxels: those that share a face with a voxel outside
the mask; beyond the array all is outside. So MONAI defines it. (The ``surface-distance`` package puts a mesh
between the voxels instead; its values differ.) Distances are exact, and spacing may differ along the axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from ctfm.metrics.overlap import MISSED

LEAF_POINTS = 32
Box = tuple[slice, ...]


class Distances(NamedTuple):
    """Distances in mm, one for each border voxel of a mask, to the nearest border voxel of the other mask.

    A mask without voxels has no border: its own distances are empty, those to it infinite.

    Attributes:
        to_truth: of the prediction's border voxels.
        to_prediction: of the truth's border voxels.
    """

    to_truth: np.ndarray
    to_prediction: np.ndarray


def border(mask: np.ndarray) -> np.ndarray:
    """Return the border voxels of a mask (z, y, x)."""
    padded = np.pad(mask, 1)
    inside, before, after = slice(1, -1), slice(None, -2), slice(2, None)
    core = mask.copy()
    for axis in range(mask.ndim):
        for side in (before, after):
            core &= padded[tuple(side if a == axis else inside for a in range(mask.ndim))]
    return mask & ~core


def distances(truth: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]) -> Distances:
    """Return the distances between the surfaces of two masks.

    Args:
        truth: mask (z, y, x), bool.
        prediction: mask of the same shape.
        spacing_mm: (z, y, x), mm.

    Raises:
        ValueError: the shapes differ, a mask is not bool, or the spacing is not positive.
    """
    _check(truth, prediction, spacing_mm)
    if not truth.dtype == prediction.dtype == np.bool_:
        raise ValueError(f"masks must be bool, not {truth.dtype} and {prediction.dtype}")
    boxes = [box for box in (bounding_box(truth), bounding_box(prediction)) if box]
    if not boxes:
        return Distances(np.empty(0), np.empty(0))
    place = union(boxes)
    return _distances(truth[place], prediction[place], spacing_mm)


def asd(found: Distances) -> float:
    """Return the average distance from the prediction's surface to the truth's (as published: one-directional).

    One empty mask gives infinity, two give NaN; so in ``assd`` and ``hd95``.
    """
    return _no_surface(found) or float(found.to_truth.mean())


def assd(found: Distances) -> float:
    """Return the average over both surfaces' distances at once."""
    return _no_surface(found) or float(np.concatenate(found).mean())


def hd95(found: Distances) -> float:
    """Return the larger of both directions' 95th percentiles."""
    return _no_surface(found) or float(max(np.percentile(one, 95) for one in found))


def nsd(found: Distances, tolerance_mm: float) -> float:
    """Return the share of both surfaces that lies within the tolerance of the other (0 with one empty mask)."""
    both = np.concatenate(found)
    return float((both <= tolerance_mm).mean()) if both.size else float("nan")


def rows(
    truth: np.ndarray,
    prediction: np.ndarray,
    ids: Mapping[str, int],
    groups: Mapping[str, str],
    spacing_mm: Sequence[float],
    tolerance_mm: float,
) -> list[dict[str, Any]]:
    """Return label, group, metric, value and note of the surface metrics of each label that the truth has.

    ``missed``: 1 if the prediction lacks the label, else 0. Then ``asd`` is NaN (the published mean drops such
    cases), ``assd`` and ``hd95`` are the largest distance between two voxels of the scan, and ``nsd`` is 0:
    so predicting nothing never pays. What was predicted of labels that the truth lacks is told by ``overlap``.

    Args:
        truth: label ids (z, y, x), of any integer type.
        prediction: label ids of the same shape.
        ids: the labels to measure: name to id.
        groups: name to group; else ``other``.
        spacing_mm: (z, y, x), mm.
        tolerance_mm: of ``nsd``, mm.

    Raises:
        ValueError: the shapes differ, or the spacing is not positive.
    """
    _check(truth, prediction, spacing_mm)
    highest = max(ids.values(), default=1)
    places = [ndimage.find_objects(array, highest) for array in (truth, prediction)]
    worst = float(np.linalg.norm((np.array(truth.shape) - 1) * spacing_mm))
    found = []
    for name, i in ((name, i) for name, i in ids.items() if places[0][i - 1]):
        place = union([boxes[i - 1] for boxes in places if boxes[i - 1]])
        values = _values(_distances(truth[place] == i, prediction[place] == i, spacing_mm), tolerance_mm, worst)
        of_label = {"label": name, "group": groups.get(name, "other")}
        found += [{**of_label, "metric": metric, "value": v, "note": note} for metric, (v, note) in values.items()]
    return found


def _values(found: Distances, tolerance_mm: float, worst: float) -> dict[str, tuple[float, str]]:
    """Return value and note of each metric of a label that the truth has."""
    within = f"within {tolerance_mm:g} mm"
    if not found.to_truth.size:
        penalty = (worst, f"{MISSED}: the largest distance in the scan")
        nothing = {"asd": (float("nan"), f"{MISSED}: not defined"), "assd": penalty, "hd95": penalty}
        return {**nothing, "nsd": (0.0, f"{MISSED}; {within}"), "missed": (1.0, MISSED)}
    symmetric = {"assd": (assd(found), ""), "hd95": (hd95(found), "")}
    return {"asd": (asd(found), ""), **symmetric, "nsd": (nsd(found, tolerance_mm), within), "missed": (0.0, "")}


def _distances(truth: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]) -> Distances:
    edges = border(truth), border(prediction)
    points = [np.argwhere(edge) * np.asarray(spacing_mm, float) for edge in edges]
    return Distances(
        _nearest(points[1], edges[0][edges[1]], points[0]), _nearest(points[0], edges[1][edges[0]], points[1])
    )


def _nearest(points: np.ndarray, shared: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return each point's distance to the nearest of the others; that of a ``shared`` point is zero."""
    if not len(others):
        return np.full(len(points), np.inf)
    found = np.zeros(len(points))
    if not shared.all():
        tree = KDTree(others, leafsize=LEAF_POINTS, balanced_tree=False, compact_nodes=False)
        found[~shared] = tree.query(points[~shared])[0]
    return found


def _no_surface(found: Distances) -> float:
    """Return what a mean distance is if a mask is empty: infinity, or NaN if both are; 0 if none is."""
    if found.to_truth.size and found.to_prediction.size:
        return 0.0
    return float("inf") if found.to_truth.size or found.to_prediction.size else float("nan")


def bounding_box(mask: np.ndarray) -> Box | None:
    """Return the bounding box of a mask, axis after axis in what is left; ``None`` if it is empty."""
    place: list[slice] = [slice(None)] * mask.ndim
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hit = np.flatnonzero(mask[tuple(place)].any(axis=others))
        if not hit.size:
            return None
        place[axis] = slice(int(hit[0]), int(hit[-1]) + 1)
    return tuple(place)


def union(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around all boxes."""
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def _check(truth: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]) -> None:
    if truth.shape != prediction.shape:
        raise ValueError(f"shapes differ: the truth has {truth.shape} voxels, the prediction {prediction.shape}")
    if len(spacing_mm) != truth.ndim or not all(0 < mm < np.inf for mm in spacing_mm):
        raise ValueError(f"spacing must be {truth.ndim} positive numbers of mm, not {tuple(spacing_mm)}")
