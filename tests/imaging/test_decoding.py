from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid

from ctfm.config import Criteria, Prepare
from ctfm.errors import Quarantine
from ctfm.imaging import decoding, dicom
from tests.imaging import dicom_maker as maker

SETTINGS, ANY = Prepare(min_slices=2), Criteria(min_instances=1, thickness_mm=None)
LOSSLESS = [*list(maker.GDCM_SYNTAXES)[:4], uid.RLELossless]
PLAIN = [
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
]
HU = maker.body((4, 32, 40))


def read(folder: Path) -> tuple[np.ndarray, dict]:
    volume, facts = dicom.read_series(folder, SETTINGS, ANY)
    return volume.array, facts


def refused(folder: Path) -> str:
    with pytest.raises(Quarantine) as caught:
        read(folder)
    return caught.value.code


def stored(
    allocated: int,
    bits: int,
    signed: bool,
    slope: float = 1,
    intercept: float = -1024,
    high: int | None = None,
    rubbish: bool = True,
) -> maker.Change:
    """Store the pixels otherwise: width, sign, rescale and highest bit; unused bits above hold rubbish, or signs."""

    def change(file: pydicom.Dataset, i: int) -> None:
        values = np.rint((HU[i].astype(float) - intercept) / slope).astype(np.int64)
        file.BitsAllocated, file.BitsStored, file.PixelRepresentation = allocated, bits, int(signed)
        file.HighBit = bits - 1 if high is None else high
        shift = file.HighBit + 1 - bits
        used = ((1 << bits) - 1) << shift
        whole = values << shift
        if rubbish:
            above = ~((1 << (file.HighBit + 1)) - 1)
            whole = (whole & used) | (np.random.default_rng(i).integers(0, 2**62, values.shape) & above)
        file.PixelData = (whole & ((1 << allocated) - 1)).astype(f"<u{allocated // 8}").tobytes()
        file.RescaleSlope, file.RescaleIntercept = slope, intercept

    return change


@pytest.mark.parametrize("syntax", [*PLAIN, *LOSSLESS], ids=lambda s: uid.UID(s).name)
@pytest.mark.parametrize(("bits", "signed"), [(12, False), (16, True), (13, True)])
def test_every_lossless_syntax_gives_the_same_bits(tmp_path: Path, syntax: str, bits: int, signed: bool) -> None:
    folder = maker.write(tmp_path, HU, change=stored(16, bits, signed, intercept=0 if signed else -1024, rubbish=False))
    for path in folder.iterdir():
        maker.recode(path, syntax)
        assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    array, facts = read(folder)
    assert (array == HU).all()
    assert facts["TransferSyntax"] == syntax and facts["lossy"] is False


@pytest.mark.parametrize("syntax", [uid.JPEG2000, uid.JPEGBaseline8Bit], ids=lambda s: uid.UID(s).name)
def test_lossy_pixels_are_taken_and_told(tmp_path: Path, syntax: str) -> None:
    bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
    rows, columns = np.mgrid[:32, :40]
    smooth = np.clip(1200 * np.exp(-((rows - 16) ** 2 + (columns - 20) ** 2) / 200) - 1000, -1000, 200)
    slope = 8 if bits == 8 else 1

    def change(file: pydicom.Dataset, _: int) -> None:
        values = np.rint((smooth + 1024) / slope)
        file.BitsAllocated = 8 if bits == 8 else 16
        file.BitsStored, file.HighBit, file.PixelRepresentation = bits, bits - 1, 0
        file.PixelData = values.astype("u1" if bits == 8 else "<u2").tobytes()
        file.RescaleSlope, file.LossyImageCompression = slope, "01"

    folder = maker.write(tmp_path, HU, change=change)
    for path in folder.iterdir():
        maker.recode(path, syntax)
    array, facts = read(folder)
    assert facts["lossy"] is True and facts["TransferSyntax"] == syntax
    assert np.abs(array - smooth).max() <= (80 if bits == 8 else 20)


@pytest.mark.parametrize(
    ("allocated", "bits", "signed", "slope", "intercept", "high"),
    [
        (16, 12, False, 1, -1024, None),
        (16, 12, True, 1, 0, None),
        (16, 12, False, 1, -1024, 15),
        (16, 12, True, 1, 0, 13),
        (16, 16, True, 1, 0, None),
        (16, 16, False, 1, -32768, None),
        (16, 14, False, 0.5, -1000.5, None),
        (16, 12, False, 1, -1024.0, None),
        (32, 32, True, 1, 0, None),
        (32, 20, False, 1, -2000, None),
        (32, 24, True, 0.25, -512, 27),
    ],
)
def test_stored_values_of_any_width(
    tmp_path: Path, allocated: int, bits: int, signed: bool, slope: float, intercept: float, high: int | None
) -> None:
    change = stored(allocated, bits, signed, slope, intercept, high)
    assert (read(maker.write(tmp_path, HU, change=change))[0] == HU).all()


