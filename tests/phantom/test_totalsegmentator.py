"""The TotalSegmentator layout, read back with nibabel and as the data set's own reader would."""

from __future__ import annotations

import csv
import hashlib

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from ctfm.imaging.volume import orient, read_image
from ctfm.phantom import totalsegmentator
from ctfm.phantom.cases import cases


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("totalsegmentator")
    made = list(cases(0, 3, 8.0))
    totalsegmentator.write(folder, iter(made))
    return folder, made


def test_meta_is_written_as_published(layout):
    folder, made = layout
    assert (folder / "meta.csv").read_bytes().startswith(b"\xef\xbb\xbfimage_id;age;gender;institute;study_type;split;")
    with (folder / "meta.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter=";"))
    assert tuple(rows[0]) == totalsegmentator.COLUMNS
    assert [row["image_id"] for row in rows] == ["s0000", "s0001", "s0002"]
    assert [row["split"] for row in rows] == [case.split for case in made]
    assert all(row["study_type"].startswith("ct ") for row in rows)
    assert pd.read_csv(folder / "meta.csv", sep=";")["image_id"].tolist() == ["s0000", "s0001", "s0002"]


def test_masks_add_up_to_the_labels_in_the_world(layout, ids):
    folder, made = layout
    case = made[0]
    merged = np.zeros(case.label.shape, np.uint8)
    files = sorted((folder / "s0000/segmentations").glob("*.nii.gz"))
    assert {file.name.removesuffix(".nii.gz") for file in files} == set(ids)
    for file in files:
        image = nib.load(file)
        assert image.get_data_dtype() == np.uint8 and nib.aff2axcodes(image.affine) == ("R", "A", "S")
        mask = orient(read_image(file))
        assert set(np.unique(mask.array)) <= {0, 1}
        assert not merged[mask.array == 1].any()
        merged += mask.array * np.uint8(ids[file.name.removesuffix(".nii.gz")])
        np.testing.assert_allclose(mask.affine, case.label.affine, atol=1e-4)
    assert np.array_equal(merged, case.label.array)


def test_the_scan_is_the_phantom(layout):
    folder, made = layout
    image = nib.load(folder / "s0001/ct.nii.gz")
    assert image.get_data_dtype() == np.int16 and image.header.get_zooms() == pytest.approx((8, 8, 8))
    volume = orient(read_image(folder / "s0001/ct.nii.gz"))
    assert np.array_equal(volume.array, made[1].image.array)
    # The same voxel through nibabel's own affine: RAS, so left and back change sign.
    index = np.array([2, 3, 4])
    world = nib.affines.apply_affine(made[1].image.affine[:, [0, 1, 2, 3]], index) * (-1, -1, 1)
    voxel = np.rint(nib.affines.apply_affine(np.linalg.inv(image.affine), world)).astype(int)
    assert image.dataobj[tuple(voxel)] == made[1].image.array[tuple(index)]


def test_same_cases_same_bytes(layout, tmp_path):
    folder, made = layout
    totalsegmentator.write(tmp_path, iter(made))
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        twin = tmp_path / file.relative_to(folder)
        assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(twin.read_bytes()).digest(), file.name


def test_a_killed_run_leaves_no_meta(layout, tmp_path):
    _, made = layout
    totalsegmentator.write(tmp_path, iter(made))

    def killed():
        yield made[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        totalsegmentator.write(tmp_path, killed())
    assert not (tmp_path / "meta.csv").exists()
    assert not list(tmp_path.rglob(".*.tmp*"))
