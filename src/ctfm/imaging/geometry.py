"""Where the slices of a series lie, and how they become one grid with axes at right angles.

World coordinates are LPS millimetres, as in DICOM. ``right`` is the direction in which the column index
grows (the first three numbers of ImageOrientationPatient), ``down`` that of the row index, ``normal``
is right x down. Slices are sorted along the normal, whatever their file names or instance numbers say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctfm.errors import Quarantine
from ctfm.imaging.resample import AIR_HU
from ctfm.imaging.volume import RIGHT_ANGLE, Volume

STEP_TOLERANCE = 0.02  # of a slice distance
STEP_TOLERANCE_MM = 0.1 + 1e-6  # positions are often written with one decimal
DRIFT_TOLERANCE = 0.25  # pixels, over the whole series
MAX_TILT_DEGREES = 45.0
PIXEL_RANGE_MM = (0.005, 10.0)
MAX_EXTENT_MM = (3000.0, 1500.0, 1500.0)  # z, y, x
MAX_PLACE_MM = 1e5  # from the origin, which scanners set near the table
MAX_VOXELS = 2**30
GAP_SHARE = 0.25  # a larger share of wide steps is a protocol, not lost slices
GAP_RUN = 3  # as many equal wide steps on end, at one end of the scan: head CT is often thin at the base, thick above


@dataclass(frozen=True)
class Stack:
    """Parallel slices, sorted along their normal.

    Attributes:
        order: (n,) indices into the input, feet-most along the normal first.
        heights: (n,) positions along the normal, mm; the first is 0.
        shifts: (n, 2) in-plane displacement (row, column) of each slice from the first, pixels.
        origin: (3,) centre of the first pixel of the first slice, LPS mm.
        axes: (3, 3) columns are the unit vectors normal, down, right.
        pixel: (row, column) spacing, mm.
    """

    order: np.ndarray
    heights: np.ndarray
    shifts: np.ndarray
    origin: np.ndarray
    axes: np.ndarray
    pixel: tuple[float, float]

    @property
    def steps(self) -> np.ndarray:
        """Distances (n - 1,) between neighbouring slices along the normal, mm."""
        return np.diff(self.heights)

    @property
    def even(self) -> bool:
        """Whether the slices lie on a regular grid along the normal, within the tolerance."""
        step = self.heights[-1] / (len(self.heights) - 1)
        off = np.ptp(self.heights - step * np.arange(len(self.heights))) / 2
        return bool(off <= max(STEP_TOLERANCE * step, STEP_TOLERANCE_MM) and self.steps.min() > step / 2)

    @property
    def straight(self) -> bool:
        """Whether no slice is displaced in its own plane: neither gantry tilt nor a moved field of view."""
        return bool(np.abs(self.shifts).max() <= DRIFT_TOLERANCE)

    @property
    def tilt_degrees(self) -> float:
        """Angle between the normal and the line from the first to the last slice's corner."""
        drift = np.hypot(*(self.shifts[-1] * self.pixel))
        return float(np.degrees(np.arctan2(drift, self.heights[-1])))

    def grid(self, shape: tuple[int, int]) -> tuple[int, int, int]:
        """Return the voxels (z, y, x) of a volume of these slices of ``shape`` (rows, columns); see ``assemble``."""
        count = len(self.heights)
        if not self.even:
            count = round(self.heights[-1] / float(np.median(self.steps))) + 1
        low, high = self.reach
        return count, int(shape[0] + high[0] - low[0]), int(shape[1] + high[1] - low[1])

    @property
    def reach(self) -> np.ndarray:
        """Lowest and highest displacement (2, 2: row, column) of a slice that counts, whole pixels outwards."""
        if self.straight:
            return np.zeros((2, 2), int)
        return np.stack([np.floor(self.shifts.min(axis=0)), np.ceil(self.shifts.max(axis=0))]).astype(int)

    def affine(self, step: float, corner: tuple[int, int] = (0, 0)) -> np.ndarray:
        """Return the affine of a grid with this ``step`` whose first pixel is ``corner`` pixels off the origin."""
        affine = np.eye(4)
        affine[:3, :3] = self.axes * (step, *self.pixel)
        affine[:3, 3] = self.origin + affine[:3, 1:3] @ np.asarray(corner, dtype=float)
        return affine


