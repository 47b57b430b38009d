"""Reading the published tables of semantic search: for each target scan, how far the match is from its heart.

One table for each model: ``image_id``, ``semantic_distance`` (cm, from the centre of the best match to the heart's
centroid) and, where it is there, ``inside_label``; other columns, such as those of the data set's ``meta.csv``, are not
read. The first row is the scan that asks, which has no distance; some targets have none either. They are left out and
counted, as the paper does, whose means are over those that remain.

``inside_label`` is no valid test (``ctfm.metrics.centroid``): its share stands under the published definition alone.
How often a match is within so many cm can be told instead.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ctfm.errors import UserError
from ctfm.metrics.centroid import DISTANCE, INSIDE_PUBLISHED

TASK, DATASET, LABEL = "organ_search", "totalsegmentator_thorax", "heart"
SCAN, CM, IN = "image_id", "semantic_distance", "inside_label"
BEFORE_MODEL = re.compile(r"semantic[\W_]*distances?[\W_]*(model[\W_]*type)?[\W_]*", re.IGNORECASE)
ASKS = "the scan that asks"
NO_DISTANCE = "no distance in the published table"
YES, NO = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")

log = logging.getLogger(__name__)


def rows(path: Path, table: pd.DataFrame, encoder: str) -> list[dict[str, Any]]:
    """Return the rows of ``metrics`` of one table; a scan without a distance has a row without a value.

    Args:
        path: of the table, for messages.
        table: what was read from it: columns ``image_id``, ``semantic_distance``, and maybe ``inside_label``.
        encoder: whose matches they are.

    Raises:
        UserError: a value is wrong; the message names the row.
    """
    scans = [_scan(path, n, value) for n, value in enumerate(table[SCAN])]
    if len(twice := pd.Series(scans)[pd.Series(scans).duplicated()]):
        raise UserError(f"{path}: row {twice.index[0] + 2}: '{twice.iloc[0]}' is there twice; keep one")
    distances = [_distance(path, n, value) for n, value in enumerate(table[CM])]
    inside = [_inside(path, n, value) for n, value in enumerate(table.get(IN, [np.nan] * len(table)))]
    known = np.isfinite(distances)
    if not known.any():
        raise UserError(f"{path}: no row has a {CM}; take the table as published")
    asks = not known[0]
    without = int((~known).sum()) - asks
    log.info("%s: %d targets with a distance, %d without; %d asks", path.name, known.sum(), without, asks)
    fixed = {"task": TASK, "dataset": DATASET, "encoder": encoder, "shots": "all", "seed": 0, "split_hash": "published"}
    fixed |= {"label": LABEL, "group": ""}
    return [
        {**fixed, "case_id": scan, "patient": scan, "metric": metric, "value": value, "note": note}
        for n, scan in enumerate(scans)
        for metric, value, note in _values(n, distances[n], inside[n])
    ]


def model(path: Path) -> str:
    """Return the model that the name of a table tells: ``semantic_distances_Model_type.ct_fm.csv`` is of ``ct_fm``.

    Raises:
        UserError: it tells none.
    """
    found = BEFORE_MODEL.sub("", path.stem, count=1).strip("._- ")
    if not found:
        raise UserError(f"{path}: its name tells no model; call it semantic_distances_Model_type.<model>.csv")
    return found


def told(metrics: pd.DataFrame, encoder: str) -> str:
    """Return what was left out of an encoder's rows, in words."""
    own = metrics[(metrics.encoder == encoder) & (metrics.metric == DISTANCE)]
    without = int((own.note == NO_DISTANCE).sum())
    return f"left out: {int((own.note == ASKS).sum())} that asks, {without} without a distance in the published table"


def _values(place: int, distance: float, inside: float) -> Iterator[tuple[str, float, str]]:
    if not np.isfinite(distance):
        yield DISTANCE, np.nan, NO_DISTANCE if place else ASKS
        return
    yield DISTANCE, distance, ""
    if np.isfinite(inside):
        yield INSIDE_PUBLISHED, inside, ""


def _scan(path: Path, place: int, value: Any) -> str:
    text = "" if pd.isna(value) else str(value).strip()
    if not text:
        raise UserError(f"{path}: row {place + 2}: {SCAN} is empty")
    return text


def _distance(path: Path, place: int, value: Any) -> float:
    """Return a distance; NaN of an empty cell."""
    if pd.isna(value) or not str(value).strip():
        return np.nan
    number = pd.to_numeric(value, errors="coerce")
    if not 0 <= number < np.inf:
        raise UserError(f"{path}: row {place + 2}: {CM} must be a number of cm from 0 on, or empty, not '{value}'")
    return float(number)


def _inside(path: Path, place: int, value: Any) -> float:
    """Return 1 or 0; NaN of an empty cell."""
    text = "" if pd.isna(value) else str(value).strip().lower()
    if text not in ("", *YES, *NO):
        raise UserError(f"{path}: row {place + 2}: {IN} must be True, False or empty, not '{value}'")
    return float(text in YES) if text else np.nan
