"""Measuring the segmentation of one case: the prediction beside the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ctfm import files
from ctfm.errors import Quarantine, UserError
from ctfm.imaging import store
from ctfm.imaging.labels import check_grid
from ctfm.imaging.volume import Volume, read_image
from ctfm.metrics import overlap, surface
from ctfm.tasks import CaseFile


def read_prediction(case: CaseFile, folder: Path) -> Volume:
    """Read the prediction of a case and check that it lies on the case's grid.

    Raises:
        UserError: it is missing, damaged or elsewhere.
    """
    path = files.need_file(folder / f"{case.case}.nii.gz", "predict this case first")
    try:
        found = read_image(path)
        check_grid(found, store.open_volume(case.label).load(), path.name)
    except Quarantine as reason:
        raise UserError(f"{path}: not the prediction of {case.case} ({reason}); predict it anew") from reason
    return found


Rows = list[dict[str, Any]]
# Truth, prediction (z, y, x), ids and groups by name, spacing (z, y, x): returns label, group, metric, value and note.
Measure = Callable[..., Rows]


def surfaces(tolerance_mm: float) -> Measure:
    """Return what measures the distances of surfaces."""
    return partial(surface.rows, tolerance_mm=tolerance_mm)


def rows(case: CaseFile, prediction: Volume, labels: list[dict[str, Any]], *beside: Measure) -> Rows:
    """Return the rows of one case: Dice and its companions, and what else is asked for.

    Args:
        case: with its truth.
        prediction: ids of the data set on the case's grid.
        labels: name, id and group of those to measure.
        beside: what else to measure.

    Raises:
        UserError: the prediction can't be one of this case: its shape or its ids don't fit.
    """
    stored = store.open_volume(case.label)
    truth = stored.load()
    ids, groups = ({label["name"]: label[key] for label in labels} for key in ("id", "group"))
    try:
        given = _whole(prediction.array)
        counts = overlap.joint_histogram(truth.array, given)
        if stray := overlap.unknown(counts, stored.meta["ids"].values()):
            raise ValueError(f"there are ids that the data set has no label for: {', '.join(map(str, stray[:5]))}")
    except ValueError as error:
        raise UserError(f"{case.case}: {error}; predict this case anew with a model of this data set") from error
    found = overlap.rows(counts, ids, groups, math.prod(truth.spacing) / 1000)
    for measure in beside:
        found += measure(truth.array, given, ids, groups, truth.spacing)
    return [{"case_id": case.case, "patient": case.patient, **row} for row in found]


def _whole(array: np.ndarray) -> np.ndarray:
    """Return ids as integers: many programs write label maps as floating-point numbers."""
    if array.dtype.kind != "f":
        return array
    if not np.array_equal(array, np.rint(array)):
        raise ValueError("the prediction holds fractions, so it is no label map")
    return array.astype(np.int64)
