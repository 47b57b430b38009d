"""What is made of sent files, hostile ones among them; written by the standard library alone, not by our own code."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import zipfile

import numpy as np
import pytest

from ctfm.app import uploads
from ctfm.errors import Quarantine
from tests.app.conftest import nifti


def header(dims=(3, 8, 8, 8, 1, 1, 1, 1), kind=4, offset=352.0, magic=b"n+1\0"):
    """Return the 352 bytes of a NIfTI-1 header, by the standard's offsets."""
    made = bytearray(352)
    struct.pack_into("<i", made, 0, 348)
    struct.pack_into("<8h", made, 40, *dims)
    struct.pack_into("<2h", made, 70, kind, 16)
    struct.pack_into("<8f", made, 76, *([1.0] * 8))
    struct.pack_into("<f", made, 108, offset)
    made[344:348] = magic
    return bytes(made)


def unpacked(tmp_path, content):
    sent, folder = tmp_path / "sent", tmp_path / "out"
    sent.write_bytes(content)
    folder.mkdir()
    return uploads.unpack(sent, folder)


def zipped(members, **kwargs):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, **kwargs) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def dicom(uid="1.2.3", number=0):
    """Return the start of an explicit little-endian file with a SeriesInstanceUID."""
    text = uid.encode() + b"\0" * (len(uid) % 2)
    syntax = b"1.2.840.10008.1.2.1\0"
    meta = b"\x02\0\x10\0UI" + struct.pack("<H", len(syntax)) + syntax
    group = b"\x02\0\0\0UL" + struct.pack("<HI", 4, len(meta))
    return bytes(128) + b"DICM" + group + meta + b"\x20\0\x0e\0UI" + struct.pack("<H", len(text)) + text + bytes(number)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_nifti_file_is_copied_as_long_as_it_says(tmp_path, pack):
    path = nifti(tmp_path / "a.nii")
    whole = path.read_bytes()
    assert unpacked(tmp_path, pack(whole + b"more")).read_bytes() == whole


NO_SCANS = [
    (b"\x89PNG\r\n\x1a\n" + bytes(2000), "unknown_kind"),
    (b"NRRD0004\ndata file: /etc/passwd\n", "unknown_kind"),
    (b"ObjectType = Image\nElementDataFile = /etc/passwd\n", "unknown_kind"),
    (b"", "unknown_kind"),
    (gzip.compress(b"hello"), "unknown_kind"),
    (gzip.compress(header() + np.random.default_rng(0).bytes(1024))[:-200], "damaged"),
    (b"\x1f\x8b" + bytes(100), "damaged"),
    (header() + bytes(1023), "damaged"),
    (header((3, 32767, 32767, 32767, 1, 1, 1, 1)), "too_large"),
    (header((7, *[32767] * 7)), "not_3d"),
    (header((4, 8, 8, 8, 2, 1, 1, 1)) + bytes(2048), "not_3d"),
    (header((2, 8, 8, 1, 1, 1, 1, 1)) + bytes(2048), "not_3d"),
    (header((3, 8, 0, 8, 1, 1, 1, 1)), "not_3d"),
    (header((3, 8, -8, 8, 1, 1, 1, 1)), "not_3d"),
    (header(kind=128) + bytes(2048), "unknown_kind"),  # colours
    (header(kind=77) + bytes(2048), "damaged"),
    (header(magic=b"ni1\0") + bytes(1024), "unknown_kind"),  # its voxels would be in a second file
    (header(offset=1e30) + bytes(1024), "unknown_kind"),
    (header(offset=float("nan")) + bytes(1024), "damaged"),
    (header(offset=-5.0) + bytes(1024), "unknown_kind"),
    (zipped([]), "no_files"),
    (zipped([("a.txt", b"hello")]), "no_files"),
    (b"PK\x03\x04" + bytes(100), "damaged"),
    (zipped([("a", dicom())])[:-30], "damaged"),
    (zipped([("inner.zip", zipped([("a.dcm", dicom())]))]), "no_files"),
]


