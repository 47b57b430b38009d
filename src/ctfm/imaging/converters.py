"""Two readers of one DICOM series: our own and dicom2nifti; which of them makes the volume, and whether they agree.

On regular series both give the same voxels (``cross_check`` proves it on a sample of every shard); our own is the
faster one. On tilted and uneven series neither is better everywhere (docs/benchmarks.md has numbers). dicom2nifti
resamples a tilted series to planes between its slices, which blurs along the patient, and often turns the outermost
planes into air; our own interpolates within the slices only. On uneven distances dicom2nifti keeps about the finest
one, our own the median. So ``auto`` asks the files: both volumes are compared with the slices' own pixels, read by
a third program (SimpleITK) and placed by the standard's formula, and the volume nearer to them is kept.

Never left to dicom2nifti: several frames in one file (it ignores a rescale that all frames share, and mirrors
frames in descending order), and what would need more than ``ROOM`` bytes, for it works on 64-bit numbers.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from dicom2nifti import common, convert_generic
from dicom2nifti import resample as tilted
from dicom2nifti import settings as switches
from scipy.ndimage import map_coordinates

from ctfm.config import Criteria, Prepare
from ctfm.files import digest
from ctfm.imaging import dicom, geometry
from ctfm.imaging.resample import AIR_HU
from ctfm.imaging.volume import LPS_TO_RAS, Volume, from_sitk, orient

# The survey has checked what dicom2nifti would check here; it must resample what it would refuse.
SWITCHES = {
    "validate_slicecount": True,
    "validate_orientation": True,
    "validate_orthogonal": False,
    "validate_slice_increment": False,
    "validate_instance_number": False,
    "validate_multiframe_implicit": True,
    "pydicom_read_force": False,
    "resample": True,
    "resample_padding": AIR_HU,
    "resample_spline_interpolation_order": 1,
}
ROOM = 1_500_000_000  # bytes; a job has twice as much
BYTES_PER_VOXEL, BYTES_PER_VOXEL_RESAMPLED = 12, 36  # peaks of dicom2nifti 2.6, measured
PLACE_TOLERANCE_MM = 0.01
JUDGED_SLICES, JUDGED_STRIDE = 32, 8


class Refused(Exception):
    """dicom2nifti can't convert this series, or not rightly."""


def read(folder: Path, settings: Prepare, criteria: Criteria) -> tuple[Volume, dict[str, Any]]:
    """Check a series and read it with the converter that ``settings.converter`` asks for.

    ``own``: our reader. ``dicom2nifti``: that one, ours where it refuses. ``auto``: ours for regular series; for
    tilted and uneven ones whichever comes nearer to the slices' own pixels.

    Returns:
        int16 HU >= -1024, axes at right angles, in some orientation; and facts of the source, with ``converter``
        (``own`` or ``dicom2nifti``) and ``converter_note`` (why; empty when nothing was to be decided).

    Raises:
        Quarantine: see ``dicom.CODES``; the same whichever converter is asked for.
    """
    survey = dicom.survey(folder, settings, criteria)
    ours = dicom.pixels(survey)  # always first: it decodes damaged pixels in safety and knows every fault
    if settings.converter == "own" or (settings.converter == "auto" and survey.regular):
        return _told(ours, survey, "own", "")
    try:
        theirs = _dicom2nifti(folder, survey)
    except Refused as reason:
        return _told(ours, survey, "own", f"dicom2nifti refuses: {reason}")
    if settings.converter == "dicom2nifti":
        return _told(theirs, survey, "dicom2nifti", "")
    better, note = _nearer(ours, theirs, dicom.series_files(folder))
    return _told(theirs if better == "dicom2nifti" else ours, survey, better, note)


def cross_check(folder: Path, settings: Prepare, criteria: Criteria) -> dict[str, Any]:
    """Read a series with both converters and compare every voxel, before any resampling.

    Only regular series can be compared so: then both put the same pixels on the same grid. Voxels that our
    reader knows as padding, and air alike, are left out where there is padding, for dicom2nifti doesn't know it.

    Returns:
        A row of table ``cross_checks`` without series and shard: ``agrees``, ``differs`` or ``refused``.

    Raises:
        Quarantine: the series can't be used at all.
    """
    survey = dicom.survey(folder, settings, criteria)
    if not survey.regular:
        return {"status": "refused", "detail": "irregular: interpolated differently by each converter"}
    ours = orient(dicom.pixels(survey))
    try:
        theirs = orient(_dicom2nifti(folder, survey))
    except Refused as reason:
        return {"status": "refused", "detail": str(reason)}
    return compare(ours, theirs, padded=bool(survey.facts["padded_voxels"]))