def stack(positions: np.ndarray, orientation: np.ndarray, pixel: tuple[float, float]) -> Stack:
    """Sort slices along their normal.

    Args:
        positions: (n, 3) ImagePositionPatient, LPS mm.
        orientation: (6,) ImageOrientationPatient.
        pixel: PixelSpacing: (row, column) distance, mm.

    Raises:
        Quarantine: ``bad_geometry``: directions that are no right angle, or a size no scanner makes.
    """
    right, down = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(right), np.linalg.norm(down)
    if not np.isfinite([*positions.ravel(), *orientation, *pixel]).all() or min(lengths) < 0.9:
        raise Quarantine("bad_geometry", f"orientation {orientation.tolist()}, pixel spacing {pixel} mm")
    if (far := np.abs(positions).max()) > MAX_PLACE_MM:
        raise Quarantine("bad_geometry", f"a slice at {far:.4g} mm")
    if abs(right @ down) > 1e-3 or max(lengths) > 1.1:
        raise Quarantine("bad_geometry", f"rows and columns are not at right angles: {orientation.tolist()}")
    if not PIXEL_RANGE_MM[0] < min(pixel) <= max(pixel) < PIXEL_RANGE_MM[1]:
        raise Quarantine("bad_geometry", f"pixel spacing {pixel} mm")
    right = right / lengths[0]
    down = down - (down @ right) * right
    down = down / np.linalg.norm(down)
    normal = np.cross(right, down)
    order = np.argsort(positions @ normal, kind="stable")
    offsets = positions[order] - positions[order[0]]
    shifts = np.round(offsets @ np.stack([down, right], axis=1) / pixel, 3)
    axes = np.stack([normal, down, right], axis=1)
    return Stack(order, offsets @ normal, shifts, positions[order[0]], axes, pixel)


def check(slices: Stack, shape: tuple[int, int], max_gap_ratio: float) -> None:
    """Refuse slices that don't make a volume. ``shape``: rows and columns.

    Raises:
        Quarantine: ``duplicate_slices``, ``missing_slice``, ``uneven_spacing``, ``bad_geometry`` or ``too_large``.
    """
    steps, median = slices.steps, float(np.median(slices.steps))
    same = steps < max(0.01, STEP_TOLERANCE * median)
    if same.any():
        raise Quarantine("duplicate_slices", f"{int(same.sum())} slices lie where their neighbour lies")
    multiples = np.round(steps / median)
    whole = np.abs(steps - multiples * median) <= max(STEP_TOLERANCE * median, STEP_TOLERANCE_MM)
    gaps = multiples >= 2
    few = gaps.any() and gaps.sum() <= max(1, GAP_SHARE * len(steps))
    if few and (whole & (multiples >= 1)).all() and not _protocol(multiples):
        lost = int((multiples[gaps] - 1).sum())
        raise Quarantine("missing_slice", f"{lost} slices are missing in {int(gaps.sum())} gaps; step {median:.3f} mm")
    if steps.max() > max_gap_ratio * median:
        raise Quarantine(
            "uneven_spacing", f"slice distances {steps.min():.3f} to {steps.max():.3f}, median {median:.3f} mm"
        )
    grid = slices.grid(shape)
    extent = (slices.heights[-1], grid[1] * slices.pixel[0], grid[2] * slices.pixel[1])
    if any(e > limit for e, limit in zip(extent, MAX_EXTENT_MM, strict=True)):
        raise Quarantine("bad_geometry", f"the scan would be {extent[0]:.0f} x {extent[1]:.0f} x {extent[2]:.0f} mm")
    if (voxels := math.prod(grid)) > MAX_VOXELS:
        raise Quarantine("too_large", f"{' x '.join(map(str, grid))} = {voxels} voxels")
    if slices.tilt_degrees > MAX_TILT_DEGREES:
        raise Quarantine("bad_geometry", f"slices are displaced in their plane by {slices.tilt_degrees:.1f} degrees")


