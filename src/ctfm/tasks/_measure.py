"""Measuring the segmentation of one case: the prediction beside the truth."""

from __future__ import annotations

import math
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


def rows(
    case: CaseFile, prediction: Volume, labels: list[dict[str, Any]], tolerance_mm: float | None = None
) -> list[dict[str, Any]]:
    """Return the rows of one case: Dice and its companions, and the surface metrics if a tolerance is given.

    Args:
        case: with its truth.
        prediction: ids of the data set on the case's grid.
        labels: name, id and group of those to measure.
        tolerance_mm: of the surface Dice, mm.

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
    if tolerance_mm is not None:
        found += surface.rows(truth.array, given, ids, groups, truth.spacing, tolerance_mm)
    return [{"case_id": case.case, "patient": case.patient, **row} for row in found]


def _whole(array: np.ndarray) -> np.ndarray:
    """Return ids as integers: many programs write label maps as floating-point numbers."""
    if array.dtype.kind != "f":
        return array
    if not np.array_equal(array, np.rint(array)):
        raise ValueError("the prediction holds fractions, so it is no label map")
    return array.astype(np.int64)