def compare(ours: Volume, theirs: Volume, padded: bool) -> dict[str, Any]:
    """Compare two volumes that should be the same; see ``cross_check``."""
    if ours.shape != theirs.shape:
        return {"status": "differs", "detail": f"{ours.shape} and {theirs.shape} voxels"}
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(ours.shape) - 1)
    off = float(np.linalg.norm(ours.world(corners) - theirs.world(corners), axis=1).max())
    voxels = differing = largest = 0
    for one, other in zip(ours.array, theirs.array, strict=True):  # plane by plane, to keep copies small
        distance = np.abs(one.astype(np.int32) - other)
        if padded:
            distance = distance[one != AIR_HU]
        voxels += distance.size
        differing += int((distance > 1).sum())
        largest = max(largest, int(distance.max(initial=0)))
    places = "" if off <= PLACE_TOLERANCE_MM else f"corners are {off:.3f} mm apart"
    values = f"{differing} of {voxels} voxels differ by up to {largest} HU" if differing else ""
    detail = "; ".join(text for text in (places, values) if text)
    status = "differs" if detail else "agrees"
    return {
        "status": status,
        "voxels": voxels,
        "differing": differing,
        "max_difference_HU": float(largest),
        "detail": detail,
    }


def sample(uids: Iterable[str], count: int, seed: int) -> list[str]:
    """Choose ``count`` series by a digest of ``seed`` and identifier: the same ones in whatever order they come."""
    return sorted(set(uids), key=lambda uid: (digest([seed, uid]), uid))[:count]


