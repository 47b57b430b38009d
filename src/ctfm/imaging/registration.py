"""Rigid registration of two scans of one person, with what is needed to judge whether it worked.

A scan that is repeated shows the body at another place: the patient stood up in between, and breathed. The second scan
(moving) is laid on the first (fixed) by SimpleITK in two steps: the translation by normalised correlation over all
translations at once (masked, by FFT; Padfield, doi:10.1109/TIP.2011.2181402), unless the scanner's own placement is
better; then three rotations and three translations by mutual information (Mattes et al., doi:10.1109/TMI.2003.809072)
of seeded samples within the body, from coarse to fine, on one thread: the same scans give the same transform. The
scanner's own placement is kept where the result is no better.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ctfm.errors import Quarantine
from ctfm.imaging.resample import AIR_HU, resample, resample_to
from ctfm.imaging.store import BODY_HU
from ctfm.imaging.volume import Volume, to_sitk

FINE_MM, COARSE_MM = 3.0, 9.0
CLIPPED_HU = (-1000.0, 600.0)  # metal and the denser half of bone would outweigh all else
LEAST_OVERLAP = 0.25  # of the smaller scan, in the search for the translation
SHRINK, SMOOTH_MM, SAMPLES = (3, 2, 1), (6.0, 3.0, 0.0), (0.4, 0.2, 0.1)  # by level, coarse to fine
BINS, ITERATIONS, LARGEST_STEP, SMALLEST_STEP = 32, 100, 2.0, 1e-3
OPENING = 2  # voxels of 3 mm: what parts the body from the table
LEAST_BODY = 1000  # voxels of 3 mm: 27 ml


@dataclass(frozen=True)
class Registration:
    """How a moving scan lies on a fixed one.

    Attributes:
        matrix: (4, 4), maps a point of the fixed scan to the same point of the body in the moving one, LPS mm.
        ncc: normalised correlation of HU from -1000 to 600 in the body, where both scans are; NaN: they share nothing.
        ncc_before: the same as the scanner placed them.
        overlap: share of the fixed scan's body that the moving one shows.
        overlap_back: share of the moving scan's body that the fixed one shows.
        translation_mm: how far the middle of the body moves.
        rotation_degrees: about its axis.
        metric: mutual information at the end, negative: the smaller the better.
    """

    matrix: np.ndarray
    ncc: float
    ncc_before: float
    overlap: float
    overlap_back: float
    translation_mm: float
    rotation_degrees: float
    metric: float

    def facts(self) -> dict[str, Any]:
        """Return all of it as JSON-like values; None where there is no number."""
        numbers = {key: value for key, value in asdict(self).items() if key != "matrix"}
        told = {key: value if np.isfinite(value) else None for key, value in numbers.items()}
        return {**told, "matrix": self.matrix.tolist()}


def register(fixed: Volume, moving: Volume, seed: int = 0) -> Registration:
    """Lay one scan on another of the same person.

    Args:
        fixed: HU, axes at right angles.
        moving: the same; on any grid.
        seed: of the samples.

    Raises:
        Quarantine: ``no_body``: a scan shows none; ``no_overlap``: no translation lays one body on the other.
    """
    here, there = (resample(volume, (FINE_MM,) * 3, antialias=True) for volume in (fixed, moving))
    inside, inside_there = (_checked(body(volume), name) for volume, name in ((here, "first"), (there, "second")))
    placed, shifted = ((_ncc(here, there, inside, m), m) for m in (np.eye(4), _translation(here, there)))
    refined, metric = _refined(here, there, inside, _better(placed, shifted)[1], seed)
    ncc, matrix = _better(placed, shifted, (_ncc(here, there, inside, refined), refined))
    if np.isnan(ncc):
        raise Quarantine("no_overlap", "no placement lays the second scan on the body of the first")
    middle = here.world(np.argwhere(inside).mean(axis=0))
    return Registration(
        matrix,
        ncc,
        placed[0],
        _share(inside, here, there, matrix),
        _share(inside_there, there, here, np.linalg.inv(matrix)),
        float(np.linalg.norm(matrix[:3, :3] @ middle + matrix[:3, 3] - middle)),
        rotation_degrees(matrix),
        metric,
    )


def moved(
    volume: Volume, shape: tuple[int, ...], affine: np.ndarray, matrix: np.ndarray, background: float = AIR_HU
) -> Volume:
    """Resample a moving scan onto a fixed grid.

    Args:
        volume: the moving scan.
        shape: voxels (z, y, x) of the fixed grid.
        affine: of that grid.
        matrix: see ``Registration``.
        background: HU where the moving scan shows nothing.
    """
    there = resample_to(volume, shape, matrix @ affine, "linear", background)
    return Volume(there.array, affine)


def shown(volume: Volume, shape: tuple[int, ...], affine: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return (z, y, x) bool of a fixed grid: where the moving scan has voxels. Arguments as in ``moved``."""
    ones = Volume(np.ones(volume.shape, np.uint8), volume.affine)
    return resample_to(ones, shape, matrix @ affine, "nearest", background=0).array > 0


def centred(fixed: Volume, moving: Volume) -> np.ndarray:
    """Return the (4, 4) matrix that lays the middle of one field of view on that of another."""
    matrix, halves = np.eye(4), [(np.asarray(volume.shape) - 1) / 2 for volume in (fixed, moving)]
    matrix[:3, 3] = moving.world(halves[1]) - fixed.world(halves[0])
    return matrix


