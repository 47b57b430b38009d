"""Damaged series of all kinds: each becomes a sound volume or is refused with a reason, and nothing else happens."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from ctfm.config import Criteria, Prepare
from ctfm.errors import Quarantine
from ctfm.imaging import convert, criteria, dicom, geometry
from tests.imaging import dicom_maker as maker
from tests.imaging.test_frames import enhance

SETTINGS = Prepare(min_slices=4)
ANY = Criteria(min_instances=1, thickness_mm=None, unique_positions=False)
KNOWN = dicom.CODES | criteria.CODES
SECONDS = 20  # much more than any takes
COMPRESSED = [uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.JPEGLossless]
SYNTAXES = ["", "", "", uid.ImplicitVRLittleEndian, *COMPRESSED]
NUMBERS = [
    "nan",
    "inf",
    "-inf",
    "1e308",
    "-1e300",
    "0",
    "-1",
    "1e-300",
    "",
    "x",
    "1,5",
    "9" * 16,
    "1\\2",
    "0x10",
    "-0.8",
]
VALUES = {  # texts, or whole numbers as 16 bits
    "ImagePositionPatient": ["nan\\0\\0", "0\\0", "0\\inf\\0", "1e300\\0\\0", "", "a\\b\\c", "0\\0\\1e5", "1\\2\\3\\4"],
    "ImageOrientationPatient": [
        "0\\0\\0\\0\\0\\0",
        "nan\\0\\0\\0\\1\\0",
        "1\\0\\0\\1\\0\\0",
        "1e200\\0\\0\\0\\1e200\\0",
        "1",
    ],
    "PixelSpacing": [
        "-0.8\\0.8",
        "0\\0",
        "nan\\1",
        "1e300\\1e300",
        "0.0051\\0.0051",
        "9.9\\9.9",
        "0.8",
        "inf\\inf",
        "x",
    ],
    "RescaleSlope": NUMBERS,
    "RescaleIntercept": NUMBERS,
    "SliceThickness": NUMBERS,
    "NumberOfFrames": ["0", "x", "-3", "2", "999999999999", "1.5", ""],
    "ImageType": ["LOCALIZER", "", "\\\\\\", "\xff\xfe"],
    "Modality": ["MR", "", "ct"],
    "SOPClassUID": ["1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2", "1.2.3", ""],
    "SeriesInstanceUID": ["1.2.3", ""],
    "SOPInstanceUID": ["1.2.3", ""],
    "PhotometricInterpretation": ["RGB", "PALETTE COLOR", "YBR_FULL", ""],
    "Rows": [0, 1, 31, 33, 64, 512, 8000, 65535],
    "Columns": [0, 1, 39, 41, 80, 512, 8000, 65535],
    "BitsAllocated": [0, 1, 8, 12, 32, 64, 65535],
    "BitsStored": [0, 1, 8, 12, 15, 17, 65535],
    "HighBit": [0, 7, 11, 31, 65535],
    "PixelRepresentation": [0, 1, 2, 65535],
    "SamplesPerPixel": [0, 3, 4, 65535],
    "PixelPaddingValue": [0, 24, 1024, 63536, 32768],
    "PlanarConfiguration": [0, 1, 7],
}
VRS = [b"US", b"OB", b"SQ", b"UN", b"DS", b"FD", b"AT", b"ZZ", b"\0\0"]
Rng = np.random.Generator


def flip(content: bytes, rng: Rng, start: int, stop: int) -> bytes:
    changed = bytearray(content)
    for at in rng.integers(start, max(stop, start + 1), rng.choice([1, 1, 3, 30])):
        changed[min(at, len(changed) - 1)] ^= 1 << rng.integers(8)
    return bytes(changed)


def pixels_at(content: bytes) -> int:
    return max(content.rfind(b"\xe0\x7f\x10\x00"), 132)


def cut(content: bytes, rng: Rng) -> bytes:
    limit = len(content) if rng.random() < 0.5 else min(pixels_at(content) + 100, len(content))
    return content[: rng.integers(limit)]


def insert(content: bytes, rng: Rng) -> bytes:
    at = rng.integers(len(content))
    return content[:at] + rng.bytes(rng.integers(1, 200)) + content[at:]


def remove(content: bytes, rng: Rng) -> bytes:
    at = rng.integers(len(content))
    return content[:at] + content[at + rng.integers(1, 200) :]


def overwrite(content: bytes, rng: Rng) -> bytes:
    at, size = rng.integers(len(content)), int(rng.integers(1, 200))
    return content[:at] + (bytes(size) if rng.random() < 0.5 else b"\xff" * size) + content[at + size :]


def wrong_vr(content: bytes, rng: Rng) -> bytes:
    """Change the VR of an element that the reader asks for."""
    tag = Tag(rng.choice(list(VALUES)))
    at = content.find(tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little"))
    return content if at < 0 else content[: at + 4] + VRS[rng.integers(len(VRS))] + content[at + 6 :]


BYTES: list[Callable[[bytes, Rng], bytes]] = [
    lambda content, rng: flip(content, rng, 132, pixels_at(content)),
    lambda content, rng: flip(content, rng, pixels_at(content), len(content)),
    lambda content, rng: flip(content, rng, 0, len(content)),
    cut,
    insert,
    remove,
    overwrite,
    wrong_vr,
    lambda content, rng: b"",
    lambda content, rng: b"no DICOM file\n" * 20,
    lambda content, rng: rng.bytes(5000),
    lambda content, rng: content[:132] + rng.bytes(5000),
    lambda content, rng: content[132:],
]


def raw(file: pydicom.Dataset, key: str, value: str | int) -> None:
    """Put a value into a data set that pydicom would not take."""
    tag, vr = Tag(key), pydicom.datadict.dictionary_VR(key)
    content = value.to_bytes(2, "little") if isinstance(value, int) else value.encode("latin-1")
    content += b" " * (len(content) % 2)
    implicit = bool(file.original_encoding[0])
    file[tag] = RawDataElement(tag, None if implicit else vr[:2], len(content), content, 0, implicit, True)


def tags(path: Path, key: str, value: str | int | None) -> None:
    """Set (None: delete) a tag, wherever it stands."""
    file = pydicom.dcmread(path)
    places = [file]
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        places += [inner for item in file.get(sequence, []) for group in item for inner in group.value]
    for place in [place for place in places if key in place] or [file]:
        if value is not None:
            raw(place, key, value)
        elif key in place:
            del place[key]
    file.save_as(path)


def files(folder: Path, rng: Rng) -> None:
    """Copy, rename, remove and add files."""
    paths = sorted(folder.iterdir())
    path = paths[rng.integers(len(paths))]
    name, kind = str(rng.integers(10**6)), rng.integers(7)
    if kind == 0:
        shutil.copy(path, folder / f"{name}.dcm")
    elif kind == 1:
        path.rename(folder / name)
    elif kind == 2:
        path.rename(path.with_suffix(".jpg"))
    elif kind == 3:
        (folder / "readme.txt").write_text("a scan")
    elif kind == 4:
        (folder / name).mkdir()
    elif kind == 5:
        path.unlink()
    else:
        for other in paths[1:]:
            shutil.copy(paths[0], other)


def mutate(folder: Path, rng: Rng) -> str:
    """Damage a series; return what was done."""
    paths = sorted(folder.iterdir())
    chosen = paths if rng.random() < 0.3 else [paths[rng.integers(len(paths))]]
    kind = rng.random()
    if kind < 0.1:
        files(folder, rng)
        return "files"
    if kind < 0.55:
        change = int(rng.integers(len(BYTES)))
        seed = rng.integers(2**32)
        for path in chosen:  # the same damage to each
            path.write_bytes(BYTES[change](path.read_bytes(), np.random.default_rng(seed)))
        return f"bytes {change}"
    key = str(rng.choice(list(VALUES)))
    value = None if rng.random() < 0.15 else VALUES[key][rng.integers(len(VALUES[key]))]
    for path in chosen:
        tags(path, key, value)
    return f"{key} = {value!r}"


def source(folder: Path, number: int) -> Path:
    """Write a sound series of one of several kinds."""
    hu = maker.body((8, 32, 40))
    single = maker.write(folder / "single", hu)
    kind = number % (len(SYNTAXES) + 2)
    if kind >= len(SYNTAXES):
        single = enhance(single, folder / "multi", files=kind - len(SYNTAXES) + 1)
        if number % 3 == 0:
            maker.recode(next(single.iterdir()), uid.JPEG2000Lossless)
    elif SYNTAXES[kind]:
        for path in single.iterdir():
            maker.recode(path, SYNTAXES[kind])
    return single


def outcome(folder: Path, settings: Prepare = SETTINGS) -> str:
    """Convert a series and return the reason, or nothing; fail on all that must not be."""
    start = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            volume, facts = convert.convert(folder, settings, ANY)
    except Quarantine as reason:
        assert reason.code in KNOWN, reason
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            convert.picture(folder)
        assert time.monotonic() - start < SECONDS
        return reason.code
    assert time.monotonic() - start < SECONDS
    assert volume.array.dtype == np.int16 and -1024 <= volume.array.min() < -50 and volume.array.max() > -200
    assert volume.array.size <= geometry.MAX_VOXELS
    assert np.isfinite(volume.affine).all() and min(volume.spacing) > 0
    axes = volume.affine[:3, :3] / volume.spacing
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert facts["slices"] >= settings.min_slices and facts["spacing_mm"][0] > 0
    return ""


@pytest.mark.parametrize("number", range(60))
def test_damage_is_survived(tmp_path: Path, number: int) -> None:
    rng = np.random.default_rng([7, number])
    folder = source(tmp_path, number)
    for _ in range(1 + (number % 4 == 3)):
        if list(folder.iterdir()):
            try:
                mutate(folder, rng)
            except (pydicom.errors.InvalidDicomError, ValueError, KeyError, AttributeError, OSError):
                continue  # damaged twice, and pydicom can't write it any more
    outcome(folder)


@pytest.mark.parametrize("number", range(6))
def test_damage_to_a_real_series_is_survived(shared_data: Path, tmp_path: Path, number: int) -> None:
    folder = shutil.copytree(shared_data / "dicom" / "head_axial_5mm", tmp_path / "s", copy_function=shutil.copyfile)
    mutate(folder, np.random.default_rng([8, number]))
    outcome(folder)
