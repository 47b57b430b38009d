"""The second half of the funnel: what the DICOM headers and pixels refused, predicate by predicate."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from ctfm.config import Criteria


class Step(NamedTuple):
    """A step of the funnel and the reasons for which series end there."""

    name: str
    reasons: tuple[str, ...]


def steps(wanted: Criteria) -> list[Step]:
    """Return the steps after the selection, in the order in which a series is judged; the last one takes the rest."""
    low, high = wanted.thickness_mm or (0.0, 0.0)
    thickness = [
        Step("headers: slice thickness known", ("thickness_unknown",)),
        Step(f"headers: min_SliceThickness >= {low:g} mm", ("thickness_below",)),
        Step(f"headers: max_SliceThickness <= {high:g} mm", ("thickness_above",)),
    ]
    return [
        Step("downloaded whole", ("download_missing", "download_incomplete", "download_refused")),
        Step("headers: readable", ("no_files", "empty_file", "unreadable", "truncated")),
        Step("headers: CT images", ("not_ct", "derived", "multiframe")),
        Step(f"headers: num_instances >= {wanted.min_instances}", ("too_few_slices",)),
        *(thickness if wanted.thickness_mm else []),
        Step("headers: one position for every instance", ("duplicate_positions",)),
        Step("headers: no localizer", ("localizer",)),
    ]


def whole(selected: pd.DataFrame, volumes: pd.DataFrame, wanted: Criteria) -> pd.DataFrame:
    """Return the funnel from the index to the stored volumes.

    Args:
        selected: the ``funnel`` table of the selection.
        volumes: the ``volumes`` table of all its shards.
        wanted: the criteria that the headers were held against.

    Returns:
        A ``funnel`` table: the selection's rows and one for each step after it.
    """
    rows, left = [], volumes
    for step in steps(wanted):
        left = left[~left["reason"].isin(step.reasons)]
        rows.append(_row(step.name, left))
    rows.append(_row("a volume: geometry and HU are sound", volumes[volumes["status"] == "ok"]))
    return pd.concat([selected, pd.DataFrame(rows)], ignore_index=True)


def _row(name: str, rows: pd.DataFrame) -> dict[str, object]:
    counts = {"studies": "StudyInstanceUID", "patients": "PatientID"}
    return {"step": name, "series": len(rows), **{key: rows[column].nunique() for key, column in counts.items()}}
