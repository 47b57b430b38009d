from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid

from ctfm.errors import Quarantine
from ctfm.imaging import headers
from tests.imaging import dicom_maker as maker


def one(folder: Path, syntax: str = uid.ExplicitVRLittleEndian) -> Path:
    """Write one file in a transfer syntax."""
    (path,) = maker.write(folder, maker.body((1, 8, 6))).iterdir()
    maker.recode(path, syntax)
    return path


def refused(path: Path) -> str:
    with pytest.raises(Quarantine) as caught:
        headers.read(path)
    return caught.value.code


def cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


def nested() -> pydicom.Dataset:
    """An item that holds what must not be taken for the file's own: tags, pixels, a sequence in a sequence."""
    inner, item = pydicom.Dataset(), pydicom.Dataset()
    inner.Modality = "MR"
    inner.is_undefined_length_sequence_item = True
    item.Modality, item.Rows, item.SliceThickness = "PT", 99, 99.0
    item.RequestAttributesSequence = [inner, inner]
    item["RequestAttributesSequence"].is_undefined_length = True
    item.PixelData = b"\1\2" * 8
    item["PixelData"].VR = "OW"
    return item


def agrees(path: Path) -> None:
    """Every wanted tag, read by the scan, has the values that pydicom's own conversion gives."""
    header, plain = headers.read(path), pydicom.dcmread(path)
    for key in headers.TAGS:
        if key.endswith("Sequence") or key == "TransferSyntaxUID":
            continue
        value = plain.get(key)
        values = (
            [] if value in (None, "") else list(value) if isinstance(value, pydicom.multival.MultiValue) else [value]
        )
        found = headers.texts(header.tags, key)
        assert len(found) == len(values), key
        for text, expected in zip(found, values, strict=True):
            assert text == expected if isinstance(expected, str) else float(text) == float(expected), key
    assert header.syntax == plain.file_meta.TransferSyntaxUID
    if header.plain:
        content = path.read_bytes()
        assert content[header.offset : header.offset + header.length] == plain.PixelData


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("undefined", [True, False])
def test_sequences_and_private_tags_are_passed_over(
    tmp_path: Path, syntax: str, undefined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = one(tmp_path)
    file = pydicom.dcmread(path)
    file.ReferencedStudySequence = [nested(), nested()]
    file["ReferencedStudySequence"].is_undefined_length = undefined
    file.ReferencedStudySequence[0].is_undefined_length_sequence_item = undefined
    file.add_new(0x00190010, "LO", "A MAKER")
    file.add_new(0x00191001, "UN", b"\xe0\x7f\x10\x00OW\0\0" * 3)  # looks like pixels
    file.add_new(0x00191002, "OB", bytes(1001))
    file.add_new(0x7FDF0010, "LO", "B")
    file.add_new(0x00280120, "US", 20000)
    file.save_as(path)
    maker.recode(path, syntax)
    agrees(path)
    if syntax != uid.ExplicitVRBigEndian:
        monkeypatch.setattr(headers, "_ask_pydicom", None)
        agrees(path)


def test_real_headers_are_what_pydicom_reads(shared_data: Path) -> None:
    for folder in sorted((shared_data / "dicom").iterdir()):
        for path in sorted(folder.iterdir())[::7]:
            agrees(path)


@pytest.mark.parametrize("header", [2**16 + 100, 2**18])
def test_long_headers(tmp_path: Path, header: int) -> None:
    path = one(tmp_path)
    file = pydicom.dcmread(path)
    file.add_new(0x00190010, "LO", "A MAKER")
    file.add_new(0x00191001, "OB", bytes(header))
    file.save_as(path)
    agrees(path)


def test_files_that_say_little(tmp_path: Path) -> None:
    """Without transfer syntax pydicom guesses; without preamble a file is none."""
    path = one(tmp_path)
    content = path.read_bytes()
    start = 132 + 12 + int.from_bytes(content[140:144], "little")
    path.write_bytes(content[:132] + content[start:])
    header = headers.read(path)
    assert header.syntax == "" and header.plain and header.shape == (8, 6) and header.length == 96
    path.write_bytes(content[132:])
    assert refused(path) == "unreadable"
    path.write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"))  # says implicit, is not
    header = headers.read(path)
    assert header.shape == (8, 6) and headers.texts(header.tags, "Modality") == ("CT",)


@pytest.mark.parametrize(
    ("vr", "value", "texts", "numbers"),
    [
        ("DS", b"1.5 ", ("1.5",), (1.5,)),
        ("DS", b"1.5\\-2e3\0", ("1.5", "-2e3"), (1.5, -2000)),
        ("DS", b"1\\\\3", ("1", "", "3"), ()),
        ("DS", b"NaN", ("NaN",), ()),
        ("DS", b"1\\inf", ("1", "inf"), ()),
        ("DS", b"1,5", ("1,5",), ()),
        ("DS", b"  ", (), ()),
        ("DS", b"", (), ()),
        ("US", b"\2\1", ("258",), (258,)),
        ("SS", b"\xff\xff", ("-1",), (-1,)),
        ("US", b"\2\1\0", (), ()),
        ("FD", np.float64(np.nan).tobytes(), ("nan",), ()),
        ("UN", b"3.5", ("3.5",), (3.5,)),
        (None, b"3.5", ("3.5",), (3.5,)),
        ("OB", b"\xff\xfe\\1", ("\ufffd\ufffd", "1"), ()),
    ],
)
def test_values(vr: str | None, value: bytes, texts: tuple[str, ...], numbers: tuple[float, ...]) -> None:
    tag = headers.TAGS["SliceThickness"]
    raw = pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, vr is None, True)
    tags = pydicom.Dataset({tag: raw})
    assert headers.texts(tags, "SliceThickness") == texts
    assert headers.numbers(tags, "SliceThickness") == numbers
    assert headers.count(tags, "SliceThickness") == (numbers[0] if len(numbers) == 1 and numbers[0] % 1 == 0 else None)


