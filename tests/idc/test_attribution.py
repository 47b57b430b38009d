"""Licences, collections and thanks of a selection."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ctfm.config import Corpus
from ctfm.idc import attribution, query
from ctfm.idc.releases import Table
from tests.idc.index_maker import install, newest, write_index


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """Return collections_index of a small package that is installed."""
    return install(monkeypatch, tmp_path / "package", [newest("1.1")]).table("collections_index.parquet")


def test_licences_are_counted(tmp_path: Path) -> None:
    rows = [
        {"license_short_name": "CC BY 4.0", "PatientID": "p", "StudyInstanceUID": "s", "series_size_MB": 1e5},
        {"license_short_name": "CC BY 4.0", "PatientID": "p", "StudyInstanceUID": "s", "series_size_MB": 2e5},
        {"license_short_name": "CC BY 4.0", "PatientID": "p", "StudyInstanceUID": "t", "series_size_MB": None},
        {"license_short_name": "CC BY-NC 3.0", "series_size_MB": 5e4},
        {"license_short_name": None, "series_size_MB": 1e4},
    ]
    table = query.select(Corpus(index=write_index(tmp_path / "index.parquet", *rows))).licenses
    assert table[["license", "commercial", "series", "studies", "patients"]].values.tolist() == [
        ["CC BY 4.0", True, 3, 2, 1],
        ["CC BY-NC 3.0", False, 1, 1, 1],
        ["unknown", False, 1, 1, 1],
    ]
    assert table["size_TB"].tolist() == pytest.approx([0.3, 0.05, 0.01])


def test_each_collection_is_thanked(tmp_path: Path, package: Table) -> None:
    rows = [
        {"source_DOI": "10.1/A "},
        {"source_DOI": "10.1/a", "license_short_name": "CC BY 3.0"},
        {"source_DOI": "10.1/b"},
        {"collection_id": "other", "license_short_name": None, "source_DOI": None},
        {"collection_id": None, "source_DOI": "10.9/z"},
    ]
    chosen = query.select(Corpus(index=write_index(tmp_path / "index.parquet", *rows)))
    assert chosen.attribution == (
        "# Attribution\n\n"
        "5 series. Name these sources when you show anything made of them.\n\n"
        "## Imaging Data Commons\n\n"
        f"{attribution.IDC}\n\n"
        "## 4D-Lung (`4d_lung`)\n\n"
        "- 3 series\n- licence: CC BY 3.0, CC BY 4.0\n- https://doi.org/10.1/a\n- https://doi.org/10.1/b\n\n"
        "Doe, J. & Roe, R. (2020). Data (Version 1).\n\n"
        "## `other`\n\n"
        "- 1 series\n- licence: unknown\n\n"
        "## `unnamed`\n\n"
        "- 1 series\n- licence: CC BY 4.0\n- https://doi.org/10.9/z\n"
    )
    assert chosen.facts["tables"]["collections"] == package.facts()


def test_own_scans_owe_nothing_to_the_data_commons(tmp_path: Path, package: Table) -> None:
    index = write_index(tmp_path / "index.parquet", {"series_aws_url": "file:dicom/1.1/*"})
    chosen = query.select(Corpus(index=index))
    assert "Imaging Data Commons" not in chosen.attribution
    assert "## `4d_lung`" in chosen.attribution
    assert set(chosen.facts["tables"]) == {"listing"}


def test_a_package_with_other_columns_gives_no_citations(tmp_path: Path) -> None:
    pd.DataFrame({"collection_id": ["4d_lung"], "Sources": ["x"]}).to_parquet(tmp_path / "collections_index.parquet")
    rows = pd.DataFrame({"collection_id": ["4d_lung"], "source_DOI": ["10.1/a"], "license": ["CC0"]})
    text = attribution.text(rows, Table(tmp_path / "collections_index.parquet", "23.10.1"))
    assert text.endswith("## `4d_lung`\n\n- 1 series\n- licence: CC0\n- https://doi.org/10.1/a\n")
