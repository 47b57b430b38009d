"""Stored pixels of DICOM files to Hounsfield units.

Pixels that lie in a file as they are go straight into the place where they are wanted and are changed there, while
they are in the processor's cache; all others are decoded by pydicom and its plug-ins (see ``decoder``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ctfm.errors import Quarantine
from ctfm.imaging import headers
from ctfm.imaging.decoder import Decoder, Failed, unpack
from ctfm.imaging.frames import Frame
from ctfm.imaging.headers import Header
from ctfm.imaging.resample import AIR_HU

# A padding value that is a usual tissue value may be a wrong header: then it would punch holes into the body.
PADDING_OUTSIDE_HU = (-900, 3071)
# Nothing is thinner than air. Padding is, but it has one value or two; and there are streaks beside metal.
DEEPEST_HU, MOST_BELOW, PADDING_VALUES = -1200, 0.2, 8
LARGEST_PLANE = 2**26  # pixels of a slice
FEWEST_BITS = 8  # of a stored value
SIZES = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
INT16 = np.iinfo(np.int16)
KINDS = {(8, 0): "u1", (8, 1): "i1", (16, 0): "<u2", (16, 1): "<i2", (32, 0): "<u4", (32, 1): "<i4"}


def kind(header: Header) -> np.dtype | None:
    """Return the type of the stored values, little endian; None when the header tells no possible one."""
    allocated, sign = (headers.count(header.tags, key) for key in ("BitsAllocated", "PixelRepresentation"))
    if allocated is None or sign is None or (allocated, sign) not in KINDS:
        return None
    stored = headers.count(header.tags, "BitsStored") or 0
    high = stored - 1 if (told := headers.count(header.tags, "HighBit")) is None else told
    return np.dtype(KINDS[allocated, sign]) if FEWEST_BITS <= stored <= high + 1 <= allocated else None


def check_size(header: Header) -> None:
    """Refuse pixels that can't be as the header says, before memory is taken for them.

    Raises:
        Quarantine: ``unreadable``, ``too_large`` or ``truncated``.
    """
    (rows, columns), dtype = header.shape, kind(header)
    if min(rows, columns) < 1 or dtype is None:
        told = ", ".join(f"{key} '{header.text(key)}'" for key in SIZES)
        raise Quarantine("unreadable", f"{header.name}: {told}")
    if rows * columns > LARGEST_PLANE:
        raise Quarantine("too_large", f"{header.name}: {rows} x {columns} pixels")
    samples, frames = (headers.count(header.tags, key) or 1 for key in ("SamplesPerPixel", "NumberOfFrames"))
    pixel = dtype.itemsize * samples
    needed = rows * columns * pixel * frames
    if header.plain and header.length < needed:
        raise Quarantine("truncated", f"{header.name}: {header.length} bytes of pixels, fewer than {needed}")
    # A few bytes more are padding; whole rows or columns are a wrong size.
    if header.plain and (more := header.length - needed) and 0 in (more % (rows * pixel), more % (columns * pixel)):
        raise Quarantine("unreadable", f"{header.name}: {header.length} bytes of pixels, more than {needed}")


def fill(frames: Sequence[Frame], planes: Sequence[np.ndarray], decoder: Decoder) -> int:
    """Put the HU of frames of one file into ``planes``: int16 (rows, columns), contiguous, not below air.

    Returns:
        How many voxels were padding, by the file's own word; they are air now.

    Raises:
        Quarantine: ``unreadable``, ``truncated``, or ``implausible_hu`` for values beyond int16.
    """
    padded = 0
    for frame, plane, values in zip(frames, planes, _stored(frames, planes, decoder), strict=True):
        if values.shape != plane.shape:
            raise Quarantine("unreadable", f"{frame.name}: pixels of shape {values.shape}")
        padded += _to_hu(frame, values, plane)
    return padded


def preview(path: Path) -> np.ndarray:
    """Return the stored values of the first frame of any file: (rows, columns), colours last.

    Raises:
        Quarantine: ``unreadable``, ``truncated``, ``too_large`` or ``empty_file``.
    """
    header = headers.read(path)
    check_size(header)
    with Decoder() as decoder:
        return next(_decoded(header, [0], decoder))


def _decoded(header: Header, indices: Sequence[int], decoder: Decoder) -> Iterator[np.ndarray]:
    """Yield the stored values of frames of any file; what native code decodes is decoded in a process of its own."""
    compressed = header.length == headers.UNDEFINED
    try:
        yield from decoder.frames(header.path, indices) if compressed else unpack(header.path, indices)
    except Failed as error:
        code = "truncated" if "less than expected" in str(error) else "unreadable"
        raise Quarantine(code, f"{header.name}: {error}") from error


def _stored(frames: Sequence[Frame], planes: Sequence[np.ndarray], decoder: Decoder) -> Iterator[np.ndarray]:
    """Yield the stored values of each frame; where they fit, in the memory of its plane."""
    header, dtype = frames[0].header, kind(frames[0].header)
    if not header.plain or dtype is None:
        yield from _decoded(header, [frame.index for frame in frames], decoder)
        return
    with header.path.open("rb", buffering=0) as file:
        for frame, plane in zip(frames, planes, strict=True):
            values = plane.view(dtype) if dtype.itemsize == plane.itemsize else np.empty(plane.shape, dtype)
            file.seek((header.offset or 0) + frame.index * values.nbytes)
            if file.readinto(values.data.cast("B")) != values.nbytes:
                raise Quarantine("truncated", f"{frame.name}: the file ends before its pixels do")
            yield values


def _to_hu(frame: Frame, values: np.ndarray, plane: np.ndarray) -> int:
    """Turn stored values into HU in ``plane``, which may be the same memory; return the number of padding voxels."""
    (slope,), (intercept,) = frame.numbers("RescaleSlope"), frame.numbers("RescaleIntercept")
    exact = slope == 1 and intercept % 1 == 0 and values.dtype.itemsize == plane.itemsize
    if exact and not np.shares_memory(values, plane):
        native = plane.view(values.dtype.newbyteorder("="))
        native[...] = values
        values = native
    _clear_unused_bits(frame.header, values)
    padding = _padding(frame, values, slope, intercept)
    known = values if padding is None else values[~padding]
    low, high = (float(v) * slope + intercept for v in (known.min(), known.max())) if known.size else (0, 0)
    low, high = min(low, high), max(low, high)
    if low < DEEPEST_HU and (share := _varied_share(known, (DEEPEST_HU - intercept) / slope, slope)) > MOST_BELOW:
        raise Quarantine("implausible_hu", f"{frame.name}: {share:.0%} of the pixels vary below {DEEPEST_HU} HU")
    if low < INT16.min or high > INT16.max:
        raise Quarantine("implausible_hu", f"{frame.name}: values from {low:.0f} to {high:.0f}")
    if exact:
        plane += np.array(int(intercept) & 0xFFFF, np.uint16).astype(np.int16)  # wraps around to the right sum
        np.maximum(plane, AIR_HU, out=plane)
    else:
        plane[...] = np.rint((values * slope + intercept).clip(AIR_HU, INT16.max))
    if padding is None:
        return 0
    plane[padding] = AIR_HU
    return int(np.count_nonzero(padding))


def _varied_share(values: np.ndarray, limit: float, slope: float) -> float:
    """Return the share of stored values whose HU lie below those of ``limit``; 0 where they are but a few values."""
    below = values[values < limit] if slope > 0 else values[values > limit]
    share = below.size / values.size
    return share if share > MOST_BELOW and np.unique(below).size > PADDING_VALUES else 0.0


def _clear_unused_bits(header: Header, values: np.ndarray) -> None:
    """Keep the stored bits and extend their sign; what lies above (or below) is no part of the value."""
    if values.dtype.kind not in "iu":
        return
    bits = values.dtype.itemsize * 8
    stored = min(headers.count(header.tags, "BitsStored") or bits, bits)
    high = headers.count(header.tags, "HighBit") if header.plain else None
    above = bits - 1 - (stored - 1 if high is None else high)
    if above > 0:
        values <<= above
    # HighBit is one less than BitsStored in all CT (PS3.3 C.8.2.1); lower bits in use show that one of them is wrong.
    if above < bits - stored and (values & ((1 << (bits - stored)) - 1)).any():
        raise Quarantine("unreadable", f"{header.name}: HighBit {high}, BitsStored {stored}, but lower bits are in use")
    if stored < bits:
        values >>= bits - stored


def _padding(frame: Frame, values: np.ndarray, slope: float, intercept: float) -> np.ndarray | None:
    declared = headers.count(frame.header.tags, "PixelPaddingValue")
    if declared is None:
        return None
    # The tag is written as signed or unsigned at will: compare as the pixels are.
    value = np.array(declared).astype(values.dtype)
    low, high = PADDING_OUTSIDE_HU
    return None if low <= float(value) * slope + intercept <= high else values == value