@pytest.mark.parametrize(("content", "code"), NO_SCANS, ids=[f"{n}-{code}" for n, (_, code) in enumerate(NO_SCANS)])
def test_what_is_no_scan_is_refused_with_a_reason(tmp_path, content, code):
    with pytest.raises(Quarantine) as caught:
        unpacked(tmp_path, content)
    assert caught.value.code == code
    assert str(tmp_path) not in str(caught.value)


def test_a_bomb_of_zeros_is_not_unpacked(tmp_path):
    bomb = gzip.compress(header((3, 20, 20, 20, 1, 1, 1, 1)) + bytes(2**26), 9)
    assert unpacked(tmp_path, bomb).stat().st_size == 352 + 16000


def test_archives_are_limited_in_bytes_and_files_whatever_they_declare(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "UNPACKED_BYTES", 2**20)
    content = zipped([("a.dcm", dicom() + bytes(2**21))])
    with pytest.raises(Quarantine, match="too_large"):
        unpacked(tmp_path, content)
    place = content.index(b"PK\x01\x02")
    lying = content[: place + 24] + struct.pack("<I", 500) + content[place + 28 :]
    (tmp_path / "b").mkdir()
    with pytest.raises(Quarantine, match=r"too_large|damaged"):
        unpacked(tmp_path / "b", lying)
    monkeypatch.setattr(uploads, "MOST_FILES", 3)
    (tmp_path / "c").mkdir()
    with pytest.raises(Quarantine, match="too_many_files"):
        unpacked(tmp_path / "c", zipped([(f"{n}.dcm", dicom()) for n in range(4)]))


def test_names_in_an_archive_decide_nothing(tmp_path):
    members = ["../../evil.dcm", "/etc/evil.dcm", "C:\\evil.dcm", "a/../../evil", "x" * 3000, "nul\\..\\evil"]
    folder = unpacked(tmp_path, zipped([(name, dicom(number=n)) for n, name in enumerate(members)]))
    assert sorted(path.name for path in folder.iterdir()) == [f"{n:05d}.dcm" for n in range(len(members))]
    assert {path.name for path in tmp_path.iterdir()} == {"sent", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"series"}


def test_symbolic_links_encryption_and_odd_packings_are_refused(tmp_path):
    link = zipfile.ZipInfo("a.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(Quarantine, match="symbolic"):
        unpacked(tmp_path, zipped([(link, b"/etc/passwd")]))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.dcm", dicom())
    (tmp_path / "b").mkdir()
    with pytest.raises(Quarantine, match="packed"):
        unpacked(tmp_path / "b", stream.getvalue())
    content = bytearray(zipped([("a.dcm", dicom())]))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "c").mkdir()
    with pytest.raises(Quarantine, match="encrypted"):
        unpacked(tmp_path / "c", bytes(content))


def test_the_series_with_most_files_is_kept(tmp_path):
    members = [("scout", dicom("9.9"))] + [(f"{n}", dicom("1.2", n)) for n in range(3)] + [("DICOMDIR", b"x")]
    assert len(list(unpacked(tmp_path, zipped(members)).iterdir())) == 3
    assert not list((tmp_path / "out").glob("*.dcm"))


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("scan.nii.gz", "scan"),
        ("../../etc/passwd", "passwd"),
        ("C:\\scans\\Ärm 1.zip", "_rm 1"),
        ("<img src=x onerror=alert(1)>.nii", "_img src_x onerror_alert_1__"),
        ("...", "scan"),
        ("", "scan"),
        ("a\0b\n.nii", "a_b_"),
        ("x" * 500, "x" * 60),
    ],
)
def test_names_are_shown_in_plain_characters(told, shown):
    assert uploads.name(told) == shown


def test_big_endian_and_second_version_are_read(tmp_path):
    import nibabel as nib

    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    for name, image in (("b", nib.Nifti1Image), ("c", nib.Nifti2Image)):
        made = image(array, np.eye(4))
        if name == "b":
            made = image(array, np.eye(4), image.header_class(endianness=">"))
        nib.save(made, tmp_path / f"{name}.nii")
        (tmp_path / name).mkdir()
        path = unpacked(tmp_path / name, (tmp_path / f"{name}.nii").read_bytes())
        assert np.array_equal(nib.load(path).get_fdata(), array)
