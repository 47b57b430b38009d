"""Synthetic head CT in HU, half of them with a bleed; and how such scans come: tilted, unevenly spaced, or broken.

The head is drawn, not measured: scalp, skull with a spongy layer, brain, ventricles, falx; bleeds of some 65 HU within
the brain, under the skull, or in a ventricle. It shows that a workflow runs and learns; it says nothing about patients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ctfm.imaging.volume import Volume
from ctfm.phantom import scanner
from ctfm.phantom.shapes import Canvas, Warp, turned

STREAM = 3
RADII_MM = np.array([72.0, 90.0, 78.0])  # of the outer skull: left, back, head
STEP_MM, PIXEL_MM, SLICES, MATRIX = 5.0, 3.75, 34, 60
TILT_DEGREES = 14.0
NOISE_HU = (3.0, 8.0)  # thick slices of a head have less than those of a trunk
UNEVEN_MM = (2.5, 5.0)  # slice distance at the base of the skull, and above
FOUND = ("IPH", "SDH", "IVH")  # bleeds within the brain, under the skull, in a ventricle
FORMS = ("tilted", "uneven", "broken")  # of the first scans; the others are plain


@dataclass(frozen=True)
class Head:
    """One person's head. Lengths in reference mm.

    Attributes:
        number: from 0.
        form: how its scan comes: ``plain``, or one of ``FORMS``.
        finding: a kind of bleed, one of ``FOUND``, or empty.
        seed: of what is drawn while painting, and of the scanner.
        size: over that of the reference head.
        ventricle: size of the ventricles over the reference.
        bleed_mm: size of the bleed.
    """

    number: int
    form: str
    finding: str
    seed: int
    size: float
    ventricle: float
    bleed_mm: float


def heads(seed: int, count: int, stream: int = 0) -> Iterator[Head]:
    """Yield ``count`` heads, the first of them in each of ``FORMS``; every second one, drawn by seed, has a bleed."""
    rng = np.random.default_rng([seed, STREAM, stream])
    for number, ill in enumerate(rng.permutation(np.arange(count) % 2)):
        yield Head(
            number,
            FORMS[number] if number < len(FORMS) else "plain",
            FOUND[rng.integers(len(FOUND))] if ill else "",
            seed=int(rng.integers(2**32)),
            size=float(rng.uniform(0.92, 1.08)),
            ventricle=float(rng.uniform(0.8, 1.25)),
            bleed_mm=float(rng.uniform(11, 20)),
        )


def scan(head: Head) -> Volume:
    """Scan a head: int16 HU; axes run (S, P, L), and where the gantry is tilted that of the slices is sheared."""
    step = UNEVEN_MM[0] if head.form == "uneven" else STEP_MM
    affine = grid(step, TILT_DEGREES if head.form == "tilted" else 0.0)
    canvas = paint(head, (round(SLICES * STEP_MM / step), MATRIX, MATRIX), affine)
    rng = np.random.default_rng([head.seed, 1])
    how = replace(scanner.draw(rng), noise_hu=float(rng.uniform(*NOISE_HU)))
    made = scanner.acquire(canvas, affine, how, rng)
    return Volume(made, affine)


def kept_slices(head: Head, count: int) -> list[int]:
    """Return which of ``count`` slices are kept: of an uneven scan every one at the base, above it every second."""
    if head.form != "uneven":
        return list(range(count))
    base = count // 3
    return [*range(base), *range(base, count, round(UNEVEN_MM[1] / UNEVEN_MM[0]))]


def grid(step_mm: float, tilt_degrees: float = 0.0, pixel_mm: float = PIXEL_MM) -> np.ndarray:
    """Return the (4, 4) affine of a scan around the head's middle: slices tilted about left-right, table along S."""
    affine = np.eye(4)
    down = turned("x", tilt_degrees) @ np.array([0.0, 1.0, 0.0])
    affine[:3, :3] = np.stack([[0, 0, step_mm], pixel_mm * down, [pixel_mm, 0, 0]], axis=1)
    half = np.array([SLICES * STEP_MM / step_mm, MATRIX * PIXEL_MM / pixel_mm, MATRIX * PIXEL_MM / pixel_mm]) - 1
    affine[:3, 3] = -affine[:3, :3] @ half / 2
    return affine


def paint(head: Head, shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """Return the tissues of a head as they are, before any scanner: float32 HU (z, y, x) on any grid."""
    nothing = np.zeros((3, 3))
    canvas = Canvas(shape, affine, Warp(np.full(3, head.size), nothing, np.ones((3, 3)), nothing))
    rng = np.random.default_rng([head.seed, 0])
    middle = np.zeros(3)
    brain = RADII_MM - 7
    for radii, hu in ((RADII_MM + 6, -20), (RADII_MM, 1100), (RADII_MM - 2.5, 500), (RADII_MM - 4.5, 1100)):
        canvas.ellipsoid(middle, radii, hu)
    canvas.ellipsoid(middle, brain, 8)
    canvas.ellipsoid(middle, brain - 2.5, 33)
    canvas.ellipsoid((0, 0, 30), (1.2, 80, 40), 42, within=canvas.hu == 33)
    ventricles = [((side * 14, -5, 12), np.array([6, 27, 11]) * head.ventricle) for side in (-1, 1)]
    for centre, radii in ventricles:
        canvas.ellipsoid(centre, radii, 6)
    if head.finding:
        _bleed(canvas, head, rng, brain, ventricles)
    return canvas.hu


def _bleed(canvas: Canvas, head: Head, rng: np.random.Generator, brain: np.ndarray, ventricles: list) -> None:
    side, size, hu = rng.choice([-1, 1]), head.bleed_mm, float(rng.uniform(58, 74))
    soft = (canvas.hu > 0) & (canvas.hu < 60)
    if head.finding == "IPH":
        centre = (side * rng.uniform(25, 38), rng.uniform(-35, 35), rng.uniform(-25, 30))
        canvas.ellipsoid(centre, size * rng.uniform(0.8, 1.2, 3), hu, within=soft)
    elif head.finding == "SDH":
        centre = (side * (brain[0] - size / 3), rng.uniform(-20, 20), rng.uniform(-10, 20))
        canvas.ellipsoid(centre, (size / 1.7, 3 * size, 2 * size), hu, within=soft)
    else:
        centre, radii = ventricles[int(side > 0)]
        canvas.ellipsoid(centre, radii * 1.3, hu, within=soft)