def misfit(volume: Volume, files: list[Path]) -> float:
    """Return the root mean square difference (HU) between slices' own pixels and the volume at their places.

    Args:
        volume: HU, interpolated linearly.
        files: DICOM slices; a part of them and of their pixels is used.

    Raises:
        RuntimeError: SimpleITK can't read a slice.
    """
    inverse = np.linalg.inv(volume.affine[:3, :3]).T
    squares = []
    for path in files[:: -(-len(files) // JUDGED_SLICES)]:
        plane = from_sitk(sitk.ReadImage(str(path)))
        part = np.indices(plane.shape)[:, :, ::JUDGED_STRIDE, ::JUDGED_STRIDE].reshape(3, -1).T
        index = np.round((plane.world(part) - volume.affine[:3, 3]) @ inverse, 4)
        found = map_coordinates(volume.array, index.T, np.float32, order=1, mode="constant", cval=AIR_HU)
        squares.append(np.square(found - np.maximum(plane.array[tuple(part.T)], AIR_HU)))
    return float(np.sqrt(np.mean(squares)))


def _nearer(ours: Volume, theirs: Volume, files: list[Path]) -> tuple[str, str]:
    """Return which converter's volume is nearer to the slices, and a note that says by how much."""
    try:
        own, other = misfit(ours, files), misfit(theirs, files)
    except RuntimeError:
        return "own", "which converter is nearer can't be judged: SimpleITK can't read the slices"
    note = f"at the slices' own pixels dicom2nifti is off by {other:.1f} HU, our own by {own:.1f} HU (root mean square)"
    return ("dicom2nifti" if other < own else "own"), note


def _told(volume: Volume, survey: dicom.Survey, converter: str, note: str) -> tuple[Volume, dict[str, Any]]:
    return volume, survey.facts | {"converter": converter, "converter_note": note}


def _dicom2nifti(folder: Path, survey: dicom.Survey) -> Volume:
    """Convert with dicom2nifti, in memory: its own entry point would copy the folder and write three files.

    Raises:
        Refused: it can't, or what it makes is known to be wrong.
        Quarantine: ``implausible_hu``.
    """
    paths = dicom.series_files(folder)
    with _switched(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = [pydicom.dcmread(path, defer_size="1 KB") for path in paths]
        _check_suits(files, survey)
        try:
            image = convert_generic.dicom_to_nifti(files, None)["NII"]
            if not common.is_orthogonal_nifti(image):
                image = tilted.resample_nifti_images([image])
        except MemoryError:
            raise
        except Exception as error:  # it raises its own kinds and whatever a missing tag leads to
            raise Refused(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        volume = _volume(np.asanyarray(image.dataobj), LPS_TO_RAS @ image.affine)
    if survey.regular and volume.array.size != survey.facts["slices"] * files[0].Rows * files[0].Columns:
        raise Refused(f"{volume.shape} voxels of {survey.facts['slices']} slices")
    dicom.check_hu(volume.array)
    return volume


def _check_suits(files: Sequence[pydicom.Dataset], survey: dicom.Survey) -> None:
    """Refuse what dicom2nifti would convert wrongly without a word."""
    first = files[0]
    if common.is_multiframe_dicom(files) or int(first.get("NumberOfFrames") or 1) > 1:
        raise Refused("of several frames in a file it ignores a shared rescale and mirrors a descending order")
    if (needed := _bytes_needed(files, survey)) > ROOM:
        raise Refused(f"it would need {needed / 1e9:.1f} GB of memory")
    if not survey.facts["even"] and not common.is_slice_increment_inconsistent(common.sort_dicoms(files)):
        raise Refused("it would take these uneven distances for even")
    if (padding := max(_padding_hu(file) for file in files)) > dicom.PADDING_OUTSIDE_HU[1]:
        raise Refused(f"it would take the padding of {padding:.0f} HU for tissue")


def _bytes_needed(files: Sequence[pydicom.Dataset], survey: dicom.Survey) -> float:
    plane = files[0].Rows * files[0].Columns
    if survey.regular:
        return len(files) * plane * BYTES_PER_VOXEL
    finest = survey.facts["step_range_mm"][0]  # its grid may take the finest distance of all
    return len(files) * plane * BYTES_PER_VOXEL_RESAMPLED * (survey.facts["spacing_mm"][0] / finest)


def _padding_hu(file: pydicom.Dataset) -> float:
    declared = file.get("PixelPaddingValue")
    if declared is None:
        return AIR_HU
    kind = np.dtype(f"{'ui'[file.PixelRepresentation]}{file.BitsAllocated // 8}")
    return float(np.asarray(int(declared)).astype(kind)) * float(file.RescaleSlope) + float(file.RescaleIntercept)


def _volume(data: np.ndarray, affine: np.ndarray) -> Volume:
    """Make a volume of (x, y, z) values with an LPS affine.

    Raises:
        Refused: axes are not at right angles, or values are beyond int16.
    """
    if data.ndim != 3 or not np.isfinite(affine).all():
        raise Refused(f"{data.ndim} dimensions")
    low, high = data.min(), data.max()
    if not np.iinfo(np.int16).min <= low <= high <= np.iinfo(np.int16).max:
        raise Refused(f"values from {low} to {high}")
    array = np.empty(data.shape[::-1], np.int16)
    for out, plane in zip(array, np.moveaxis(data, 2, 0), strict=True):
        out[...] = np.rint(np.maximum(plane.T, AIR_HU))
    right, down, along = affine[:3, 0], affine[:3, 1], affine[:3, 2]
    normal = np.cross(right, down) / np.linalg.norm(np.cross(right, down))
    height = along @ normal
    drift = np.abs(np.linalg.pinv(np.stack([right, down], 1)) @ (along - height * normal)) * (len(array) - 1)
    if drift.max() > geometry.DRIFT_TOLERANCE:  # pixels over the whole volume, as our own reader tolerates
        raise Refused(f"slices drift by {drift.max():.2f} pixels in their plane")
    straight = np.eye(4)
    straight[:3, :3] = np.stack([height * normal, down, right], axis=1)
    straight[:3, 3] = affine[:3, 3]
    return Volume(array, straight)


@contextmanager
def _switched() -> Iterator[None]:
    """Set dicom2nifti's global settings and silence it; put everything back."""
    before = {key: getattr(switches, key) for key in SWITCHES}
    voice = logging.getLogger("dicom2nifti")
    loudness = voice.level
    try:
        voice.setLevel(logging.CRITICAL + 1)
        for key, value in SWITCHES.items():
            setattr(switches, key, value)
        yield
    finally:
        voice.setLevel(loudness)
        for key, value in before.items():
            setattr(switches, key, value)
