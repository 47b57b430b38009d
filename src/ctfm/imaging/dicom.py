"""Read one DICOM CT series: check it, convert it to HU, and put it on a grid with axes at right angles.

A series that can't be used raises ``Quarantine`` with one of the codes of ``CODES`` or of ``criteria.CODES``.
"""

from __future__ import annotations

import filecmp
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.config import Criteria, Prepare
from ctfm.errors import Quarantine
from ctfm.imaging import consistency, decoding, frames, geometry, headers
from ctfm.imaging import criteria as judging
from ctfm.imaging.decoder import Decoder
from ctfm.imaging.decoding import PADDING_OUTSIDE_HU as PADDING_OUTSIDE_HU
from ctfm.imaging.frames import CT_CLASS, Frame
from ctfm.imaging.headers import Header
from ctfm.imaging.volume import Volume

CODES = {
    "no_files": "the folder holds no file",
    "empty_file": "a file of zero bytes",
    "unreadable": "not DICOM, or pixels that no decoder accepts",
    "truncated": "a file ends before its pixels do",
    "not_ct": "another modality, or no image",
    "localizer": "a scout image, alone or among the slices",
    "derived": "a secondary capture or a colour picture",
    "multiframe": "several frames in one file that don't make one volume, or lack their places or HU",
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
    "too_large": "more voxels than memory can hold",
} | consistency.CODES
CAPTURE_CLASS = "1.2.840.10008.5.1.4.1.1.7"
GREY = ("MONOCHROME1", "MONOCHROME2", "")
GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
DENSEST_BORDER_HU = 1500  # around a scan there is air, padding or, in a small field of view, the body


@dataclass(frozen=True)
class Survey:
    """What the headers of a usable series tell.

    Attributes:
        frames: the slices, sorted along their normal.
        slices: where they lie, in this order.
        facts: about the source (JSON-like, nothing about the person); ``pixels`` adds ``padded_voxels``.
    """

    frames: list[Frame]
    slices: geometry.Stack
    facts: dict[str, Any]

    @property
    def regular(self) -> bool:
        """Whether slices are even and straight, so that nothing needs to be interpolated."""
        return self.slices.even and self.slices.straight


def read_series(folder: Path, settings: Prepare, criteria: Criteria) -> tuple[Volume, dict[str, Any]]:
    """Read a folder that holds one series; see ``survey`` and ``pixels``."""
    found = survey(folder, settings, criteria)
    return pixels(found), found.facts


def survey(folder: Path, settings: Prepare, criteria: Criteria) -> Survey:
    """Read the headers of a series and apply all checks that need no pixels.

    Args:
        folder: every visible file in it is taken as a part of the series.
        settings: ``min_slices`` and ``max_gap_ratio`` count.
        criteria: what the series must be.

    Raises:
        Quarantine: the series can't be used or isn't wanted.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = [headers.read(path) for path in series_files(folder)]
        for file in files:
            _check_kind(file)
        found = [frame for file in files for frame in frames.of(file)]
        for file in files:
            decoding.check_size(file)
    told = judging.facts(found)
    judging.check(told, criteria)
    _check_tags(found)
    _check_alike(found)
    kept, dropped = _drop_copies(found)
    if len(kept) < settings.min_slices:
        raise Quarantine("too_few_slices", f"{len(kept)} slices, at least {settings.min_slices} are needed")
    first = kept[0]
    positions = np.array([frame.numbers("ImagePositionPatient") for frame in kept])
    row, column = first.numbers("PixelSpacing")
    slices = geometry.stack(positions, np.array(first.numbers("ImageOrientationPatient")), (row, column))
    geometry.check(slices, first.header.shape, settings.max_gap_ratio)
    kept = [kept[i] for i in slices.order]
    consistency.check_order(kept)
    return Survey(kept, slices, _facts(kept, slices) | told | {"copies_dropped": dropped})


def pixels(survey: Survey) -> Volume:
    """Decode the pixels of a surveyed series.

    Returns:
        int16 HU >= -1024, axes at right angles, in the scanner's own orientation.

    Raises:
        Quarantine: they can't be decoded, or are no HU.
    """
    array = np.empty((len(survey.frames), *survey.frames[0].header.shape), np.int16)
    files = defaultdict(list)
    for place, frame in enumerate(survey.frames):
        files[frame.header.path].append((frame.index, place))
    padded = 0
    with Decoder() as decoder:
        for parts in files.values():  # in the file's order, and each file is opened once
            places = [place for _, place in sorted(parts)]
            padded += decoding.fill([survey.frames[i] for i in places], [array[i] for i in places], decoder)
    check_hu(array)
    consistency.check_pixels(survey.frames, array)
    survey.facts["padded_voxels"] = padded
    return geometry.assemble(array, survey.slices)


def check_hu(array: np.ndarray) -> None:
    """Refuse values that are no HU of a scan.

    Args:
        array: (n, rows, columns) int16.

    Raises:
        Quarantine: ``implausible_hu``.
    """
    low = min(int(plane.min()) for plane in array)
    high = max(int(plane.max()) for plane in array)
    if high < -200:
        raise Quarantine("implausible_hu", f"nothing denser than {high} HU: no body")
    if low > -50:
        raise Quarantine("implausible_hu", f"nothing below {low} HU: neither air nor fat")
    if low > -500 and not ((array > -200) & (array < 200)).any():
        raise Quarantine("implausible_hu", f"{low} to {high} HU with neither air nor soft tissue")
    if high > DENSEST_BORDER_HU and (border := float(np.median(array[:, [0, -1]]))) > DENSEST_BORDER_HU:
        raise Quarantine("implausible_hu", f"{border:.0f} HU around the body: negative values are read as positive")


def series_files(folder: Path) -> list[Path]:
    """Return the visible files of a series' folder, sorted by name.

    Raises:
        Quarantine: ``no_files``.
    """
    files = sorted(p for p in folder.glob("*") if p.is_file() and not p.name.startswith("."))
    if not files:
        raise Quarantine("no_files", "the folder of the series is empty or absent")
    return files


def _check_kind(file: Header) -> None:
    """Refuse what is no CT image, or can't be an image at all."""
    modality, sop_class = file.text("Modality"), file.text("SOPClassUID")
    if modality not in ("CT", ""):
        raise Quarantine("not_ct", f"{file.name}: modality {modality}")
    if file.offset is None:
        raise Quarantine("truncated", f"{file.name}: no pixels")
    types = [part.upper() for part in headers.texts(file.tags, "ImageType")]
    if "LOCALIZER" in types or "SCOUT" in types:
        raise Quarantine("localizer", f"{file.name}: image type {'/'.join(types)}")
    if sop_class == CAPTURE_CLASS or sop_class.startswith(f"{CAPTURE_CLASS}."):
        raise Quarantine("derived", f"{file.name}: secondary capture, image type {'/'.join(types)}")
    if (
        headers.count(file.tags, "SamplesPerPixel") not in (1, None)
        or file.text("PhotometricInterpretation") not in GREY
    ):
        raise Quarantine("derived", f"{file.name}: a colour picture")
    if modality != "CT" or sop_class not in (CT_CLASS, *frames.ENHANCED_CLASSES, ""):
        raise Quarantine("not_ct", f"{file.name}: modality '{modality}', class {sop_class}")


