from __future__ import annotations

import hashlib

import numpy as np
import pytest
from monai.transforms import CropForeground

from ctfm.embedding import read
from ctfm.errors import Quarantine
from ctfm.imaging import store
from ctfm.imaging.preprocess import Preprocess
from ctfm.imaging.volume import Volume

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]]
HERE = Preprocess(spacing_mm=(2.0, 2.0, 2.0))


def body(shape=(70, 40, 30)):
    """Return air with a body of -100 HU in it, and in this one of 60 HU."""
    array = np.full(shape, -1000, np.int16)
    array[10:60, 5:33, 4:22] = -100
    array[20:50, 10:30, 8:20] = 60
    return Volume(array, AFFINE)


def test_boxes_by_their_rules(tmp_path):
    """The published one is that of MONAI's transform on raw HU; the body is that of the store's rule."""
    volume = body()
    made = {crop: read.prepare(volume, HERE, tmp_path, crop=crop) for crop in ("body", "published", "volume")}
    assert (made["body"].low, made["body"].high) == store.body_box(volume.array) == ((10, 5, 4), (60, 33, 22))
    low, high = CropForeground().compute_bounding_box(volume.array[None])
    assert (made["published"].low, made["published"].high) == (tuple(low), tuple(high)) == ((20, 10, 8), (50, 30, 20))
    assert made["volume"].shape == volume.shape


def test_where_nothing_is_dense_all_is_kept_and_air_alone_is_refused(tmp_path):
    array = np.full((8, 9, 10), -1000, np.int16)
    array[0, 0, 0] = -100
    assert read.prepare(Volume(array, AFFINE), HERE, tmp_path, crop="published").shape == (8, 9, 10)
    array[0, 0, 0] = -999
    with pytest.raises(Quarantine, match="implausible_hu"):
        read.prepare(Volume(array, AFFINE), HERE, tmp_path)


def test_a_prepared_volume_is_used_where_it_is_or_resampled(tmp_path):
    store.save(body(), tmp_path / "prepared.b2nd")
    out = tmp_path / "out"
    out.mkdir()
    assert read.prepare(tmp_path / "prepared.b2nd", HERE, out).volume.shape == (70, 40, 30)
    assert not list(out.iterdir())
    finer = read.prepare(tmp_path / "prepared.b2nd", Preprocess(spacing_mm=(4.0, 1.0, 2.0)), out)
    assert finer.volume.shape == (35, 80, 30) and finer.spacing_mm == pytest.approx((4, 1, 2))


def test_labels_stay_with_their_voxels_whatever_their_axes(tmp_path):
    volume = body()
    ids = (volume.array == 60).astype(np.uint8) * 9
    flipped = AFFINE @ np.diag([-1.0, 1, 1, 1])
    flipped[:, 3] = AFFINE @ [69, 0, 0, 1]
    made = read.prepare(volume, HERE, tmp_path, labels=Volume(ids[::-1].copy(), flipped))
    whole = made.read_labels((0, 0, 0), made.shape)
    dense = made.read((0, 0, 0), made.shape) > float(HERE.scale(np.array([0], np.int16))[0])
    assert np.array_equal(whole == 9, dense) and dense.any()


@pytest.mark.parametrize("values", [[-1, 3], [0.5, 3], [0, 256]])
def test_what_is_no_label_map_is_refused(tmp_path, values):
    ids = np.resize(np.asarray(values, float), (70, 40, 30))
    with pytest.raises(Quarantine, match="unknown_label"):
        read.prepare(body(), HERE, tmp_path, labels=Volume(ids, AFFINE))


def test_checksums(tmp_path, shared_data):
    (tmp_path / "a.nii").write_bytes(b"some bytes")
    assert read.checksum(tmp_path / "a.nii") == hashlib.sha256(b"some bytes").hexdigest()
    series = shared_data / "dicom/trunk_jpeg2000"
    copy = tmp_path / "copy"
    copy.mkdir()
    for number, file in enumerate(sorted(series.iterdir(), reverse=True)):
        (copy / f"{number}.dcm").write_bytes(file.read_bytes())
    assert read.checksum(copy) == read.checksum(series) != read.checksum(shared_data / "dicom/localizer")
    one, other = body(), body()
    other.array[0, 0, 0] += 1
    assert read.checksum(one) == read.checksum(body()) != read.checksum(other)
    with pytest.raises(Quarantine, match="missing_image"):
        read.checksum("nowhere.nii")
