"""The header of a DICOM file: the few tags that matter, read fast, and where the pixels lie.

Ordinary files (explicit or implicit VR, little endian) are scanned here: only wanted tags are kept, undecoded.
Whatever is unusual about a file is left to pydicom, which gives the same undecoded elements.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom import uid
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from ctfm.errors import Quarantine

_KEYWORDS = """
    TransferSyntaxUID ImageType SOPClassUID SOPInstanceUID Modality Manufacturer ManufacturerModelName KVP
    ConvolutionKernel SliceThickness PatientPosition SeriesInstanceUID ImagePositionPatient ImageOrientationPatient
    SamplesPerPixel NumberOfFrames Rows Columns PixelSpacing BitsAllocated BitsStored HighBit PixelRepresentation
    PixelPaddingValue PhotometricInterpretation RescaleIntercept RescaleSlope RescaleType LossyImageCompression
    SliceLocation
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
    PlanePositionSequence PlaneOrientationSequence PixelMeasuresSequence PixelValueTransformationSequence
    CTImageFrameTypeSequence FrameType
"""
TAGS = {keyword: BaseTag(tag_for_keyword(keyword) or 0) for keyword in _KEYWORDS.split()}
TAG_OF = {int(tag): tag for tag in TAGS.values()}
WANTED = frozenset(TAG_OF)
FIRST_PIXELS = 0x7FE00008  # floating point pixels come before the others
ITEM, END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
AT_ONCE = 2**16  # bytes; a longer header is left to pydicom
LARGEST_INFLATED = 2**30  # bytes of a file

_EXPLICIT, _ITEM, _LONG = (struct.Struct(form).unpack_from for form in ("<HH2sH", "<HHL", "<L"))
_PIXELS_LITTLE, _PIXELS_BIG = b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"
_PIXEL_VRS = (b"OB", b"OW", b"UN")  # as a length they would be odd, which none is
_LONG_VRS = {str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32}
_SHORT_VRS = {str(vr.value).encode() for vr in VR if len(vr.value) == 2} - _LONG_VRS
_BINARY = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "FL": "f4", "FD": "f8", "UV": "u8", "SV": "i8", "AT": "u2"}
_PLAIN = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, "")
_SCANNED = frozenset(map(str, uid.AllTransferSyntaxes)) - {uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian}
_Elements = dict[BaseTag, DataElement | RawDataElement]


class _Unusual(Exception):
    """Something that the fast scan leaves to pydicom."""


@dataclass(frozen=True)
class Header:
    """The header of one file.

    Attributes:
        path: of the file.
        syntax: UID of the transfer syntax; empty when the file tells none.
        tags: data set of the wanted elements, undecoded (see ``texts`` and ``numbers``).
        offset: of the first byte of the pixels (of the first item, if they are encapsulated); None: no pixels.
        length: of the pixels, bytes; ``UNDEFINED``: encapsulated.
        plain: the pixels lie in the file as they are, little endian.
    """

    path: Path
    syntax: str
    tags: pydicom.Dataset
    offset: int | None
    length: int
    plain: bool

    @property
    def name(self) -> str:
        """The file's name, to tell of it."""
        return self.path.name

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns; 0 where the file tells none."""
        return count(self.tags, "Rows") or 0, count(self.tags, "Columns") or 0

    def text(self, key: str) -> str:
        """Return the values of a tag as one text."""
        return "/".join(texts(self.tags, key))


def read(path: Path) -> Header:
    """Read the header of one file.

    Raises:
        Quarantine: ``empty_file``, ``unreadable``, or ``truncated`` when the file ends before its pixels do.
    """
    size = path.stat().st_size
    if size == 0:
        raise Quarantine("empty_file", path.name)
    with path.open("rb") as file:
        try:
            header = _scan_file(path, file)
        except _Unusual:
            header = _ask_pydicom(path, file)
        if header.offset is None or header.syntax == uid.DeflatedExplicitVRLittleEndian:
            return header
        if header.length == UNDEFINED:
            _check_items(header, file, size)
        elif header.offset + header.length > size:
            detail = f"{header.offset + header.length - size} of {header.length} bytes of pixels are missing"
            raise Quarantine("truncated", f"{path.name}: {detail}")
    return header


def texts(tags: pydicom.Dataset, key: str) -> tuple[str, ...]:
    """Return the values of a tag as the file has them, without padding; nothing when it is absent or blank."""
    found = tags.get_item(TAGS[key])
    if isinstance(found, RawDataElement):
        return _texts(found.VR, found.value, found.is_little_endian, found.tag)
    if found is None or found.VR == VR.SQ or found.is_empty:
        return ()
    return tuple(map(str, found.value if found.VM > 1 else [found.value]))  # pydicom decoded it to decode a sequence


def numbers(tags: pydicom.Dataset, key: str) -> tuple[float, ...]:
    """Return the finite numbers of a tag; nothing when it is absent or one of its values is no such number."""
    return _numbers(texts(tags, key))


def count(tags: pydicom.Dataset, key: str) -> int | None:
    """Return the one whole number of a tag, or None."""
    found = numbers(tags, key)
    return int(found[0]) if len(found) == 1 and found[0] % 1 == 0 else None


@lru_cache(2**14)  # most values are the same in all slices
def _texts(vr: str | None, value: bytes | None, little: bool, tag: BaseTag) -> tuple[str, ...]:
    if not value:
        return ()
    if vr in (None, "UN"):
        vr = dictionary_VR(tag)[:2]  # of `US or SS` the first: both are compared as the pixels are
    if vr in _BINARY:
        kind = np.dtype(("<" if little else ">") + _BINARY[vr])
        return tuple(map(str, np.frombuffer(value, kind).tolist())) if len(value) % kind.itemsize == 0 else ()
    parts = tuple(part.strip(" \0\t\r\n") for part in value.decode("utf-8", "replace").split("\\"))
    return parts if any(parts) else ()


@lru_cache(2**14)
def _numbers(parts: tuple[str, ...]) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in parts)
    except ValueError:
        return ()
    return found if all(map(math.isfinite, found)) else ()


def _scan_file(path: Path, file: BinaryIO) -> Header:
    """Read an ordinary file's header.

    Raises:
        _Unusual: it is none.
    """
    data = file.read(AT_ONCE)
    if data[128:132] != b"DICM":
        raise _Unusual
    meta, start = _scan(data, 132, False, stop=0x00030000)
    syntax = "\\".join(texts(pydicom.Dataset(meta), "TransferSyntaxUID"))
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        _check_inflated(path, file, start)
    implicit = syntax == uid.ImplicitVRLittleEndian
    if syntax not in _SCANNED or (data[start + 4 : start + 6] in _SHORT_VRS) == implicit:
        raise _Unusual
    found, at = _scan(data, start, implicit, stop=FIRST_PIXELS)
    return _header(path, syntax, pydicom.Dataset(found), data[at : at + 12], at)


def _scan(data: bytes, at: int, implicit: bool, stop: int) -> tuple[_Elements, int]:
    """Collect the wanted elements from ``at`` on, up to the first tag >= ``stop``; return them and its place.

    Sequences of undefined length are walked through: their elements and delimiters are passed over one by one.
    """
    found: _Elements = {}
    depth, end = 0, len(data) - 12
    while at <= end:
        group, element, vr, length = _EXPLICIT(data, at)
        tag, delimiter = group << 16 | element, group == 0xFFFE
        if tag >= stop and not depth:
            if delimiter:
                break
            return found, at
        start = at + 8
        if implicit or delimiter:
            length = _LONG(data, at + 4)[0]
        elif vr in _LONG_VRS:
            length, start = _LONG(data, at + 8)[0], at + 12
        elif vr not in _SHORT_VRS:
            break
        if length == UNDEFINED:
            if tag in WANTED or not (delimiter or implicit or vr == b"SQ"):
                break
            depth, length = depth + (not delimiter), 0
        elif tag == END_OF_SEQUENCE:
            depth -= 1
        elif tag in WANTED and not depth:
            kind = None if implicit else vr.decode()
            value = data[start : start + length]
            found[TAG_OF[tag]] = RawDataElement(TAG_OF[tag], kind, length, value, start, implicit, True)
        at = start + length
    raise _Unusual  # longer than what was read, cut off, or not as it should be


def _ask_pydicom(path: Path, file: BinaryIO) -> Header:
    """Read any file's header."""
    file.seek(0)
    try:
        tags = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(WANTED))
        syntax = str(tags.file_meta.get("TransferSyntaxUID", ""))
    except InvalidDicomError as error:
        raise Quarantine("unreadable", f"{path.name}: not a DICOM file") from error
    except Exception as error:  # damaged bytes lead pydicom to errors of any kind
        code = "truncated" if isinstance(error, (EOFError, struct.error)) else "unreadable"
        raise Quarantine(code, f"{path.name}: {' '.join(str(error).split())[:200]}") from error
    if syntax == uid.DeflatedExplicitVRLittleEndian:  # where its pixels lie is known when it is inflated
        return Header(path, syntax, tags, 0, 0, plain=False)
    at = file.tell()
    return _header(path, syntax, tags, file.read(12), at, little=tags.original_encoding[1] is not False)


