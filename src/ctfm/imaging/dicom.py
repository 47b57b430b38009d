"""Read one DICOM CT series: check it, convert it to HU, and put it on a grid with axes at right angles.

A series that can't be used raises ``Quarantine`` with one of the codes of ``CODES``.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from ctfm.errors import Quarantine
from ctfm.imaging import geometry
from ctfm.imaging.resample import AIR_HU
from ctfm.imaging.volume import Volume

CODES = {
    "no_files": "the folder holds no file",
    "empty_file": "a file of zero bytes",
    "unreadable": "not DICOM, or pixels that no decoder accepts",
    "truncated": "a file ends before its pixels do",
    "not_ct": "another modality, or no image",
    "localizer": "a scout image, alone or among the slices",
    "derived": "a secondary capture or a colour picture",
    "multiframe": "several frames in one file (enhanced CT), which is not supported",
    "mixed_series": "files of several series",
    "no_geometry": "no position, orientation or pixel spacing",
    "no_rescale": "no rescale slope and intercept, so no HU",
    "mixed_geometry": "several orientations, pixel spacings or sizes",
    "bad_geometry": "directions or sizes that can't be true",
    "duplicate_slices": "several different slices at one place",
    "too_few_slices": "fewer slices than asked for",
    "missing_slice": "a regular series with holes",
    "uneven_spacing": "slice distances that differ too much to interpolate",
    "implausible_hu": "values that are no Hounsfield units of a scan",
}
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
CAPTURE_CLASS = "1.2.840.10008.5.1.4.1.1.7"
GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
# A padding value that is a usual tissue value may be a wrong header: then it would punch holes into the body.
PADDING_OUTSIDE_HU = (-900, 3071)
INT16 = np.iinfo(np.int16)


def read_series(folder: Path, min_slices: int, max_gap_ratio: float) -> tuple[Volume, dict[str, Any]]:
    """Read a folder that holds one series.

    Args:
        folder: every visible file in it is taken as one slice.
        min_slices: fewest slices of a usable series.
        max_gap_ratio: largest slice distance over the median distance.

    Returns:
        The volume: int16 HU >= -1024, axes at right angles, in the scanner's own orientation; and facts
        about its source (JSON-like, nothing about the person).

    Raises:
        Quarantine: the series can't be used; the code is one of ``CODES``.
    """
    files = [read_file(path) for path in series_files(folder)]
    _check_headers(files)
    files, dropped = _drop_copies(files)
    if len(files) < min_slices:
        raise Quarantine("too_few_slices", f"{len(files)} slices, at least {min_slices} are needed")
    positions = np.array([f.ImagePositionPatient for f in files], dtype=float)
    row, column = (float(v) for v in files[0].PixelSpacing)
    slices = geometry.stack(positions, np.array(files[0].ImageOrientationPatient, dtype=float), (row, column))
    geometry.check(slices, (files[0].Rows, files[0].Columns), max_gap_ratio)
    files = [files[i] for i in slices.order]
    facts = _facts(files, slices) | {"copies_dropped": dropped}
    array, padded = _pixels(files)
    _check_hu(array)
    return geometry.assemble(array, slices), facts | {"padded_voxels": padded}


def series_files(folder: Path) -> list[Path]:
    """Return the visible files of a series' folder, sorted by name.

    Raises:
        Quarantine: ``no_files``.
    """
    files = sorted(p for p in folder.glob("*") if p.is_file() and not p.name.startswith("."))
    if not files:
        raise Quarantine("no_files", "the folder of the series is empty or absent")
    return files


def read_file(path: Path) -> pydicom.Dataset:
    """Read one file, header and pixels, without decoding.

    Raises:
        Quarantine: ``empty_file`` or ``unreadable``.
    """
    if path.stat().st_size == 0:
        raise Quarantine("empty_file", path.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(path)
    except InvalidDicomError as error:
        raise Quarantine("unreadable", f"{path.name}: not a DICOM file") from error
    except (EOFError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise Quarantine("unreadable", f"{path.name}: {error}") from error


def stored_values(file: pydicom.Dataset) -> np.ndarray:
    """Decode one slice to its stored values, free of unused high bits.

    Raises:
        Quarantine: ``unreadable`` or ``truncated``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = file.pixel_array
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they like
        code = "truncated" if "less than expected" in str(error) else "unreadable"
        raise Quarantine(code, f"{_name(file)}: {' '.join(str(error).split())[:200]}") from error
    unused = file.BitsAllocated - file.BitsStored
    return (values << unused) >> unused if unused > 0 and values.dtype.kind in "iu" else values


