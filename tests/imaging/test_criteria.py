"""The criteria against their SQL, run by DuckDB on the same instances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pydicom
import pytest

from ctfm.config import Criteria, Prepare
from ctfm.errors import Quarantine
from ctfm.imaging import criteria, dicom, frames
from ctfm.imaging.headers import TAGS, Header
from tests.imaging import dicom_maker as maker

VERDICT = """
SELECT num_instances > 50 AND position_count > 0 AND num_instances / position_count = 1
       AND coalesce(thinnest >= 1 AND thickest <= 5, false) AND has_localizer = 'false'
FROM (
    SELECT count(DISTINCT SOPInstanceUID) AS num_instances,
           count(DISTINCT array_to_string(ImagePositionPatient, '/')) AS position_count,
           min(TRY_CAST(SliceThickness AS DOUBLE)) AS thinnest,
           max(TRY_CAST(SliceThickness AS DOUBLE)) AS thickest,
           string_agg(DISTINCT CAST(list_contains(ImageType, 'LOCALIZER') AS VARCHAR), '') AS has_localizer
    FROM instances
)
"""
Row = dict[str, Any]
AXIAL = ["ORIGINAL", "PRIMARY", "AXIAL"]


def rows(count: int = 51, **changes: Any) -> list[Row]:
    """Return instances; a change is a value for all, or {number: value} for some."""
    table = []
    for i in range(count):
        row: Row = {"uid": f"1.2.{i}", "position": ["0", "-1.5", str(i)], "thickness": "2.5", "type": AXIAL}
        for key, value in changes.items():
            row[key] = value if not isinstance(value, dict) else value.get(i, row[key])
        table.append(row)
    return table


SCOUT = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
CASES: dict[str, tuple[list[Row], str | None]] = {
    "good": (rows(), None),
    "one too few": (rows(50), "too_few_slices"),
    "many": (rows(400), None),
    "copies don't count": (rows(51) + rows(3), None),
    "50 and a copy": (rows(50) + rows(1), "too_few_slices"),
    "all copies": (rows(uid="1.2"), "too_few_slices"),
    "1 mm": (rows(thickness="1"), None),
    "1.0 mm": (rows(thickness="1.000"), None),
    "just below 1": (rows(thickness="0.999"), "thickness_below"),
    "one below": (rows(thickness={7: "0.625"}), "thickness_below"),
    "5 mm": (rows(thickness="5"), None),
    "5.0 mm with exponent": (rows(thickness="5.0e0"), None),
    "just above 5": (rows(thickness="5.0001"), "thickness_above"),
    "one above": (rows(thickness={0: "10"}), "thickness_above"),
    "1 and 5": (rows(thickness={0: "1", 50: "5"}), None),
    "zero": (rows(thickness="0"), "thickness_below"),
    "negative": (rows(thickness="-2"), "thickness_below"),
    "plus sign": (rows(thickness="+2"), None),
    "no digit before the point": (rows(thickness="0.5e1"), None),
    "empty": (rows(thickness=""), "thickness_unknown"),
    "absent": (rows(thickness=None), "thickness_unknown"),
    "some absent": (rows(thickness=dict.fromkeys(range(50))), None),
    "some text": (rows(thickness={3: "thick"}), None),
    "all text": (rows(thickness="2 mm"), "thickness_unknown"),
    "decimal comma": (rows(thickness="2,5"), "thickness_unknown"),
    "two values": (rows(thickness="2\\3"), "thickness_unknown"),
    "two values in one": (rows(thickness={9: "9\\9"}), None),
    "one nan": (rows(thickness={9: "NaN"}), "thickness_unknown"),
    "one inf": (rows(thickness={9: "inf"}), "thickness_unknown"),
    "one minus infinity": (rows(thickness={9: "-Infinity"}), "thickness_unknown"),
    "twice one position": (rows(position={3: ["0", "-1.5", "4"]}), "duplicate_positions"),
    "one position written in two ways": (rows(position={3: ["0", "-1.50", "4"]}), None),
    "one position everywhere": (rows(position=["0", "0", "0"]), "duplicate_positions"),
    "one without position": (rows(position={3: []}), None),
    "two without position": (rows(position={3: [], 4: []}), "duplicate_positions"),
    "none with position": (rows(position=[]), "duplicate_positions"),
    "copies at other positions": (rows(51) + rows(1, position=["9", "9", "9"]), "duplicate_positions"),
    "all localizers": (rows(type=SCOUT), "localizer"),
    "one localizer": (rows(type={50: SCOUT}), "localizer"),
    "a localizer with more words": (rows(type={50: ["DERIVED", "SECONDARY", "LOCALIZER", "X"]}), "localizer"),
    "a word that contains it": (rows(type={50: ["ORIGINAL", "PRIMARY", "LOCALIZERS"]}), None),
    "lower case": (rows(type={50: ["ORIGINAL", "PRIMARY", "localizer"]}), None),
    "no image type": (rows(type=[]), None),
    "thin and few": (rows(9, thickness="0.5"), "too_few_slices"),
}


def as_frames(table: list[Row]) -> list[frames.Frame]:
    """Make headers of instances, as if read from files of explicit VR."""
    keys = {
        "uid": ("SOPInstanceUID", "UI"),
        "position": ("ImagePositionPatient", "DS"),
        "thickness": ("SliceThickness", "DS"),
        "type": ("ImageType", "CS"),
    }
    found = []
    for i, row in enumerate(table):
        elements = {}
        for key, (name, vr) in keys.items():
            if row[key] is not None:
                text = "\\".join(row[key]) if isinstance(row[key], list) else row[key]
                value = (text + " " * (len(text) % 2)).encode()
                elements[TAGS[name]] = pydicom.dataelem.RawDataElement(
                    TAGS[name], vr, len(value), value, 0, False, True
                )
        tags = pydicom.Dataset(elements)
        found.append(frames.Frame(Header(Path(f"{i}.dcm"), "", tags, 0, 0, True), 0, (tags,)))
    return found


def verdict(found: list[frames.Frame], wanted: Criteria) -> str | None:
    try:
        criteria.check(criteria.facts(found), wanted)
    except Quarantine as reason:
        assert reason.code in criteria.CODES
        return reason.code
    return None


def sql(table: list[Row]) -> bool:
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE instances (SOPInstanceUID VARCHAR, ImagePositionPatient VARCHAR[], SliceThickness VARCHAR, "
            "ImageType VARCHAR[])"
        )
        values = [[row["uid"], row["position"], row["thickness"], row["type"]] for row in table]
        connection.executemany("INSERT INTO instances VALUES (?, ?, ?, ?)", values)
        ((kept,),) = connection.execute(VERDICT).fetchall()
    return kept


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is_that_of_the_sql(name: str) -> None:
    table, code = CASES[name]
    assert verdict(as_frames(table), Criteria()) == code
    assert sql(table) == (code is None)


@pytest.mark.parametrize("name", ["absent", "one below", "one above", "all text", "one nan"])
def test_thickness_is_not_judged_when_none_is_asked_for(name: str) -> None:
    assert verdict(as_frames(CASES[name][0]), Criteria(thickness_mm=None)) is None


def test_other_criteria_than_the_papers() -> None:
    table = as_frames(rows(20, thickness="0.5", position={1: ["0", "-1.5", "0"]}))
    loose = {"min_instances": 20, "thickness_mm": (0.5, 0.5), "unique_positions": False}
    assert verdict(table, Criteria(**loose)) is None
    assert verdict(table, Criteria(**loose | {"min_instances": 21})) == "too_few_slices"
    assert verdict(table, Criteria(**loose | {"thickness_mm": (0.4, 0.45)})) == "thickness_above"
    assert verdict(table, Criteria(**loose | {"unique_positions": True})) == "duplicate_positions"
    scouts = as_frames(rows(type={1: SCOUT}))
    assert verdict(scouts, Criteria(exclude_localizers=False)) == "localizer"


def test_details_are_the_predicates() -> None:
    told = criteria.facts(as_frames(rows(thickness={7: "0.625"})))
    assert told == {
        "num_instances": 51,
        "position_count": 51,
        "slice_thickness_min": 0.625,
        "slice_thickness_max": 2.5,
        "has_localizer": "false",
    }
    with pytest.raises(Quarantine) as caught:
        criteria.check(told, Criteria())
    assert caught.value.detail == "min_SliceThickness >= 1: 0.625 mm"
    assert criteria.facts(as_frames(rows(type={1: SCOUT})))["has_localizer"] == "falsetrue"
    assert criteria.facts(as_frames(rows(type=SCOUT)))["has_localizer"] == "true"


def test_headers_of_files_meet_the_criteria(tmp_path: Path) -> None:
    folder = maker.write(tmp_path / "a", maker.body((51, 8, 8)))
    facts = dicom.read_series(folder, Prepare(), Criteria())[1]
    assert facts["num_instances"] == facts["position_count"] == 51 and facts["slice_thickness_max"] == 2.0
    criteria.check(facts, Criteria())
    with pytest.raises(Quarantine, match=r"max_SliceThickness <= 1\.5: 2 mm"):
        criteria.check(facts, Criteria(thickness_mm=(1, 1.5)))
    nameless = maker.write(tmp_path / "b", maker.body((51, 8, 8)), change=lambda file, _: file.pop("SOPInstanceUID"))
    assert dicom.survey(nameless, Prepare(), Criteria()).facts["num_instances"] == 51
