from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from ctfm.config import Prepare
from ctfm.errors import Quarantine
from ctfm.imaging import convert
from tests.imaging import dicom_maker as maker


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (20, 40, 41)])
def test_percentiles_equal_numpy(shape: tuple[int, int, int]) -> None:
    array = np.random.default_rng(0).integers(-32768, 32768, shape).astype(np.int16)
    expected = np.percentile(array, convert.PERCENTILES, method="inverted_cdf")
    assert convert.percentiles(array) == expected.tolist()


def test_kept_volume_is_known_by_its_key(tmp_path: Path) -> None:
    volume, facts = convert.convert(maker.write(tmp_path / "s", maker.body()), Prepare())
    row = convert.keep(volume, facts, tmp_path / "a.b2nd", "key")
    assert convert.describe(tmp_path / "a.b2nd", "key") == row
    with pytest.raises(Quarantine) as caught:
        convert.describe(tmp_path / "a.b2nd", "another key")
    assert caught.value.code == "other_key"


def test_key_depends_on_settings_and_local_bytes(tmp_path: Path) -> None:
    folder = maker.write(tmp_path / "s", maker.body())
    key = convert.key({"a": 1}, f"file:{folder}/*")
    assert key == convert.key({"a": 1}, f"file:{folder}")
    assert key != convert.key({"a": 2}, f"file:{folder}/*")
    (folder / "0001.dcm").write_bytes(b"other")
    assert key != convert.key({"a": 1}, f"file:{folder}/*")
    assert convert.key({}, "s3://idc-open-data/one/*") != convert.key({}, "s3://idc-open-data/two/*")


def test_picture_shows_whatever_has_pixels(tmp_path: Path, shared_data: Path) -> None:
    def colour(file: pydicom.Dataset, _: int) -> None:
        file.SamplesPerPixel, file.PlanarConfiguration, file.PhotometricInterpretation = 3, 0, "RGB"
        file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
        file.PixelData = bytes(32 * 40 * 3)

    def frames(file: pydicom.Dataset, _: int) -> None:
        file.NumberOfFrames, file.PixelData = 3, file.PixelData * 3

    for i, change in enumerate((colour, frames)):
        image = convert.picture(maker.write(tmp_path / str(i), maker.body(), change=change))
        assert image is not None and image.shape == (32, 40)
    for name in ("localizer", "exam_summary", "mr_not_ct"):
        image = convert.picture(shared_data / "dicom" / name)
        assert image is not None and max(image.shape) == 128
    for folder in ("empty", "garbage"):
        (tmp_path / folder).mkdir()
    (tmp_path / "garbage" / "a.dcm").write_bytes(b"no DICOM")
    assert convert.picture(tmp_path / "empty") is None and convert.picture(tmp_path / "garbage") is None


def test_real_series_becomes_a_volume(shared_data: Path) -> None:
    volume, facts = convert.convert(shared_data / "dicom" / "trunk_jpeg2000", Prepare())
    assert volume.shape == (13, 500, 500) and volume.spacing == pytest.approx((3, 1, 1))
    assert volume.array.dtype == np.int16 and volume.array.min() >= -1024
    assert facts["TransferSyntax"] == pydicom.uid.JPEG2000Lossless
    assert (np.diag(volume.affine[2::-1, :3]) > 0).all()