def _check_headers(files: list[pydicom.Dataset]) -> None:
    for file in files:
        _check_kind(file)
        _check_tags(file)
    if len({str(f.get("SeriesInstanceUID", "")) for f in files}) > 1:
        raise Quarantine("mixed_series", "files of several series in one folder")
    first = files[0]
    for file in files[1:]:
        if (file.Rows, file.Columns) != (first.Rows, first.Columns):
            detail = f"{first.Rows} x {first.Columns} and {file.Rows} x {file.Columns} pixels"
            raise Quarantine("mixed_geometry", f"{_name(file)}: {detail}")
        if not np.allclose(_numbers(file, "PixelSpacing"), _numbers(first, "PixelSpacing"), rtol=1e-3, atol=0):
            raise Quarantine(
                "mixed_geometry", f"{_name(file)}: pixel spacings {first.PixelSpacing}, {file.PixelSpacing}"
            )
        key = "ImageOrientationPatient"
        if not np.allclose(_numbers(file, key), _numbers(first, key), atol=1e-3):
            raise Quarantine("mixed_geometry", f"{_name(file)}: orientations {first[key].value} and {file[key].value}")


def _check_kind(file: pydicom.Dataset) -> None:
    modality, name = str(file.get("Modality", "")), _name(file)
    if modality not in ("CT", ""):
        raise Quarantine("not_ct", f"{name}: modality {modality}")
    if "PixelData" not in file:
        raise Quarantine("truncated", f"{name}: no pixels")
    kind = [str(part).upper() for part in _list(file.get("ImageType"))]
    if "LOCALIZER" in kind or "SCOUT" in kind:
        raise Quarantine("localizer", f"{name}: image type {'/'.join(kind)}")
    sop_class = str(file.get("SOPClassUID", ""))
    if sop_class == CAPTURE_CLASS or sop_class.startswith(f"{CAPTURE_CLASS}."):
        raise Quarantine("derived", f"{name}: secondary capture, image type {'/'.join(kind)}")
    if int(file.get("SamplesPerPixel", 1)) != 1:
        raise Quarantine("derived", f"{name}: a colour picture")
    if int(file.get("NumberOfFrames", 1) or 1) > 1 or sop_class.startswith(f"{CT_CLASS}."):
        raise Quarantine("multiframe", f"{name}: {file.get('NumberOfFrames', 1)} frames")
    if modality != "CT" or sop_class not in (CT_CLASS, ""):
        raise Quarantine("not_ct", f"{name}: modality '{modality}', class {sop_class}")


def _check_tags(file: pydicom.Dataset) -> None:
    for key, count in GEOMETRY.items():
        if len(_numbers(file, key)) != count:
            raise Quarantine("no_geometry", f"{_name(file)}: {key} is {file.get(key)!r}")
    for key in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"):
        if file.get(key) is None:
            raise Quarantine("unreadable", f"{_name(file)}: no {key}")
    for key in ("RescaleSlope", "RescaleIntercept"):
        if len(_numbers(file, key)) != 1 or (key == "RescaleSlope" and float(file[key].value) == 0):
            raise Quarantine("no_rescale", f"{_name(file)}: {key} is {file.get(key)!r}")


def _drop_copies(files: list[pydicom.Dataset]) -> tuple[list[pydicom.Dataset], int]:
    """Drop files that repeat an instance; an instance number with two different contents is refused."""
    kept: dict[Any, pydicom.Dataset] = {}
    for i, file in enumerate(files):
        other = kept.setdefault(str(file.get("SOPInstanceUID", "")) or i, file)
        if other is not file and (
            other.PixelData != file.PixelData or other.ImagePositionPatient != file.ImagePositionPatient
        ):
            raise Quarantine("duplicate_slices", f"{_name(file)} and {_name(other)}: one instance, two contents")
    return list(kept.values()), len(files) - len(kept)


