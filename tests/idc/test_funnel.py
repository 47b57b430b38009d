"""The second half of the funnel counts what each predicate refused, in the order in which a series is judged."""

from __future__ import annotations

import pandas as pd

from ctfm import tables
from ctfm.config import Criteria
from ctfm.idc import funnel
from ctfm.imaging import criteria, dicom

REASONS = ["", "", "download_missing", "unreadable", "not_ct", "too_few_slices", "thickness_unknown"]
REASONS += ["thickness_below", "thickness_above", "duplicate_positions", "localizer", "uneven_spacing", "error"]


def made(wanted: Criteria) -> pd.DataFrame:
    rows = [
        {"SeriesInstanceUID": f"1.{i}", "StudyInstanceUID": f"2.{i // 2}", "PatientID": "p", "reason": reason}
        | {"status": "quarantined" if reason else "ok"}
        for i, reason in enumerate(REASONS)
    ]
    selected = tables.of("funnel", [{"step": "chosen", "series": 13, "studies": 7, "patients": 1}])
    return funnel.whole(selected, tables.of("volumes", rows), wanted)


def test_each_predicate_takes_its_own_series():
    found = made(Criteria())
    assert found["series"].tolist() == [13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 2]
    assert found["studies"].tolist()[0] == 7 and found["studies"].tolist()[-1] == 1
    assert found["step"].tolist()[4:8] == [
        "headers: num_instances >= 51",
        "headers: slice thickness known",
        "headers: min_SliceThickness >= 1 mm",
        "headers: max_SliceThickness <= 5 mm",
    ]


def test_without_a_thickness_no_step_speaks_of_it():
    assert not any("hickness" in step for step in made(Criteria(thickness_mm=None))["step"])


def test_steps_name_reasons_that_exist():
    known = set(dicom.CODES) | set(criteria.CODES) | {"download_missing", "download_incomplete", "download_refused"}
    named = [reason for step in funnel.steps(Criteria()) for reason in step.reasons]
    assert set(named) <= known and len(named) == len(set(named))
    assert set(criteria.CODES) <= set(named)
