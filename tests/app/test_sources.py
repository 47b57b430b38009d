"""Which scans are offered: of a data set, of a folder; and what their label maps mean."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ctfm import tables
from ctfm.app import sources
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.imaging.volume import Volume
from tests.app.conftest import block, nifti


def labels(value=5):
    made = block()
    return Volume((made.array > 0).astype(np.uint8) * value, made.affine)


def dataset(folder, names=("liver",), intensity=None):
    store.save(block(), folder / "a.b2nd", {"intensity": intensity} if intensity else {})
    store.save(labels(), folder / "a_label.b2nd", {"ids": {"liver": 5}})
    row = {"case": "a", "status": "ok", "image": "a.b2nd", "label": "a_label.b2nd", "labels": list(names)}
    bad = {"case": "b", "status": "excluded", "reason": "no_label"}
    tables.write(tables.of("cases", [row, bad]), "cases", folder / sources.CASES)
    return folder


def test_a_data_set_offers_its_usable_cases_with_their_names(tmp_path):
    (one,) = sources.find(dataset(tmp_path))
    assert (one.name, one.image, one.label) == ("a", tmp_path / "a.b2nd", tmp_path / "a_label.b2nd")
    assert one.ids == {5: "liver"}


def test_cubes_that_are_no_ct_are_not_offered(tmp_path):
    with pytest.raises(UserError, match="holds no scan"):
        sources.find(dataset(tmp_path, intensity="unit"))


def test_the_data_set_with_the_most_organs_is_taken(tmp_path):
    dataset(tmp_path / "demo/datasets/few")
    many = dataset(tmp_path / "demo/datasets/many", ("liver", "spleen"))
    dataset(tmp_path / "demo/datasets/none", ())
    assert sources.of_a_run(tmp_path) == many
    assert sources.of_a_run(tmp_path / "nothing") is None


def test_a_folder_offers_files_and_dicom_and_pairs_label_maps(tmp_path):
    nifti(tmp_path / "liver.nii.gz")
    nifti(tmp_path / "liver_2.nii.gz")
    nifti(tmp_path / "liver_2_labels.nii.gz", labels())
    (tmp_path / "series").mkdir()
    (tmp_path / "series/1.dcm").write_bytes(bytes(128) + b"DICM")
    nifti(tmp_path / "series_seg.nii", labels())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/readme.txt").write_text("x")
    found = {source.name: source for source in sources.find(tmp_path)}
    assert list(found) == ["liver", "liver_2", "series"]
    assert found["series"].label == tmp_path / "series_seg.nii"
    assert found["liver"].label is None
    assert found["liver_2"].label == tmp_path / "liver_2_labels.nii.gz"
    assert found["liver_2"].ids[5] == "liver"  # TotalSegmentator's
    (tmp_path / "labels.json").write_text(json.dumps([{"id": 5, "name": "blob"}]))
    assert sources.find(tmp_path)[1].ids == {5: "blob"}


def test_a_scan_whose_name_ends_like_a_label_map_stays_a_scan(tmp_path):
    nifti(tmp_path / "seg.nii.gz")
    assert [source.name for source in sources.find(tmp_path)] == ["seg"]


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_a_folder_without_scans_says_what_would_be_read(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="--scans"):
        sources.find(tmp_path / name)


def test_names_are_told_apart(tmp_path):
    twice = [sources.Source("a", tmp_path), sources.Source("a", tmp_path)]
    assert [source.name for source in sources.unique(twice)] == ["a", "a-2"]
