"""A scan that somebody sends: unpacked with care. Nothing in it decides where something is written, or how much.

Taken are NIfTI files (``.nii``, ``.nii.gz``) and zip archives of one DICOM series, known by their content, not their
names. Other formats are not: some name further files, which would be read from the server's disk.
"""

from __future__ import annotations

import gzip
import io
import re
import stat
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import IO

import nibabel as nib
import numpy as np
import pydicom

from ctfm.app import sources
from ctfm.errors import Quarantine

SENT_BYTES = 2**29
UNPACKED_BYTES = 2**31
MOST_FILES = 5000
CHUNK = 2**20
HEADERS = {348: nib.Nifti1Header, 540: nib.nifti2.Nifti2Header}
SINGLE = (b"n+1", b"n+2")  # both parts in one file
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others may take any amount of memory
FAULTS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError)
KINDS = "send a NIfTI file (.nii, .nii.gz), or a .zip of the DICOM files of one CT series"


def name(told: str) -> str:
    """Return a name to show for a sent file: its last part, without suffix, in plain characters."""
    last = re.split(r"[\\/]", told)[-1]
    plain = re.sub(r"[^\w .+-]", "_", last, flags=re.ASCII).strip(" .")
    return re.sub(r"(\.nii)?(\.gz)?(\.zip)?$", "", plain, flags=re.IGNORECASE)[:60].strip(" .") or "scan"


def unpack(sent: Path, folder: Path) -> Path:
    """Return the scan inside of a sent file, a NIfTI file or a folder of DICOM files; written below ``folder``.

    Raises:
        Quarantine: ``unknown_kind``, ``damaged``, ``too_large``, ``too_many_files``, ``not_3d``, ``no_files``.
    """
    with sent.open("rb") as stream:
        start = stream.read(4)
    try:
        if start.startswith(b"PK"):
            return _zip(sent, folder)
        packed = start.startswith(b"\x1f\x8b")
        with io.BufferedReader(gzip.GzipFile(sent)) if packed else sent.open("rb") as stream:
            return _nifti(stream, folder / "scan.nii")
    except FAULTS as error:
        raise Quarantine("damaged", f"it can't be unpacked ({type(error).__name__})") from error


def _nifti(stream: IO[bytes], path: Path) -> Path:
    """Copy a NIfTI file as long as its own header says, and not longer."""
    head = stream.read(540)
    header = _header(head)
    dims = [int(n) for n in header["dim"]]
    size = dims[1 : dims[0] + 1]
    if not 3 <= dims[0] <= 7 or min(size) < 1 or any(n != 1 for n in size[3:]):
        raise Quarantine("not_3d", f"its axes are {size}; one volume of three axes is needed")
    if header.get_data_dtype().kind not in "iuf":
        raise Quarantine("unknown_kind", f"its voxels are {header.get_data_dtype()}; numbers are needed")
    wanted = int(header["vox_offset"]) + int(np.prod(size, dtype=object)) * header.get_data_dtype().itemsize
    if wanted > UNPACKED_BYTES:
        raise Quarantine("too_large", f"{wanted / 2**20:.0f} MiB unpacked; at most {UNPACKED_BYTES / 2**20:.0f}")
    with path.open("wb") as target:
        target.write(head)
        have = len(head)
        while have < wanted and (part := stream.read(min(CHUNK, wanted - have))):
            target.write(part)
            have += len(part)
    if have < wanted:
        raise Quarantine("damaged", f"it ends after {have} of {wanted} bytes")
    return path


def _header(head: bytes) -> nib.Nifti1Header:
    for order in ("little", "big"):
        length = int.from_bytes(head[:4], order)
        if length in HEADERS and len(head) >= length:
            try:
                header = HEADERS[length](head[:length], check=False)
                header.get_data_dtype()
            except (nib.spatialimages.HeaderDataError, KeyError) as error:
                raise Quarantine("damaged", "its NIfTI header makes no sense") from error
            if bytes(header["magic"])[:3] in SINGLE and 0 <= int(header["vox_offset"]) <= CHUNK:
                return header
    raise Quarantine("unknown_kind", KINDS)


def _zip(sent: Path, folder: Path) -> Path:
    """Write the DICOM files of an archive under names of our own; of several series the one with most files is kept."""
    with zipfile.ZipFile(sent) as archive:
        members = [m for m in archive.infolist() if not m.is_dir()]
        if len(members) > MOST_FILES:
            raise Quarantine("too_many_files", f"{len(members)} files; at most {MOST_FILES}")
        if (told := sum(m.file_size for m in members)) > UNPACKED_BYTES:
            raise Quarantine("too_large", f"{told / 2**20:.0f} MiB unpacked; at most {UNPACKED_BYTES / 2**20:.0f}")
        if any(stat.S_ISLNK(m.external_attr >> 16) for m in members):
            raise Quarantine("damaged", "it holds symbolic links")
        if any(m.flag_bits & 1 or m.compress_type not in PACKINGS for m in members):
            raise Quarantine("unknown_kind", "it is encrypted or packed in an unusual way")
        left = UNPACKED_BYTES
        for number, member in enumerate(members):
            left -= _member(archive, member, folder / f"{number:05d}.dcm", left)
    return _series(folder)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, left: int) -> int:
    """Write a member if it is a DICOM file; return the bytes it has, whatever it says itself."""
    have = 0
    with archive.open(member) as stream, path.open("wb") as target:
        while part := stream.read(CHUNK):
            have += len(part)
            if have > left:
                raise Quarantine("too_large", f"more than {UNPACKED_BYTES / 2**20:.0f} MiB unpacked")
            target.write(part)
    if not sources.is_dicom(path):
        path.unlink()
    return have


def _series(folder: Path) -> Path:
    """Keep the files of the series that has the most, in a folder of their own."""
    of = {path: _uid(path) for path in sorted(folder.glob("*.dcm"))}
    counts = Counter(uid for uid in of.values() if uid is not None)
    if not counts:
        raise Quarantine("no_files", f"it holds no DICOM file; {KINDS}")
    (kept, _), *_ = counts.most_common(1)
    series = folder / "series"
    series.mkdir()
    for path, uid in of.items():
        path.rename(series / path.name) if uid == kept else path.unlink()
    return series


def _uid(path: Path) -> str | None:
    """Return the series that a file says it is of, perhaps none; None for what is no DICOM file at all."""
    try:
        header = pydicom.dcmread(path, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True)
        return str(header.get("SeriesInstanceUID", ""))
    except Exception:  # pydicom raises whatever it likes; such a file is of no use
        return None
