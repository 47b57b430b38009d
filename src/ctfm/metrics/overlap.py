"""Dice of all labels of a case from one joint histogram, with bounded memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

CHUNK_VOXELS = 1 << 20


def joint_histogram(truth: np.ndarray, prediction: np.ndarray, ids: int = 256) -> np.ndarray:
    """Count how often each pair of ids meets.

    Args:
        truth: label ids below ``ids``, any shape.
        prediction: label ids, of the same shape.
        ids: number of ids.

    Returns:
        (ids, ids) int64: voxels of true id i that were given id j.

    Raises:
        ValueError: the shapes differ.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"shapes differ: {truth.shape} and {prediction.shape}")
    a, b = truth.ravel(), prediction.ravel()
    counts = np.zeros(ids * ids, np.int64)
    for start in range(0, a.size, CHUNK_VOXELS):
        pair = a[start : start + CHUNK_VOXELS].astype(np.int32) * ids + b[start : start + CHUNK_VOXELS]
        counts += np.bincount(pair, minlength=ids * ids)
    return counts.reshape(ids, ids)


def rows(counts: np.ndarray, ids: Mapping[str, int], groups: Mapping[str, str], voxel_ml: float) -> list[dict]:
    """Return the overlap metrics of one case.

    ``dice``: of each label that the truth has (as published: a label absent from the truth isn't counted).
    ``dice_strict``: the same, and 0 for a label that was predicted though the truth lacks it.
    ``false_positive_ml``: the volume so predicted. ``micro_dice``: of all labels pooled (label and group ``all``).

    Args:
        counts: the joint histogram of the case.
        ids: the labels to measure: name to id.
        groups: name to group; a label without one is of the group ``other``.
        voxel_ml: volume of a voxel, ml.

    Returns:
        Rows with label, group, metric, value and note.
    """
    found: list[dict] = []
    true, given = counts.sum(axis=1), counts.sum(axis=0)
    for name, i in ids.items():
        place = {"label": name, "group": groups.get(name, "other")}
        if true[i]:
            dice = 2 * float(counts[i, i]) / float(true[i] + given[i])
            note = "" if given[i] else "missed"
            found += [place | {"metric": metric, "value": dice, "note": note} for metric in ("dice", "dice_strict")]
        elif given[i]:
            note = "absent from the truth"
            found.append(place | {"metric": "dice_strict", "value": 0.0, "note": note})
            found.append(place | {"metric": "false_positive_ml", "value": float(given[i]) * voxel_ml, "note": note})
    chosen = list(ids.values())
    total = float(true[chosen].sum() + given[chosen].sum())
    if total:
        micro = 2 * float(counts[chosen, chosen].sum()) / total
        found.append({"label": "all", "group": "all", "metric": "micro_dice", "value": micro, "note": ""})
    return found


def macro(table: list[dict], metric: str = "dice") -> float:
    """Return the mean over labels of the mean over cases; NaN when nothing was measured."""
    by_label: dict[str, list[float]] = {}
    for row in table:
        if row["metric"] == metric:
            by_label.setdefault(row["label"], []).append(row["value"])
    return float(np.mean([np.mean(values) for values in by_label.values()])) if by_label else float("nan")
