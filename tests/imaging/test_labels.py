from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from ctfm.errors import Quarantine
from ctfm.imaging import labels
from ctfm.imaging.volume import read_image
from tests.makers import arrays, write_case

IDS = {"spleen": 1, "liver": 5, "aorta": 52}


def masks(folder):
    return {p.name.removesuffix(".nii.gz"): p for p in (folder / "segmentations").glob("*.nii.gz")}


def test_masks_are_merged_by_ascending_id(tmp_path):
    write_case(tmp_path)
    scan = read_image(tmp_path / "ct.nii.gz")
    made, overlap = labels.read_labels(masks(tmp_path), IDS, scan)
    wanted, claimed = np.zeros((20, 24, 28), np.uint8), np.zeros((20, 24, 28), int)
    for name in ("spleen", "liver", "aorta"):
        mask = arrays()[1][name] > 0
        wanted[mask] = IDS[name]
        claimed += mask
    assert np.array_equal(made.array, wanted.transpose(2, 1, 0))
    assert made.array.dtype == np.uint8
    assert overlap == (np.maximum(claimed, 1) - 1).sum() > 0
    assert labels.names(made.array, IDS) == ["spleen", "liver", "aorta"]


def test_a_merged_map_is_read_as_it_is(tmp_path):
    write_case(tmp_path, merged=IDS, names=("spleen",))
    made, overlap = labels.read_labels(tmp_path / "label.nii.gz", IDS, read_image(tmp_path / "ct.nii.gz"))
    assert set(np.unique(made.array)) == {0, 1} and overlap == 0


def _unknown(folder):
    (folder / "segmentations" / "liver.nii.gz").rename(folder / "segmentations" / "livr.nii.gz")


def _empty(folder):
    for path in masks(folder).values():
        nib.save(nib.Nifti1Image(np.zeros((20, 24, 28), np.uint8), np.diag([1.5, 1.5, 1.5, 1])), path)


def _shifted(folder):
    nib.save(nib.Nifti1Image(arrays()[1]["liver"], np.diag([1.5, 1.5, 1.6, 1])), masks(folder)["liver"])


def _other_shape(folder):
    nib.save(nib.Nifti1Image(np.ones((20, 24, 27), np.uint8), np.diag([1.5, 1.5, 1.5, 1])), masks(folder)["liver"])


def _truncated(folder):
    masks(folder)["liver"].write_bytes(masks(folder)["liver"].read_bytes()[:60])


def _one_less(folder):
    masks(folder)["liver"].unlink()


def _none(folder):
    for path in masks(folder).values():
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "code", "word"),
    [
        (_unknown, "unknown_label", "did you mean 'liver'"),
        (_empty, "empty_label", "no voxel"),
        (_shifted, "grid_differs", "liver: its corners lie 2.70 mm"),
        (_other_shape, "grid_differs", "liver: "),
        (_truncated, "unreadable", "liver"),
        (_none, "no_labels", "neither"),
        (_one_less, "missing_mask", "other cases have a mask of liver"),
    ],
)
def test_bad_labels_are_refused(tmp_path, harm, code, word):
    write_case(tmp_path)
    harm(tmp_path)
    with pytest.raises(Quarantine, match=word) as refused:
        labels.read_labels(masks(tmp_path), IDS, read_image(tmp_path / "ct.nii.gz"))
    assert refused.value.code == code


def test_a_map_with_unknown_ids_is_refused(tmp_path):
    write_case(tmp_path, merged={"spleen": 1, "liver": 77, "aorta": 52}, names=("spleen", "liver"))
    with pytest.raises(Quarantine, match="value 77"):
        labels.read_labels(tmp_path / "label.nii.gz", IDS, read_image(tmp_path / "ct.nii.gz"))
