"""An index of one's own DICOM folders."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pydicom
import pytest

from ctfm.config import Corpus
from ctfm.errors import UserError
from ctfm.idc import query
from ctfm.idc.folder import COLUMNS, index_folder
from ctfm.imaging.volume import Volume
from ctfm.phantom import dicom


def series(folder, uid, count=4, **tags):
    volume = Volume(np.zeros((count, 8, 8), np.int16), np.diag([3.0, 1.0, 1.0, 1.0])[:, [2, 1, 0, 3]])
    header = {"SeriesInstanceUID": uid, "StudyInstanceUID": "1.2", "PatientID": "P1", "SliceThickness": 3.0} | tags
    dicom.write_series(folder, dicom.slices_of(volume), header)
    return folder


def test_one_row_a_series_with_counted_sizes(tmp_path):
    place = series(tmp_path / "scans/a b/one", "1.2.1", SeriesDescription="Chest")
    series(tmp_path / "scans/two", "1.2.2", count=6)
    table = index_folder(tmp_path, tmp_path / "scans")
    assert tuple(table.columns) == COLUMNS and table["SeriesInstanceUID"].tolist() == ["1.2.1", "1.2.2"]
    first = table.iloc[0]
    assert first["series_aws_url"] == "file:scans/a b/one/*"
    assert first["series_size_MB"] == pytest.approx(sum(p.stat().st_size for p in place.iterdir()) / 1e6)
    assert (first["instanceCount"], first["SliceThickness"], first["Modality"]) == (4, 3.0, "CT")
    assert (first["sop_class_name"], first["collection_id"]) == ("CT Image Storage", "scans")


def test_unreadable_files_are_reported_and_the_rest_is_indexed(tmp_path, caplog):
    folder = series(tmp_path / "one", "1.2.1")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty.dcm").touch()
    (folder / ".hidden").write_text("x")
    with caplog.at_level(logging.WARNING):
        table = index_folder(tmp_path)
    assert len(table) == 1 and table.iloc[0]["instanceCount"] == 4
    assert "2 files" in caplog.text and "notes.txt" in caplog.text and "empty.dcm" in caplog.text


def test_a_series_needs_a_folder_of_its_own(tmp_path, caplog):
    series(tmp_path / "good", "1.2.1")
    shared = series(tmp_path / "shared", "1.2.2")
    shutil.copy(series(tmp_path / "third", "1.2.3") / "0001.dcm", shared / "9.dcm")
    with caplog.at_level(logging.WARNING):
        table = index_folder(tmp_path)
    assert table["SeriesInstanceUID"].tolist() == ["1.2.1"]
    assert "1.2.2" in caplog.text and "1.2.3" in caplog.text


def test_nothing_to_index_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        index_folder(tmp_path / "absent")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="one folder a series"):
        index_folder(tmp_path)


def test_a_missing_or_odd_thickness_is_missing(tmp_path):
    series(tmp_path / "one", "1.2.1", SliceThickness=None)
    assert index_folder(tmp_path)["SliceThickness"].isna().all()


def test_selection_reads_the_index(tmp_path):
    series(tmp_path / "dicom/one", "1.2.1", count=5)
    series(tmp_path / "dicom/two", "1.2.2", count=3)
    index_folder(tmp_path).to_parquet(tmp_path / "index.parquet")
    chosen = query.select(Corpus(index=str(tmp_path / "index.parquet"), min_instances=4), 0, where="corpora.own")
    assert chosen.series["SeriesInstanceUID"].tolist() == ["1.2.1"]


def test_real_scans(shared_data):
    table = index_folder(shared_data / "dicom").set_index("series_aws_url")
    assert table.loc["file:head_axial_1mm/*", "instanceCount"] == 70
    assert table.loc["file:mr_not_ct/*", "Modality"] == "MR"


def test_anonymised_series_get_a_stable_identifier_of_their_folder(tmp_path):
    for file in series(tmp_path / "stripped", "1.2.1").iterdir():
        header = pydicom.dcmread(file)
        del header.SeriesInstanceUID
        header.save_as(file)
    series(tmp_path / "whole", "1.2.2")
    table = index_folder(tmp_path).set_index("series_aws_url")
    made = table.loc["file:stripped/*", "SeriesInstanceUID"]
    assert made.startswith("2.25.") and table.loc["file:stripped/*", "instanceCount"] == 4
    assert made == index_folder(tmp_path).set_index("series_aws_url").loc["file:stripped/*", "SeriesInstanceUID"]
