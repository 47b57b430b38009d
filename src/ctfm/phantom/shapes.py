"""A canvas that anatomy is painted on: HU and labels together, one soft-edged shape after another.

Shapes are given in body coordinates: millimetres of a reference adult, (x, y, z) = (left, back, head), with
z = 0 between the vertebrae T12 and L1. Each body has its own scale and a slow, smooth warp, so that a sphere
given here comes out as an organ-like lump in the patient (LPS mm). Only the voxels near a shape are touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

Box = tuple[slice, slice, slice]
MARGIN_MM = 3.0


@dataclass(frozen=True)
class Warp:
    """A smooth change of shape: scale per axis, and sines along the other two axes.

    Attributes:
        scale: (3,) patient mm per reference mm along (x, y, z).
        amplitude: (3, 3) mm; entry [i, j] moves axis i as a sine along axis j; the diagonal is unused.
        wavelength: (3, 3) mm.
        phase: (3, 3) radians.
    """

    scale: np.ndarray
    amplitude: np.ndarray
    wavelength: np.ndarray
    phase: np.ndarray

    @property
    def reach(self) -> np.ndarray:
        """(3,) largest shift along each axis, reference mm."""
        return self.amplitude.sum(axis=1)

    def reference(self, axes: list[np.ndarray]) -> list[np.ndarray]:
        """Map patient coordinates (L, P, S), arrays that broadcast together, to reference coordinates."""
        plain = [axis / factor for axis, factor in zip(axes, self.scale, strict=True)]
        warped = []
        for i, values in enumerate(plain):
            total = values
            for j, along in enumerate(plain):
                if j != i:
                    wave = 2 * np.pi * along / self.wavelength[i, j] + self.phase[i, j]
                    total = total + (self.amplitude[i, j] * np.sin(wave)).astype(np.float32)
            warped.append(total)
        return warped


class Canvas:
    """HU and label arrays (z, y, x) under construction.

    Attributes:
        hu: float32, starts as air.
        label: uint8, starts as 0.
        x: reference coordinate to the patient's left of each voxel, mm, float32 (z, y, x).
        y: the same, to the back.
        z: the same, to the head.
    """

    def __init__(self, shape: Sequence[int], affine: np.ndarray, warp: Warp) -> None:
        self.hu = np.full(shape, -1000, np.float32)
        self.label = np.zeros(shape, np.uint8)
        world = patient_axes(shape, affine)
        self.x, self.y, self.z = (np.broadcast_to(axis, shape) for axis in warp.reference(world))
        self._warp, self._inverse, self._affine = warp, np.linalg.inv(affine), affine

    def box(self, low: ArrayLike, high: ArrayLike) -> Box | None:
        """Return slices around the reference box from ``low`` to ``high`` (x, y, z), or None if out of view."""
        reach = self._warp.reach + MARGIN_MM
        ends = np.stack([np.asarray(low, float) - reach, np.asarray(high, float) + reach]) * self._warp.scale
        corners = np.array([[x, y, z, 1.0] for x in ends[:, 0] for y in ends[:, 1] for z in ends[:, 2]])
        index = (corners @ self._inverse.T)[:, :3]
        start = np.maximum(np.floor(index.min(axis=0)).astype(int), 0)
        stop = np.minimum(np.ceil(index.max(axis=0)).astype(int) + 1, self.hu.shape)
        if (start >= stop).any():
            return None
        first, second, third = (slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        return first, second, third

    def fill(self, box: Box, inside: np.ndarray, hu: ArrayLike, label: ArrayLike | None = None) -> None:
        """Set HU, and the label unless None, where ``inside`` (the box's shape) holds."""
        np.copyto(self.hu[box], np.asarray(hu, np.float32), where=inside)
        if label is not None:
            np.copyto(self.label[box], np.asarray(label, np.uint8), where=inside)

    def ellipsoid(
        self,
        centre: ArrayLike,
        radii: ArrayLike,
        hu: float,
        label: int | None = None,
        turn: np.ndarray | None = None,
        within: np.ndarray | None = None,
        bend: float = 0.0,
    ) -> None:
        """Paint an ellipsoid.

        Args:
            centre: (x, y, z) reference mm.
            radii: along its own axes, mm.
            hu: value inside.
            label: id inside; None keeps what is there.
            turn: (3, 3) rotation from its own axes to the body's.
            within: (z, y, x) where painting is allowed.
            bend: moves its own first axis by ``bend`` radii at the ends of its third axis (a bean).
        """
        frame = np.eye(3) if turn is None else turn
        middle, half = np.asarray(centre, float), np.asarray(radii, float)
        extent = np.abs(frame) @ (half * (1 + abs(bend)))
        box = self.box(middle - extent, middle + extent)
        if box is None:
            return
        offsets = [axis[box] - np.float32(c) for axis, c in zip((self.x, self.y, self.z), middle, strict=True)]
        own = []
        for k in range(3):
            along = (frame[:, k] / half[k]).astype(np.float32)
            own.append(offsets[0] * along[0] + offsets[1] * along[1] + offsets[2] * along[2])
        own[0] = own[0] + np.float32(bend) * own[2] ** 2
        inside = own[0] ** 2 + own[1] ** 2 + own[2] ** 2 <= 1
        self.fill(box, inside if within is None else inside & within[box], hu, label)

    def tube(
        self,
        points: ArrayLike | Sequence[ArrayLike],
        radii: ArrayLike,
        hu: float,
        label: int | None = None,
        within: np.ndarray | None = None,
    ) -> None:
        """Paint a rounded tube along a line of points, with a radius (mm) at each point or one for all."""
        path = np.asarray(points, float)
        widths = np.broadcast_to(np.asarray(radii, float), len(path))
        for a, b, r, s in zip(path[:-1], path[1:], widths[:-1], widths[1:], strict=True):
            widest = max(r, s)
            box = self.box(np.minimum(a, b) - widest, np.maximum(a, b) + widest)
            if box is not None:
                inside = self._capsule(box, a, b, r, s)
                self.fill(box, inside if within is None else inside & within[box], hu, label)

    def _capsule(self, box: Box, a: np.ndarray, b: np.ndarray, r: float, s: float) -> np.ndarray:
        step = (b - a).astype(np.float32)
        d = [axis[box] - np.float32(c) for axis, c in zip((self.x, self.y, self.z), a, strict=True)]
        along = (d[0] * step[0] + d[1] * step[1] + d[2] * step[2]) / np.float32(max(step @ step, 1e-6))
        np.clip(along, 0, 1, out=along)
        square = sum((axis - along * part) ** 2 for axis, part in zip(d, step, strict=True))
        return square <= (np.float32(r) + np.float32(s - r) * along) ** 2


def patient_axes(shape: Sequence[int], affine: np.ndarray) -> list[np.ndarray]:
    """Return (L, P, S) coordinates of a grid, each as small as broadcasting allows; float32 mm."""
    indices = np.ogrid[tuple(slice(0, n) for n in shape)]
    axes = []
    for row in affine[:3]:
        parts = [factor * index for factor, index in zip(row[:3], indices, strict=True) if abs(factor) > 1e-9]
        axes.append((sum(parts) + row[3]).astype(np.float32))
    return axes


def turned(about: str, degrees: float) -> np.ndarray:
    """Return the (3, 3) rotation by an angle about the axis ``x``, ``y`` or ``z``, right-handed."""
    k = "xyz".index(about)
    i, j = (k + 1) % 3, (k + 2) % 3
    out = np.eye(3)
    angle = np.deg2rad(degrees)
    out[i, i] = out[j, j] = np.cos(angle)
    out[i, j], out[j, i] = -np.sin(angle), np.sin(angle)
    return out
