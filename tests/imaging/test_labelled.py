from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from ctfm.errors import Quarantine
from ctfm.imaging import labelled, store
from tests.makers import arrays, write_case

TABLE = {"ids": {"spleen": 1, "liver": 5, "aorta": 52}, "groups": {"spleen": "organs"}}


def keep(folder, out, spacing=(3.0, 3.0, 3.0)):
    masks = {p.name.removesuffix(".nii.gz"): p for p in sorted(folder.glob("segmentations/*.nii.gz"))}
    return labelled.keep("s1", folder / "ct.nii.gz", masks, TABLE, spacing, out)


def test_a_case_is_stored_with_its_labels(tmp_path):
    write_case(tmp_path / "in")
    row = keep(tmp_path / "in", tmp_path)
    image, label = store.open_volume(tmp_path / "s1.b2nd"), store.open_volume(tmp_path / "s1_label.b2nd")
    assert image.load().array.dtype == np.int16 and label.load().array.dtype == np.uint8
    assert image.shape == label.shape == tuple(row["shape"]) == (14, 12, 10)
    assert row["labels"] == ["spleen", "liver", "aorta"] and row["spacing"] == [3, 3, 3]
    assert row["empty"] == [] and row["detail"] == "" and row["overlap_voxels"] > 0
    assert label.meta["ids"] == TABLE["ids"] and label.meta["groups"] == TABLE["groups"]


def test_a_label_that_resampling_loses_is_told(tmp_path):
    write_case(tmp_path / "in")
    mask = np.zeros((20, 24, 28), np.uint8)
    mask[3, 3, 3] = 1  # between the voxels that are taken
    nib.save(nib.Nifti1Image(mask, np.diag([1.5, 1.5, 1.5, 1])), tmp_path / "in/segmentations/spleen.nii.gz")
    row = keep(tmp_path / "in", tmp_path, (6.0, 6.0, 6.0))
    assert row["labels"] == ["liver"] and row["empty"] == ["spleen", "aorta"]  # the aorta is two voxels wide
    assert row["detail"] == "too small to be left at 6x6x6 mm: spleen, aorta"


def test_image_and_labels_stay_together_whatever_the_orientation(tmp_path):
    flips = np.array([[0, 0, -1.5, 10], [1.5, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 0, 1.0]])
    write_case(tmp_path / "in", affine=flips)
    keep(tmp_path / "in", tmp_path, (1.5, 1.5, 1.5))
    image, label = store.open_volume(tmp_path / "s1.b2nd").load(), store.open_volume(tmp_path / "s1_label.b2nd").load()
    for name, hu in (("liver", 110), ("spleen", 250)):
        inside = image.array[label.array == TABLE["ids"][name]]
        assert abs(np.median(inside) - hu) < 3
    assert (np.diag(image.affine[2::-1, :3]) > 0).all()  # superior, posterior, left
    # the same millimetre holds the same label as in the source, by SimpleITK
    source = sitk.ReadImage(str(tmp_path / "in/segmentations/liver.nii.gz"))
    for index in np.argwhere(label.array == 5)[::50]:
        point = [float(v) for v in label.world(index)]
        assert source[source.TransformPhysicalPointToIndex(point)] == 1


def test_without_a_spacing_a_case_keeps_its_own_voxels(tmp_path):
    flips = np.array([[0, 0, -2.5, 10], [1.5, 0, 0, 20], [0, -1.0, 0, 30], [0, 0, 0, 1.0]])
    write_case(tmp_path / "in", affine=flips)
    row = keep(tmp_path / "in", tmp_path, None)
    image = store.open_volume(tmp_path / "s1.b2nd").load()
    source = nib.load(tmp_path / "in/ct.nii.gz").get_fdata()
    assert row["spacing"] == pytest.approx([1.0, 1.5, 2.5]) and sorted(image.shape) == sorted(source.shape)
    assert np.array_equal(np.sort(image.array, axis=None), np.sort(source, axis=None))


def test_a_stored_case_is_used_again_until_something_changes(tmp_path):
    write_case(tmp_path / "in")
    first, stamp = keep(tmp_path / "in", tmp_path), (tmp_path / "s1.b2nd").stat().st_mtime_ns
    assert keep(tmp_path / "in", tmp_path) == first
    assert (tmp_path / "s1.b2nd").stat().st_mtime_ns == stamp
    keep(tmp_path / "in", tmp_path, (2.0, 3.0, 3.0))
    assert (tmp_path / "s1.b2nd").stat().st_mtime_ns != stamp
    (tmp_path / "s1.b2nd").write_bytes(b"torn")
    assert keep(tmp_path / "in", tmp_path) == first
    assert store.open_volume(tmp_path / "s1.b2nd").shape == tuple(first["shape"])


@pytest.mark.parametrize(
    ("harm", "code"),
    [("nan", "not_finite"), ("flat", "empty_image"), ("gone", "missing_image"), ("torn", "unreadable")],
)
def test_bad_scans_are_refused(tmp_path, harm, code):
    write_case(tmp_path / "in")
    path, image = tmp_path / "in/ct.nii.gz", arrays()[0].astype(np.float32)
    if harm == "nan":
        image[0, 0, 0] = np.nan
    if harm == "flat":
        image[:] = 7
    nib.save(nib.Nifti1Image(image, np.diag([1.5, 1.5, 1.5, 1])), path)
    if harm == "gone":
        path.unlink()
    if harm == "torn":
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Quarantine) as refused:
        keep(tmp_path / "in", tmp_path)
    assert refused.value.code == code