def test_cut_files(tmp_path: Path) -> None:
    whole = len(one(tmp_path).read_bytes())
    for missing, code in [(1, "truncated"), (95, "truncated"), (whole, "empty_file"), (whole - 50, "unreadable")]:
        assert refused(cut(one(tmp_path), whole - missing)) == code
    for missing in (96, 100):  # no pixel is left, or not even their length
        assert refused(cut(one(tmp_path), whole - missing)) == "truncated"
    assert headers.read(cut(one(tmp_path), whole - 108)).offset is None


def test_a_damaged_transfer_syntax_is_no_error_of_ours(tmp_path: Path) -> None:
    path = one(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840\\10008.1.2.1\0"))
    assert not headers.read(path).plain


def test_encapsulated_pixels_end_with_a_delimiter(tmp_path: Path) -> None:
    def write() -> Path:
        path = one(tmp_path, uid.RLELossless)
        assert headers.read(path).length == headers.UNDEFINED and not headers.read(path).plain
        return path

    path = write()
    content = path.read_bytes()
    for missing in (1, 8, 9, 60):
        assert refused(cut(write(), len(content) - missing)) == "truncated"
    at = content.rindex(b"\xfe\xff\x00\xe0")
    path.write_bytes(content[:at] + b"\xff\xff\x00\xe0" + content[at + 4 :])
    assert refused(path) == "unreadable"


def test_deflated_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = one(tmp_path, uid.DeflatedExplicitVRLittleEndian)
    assert headers.read(path).shape == (8, 6) and not headers.read(path).plain
    content = path.read_bytes()
    start = 132 + 12 + int.from_bytes(content[140:144], "little")
    assert refused(cut(path, len(content) - 20)) == "truncated"
    path.write_bytes(content[:start] + b"\xff" * 50)
    assert refused(path) == "unreadable"
    monkeypatch.setattr(headers, "LARGEST_INFLATED", 10**6)
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(content[:start] + pack.compress(bytes(2 * 10**6)) + pack.flush())
    assert refused(path) == "too_large"