def _protocol(multiples: np.ndarray) -> bool:
    """Return whether the wide steps are one run of equal ones at an end: another slice distance, nothing lost."""
    wide = np.flatnonzero(multiples >= 2)
    on_end = wide[-1] - wide[0] + 1 == len(wide) and (wide[0] == 0 or wide[-1] == len(multiples) - 1)
    return bool(on_end and len(wide) >= GAP_RUN and np.ptp(multiples[wide]) == 0)


def straighten(volume: Volume) -> tuple[Volume, float]:
    """Undo the shear that a tilted gantry leaves in a volume: its slices are shifted back, as those of DICOM.

    Args:
        volume: int16 HU. Two axes are at right angles to each other, and the third is that of the slices; where there
            is a choice, the one with the larger spacing.

    Returns:
        The volume with axes at right angles, and the tilt in degrees; itself where they are.

    Raises:
        Quarantine: ``bad_geometry``: no two axes are at right angles, or the shear is more than a gantry can tilt.
    """
    if volume.upright:
        return volume, 0.0
    unit = volume.affine[:3, :3] / volume.spacing
    flat = [k for k in range(3) if abs(unit[:, k - 2] @ unit[:, k - 1]) <= RIGHT_ANGLE]
    if not flat:
        raise Quarantine("bad_geometry", "no two axes are at right angles")
    along = max(flat, key=lambda k: volume.spacing[k])
    down, right = (k for k in range(3) if k != along)
    array = volume.array.transpose(along, down, right)
    steps = np.arange(len(array))[:, None] * volume.affine[:3, along]
    pixel = volume.spacing[down], volume.spacing[right]
    slices = stack(volume.affine[:3, 3] + steps, np.concatenate([unit[:, right], unit[:, down]]), pixel)
    check(slices, array.shape[1:], max_gap_ratio=2)
    return assemble(array[slices.order], slices), slices.tilt_degrees


def assemble(array: np.ndarray, slices: Stack) -> Volume:
    """Make a volume with axes at right angles of sorted slices.

    Even, straight slices stay as they are. Others are interpolated linearly: within a slice for its
    displacement (gantry tilt is a displacement that grows with height), and between neighbouring slices
    where distances are uneven. The step of an uneven series becomes its median distance. Every slice
    stays within the field of view, which grows; what no slice covers is air.

    Args:
        array: (n, rows, columns) int16 HU, in the order of ``slices.order``.
        slices: where they lie.
    """
    if slices.even and slices.straight:
        return Volume(array, slices.affine(float(slices.heights[-1] / (len(array) - 1))))
    low = slices.reach[0]
    shifts = np.zeros_like(slices.shifts) if slices.straight else slices.shifts - low
    count, *shape = slices.grid((array.shape[1], array.shape[2]))
    step = float(slices.heights[-1] / (count - 1))
    out = np.empty((count, *shape), np.int16)
    where = (
        np.arange(len(array)) if slices.even else np.interp(np.arange(count) * step, slices.heights, range(len(array)))
    )
    for k, at in enumerate(np.round(where, 3)):
        below, share = int(at), at - int(at)
        plane = _place(array[below], shifts[below], shape)
        if share:
            plane += share * (_place(array[below + 1], shifts[below + 1], shape) - plane)
        out[k] = np.rint(plane)
    return Volume(out, slices.affine(step, (int(low[0]), int(low[1]))))


def _place(plane: np.ndarray, shift: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Put a slice (rows, columns) into a larger plane of air, ``shift`` (row, column) pixels down and right."""
    whole = np.floor(shift).astype(int)
    row, column = (shift - whole).astype(np.float32)
    part = np.pad(plane.astype(np.float32), 1, constant_values=AIR_HU)
    part = part[1:] + row * (part[:-1] - part[1:]) if row else part[1:]
    part = part[:, 1:] + column * (part[:, :-1] - part[:, 1:]) if column else part[:, 1:]
    out = np.full((shape[0] + 1, shape[1] + 1), AIR_HU, np.float32)
    out[whole[0] : whole[0] + part.shape[0], whole[1] : whole[1] + part.shape[1]] = part
    return out[:-1, :-1]