def _header(path: Path, syntax: str, tags: pydicom.Dataset, element: bytes, at: int, little: bool = True) -> Header:
    """Make a header of its elements and the first bytes of the ``element`` that follows them at ``at``."""
    start = 12 if element[4:6] in _PIXEL_VRS else 8  # files may be explicit though they say implicit
    if len(element) < start or element[:4] != (_PIXELS_LITTLE if little else _PIXELS_BIG):
        return Header(path, syntax, tags, None, 0, plain=False)
    length = int.from_bytes(element[start - 4 : start], "little" if little else "big")
    plain = little and syntax in _PLAIN and length != UNDEFINED
    return Header(path, syntax, tags, at + start, length, plain)


def _check_items(header: Header, file: BinaryIO, size: int) -> None:
    """Walk through encapsulated pixels, which end with a delimiter."""
    at = header.offset or 0
    while at + 8 <= size:
        file.seek(at)
        group, element, length = _ITEM(file.read(8))
        tag = group << 16 | element
        if tag == END_OF_SEQUENCE:
            return
        if tag != ITEM:
            raise Quarantine("unreadable", f"{header.name}: damaged pixels: {tag:08x} where an item should begin")
        at += 8 + length
    raise Quarantine("truncated", f"{header.name}: the compressed pixels don't end")


def _check_inflated(path: Path, file: BinaryIO, start: int) -> None:
    """Refuse a few bytes that would fill the memory."""
    unpack, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    file.seek(start)
    try:
        while size <= LARGEST_INFLATED and (chunk := file.read(AT_ONCE)):
            size += len(unpack.decompress(chunk))
    except zlib.error as error:
        raise Quarantine("unreadable", f"{path.name}: {error}") from error
    if size > LARGEST_INFLATED:
        raise Quarantine("too_large", f"{path.name}: {size} bytes or more when inflated")
    if not unpack.eof:
        raise Quarantine("truncated", f"{path.name}: the deflated data don't end")
