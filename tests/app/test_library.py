"""The scans that the page knows: places, organs, sent ones and their limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from ctfm.app import library
from ctfm.app.sources import Source
from ctfm.errors import Quarantine
from ctfm.imaging.volume import Volume
from tests.app.conftest import block, nifti


@pytest.fixture
def shelf(tmp_path):
    made = block()
    label = Volume((made.array > 400).astype(np.uint8) * 3, made.affine)
    source = Source("ball", nifti(tmp_path / "a.nii"), nifti(tmp_path / "b.nii", label), {3: "ball"})
    return library.Library([source], tmp_path / "work")


def test_what_is_at_a_point_is_what_simpleitk_finds_there(shelf, tmp_path):
    opened, image = shelf.get("1").open(), sitk.ReadImage(str(tmp_path / "a.nii"))
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y, z = (int(n) for n in rng.integers(0, image.GetSize()))
        point = image.TransformIndexToPhysicalPoint((x, y, z))
        found = opened.at(np.asarray(point) + 0.2)
        assert found["voxel"] == [z, y, x] and found["hu"] == image[x, y, z]
        assert found["organ"] == ("ball" if image[x, y, z] == 800 else None)


def test_outside_there_is_nothing(shelf):
    assert shelf.get("1").open().at(np.array([500.0, 0, 0])) == {"voxel": None, "hu": None, "organ": None}


def test_an_id_without_a_name_is_told_as_it_is(shelf):
    opened = replace(shelf.get("1").open(), ids={})
    assert opened.at(opened.volume.affine[:3] @ [12, 8, 14, 1])["organ"] == "label 3"


def test_a_sent_scan_is_added_and_removed_with_all_its_files(shelf, tmp_path):
    entry = shelf.receive(nifti(tmp_path / "sent.nii.gz"), "../x/mine.nii.gz")
    assert entry.about() == {"id": "2", "name": "mine", "sent": True, "organs": False}
    assert entry.details()["shape"] == [24, 20, 22]
    assert {path.name for path in entry.folder.iterdir()} == {"scan.b2nd", "shown.nii"}
    assert shelf.remove("2") and not entry.folder.exists() and shelf.get("2") is None
    assert not shelf.remove("2") and not shelf.remove("1") and shelf.get("1")


def test_nothing_is_left_of_a_bad_one(shelf, tmp_path):
    (tmp_path / "bad").write_bytes(b"nothing")
    with pytest.raises(Quarantine):
        shelf.receive(tmp_path / "bad", "bad")
    assert len(shelf.all()) == 1 and not list((tmp_path / "work").iterdir())


def test_only_so_many_are_kept(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "MOST_SENT", 1)
    sent = nifti(tmp_path / "sent.nii")
    shelf.receive(sent, "a")
    with pytest.raises(Quarantine, match="remove one"):
        shelf.receive(sent, "b")
