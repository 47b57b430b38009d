"""Lesions found, missed and made up, and how much of a label there is.

A lesion is a part of a mask that hangs together over faces, edges or corners of voxels (26 neighbours). The rule of
matching:

- A true lesion is *found* if at least ``overlap`` of its voxels are predicted, by whatever components; else *missed*.
- A predicted component is *false* if less than ``overlap`` of its voxels lie in true lesions, whichever.

So several predicted pieces of a lesion find it once, one piece over two lesions may find both, and a flood over the
whole organ finds all but is itself false. Nothing is weighted by size: a small lesion counts as much as a large one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from ctfm.metrics.overlap import ABSENT, EXTRA, MISSED
from ctfm.metrics.surface import bounding_box, union

NEIGHBOURS = np.ones((3, 3, 3), bool)


class Lesions(NamedTuple):
    """Numbers of true lesions that are found and missed, and of predicted components that are false."""

    found: int
    missed: int
    false: int


def match(truth: np.ndarray, prediction: np.ndarray, overlap: float) -> Lesions:
    """Match the components of two masks.

    Args:
        truth: mask (z, y, x), bool.
        prediction: mask of the same shape.
        overlap: share of a component's voxels, above 0 and up to 1.

    Raises:
        ValueError: the shapes differ, or the share is out of bounds.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"shapes differ: the truth has {truth.shape} voxels, the prediction {prediction.shape}")
    if not 0 < overlap <= 1:
        raise ValueError(f"overlap must be above 0 and up to 1, not {overlap}")
    boxes = [box for box in (bounding_box(truth), bounding_box(prediction)) if box]
    if not boxes:
        return Lesions(0, 0, 0)
    place = union(boxes)
    hit = _shares(truth[place], prediction[place]) >= overlap
    true = _shares(prediction[place], truth[place]) >= overlap
    return Lesions(int(hit.sum()), int((~hit).sum()), int((~true).sum()))


def rows(
    truth: np.ndarray,
    prediction: np.ndarray,
    ids: Mapping[str, int],
    groups: Mapping[str, str],
    voxel_ml: float,
    overlap: float,
) -> list[dict[str, Any]]:
    """Return label, group, metric, value and note of lesions and volumes of each label, in the truth or not.

    ``lesion_sensitivity`` is the share of a case's lesions that is found: NaN, which counts nowhere, without any.
    ``volume_error_ml`` is the difference of both volumes, without sign.

    Args:
        truth: label ids (z, y, x), of any integer type.
        prediction: label ids of the same shape.
        ids: the labels to measure: name to id.
        groups: name to group; else ``other``.
        voxel_ml: volume of a voxel, ml.
        overlap: as of ``match``.

    Raises:
        ValueError: as ``match`` does.
    """
    made = []
    for name, i in ids.items():
        values = _values(truth == i, prediction == i, voxel_ml, overlap)
        there, given = values["truth_ml"] > 0, values["predicted_ml"] > 0
        note = (EXTRA if given else ABSENT) if not there else "" if given else MISSED
        place = {"label": name, "group": groups.get(name, "other")}
        made += [{**place, "metric": metric, "value": float(value), "note": note} for metric, value in values.items()]
    return made


def _values(truth: np.ndarray, prediction: np.ndarray, voxel_ml: float, overlap: float) -> dict[str, float]:
    """Return the value of each metric of two masks."""
    found, missed, false = match(truth, prediction, overlap)
    true_ml, given_ml = (float(np.count_nonzero(mask)) * voxel_ml for mask in (truth, prediction))
    return {
        "lesions_found": found,
        "lesions_missed": missed,
        "lesions_false_positive": false,
        "lesion_sensitivity": found / (found + missed) if found + missed else float("nan"),
        "truth_ml": true_ml,
        "predicted_ml": given_ml,
        "volume_error_ml": abs(given_ml - true_ml),
    }


def _shares(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return, for each component of a mask, the share of its voxels that lies in the other mask."""
    parts, count = ndimage.label(mask, NEIGHBOURS)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    return np.bincount(parts[other], minlength=count + 1)[1:] / np.maximum(sizes, 1)
