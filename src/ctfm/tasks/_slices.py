"""Planes through a tumour, as numbers: figures are drawn from tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ctfm.imaging import store
from ctfm.imaging.pictures import planes
from ctfm.metrics.lesions import NEIGHBOURS
from ctfm.tasks import CaseFile, _measure, segment

EDGE_MM = 150.0  # of a picture
PLANES = {"axial": (1, 2), "coronal": (0, 2), "sagittal": (0, 1)}  # rows, columns of each, as axes of (z, y, x)


def rows(tumour: str, cases: Sequence[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return the three planes through the largest lesion of the case whose tumour has the median volume.

    The truth alone decides on case and place: all encoders are shown at the same one, and none is chosen to look well.

    Args:
        tumour: label or group.
        cases: test cases.
        predictions: folder of their predictions.

    Returns:
        Three rows of the table ``slices``, less the columns that name the run; none if no case has a tumour.

    Raises:
        UserError: the prediction of that case is missing or damaged.
    """
    sizes = sorted((volume, case.case) for case in cases if (volume := _volume(case, tumour)))
    if not sizes:
        return []
    name = sizes[(len(sizes) - 1) // 2][1]
    case = next(case for case in cases if case.case == name)
    truth, ids = _mask(case, tumour)
    given = np.isin(_measure.read_prediction(case, predictions).array, ids)
    spacing = store.open_volume(case.label).load().spacing
    at = middle(truth)
    box = tuple(
        slice(max(0, place - round(EDGE_MM / mm / 2)), place + round(EDGE_MM / mm / 2) + 1)
        for place, mm in zip(at, spacing, strict=True)
    )
    z, y, x = (place - part.start for place, part in zip(at, box, strict=True))
    shown = {"image": store.open_volume(case.image).load().array, "truth": truth, "prediction": given}
    cut = {key: planes(array[box], (z, y, x)) for key, array in shown.items()}
    return [
        {"case_id": case.case, "patient": case.patient, "label": tumour, "plane": plane}
        | {"rows": cut["image"][i].shape[0], "columns": cut["image"][i].shape[1]}
        | {"row_mm": spacing[PLANES[plane][0]], "column_mm": spacing[PLANES[plane][1]]}
        | {key: parts[i].astype(int).ravel().tolist() for key, parts in cut.items()}
        for i, plane in enumerate(PLANES)
    ]


def middle(mask: np.ndarray) -> tuple[int, int, int]:
    """Return the voxel (z, y, x) of the largest part of a mask that is nearest to that part's centroid."""
    parts, _ = ndimage.label(mask, NEIGHBOURS)
    largest = np.argwhere(parts == 1 + int(np.bincount(parts.ravel())[1:].argmax()))
    z, y, x = largest[((largest - largest.mean(axis=0)) ** 2).sum(axis=1).argmin()].tolist()
    return z, y, x


def _volume(case: CaseFile, tumour: str) -> float:
    label = store.open_volume(case.label).load()
    return float(_mask(case, tumour)[0].sum() * np.prod(label.spacing))


def _mask(case: CaseFile, tumour: str) -> tuple[np.ndarray, list[int]]:
    stored = store.open_volume(case.label)
    ids = [label["id"] for label in segment.labels_of((tumour,), stored.meta)]
    return np.isin(stored.load().array, ids), ids
