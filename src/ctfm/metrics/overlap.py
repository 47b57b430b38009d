"""Dice of all labels of a case from one joint histogram, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

CHUNK_VOXELS = 1 << 17  # so that a chunk and its counts stay in the processor's cache
MISSED, EXTRA, ABSENT = "missed", "absent from the truth", "absent from both"


def joint_histogram(truth: np.ndarray, prediction: np.ndarray, ids: int = 256) -> np.ndarray:
    """Count how often each pair of ids meets.

    Args:
        truth: label ids below ``ids``, of any integer type and any shape.
        prediction: label ids, of the same shape.
        ids: number of ids.

    Returns:
        (ids, ids) int64: voxels of true id i that were given id j.

    Raises:
        ValueError: the shapes differ, or a value is no id.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"shapes differ: the truth has {truth.shape} voxels, the prediction {prediction.shape}")
    counts = np.zeros(ids * ids, np.int64)
    if not truth.size:
        return counts.reshape(ids, ids)
    _check_ids(truth, ids, "truth")
    _check_ids(prediction, ids, "prediction")
    chunks = np.nditer(
        [truth, prediction],
        flags=["external_loop", "buffered"],
        op_dtypes=[np.intp, np.intp],
        casting="same_kind",
        buffersize=CHUNK_VOXELS,
    )
    for true, given in chunks:
        counts += np.bincount(true * ids + given, minlength=ids * ids)
    return counts.reshape(ids, ids)


def rows(counts: np.ndarray, ids: Mapping[str, int], groups: Mapping[str, str], voxel_ml: float) -> list[dict]:
    """Return the overlap metrics of one case.

    ``dice``: as published: NaN, which counts nowhere, for a label that the truth lacks.
    ``dice_strict``: the same, but 0 for a label that was predicted though the truth lacks it.
    ``false_positive_ml``: of each label that the truth lacks, the volume predicted, 0 included.
    ``micro_dice``: of all labels pooled (label and group ``all``); NaN if none is anywhere.
    A label that the truth has and the prediction lacks has a Dice of 0 and the note ``missed``.

    Args:
        counts: the joint histogram of the case.
        ids: the labels to measure: name to id.
        groups: name to group; a label without one is of the group ``other``.
        voxel_ml: volume of a voxel, ml.

    Returns:
        Rows with label, group, metric, value and note.
    """
    found: list[dict[str, Any]] = []
    true, given = counts.sum(axis=1), counts.sum(axis=0)
    for name, i in ids.items():
        dice = strict = _ratio(2 * counts[i, i], true[i] + given[i])
        note = "" if given[i] else MISSED
        if not true[i]:
            dice, note = float("nan"), EXTRA if given[i] else ABSENT
        values = {"dice": dice, "dice_strict": strict}
        if not true[i]:
            values["false_positive_ml"] = float(given[i]) * voxel_ml
        place = {"label": name, "group": groups.get(name, "other")}
        found += [{**place, "metric": metric, "value": value, "note": note} for metric, value in values.items()]
    chosen = list(ids.values())
    total = true[chosen].sum() + given[chosen].sum()
    micro = {"metric": "micro_dice", "value": _ratio(2 * counts[chosen, chosen].sum(), total)}
    return [*found, {"label": "all", "group": "all", **micro, "note": "" if total else ABSENT}]


def unknown(counts: np.ndarray, ids: Iterable[int]) -> list[int]:
    """Return the ids that occur in either map but are neither background nor among ``ids``."""
    seen = np.flatnonzero(counts.any(axis=0) | counts.any(axis=1))
    return sorted(set(seen.tolist()) - {0, *ids})


def macro(table: list[dict], metric: str = "dice") -> float:
    """Return the mean over labels of the mean over cases, NaN left out; NaN when nothing was measured."""
    by_label: dict[str, list[float]] = {}
    for row in table:
        if row["metric"] == metric and not np.isnan(row["value"]):
            by_label.setdefault(row["label"], []).append(row["value"])
    return float(np.mean([np.mean(values) for values in by_label.values()])) if by_label else float("nan")


def _check_ids(array: np.ndarray, ids: int, what: str) -> None:
    if array.dtype.kind not in "biu":
        raise ValueError(f"the {what} holds {array.dtype} values; label ids must be integers")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= ids:
        raise ValueError(f"the {what} holds values from {low} to {high}; label ids are 0 to {ids - 1}")


def _ratio(part: np.integer, whole: np.integer) -> float:
    return float(part) / float(whole) if whole else float("nan")
