"""The paper's criteria (supplement S1), judged exactly on the DICOM headers of a series.

S1 counts over a table with one row for each instance::

    COUNT(DISTINCT SOPInstanceUID) AS num_instances
    COUNT(DISTINCT ARRAY_TO_STRING(ImagePositionPatient, "/")) AS position_count
    MIN and MAX(SAFE_CAST(SliceThickness AS float64))
    STRING_AGG(DISTINCT CAST("LOCALIZER" IN UNNEST(ImageType) AS string), "") AS has_localizer

and keeps series with ``num_instances > 50``, ``min >= 1``, ``max <= 5``, ``num_instances / position_count = 1`` and
``has_localizer = "false"``. Each frame of a multi-frame object counts as an instance.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ctfm.config import Criteria
from ctfm.errors import Quarantine
from ctfm.imaging.frames import Frame

CODES = {
    "too_few_slices": "fewer slices than asked for",
    "thickness_unknown": "no slice tells its thickness, or one tells no number",
    "thickness_below": "a slice is thinner than asked for",
    "thickness_above": "a slice is thicker than asked for",
    "duplicate_positions": "two slices tell the same position",
    "localizer": "a scout image, alone or among the slices",
}
# What SAFE_CAST takes for a number; Python takes more.
NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity|nan)", re.IGNORECASE | re.ASCII)


def facts(frames: Iterable[Frame]) -> dict[str, Any]:
    """Return what S1 asks of a series.

    Returns:
        ``num_instances``, ``position_count``, ``slice_thickness_min`` and ``slice_thickness_max`` (mm; None when no
        instance has a number, or one is not finite: neither is within any range), and ``has_localizer``: `false`,
        `true` or `falsetrue`.
    """
    frames = list(frames)
    thickness = [float(text) for frame in frames for text in [_thickness(frame)] if NUMBER.fullmatch(text)]
    known = thickness if all(map(math.isfinite, thickness)) else []
    return {
        "num_instances": len({frame.instance for frame in frames}),
        "position_count": len({"/".join(frame.texts("ImagePositionPatient")) for frame in frames}),
        "slice_thickness_min": min(known, default=None),
        "slice_thickness_max": max(known, default=None),
        "has_localizer": "".join(sorted({str("LOCALIZER" in frame.image_type).lower() for frame in frames})),
    }


def check(facts: Mapping[str, Any], criteria: Criteria) -> None:
    """Refuse a series that doesn't meet the criteria.

    A series with localizers is no volume, whatever ``exclude_localizers`` says.

    Args:
        facts: see ``facts``.
        criteria: of the corpus.

    Raises:
        Quarantine: one of ``CODES``; the detail is S1's predicate and what was found.
    """
    number, places = facts["num_instances"], facts["position_count"]
    if number < criteria.min_instances:
        raise Quarantine("too_few_slices", f"num_instances > {criteria.min_instances - 1}: {number}")
    if criteria.thickness_mm is not None:
        _check_thickness(facts["slice_thickness_min"], facts["slice_thickness_max"], *criteria.thickness_mm)
    if criteria.unique_positions and number != places:
        raise Quarantine("duplicate_positions", f"num_instances / position_count = 1: {number} / {places}")
    if facts["has_localizer"] != "false":
        raise Quarantine("localizer", f"has_localizer = false: {facts['has_localizer']}")


def _check_thickness(thinnest: float | None, thickest: float | None, low: float, high: float) -> None:
    if thinnest is None or thickest is None:
        raise Quarantine("thickness_unknown", f"min_SliceThickness >= {low:g}: no number")
    if thinnest < low:
        raise Quarantine("thickness_below", f"min_SliceThickness >= {low:g}: {thinnest:g} mm")
    if thickest > high:
        raise Quarantine("thickness_above", f"max_SliceThickness <= {high:g}: {thickest:g} mm")


def _thickness(frame: Frame) -> str:
    return "\\".join(frame.texts("SliceThickness"))
