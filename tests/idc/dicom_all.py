"""Small tables of instances, as BigQuery's ``dicom_all`` has them: one series for each predicate of S1, and its edges.

Whether a series is chosen was worked out by hand. Engines may differ, and no test here can tell, in

* ``SAFE_CAST`` of text that is nearly a number: both skip blanks around it and read "nan", "inf" and "2.5e0";
* "nan": MIN and MAX of BigQuery are NaN as soon as one value is, and NaN fails every comparison. DuckDB puts NaN above
  all numbers, so MIN passes it over and only MAX fails. The same series are dropped, perhaps one step later;
* arrays: a column of BigQuery holds no NULL array and no NULL in one, a parquet file may. A NULL array is read as an
  empty one, as BigQuery does when it loads such a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[dict[str, Any]]

TEXT, TEXTS = pa.string(), pa.list_(pa.string())
SCHEMA = pa.schema(
    {
        "collection_id": TEXT,
        "PatientID": TEXT,
        "StudyInstanceUID": TEXT,
        "SeriesInstanceUID": TEXT,
        "SOPInstanceUID": TEXT,
        "Modality": TEXT,
        "access": TEXT,
        "SeriesDescription": TEXT,
        "SliceThickness": TEXT,
        "ImagePositionPatient": TEXTS,
        "ImageType": TEXTS,
        "license_short_name": TEXT,
        "source_DOI": TEXT,
        "aws_url": TEXT,
        "crdc_series_uuid": TEXT,
        "instance_size": pa.int64(),
    }
)


class Case(NamedTuple):
    """A series: in which releases it is, what differs there from a good one, and whether it is chosen."""

    v14: dict[str, Any] | None
    v18: dict[str, Any] | None
    mixed: bool  # statistics of release 14, listing of release 18
    v14_alone: bool


def both(chosen: bool, **changes: Any) -> Case:
    return Case(changes, changes, chosen, chosen)


def some(value: Any, rest: Any = "2.5") -> Any:
    """Return a column of which only the first three instances have ``value``."""
    return lambda n: value if n < 3 else rest


def position(n: int) -> list[str]:
    return ["-120.5", "-120.5", str(2.5 * n)]


ORIGINAL = ["ORIGINAL", "PRIMARY", "AXIAL"]
LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
CASES = {
    "good": both(True),
    "thickness 0.999": both(False, SliceThickness="0.999"),
    "thickness 0": both(False, SliceThickness="0"),
    "thickness 1": both(True, SliceThickness="1"),
    "thickness 5": both(True, SliceThickness="5.0000"),
    "thickness 5.001": both(False, SliceThickness="5.001"),
    "thickness mixed, inside": both(True, SliceThickness=some("4")),
    "thickness mixed, one below": both(False, SliceThickness=some("0.5")),
    "thickness mixed, one above": both(False, SliceThickness=some("7")),
    "thickness NULL": both(False, SliceThickness=None),
    "thickness empty": both(False, SliceThickness=""),
    "thickness text": both(False, SliceThickness="thin"),
    "thickness with a comma": both(False, SliceThickness="2,5"),
    "thickness some text": both(True, SliceThickness=some("thin")),
    "thickness some NULL": both(True, SliceThickness=some(None)),
    "thickness in blanks": both(True, SliceThickness=" 2.5 "),
    "thickness 2.5e0": both(True, SliceThickness="2.5e0"),
    "thickness nan": both(False, SliceThickness="nan"),
    "thickness some nan": both(False, SliceThickness=some("nan")),
    "thickness inf": both(False, SliceThickness="inf"),
    "50 instances": both(False, count=50),
    "51 instances": both(True, count=51),
    "51 instances, rows twice": both(True, count=51, repeats=2),
    "50 instances, rows twice": both(False, count=50, repeats=2),
    "two at one position": both(False, ImagePositionPatient=lambda n: position(max(n, 1))),
    "every position twice": both(False, ImagePositionPatient=lambda n: position(n // 2)),
    "shifted in the plane only": both(True, ImagePositionPatient=lambda n: [str(n), "0", "0"]),
    "one position written in two ways": both(
        True, ImagePositionPatient=lambda n: ["0", "0", "2.0" if n else "2"] if n < 2 else position(n)
    ),
    "positions empty": both(False, ImagePositionPatient=[]),
    "positions NULL": both(False, ImagePositionPatient=None),
    "one position NULL": both(True, ImagePositionPatient=lambda n: position(n) if n else None),
    "all localizers": both(False, ImageType=LOCALIZER),
    "one localizer": both(False, ImageType=lambda n: ORIGINAL if n else LOCALIZER),
    "localizer in small letters": both(True, ImageType=["original", "primary", "localizer"]),
    "localizer as part of a word": both(True, ImageType=["DERIVED", "SECONDARY", "LOCALIZERS"]),
    "image type empty": both(True, ImageType=[]),
    "image type NULL": both(True, ImageType=None),
    "MR": both(False, Modality="MR"),
    "modality NULL": both(False, Modality=None),
    "modality in small letters": both(False, Modality="ct"),
    "some instances of another modality": both(True, Modality=lambda n: "CT" if n < 60 else "SC", count=70),
    "limited access": both(False, access="Limited"),
    "access NULL": both(False, access=None),
    "some instances limited, enough public": both(True, access=lambda n: "Limited" if n < 9 else "Public", count=60),
    "some instances limited, too few public": both(False, access=lambda n: "Limited" if n < 10 else "Public", count=60),
    "in v14 alone": Case({}, None, False, True),
    "in v18 alone": Case(None, {}, False, False),
    "good in v14, too thick in v18": Case({}, {"SliceThickness": "7"}, True, True),
    "too thick in v14, good in v18": Case({"SliceThickness": "7"}, {}, False, False),
    "60 instances in v14, 40 in v18": Case({"count": 60}, {"count": 40}, True, True),
    "40 instances in v14, 60 in v18": Case({"count": 40}, {"count": 60}, False, False),
    "public in v14, limited in v18": Case({}, {"access": "Limited"}, True, True),
}
UIDS = {name: f"1.2.{number}" for number, name in enumerate(CASES, start=1)}


def chosen(releases: tuple[int, int]) -> list[str]:
    """Return the SeriesInstanceUIDs that S1 takes, in order."""
    index = {(14, 18): 2, (14, 14): 3}[releases]
    return sorted(UIDS[name] for name, case in CASES.items() if case[index])


def size(n: int) -> int:
    """Return the bytes of the n-th instance of every series."""
    return 500_000 + n


def rows(release: int) -> Rows:
    """Return all instances of a release; two series make a study, and three a patient."""
    made: Rows = []
    for name, case in CASES.items():
        changes = {14: case.v14, 18: case.v18}[release]
        if changes is not None:
            made += _series(UIDS[name], **changes)
    return made


def _series(uid: str, count: int = 60, repeats: int = 1, **changes: Any) -> Rows:
    number = int(uid.rpartition(".")[2])
    made = []
    for n in range(count):
        good = {
            "collection_id": f"collection_{number % 5}",
            "PatientID": f"patient-{number // 3}",
            "StudyInstanceUID": f"2.{number // 2}",
            "SeriesInstanceUID": uid,
            "SOPInstanceUID": f"{uid}.{n}",
            "Modality": "CT",
            "access": "Public",
            "SeriesDescription": None if number == 1 else f"series {number}",
            "SliceThickness": "2.5",
            "ImagePositionPatient": position(n),
            "ImageType": ORIGINAL,
            "license_short_name": "CC BY 4.0",
            "source_DOI": "10.7937/example",
            "aws_url": f"s3://idc-open-data/uuid-{number}/{n}.dcm",
            "crdc_series_uuid": f"uuid-{number}",
            "instance_size": size(n),
        }
        row = good | {key: value(n) if callable(value) else value for key, value in changes.items()}
        made += [row] * repeats
    return made


def table(release: int) -> pa.Table:
    return pa.Table.from_pylist(rows(release), schema=SCHEMA)


def write(folder: Path) -> dict[int, str]:
    """Write both releases as parquet; return what `dicom_all` of a corpus says of them."""
    files = {release: folder / f"v{release}.parquet" for release in (14, 18)}
    for release, file in files.items():
        pq.write_table(table(release), file)
    return {release: str(file) for release, file in files.items()}


class Left(NamedTuple):
    """Series, studies and patients."""

    series: int
    studies: int
    patients: int


def funnel(statistics: int, listing: int) -> list[Left]:
    """Count what each step of S1 leaves, with pandas and no SQL, on NaN as DuckDB does."""
    frame, listed = pd.DataFrame(rows(statistics)), pd.DataFrame(rows(listing))
    steps = [frame, frame[frame["Modality"] == "CT"]]
    steps.append(steps[1][steps[1]["access"] == "Public"])
    judged = pd.DataFrame({uid: _judge(group) for uid, group in steps[2].groupby("SeriesInstanceUID")}).T
    steps.append(listed[listed["SeriesInstanceUID"].isin(judged.index)])
    for predicate in judged.columns:
        good = judged.index[judged[predicate].astype(bool)]
        steps.append(steps[-1][steps[-1]["SeriesInstanceUID"].isin(good)])
    columns = ("SeriesInstanceUID", "StudyInstanceUID", "PatientID")
    return [Left(*(step[column].nunique() for column in columns)) for step in steps]


def _judge(group: pd.DataFrame) -> dict[str, bool]:
    numbers = pd.to_numeric(group["SliceThickness"].str.strip().replace("nan", "inf"), errors="coerce")
    positions = {"/".join(value) if value is not None else "" for value in group["ImagePositionPatient"]}
    instances = group["SOPInstanceUID"].nunique()
    return {
        "min": numbers.min() >= 1,
        "max": numbers.max() <= 5,
        "count": instances > 50,
        "ratio": instances == len(positions),
        "localizer": not any("LOCALIZER" in (value or []) for value in group["ImageType"]),
    }