def test_eight_bits(tmp_path: Path) -> None:
    coarse = (HU // 8) * 8

    def change(file: pydicom.Dataset, i: int) -> None:
        file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
        file.PixelData = ((coarse[i] + 1024) // 8).astype(np.uint8).tobytes()
        file.RescaleSlope = 8

    assert (read(maker.write(tmp_path, HU, change=change))[0] == coarse).all()


def test_negative_slope_and_rounding(tmp_path: Path) -> None:
    def change(file: pydicom.Dataset, i: int) -> None:
        file.PixelData = ((400 - HU[i]) * 2 + 1).astype("<i2").tobytes()
        file.RescaleSlope, file.RescaleIntercept = -0.5, 400.5

    assert (read(maker.write(tmp_path, HU, change=change))[0] == HU).all()


@pytest.mark.parametrize("syntax", [*PLAIN, uid.JPEG2000Lossless, uid.RLELossless], ids=lambda s: uid.UID(s).name)
@pytest.mark.parametrize("declared", [-2000, 63536, None])
def test_padding_below_air_becomes_air_whatever_the_tag(tmp_path: Path, syntax: str, declared: int | None) -> None:
    """Padding of -2000 is declared as signed, as unsigned, or not at all."""
    hu = HU.copy()
    hu[:, :3] = -2000

    def change(file: pydicom.Dataset, i: int) -> None:
        file.PixelData = hu[i].astype("<i2").tobytes()
        file.RescaleIntercept = 0
        if declared is not None:
            file.add_new(0x00280120, "SS" if declared < 0 else "US", declared)

    folder = maker.write(tmp_path, HU, change=change)
    for path in folder.iterdir():
        maker.recode(path, syntax)
    array, facts = read(folder)
    assert (array == np.maximum(hu, -1024)).all()
    assert facts["padded_voxels"] == (0 if declared is None else 4 * 3 * 40)


@pytest.mark.parametrize("value", [30000, -30000])
def test_padding_beyond_what_int16_holds(tmp_path: Path, value: int) -> None:
    def change(file: pydicom.Dataset, i: int) -> None:
        values = (HU[i].astype(np.int32) - (20000 if value > 0 else -20000)).astype("<i2")
        values[0] = value
        file.PixelData, file.RescaleIntercept = values.tobytes(), 20000 if value > 0 else -20000
        file.add_new(0x00280120, "SS", value)

    array, facts = read(maker.write(tmp_path, HU, change=change))
    assert (array[:, 1:] == HU[:, 1:]).all() and (array[:, 0] == -1024).all()
    assert facts["padded_voxels"] == 4 * 40


def test_trailing_bytes_are_ignored(tmp_path: Path) -> None:
    def change(file: pydicom.Dataset, _: int) -> None:
        file.PixelData = file.PixelData + bytes(50)
        file.add_new(0xFFFCFFFC, "OB", bytes(100))

    assert (read(maker.write(tmp_path, HU, change=change))[0] == HU).all()


def tags(**values: object) -> maker.Change:
    return lambda file, _: [setattr(file, key, value) for key, value in values.items()] and None


SIZES = [
    ("unreadable", tags(BitsAllocated=12)),
    ("unreadable", tags(BitsAllocated=64)),
    ("unreadable", tags(BitsStored=17)),
    ("unreadable", tags(BitsStored=0)),
    ("unreadable", tags(BitsStored=1)),
    ("unreadable", tags(HighBit=16)),
    ("unreadable", tags(HighBit=3)),
    ("unreadable", tags(PixelRepresentation=2)),
    ("unreadable", tags(Rows=0)),
    ("unreadable", tags(Rows=16)),
    ("unreadable", tags(Rows=31)),
    ("unreadable", tags(Columns=39)),
    ("unreadable", tags(BitsAllocated=8, BitsStored=8, HighBit=7)),
    ("truncated", tags(Rows=33)),
    ("truncated", tags(BitsAllocated=32)),
    ("too_large", tags(Rows=65535, Columns=65535)),
]


@pytest.mark.parametrize("number", range(len(SIZES)))
def test_sizes_that_cant_be(tmp_path: Path, number: int) -> None:
    code, change = SIZES[number]
    assert refused(maker.write(tmp_path, HU, change=change)) == code


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: uid.UID(s).name)
def test_damage_to_compressed_pixels(tmp_path: Path, syntax: str) -> None:
    folder = maker.write(tmp_path, HU)
    for path in folder.iterdir():
        maker.recode(path, syntax)
    path = folder / "0002.dcm"
    content = path.read_bytes()
    path.write_bytes(content[: -len(content) // 4])
    assert refused(folder) == "truncated"
    start = content.index(b"\xfe\xff\x00\xe0", content.rindex(b"\xe0\x7f\x10\x00") + 20) + 8
    path.write_bytes(content[:start] + bytes(40) + content[start + 40 :])
    assert refused(folder) == "unreadable"


def test_preview_shows_what_can_be_shown(tmp_path: Path, shared_data: Path) -> None:
    for name in ("mr_not_ct", "localizer", "exam_summary", "trunk_jpeg2000"):
        path = sorted((shared_data / "dicom" / name).iterdir())[0]
        assert (decoding.preview(path) == pydicom.dcmread(path).pixel_array).all()
    with pytest.raises(Quarantine, match="too_large"):
        decoding.preview(next(maker.write(tmp_path, HU, change=tags(Rows=65535, Columns=65535)).iterdir()))
