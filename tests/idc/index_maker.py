"""Small indexes with the columns of idc-index-data, and small copies of the package, for tests."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ctfm.idc import releases

GOOD: dict[str, Any] = {}


def row(**changes: Any) -> dict[str, Any]:
    """Return a row of an index; what is not said is that of a good series."""
    uid = changes["SeriesInstanceUID"]
    good = {
        "collection_id": "4d_lung",
        "PatientID": f"patient-{uid}",
        "StudyInstanceUID": f"2.{uid}",
        "Modality": "CT",
        "SeriesDescription": None,
        "instanceCount": 100,
        "license_short_name": "CC BY 4.0",
        "series_size_MB": 52.5,
        "series_aws_url": f"s3://idc-open-data/{uid}/*",
    }
    return {**good, **changes}


def write_index(file: Path, *rows: dict[str, Any], drop: tuple[str, ...] = (), **columns: Any) -> str:
    """Write an index; the series are called 1.1, 1.2 ... in the order of the rows."""
    table = pd.DataFrame([row(**{"SeriesInstanceUID": f"1.{n}", **r}) for n, r in enumerate(rows, start=1)])
    file.parent.mkdir(parents=True, exist_ok=True)
    table.assign(**columns).drop(columns=list(drop)).to_parquet(file)
    return str(file)


def listed(uid: str, uuid: str = "", **changes: Any) -> dict[str, Any]:
    """Return a row of the index of an older release."""
    return {
        "SeriesInstanceUID": uid,
        "series_aws_url": f"s3://idc-open-data-old/{uuid or uid}/*",
        "source_DOI": "10.1/A",
        **changes,
    }


def newest(uid: str, uuid: str = "", **changes: Any) -> dict[str, Any]:
    """Return a row of the newest index: there since release 1."""
    return {
        **listed(uid, uuid),
        "series_aws_url": f"s3://idc-open-data/{uuid or uid}/*",
        "crdc_series_uuid": uuid or uid,
        "series_revised_idc_version": 1,
        "sop_class_name": "CT Image Storage",
        **changes,
    }


def prior(uid: str, uuid: str, low: int, high: int) -> dict[str, Any]:
    """Return a row of the index of versions that were replaced."""
    return {
        "SeriesInstanceUID": uid,
        "crdc_series_uuid": uuid,
        "series_aws_url": f"s3://idc-open-data/{uuid}/*",
        "min_idc_version": low,
        "max_idc_version": high,
    }


def install(
    monkeypatch: pytest.MonkeyPatch, folder: Path, rows: list[dict[str, Any]], before: tuple[dict[str, Any], ...] = ()
) -> releases.Installed:
    """Let a small idc-index-data 25.0.5 be the installed one."""
    write_index(folder / releases.INDEX, *rows)
    replaced = before or [prior("9.9", "9.9", 1, 1)]
    pd.DataFrame(list(replaced)).to_parquet(folder / releases.PRIOR)
    sources = [{"source_doi": "10.1/a", "citation": "Doe, J. &amp; Roe, R. (2020). <i>Data</i>\n(Version 1)."}]
    about = {"collection_id": "4d_lung", "collection_name": "4D-Lung", "sources": sources}
    pd.DataFrame([about]).to_parquet(folder / releases.COLLECTIONS)
    package = releases.Installed(folder, "25.0.5")
    monkeypatch.setattr(releases, "installed", lambda: package)
    return package


def wheel(folder: Path, version: str, files: dict[str, Path]) -> Path:
    """Write a wheel of idc-index-data that pip accepts."""
    name = f"idc_index_data-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as archive:
        for file, path in files.items():
            archive.write(path, f"idc_index_data/{file}")
        about = f"Metadata-Version: 2.1\nName: idc-index-data\nVersion: {version}\n"
        archive.writestr(f"{name}.dist-info/METADATA", about)
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}.dist-info/RECORD", "")
    return folder / f"{name}-py3-none-any.whl"


def pin(monkeypatch: pytest.MonkeyPatch, file: Path, release: int = 18, version: str = "18.2.0") -> releases.Pin:
    """Let one table be the only known one of an older release."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    known = releases.Pin(release, version, releases.INDEX, digest, len(pd.read_parquet(file)))
    monkeypatch.setattr(releases, "pins", lambda: [known])
    return known