def _pixels(files: list[pydicom.Dataset]) -> tuple[np.ndarray, int]:
    """Decode all slices to int16 HU (n, rows, columns). Empties the list, to hold the pixels only once."""
    array = np.empty((len(files), files[0].Rows, files[0].Columns), np.int16)
    padded = 0
    for out in array:
        file = files.pop(0)
        values, slope, intercept = stored_values(file), float(file.RescaleSlope), float(file.RescaleIntercept)
        if values.shape != out.shape:
            raise Quarantine("unreadable", f"{_name(file)}: pixels of shape {values.shape}")
        hu = _rescale(values, slope, intercept)
        padding = _padding(file, values, slope, intercept)
        if padding is not None:
            hu[padding] = AIR_HU
            padded += int(padding.sum())
        if hu.max() > INT16.max or hu.min() < INT16.min:
            raise Quarantine("implausible_hu", f"{_name(file)}: values from {hu.min():.0f} to {hu.max():.0f}")
        out[...] = np.maximum(hu, AIR_HU)
    return array, padded


def _rescale(values: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    if slope == 1 and intercept % 1 == 0 and values.dtype.itemsize <= 2 and abs(intercept) < 2**30:
        return values.astype(np.int32) + int(intercept)
    return np.rint(values * slope + intercept)


def _padding(file: pydicom.Dataset, values: np.ndarray, slope: float, intercept: float) -> np.ndarray | None:
    declared = file.get("PixelPaddingValue")
    if declared is None:
        return None
    # The tag is written as signed or unsigned at will: compare as the pixels are.
    value = np.asarray(int(declared)).astype(values.dtype)
    low, high = PADDING_OUTSIDE_HU
    return None if low <= float(value) * slope + intercept <= high else values == value


def _check_hu(array: np.ndarray) -> None:
    low, high = int(array.min()), int(array.max())
    if high < -200:
        raise Quarantine("implausible_hu", f"nothing denser than {high} HU: no body")
    if low > -50:
        raise Quarantine("implausible_hu", f"nothing below {low} HU: neither air nor fat")
    if low > -500 and not ((array > -200) & (array < 200)).any():
        raise Quarantine("implausible_hu", f"{low} to {high} HU with neither air nor soft tissue")


def _facts(files: list[pydicom.Dataset], slices: geometry.Stack) -> dict[str, Any]:
    first = files[0]
    thickness = [float(f.SliceThickness) for f in files if len(_numbers(f, "SliceThickness")) == 1]
    texts = ("Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "RescaleType", "PatientPosition")
    facts = {key: "/".join(str(v) for v in _list(first.get(key))) for key in texts}
    return facts | {
        "ImageType": sorted({"/".join(str(v) for v in _list(f.get("ImageType"))) for f in files}),
        "TransferSyntax": str(first.file_meta.get("TransferSyntaxUID", "")),
        "KVP": float(first.KVP) if len(_numbers(first, "KVP")) == 1 else None,
        "slices": len(files),
        "thickness_mm": sorted({min(thickness), max(thickness)}) if thickness else [],
        "spacing_mm": [float(np.median(slices.steps)), *slices.pixel],
        "step_range_mm": [float(slices.steps.min()), float(slices.steps.max())],
        "even": slices.even,
        "tilt_degrees": 0.0 if slices.straight else round(slices.tilt_degrees, 3),
    }


def _numbers(file: pydicom.Dataset, key: str) -> list[float]:
    """Return the finite numbers of a tag, or nothing when it is absent, empty or no number."""
    try:
        numbers = [float(v) for v in _list(file.get(key))]
    except (TypeError, ValueError):
        return []
    return numbers if np.isfinite(numbers).all() else []


def _list(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else [value]


def _name(file: pydicom.Dataset) -> str:
    return Path(str(getattr(file, "filename", "") or "file")).name
