"""What the scanner adds to a phantom: the table, tissue texture, blur, noise, and the rim of the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ctfm.phantom.shapes import patient_axes


@dataclass(frozen=True)
class Scan:
    """How a scan is made.

    Attributes:
        noise_hu: standard deviation of the noise.
        blur_mm: standard deviation of the reconstruction kernel in the slice, mm.
        grain_mm: size of the grains of tissue texture, mm.
        prone: the patient lies on the belly, so the table is in front.
        table_gap_mm: from the skin to the table.
        circle: fill the corners outside the field of view with -1024 HU, as many scanners do.
    """

    noise_hu: float
    blur_mm: float
    grain_mm: float
    prone: bool
    table_gap_mm: float
    circle: bool


def draw(rng: np.random.Generator, prone: bool = False) -> Scan:
    """Draw how a scan is made."""
    return Scan(
        noise_hu=float(rng.uniform(8, 26)),
        blur_mm=float(rng.uniform(0.7, 1.6)),
        grain_mm=float(rng.uniform(4, 8)),
        prone=prone,
        table_gap_mm=float(rng.uniform(0, 5)),
        circle=bool(rng.random() < 0.3),
    )


def table(hu: np.ndarray, affine: np.ndarray, scan: Scan, skin_mm: float) -> None:
    """Paint a curved table of foam in a thin shell, in place, where there is air.

    Args:
        hu: (z, y, x) float32.
        affine: places ``hu`` in the patient (LPS mm).
        scan: how the scan is made.
        skin_mm: how far back (or forward, when prone) the skin reaches from the middle of the body.
    """
    left, back, _ = patient_axes(hu.shape, affine)
    depth = (-back if scan.prone else back) - np.float32(skin_mm + scan.table_gap_mm) + left**2 / 2200
    air = hu < -500
    np.copyto(hu, -920, where=air & (depth > 0) & (depth < 34) & (np.abs(left) < 215))
    shell = (np.abs(depth - 2) < 2) | (np.abs(depth - 34) < 2)
    np.copyto(hu, -180, where=air & shell & (np.abs(left) < 215))


def acquire(hu: np.ndarray, affine: np.ndarray, scan: Scan, rng: np.random.Generator) -> np.ndarray:
    """Add texture, blur, noise and the rim, and return int16 HU clipped to [-1024, 3071].

    Args:
        hu: (z, y, x) float32, changed in place.
        affine: places ``hu`` in the patient.
        scan: how the scan is made.
        rng: source of texture and noise.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    grain = _grains(rng, hu.shape, np.maximum(scan.grain_mm / spacing, 1.0))
    hu += grain * (7 + 0.12 * np.maximum(hu - 100, 0)) * (hu > -950)
    blur = scan.blur_mm / spacing
    hu = ndimage.gaussian_filter(hu, (0.35, max(blur[1], 0.3), max(blur[2], 0.3)), truncate=2.5)
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, (0, 0.5, 0.5), truncate=2.0)
    hu += noise * np.float32(scan.noise_hu / noise.std())
    if scan.circle:
        _, y, x = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in hu.shape)]
        hu[:, (x**2 + y**2 > 1.0)[0]] = -1024
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)


def _grains(rng: np.random.Generator, shape: tuple[int, ...], size: np.ndarray) -> np.ndarray:
    """Return smooth noise (mean 0, deviation 1) whose grains are ``size`` voxels (z, y, x) large."""
    coarse = np.ceil(np.asarray(shape) / size).astype(int) + 2
    field = rng.standard_normal(coarse, dtype=np.float32)
    for axis, (n, step) in enumerate(zip(shape, size, strict=True)):
        at = np.arange(n) / step
        low = at.astype(int)
        part = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        field = field.take(low, axis) * (1 - part) + field.take(low + 1, axis) * part
    return field / field.std()