def body(volume: Volume) -> np.ndarray:
    """Return (z, y, x) bool: the largest thing denser than -500 HU, without the table, with what it encloses.

    Args:
        volume: HU, voxels of some 3 mm.
    """
    dense = ndimage.binary_opening(volume.array > BODY_HU, iterations=OPENING)
    parts, count = ndimage.label(dense)
    if not count:
        return dense
    largest = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    return np.stack([ndimage.binary_fill_holes(plane) for plane in largest])


def rotation_degrees(matrix: np.ndarray) -> float:
    """Return the angle of the rotation in a rigid (4, 4) matrix."""
    return float(np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1))))


def _better(*found: tuple[float, np.ndarray]) -> tuple[float, np.ndarray]:
    """Return the (correlation, matrix) with the highest correlation; of equal ones the first."""
    return max(found, key=lambda pair: np.nan_to_num(pair[0], nan=-2))


def _checked(inside: np.ndarray, name: str) -> np.ndarray:
    if inside.sum() < LEAST_BODY:
        raise Quarantine("no_body", f"the {name} scan shows less than {LEAST_BODY} voxels of a body")
    return inside


def _translation(fixed: Volume, moving: Volume) -> np.ndarray:
    """Return the translation with the highest correlation, along the fixed scan's axes, in steps of ``COARSE_MM``."""
    ours = resample(fixed, (COARSE_MM,) * 3, antialias=True)
    theirs = _parallel(resample(moving, (COARSE_MM,) * 3, antialias=True), ours.affine)
    filled = [(v.array >= AIR_HU).astype(np.float32) for v in (ours, theirs)]  # what is no padding of the grid
    images = (to_sitk(Volume(array, ours.affine)) for array in (_clipped(ours.array), _clipped(theirs.array), *filled))
    correlation = sitk.MaskedFFTNormalizedCorrelationImageFilter()
    correlation.SetRequiredFractionOfOverlappingPixels(LEAST_OVERLAP)
    found = sitk.GetArrayFromImage(correlation.Execute(*images))
    best = np.asarray(np.unravel_index(int(np.argmax(found)), found.shape))
    shift = np.asarray(theirs.shape) - 1 - best  # where the fixed scan's first voxel lies in the moving one
    matrix = np.eye(4)
    matrix[:3, 3] = theirs.world(shift) - ours.affine[:3, 3]
    return matrix


def _parallel(volume: Volume, affine: np.ndarray) -> Volume:
    """Resample onto a grid along the axes of another one, with its spacing, that holds all of a volume."""
    corners = np.array(np.meshgrid(*((0, n - 1) for n in volume.shape), indexing="ij")).reshape(3, -1).T
    index = (volume.world(corners) - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    low, high = np.floor(index.min(axis=0)), np.ceil(index.max(axis=0))
    grid = affine.copy()
    grid[:3, 3] += affine[:3, :3] @ low
    z, y, x = (int(n) for n in high - low + 1)
    return resample_to(volume, (z, y, x), grid, background=AIR_HU - 1)


def _refined(
    fixed: Volume, moving: Volume, inside: np.ndarray, start: np.ndarray, seed: int
) -> tuple[np.ndarray, float]:
    """Return the rigid matrix that mutual information leads to, and its last value; the start where there is none."""
    images = [to_sitk(Volume(_clipped(volume.array), volume.affine)) for volume in (fixed, moving)]
    transform = sitk.Euler3DTransform()
    transform.SetCenter(fixed.world(np.argwhere(inside).mean(axis=0)).tolist())
    transform.SetTranslation(start[:3, 3].tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(to_sitk(Volume(inside.astype(np.uint8), fixed.affine)))
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel(SAMPLES, seed + 1)  # 0 would be the clock
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(SHRINK)
    method.SetSmoothingSigmasPerLevel(SMOOTH_MM)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsRegularStepGradientDescent(LARGEST_STEP, SMALLEST_STEP, ITERATIONS, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        with _one_thread():
            method.Execute(*images)
    except RuntimeError:  # no sample lies in the moving scan
        return start, float("nan")
    return _matrix(transform), float(method.GetMetricValue())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let ITK use one thread: several add up in any order, and not all parts of a registration have a setting."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _matrix(transform: sitk.Euler3DTransform) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(transform.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return matrix


def _ncc(fixed: Volume, moving: Volume, inside: np.ndarray, matrix: np.ndarray) -> float:
    """Return the correlation within the body, where both are; NaN where that is next to nothing."""
    both = inside & shown(moving, fixed.shape, fixed.affine, matrix)
    if both.sum() < max(LEAST_BODY, LEAST_OVERLAP * LEAST_OVERLAP * inside.sum()):
        return float("nan")
    here = _clipped(fixed.array[both])
    there = _clipped(moved(moving, fixed.shape, fixed.affine, matrix).array[both])
    return float(np.corrcoef(here, there)[0, 1]) if here.std() * there.std() > 0 else float("nan")


def _share(inside: np.ndarray, volume: Volume, other: Volume, matrix: np.ndarray) -> float:
    return float(shown(other, volume.shape, volume.affine, matrix)[inside].mean())


def _clipped(array: np.ndarray) -> np.ndarray:
    return np.clip(array, *CLIPPED_HU).astype(np.float32)
