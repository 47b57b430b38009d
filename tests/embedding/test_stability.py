from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import typer

from ctfm import tables
from ctfm.embedding.stability import stability
from ctfm.errors import UserError
from ctfm.imaging.volume import Volume, write_nifti
from ctfm.phantom import dicom, rider


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Return the paths of a scan, its repetition as DICOM, and somebody else's scan."""
    folder = tmp_path_factory.mktemp("scans")
    person = rider.Person(0, 0)
    write_nifti(rider.scan(person, 0), folder / "first.nii.gz")
    header = {"SeriesInstanceUID": "1.2.3", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "SliceThickness": 2.5}
    dicom.write_series(folder / "second", dicom.slices_of(rider.scan(person, 1)), header)
    write_nifti(rider.scan(rider.Person(4, 0, 2, True), 1), folder / "other.nii.gz")
    return folder / "first.nii.gz", folder / "second", folder / "other.nii.gz"


def test_two_scans_of_a_person(scans, folder, tmp_path, capsys):
    out = tmp_path / "patches.parquet"
    stability(*scans[:2], encoder=str(folder), other=scans[2], out=out, as_json=True)
    told = json.loads(capsys.readouterr().out)
    rows = tables.read("patch_pairs", out)
    kept = rows[rows.counted]
    assert told["cosine_registered"] == pytest.approx(kept.cosine[kept.comparison == "registered"].mean())
    assert told["cosine_registered"] > told["cosine_random"] and told["registration_failed"] == 0 and told["ncc"] > 0.95
    assert told["patches"] == (kept.comparison == "unregistered").sum() and set(rows.case) == {"first"}
    assert "failed" not in told["differences"] and np.shape(told["registration"]["matrix"]) == (4, 4)
    assert tables.facts(out)["sources"][1]["thickness_mm"] == [2.5]
    stability(*scans[:2], encoder=str(folder))
    assert "cosine_registered" in capsys.readouterr().out


def test_scans_of_two_persons_end_with_status_1(scans, folder, capsys):
    with pytest.raises(typer.Exit) as left:
        stability(scans[0], scans[2], encoder=str(folder))
    assert left.value.exit_code == 1 and "registration failed (correlation of HU" in capsys.readouterr().out


def test_what_cannot_be_used_is_told(scans, folder, tmp_path):
    with pytest.raises(UserError, match=r"missing_image: .*give two scans of one person"):
        stability(scans[0], tmp_path / "gone.nii.gz", encoder=str(folder))
    empty = Volume(np.full((20, 20, 20), -1000, np.int16), np.eye(4)[:, [2, 1, 0, 3]])
    write_nifti(empty, tmp_path / "empty.nii.gz")
    with pytest.raises(UserError, match="empty_image"):
        stability(scans[0], tmp_path / "empty.nii.gz", encoder=str(folder))
    with pytest.raises(UserError, match="crop"):
        stability(*scans[:2], encoder=str(folder), crop="all")