def _check_tags(found: Sequence[Frame]) -> None:
    for frame in found:
        for key, count in GEOMETRY.items():
            if len(frame.numbers(key)) != count:
                raise Quarantine("no_geometry", f"{frame.name}: {key} is '{'/'.join(frame.texts(key))}'")
        for key in ("RescaleSlope", "RescaleIntercept"):
            if len(frame.numbers(key)) != 1 or (key == "RescaleSlope" and frame.numbers(key)[0] == 0):
                raise Quarantine("no_rescale", f"{frame.name}: {key} is '{'/'.join(frame.texts(key))}'")


def _check_alike(found: Sequence[Frame]) -> None:
    """Refuse slices of several series, sizes, pixel spacings or orientations."""
    if len({frame.header.text("SeriesInstanceUID") for frame in found}) > 1:
        raise Quarantine("mixed_series", "files of several series in one folder")
    shapes = sorted({frame.header.shape for frame in found})
    if len(shapes) > 1:
        raise Quarantine("mixed_geometry", f"{' and '.join(f'{rows} x {columns}' for rows, columns in shapes)} pixels")
    for key, relative, absolute in (("PixelSpacing", 1e-3, 0), ("ImageOrientationPatient", 0, 1e-3)):
        values = np.array([frame.numbers(key) for frame in found])
        other = ~np.isclose(values, values[0], relative, absolute).all(axis=1)
        if other.any():
            frame = found[int(other.argmax())]
            raise Quarantine("mixed_geometry", f"{frame.name}: {key} {found[0].texts(key)} and {frame.texts(key)}")


def _drop_copies(found: Sequence[Frame]) -> tuple[list[Frame], int]:
    """Drop files that repeat an instance; an instance number with two different contents is refused."""
    kept: dict[tuple[str, int], Frame] = {}
    with Decoder() as decoder:
        for frame in found:
            other = kept.setdefault(frame.instance, frame)
            if other is not frame and not _same(frame, other, decoder):
                raise Quarantine("duplicate_slices", f"{frame.name} and {other.name}: one instance, two contents")
    return list(kept.values()), len(found) - len(kept)


def _same(one: Frame, other: Frame, decoder: Decoder) -> bool:
    if filecmp.cmp(one.header.path, other.header.path, shallow=False):
        return True
    if any(one.numbers(key) != other.numbers(key) for key in (*GEOMETRY, "RescaleSlope", "RescaleIntercept")):
        return False
    planes = np.empty((2, *one.header.shape), np.int16)
    for frame, plane in zip((one, other), planes, strict=True):
        decoding.fill([frame], [plane], decoder)
    return bool((planes[0] == planes[1]).all())


def _facts(found: Sequence[Frame], slices: geometry.Stack) -> dict[str, Any]:
    first = found[0]
    thickness = [frame.numbers("SliceThickness")[0] for frame in found if len(frame.numbers("SliceThickness")) == 1]
    keys = ("Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "RescaleType", "PatientPosition")
    return {key: "/".join(first.texts(key)) for key in keys} | {
        "ImageType": sorted({"/".join(frame.image_type) for frame in found}),
        "TransferSyntax": first.header.syntax,
        "lossy": any(frame.header.text("LossyImageCompression") == "01" for frame in found),
        "KVP": first.numbers("KVP")[0] if len(first.numbers("KVP")) == 1 else None,
        "slices": len(found),
        "thickness_mm": sorted({min(thickness), max(thickness)}) if thickness else [],
        "spacing_mm": [float(np.median(slices.steps)), *slices.pixel],
        "step_range_mm": [float(slices.steps.min()), float(slices.steps.max())],
        "even": slices.even,
        "tilt_degrees": 0.0 if slices.straight else round(slices.tilt_degrees, 3),
    }
