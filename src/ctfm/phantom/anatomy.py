"""Synthetic CT of the trunk: HU with known anatomy, different for every seed, the same for the same seed.

The anatomy is drawn, not measured: some 110 of the 117 TotalSegmentator v2 structures at plausible places, with
plausible HU. It shows that a workflow runs and learns; it says nothing about patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import pandas as pd

from ctfm import resources
from ctfm.imaging.volume import Volume
from ctfm.phantom import bones, organs, scanner, trunk
from ctfm.phantom.shapes import Canvas, Warp
from ctfm.phantom.trunk import FAT, WALL_Y

Region = Literal["chest", "upper", "abdomen", "trunk"]
# Where a scan is: height of its middle, and the length that holds the region; reference mm.
REGIONS: dict[str, tuple[float, float]] = {
    "chest": (125.0, 310.0),
    "upper": (90.0, 390.0),
    "abdomen": (-105.0, 390.0),
    "trunk": (-10.0, 540.0),
}
PHASES = ("native", "arterial", "portal")
ENHANCED = {  # native, arterial, portal
    "blood": (44, 300, 160),
    "vein": (42, 90, 165),
    "liver": (60, 72, 112),
    "hepatic_vessel": (38, 80, 165),
    "spleen": (50, 110, 122),
    "cortex": (36, 170, 190),
    "medulla": (30, 80, 165),
    "pancreas": (42, 105, 95),
    "myocardium": (46, 110, 105),
    "thyroid": (100, 180, 150),
}


@dataclass(frozen=True)
class Body:
    """A person: everything that stays the same from scan to scan. Lengths in reference mm.

    Attributes:
        seed: of the shapes that are drawn while painting.
        sex: ``m`` or ``f``.
        age: years.
        warp: size and slow deformation.
        fat_mm: subcutaneous fat at the belly.
        dome_right_mm: height of the right diaphragm; the same for ``dome_left_mm``.
        liver_low_mm: height of the liver's right lower edge.
        liver_left_mm: how far left the liver reaches.
        colon_sag_mm: how low the transverse colon hangs.
        branches: vessels of each lung.
        heart: size over the reference; the same for spleen, kidney, stomach, bladder and vessel.
        cysts: a cyst of the left, of the right kidney.
        lesions: organs with lesions, of ``liver`` and ``lung``.
        phase: of contrast agent.
        hu: HU of each tissue.
    """

    seed: int
    sex: str
    age: int
    warp: Warp
    fat_mm: float
    dome_right_mm: float
    dome_left_mm: float
    liver_low_mm: float
    liver_left_mm: float
    colon_sag_mm: float
    branches: int
    heart: float
    spleen: float
    kidney: float
    stomach: float
    bladder: float
    vessel: float
    cysts: tuple[bool, bool]
    lesions: tuple[str, ...]
    phase: str
    hu: dict[str, float]

    @property
    def depth_mm(self) -> float:
        """Patient mm from the middle of the body to the skin of back or belly."""
        reach = max(depth + share * self.fat_mm for depth, share in zip(WALL_Y, FAT, strict=True))
        return float((reach + self.warp.reach[1] * 0.5) * self.warp.scale[1])


@cache
def labels() -> dict[str, int]:
    """Return {name: id} of the 117 TotalSegmentator v2 structures, from resources/labels."""
    table = pd.read_csv(resources.path("labels", "totalsegmentator_v2.csv"))
    return dict(zip(table["name"], table["id"].astype(int), strict=True))


def draw(rng: np.random.Generator) -> Body:
    """Draw a person."""
    size = rng.uniform(0.70, 0.86)
    scale = size * rng.uniform((0.95, 0.95, 0.94), (1.07, 1.07, 1.06))
    amplitude = rng.uniform(1.0, 4.0, (3, 3)) * (1 - np.eye(3))
    warp = Warp(scale, amplitude, rng.uniform(150, 320, (3, 3)), rng.uniform(0, 2 * np.pi, (3, 3)))
    phase = PHASES[rng.integers(3)]
    factor = dict(zip(("heart", "spleen", "kidney", "stomach", "vessel"), rng.uniform(0.87, 1.13, 5), strict=True))
    dome = rng.uniform(48, 70)
    return Body(
        seed=int(rng.integers(2**32)),
        sex="mf"[rng.integers(2)],
        age=int(rng.integers(20, 90)),
        warp=warp,
        fat_mm=float(rng.uniform(8, 32)),
        dome_right_mm=float(dome),
        dome_left_mm=float(dome - rng.uniform(6, 16)),
        liver_low_mm=float(rng.uniform(-92, -62)),
        liver_left_mm=float(rng.uniform(28, 58)),
        colon_sag_mm=float(rng.uniform(-8, 25)),
        branches=int(rng.integers(7, 12)),
        bladder=float(rng.uniform(0.75, 1.3)),
        cysts=(bool(rng.random() < 0.3), bool(rng.random() < 0.3)),
        lesions=tuple(organ for organ in ("liver", "lung") if rng.random() < 0.35),
        phase=phase,
        hu=_tissues(rng, phase),
        **factor,
    )


def render(
    body: Body,
    scan: scanner.Scan,
    rng: np.random.Generator,
    shape: Sequence[int],
    affine: np.ndarray,
) -> tuple[Volume, Volume]:
    """Scan a person on a given grid.

    Args:
        body: the person, always the same for the same ``Body``.
        scan: how the scan is made.
        rng: source of noise and texture.
        shape: voxels (z, y, x).
        affine: (4, 4), maps (z, y, x, 1) to LPS mm; the origin is the middle of the body at T12/L1.

    Returns:
        HU as int16 and labels as uint8 (TotalSegmentator v2 ids), on that grid.
    """
    canvas = Canvas(shape, affine, body.warp)
    paint(canvas, body)
    scanner.table(canvas.hu, affine, scan, body.depth_mm)
    return Volume(scanner.acquire(canvas.hu, affine, scan, rng), affine), Volume(canvas.label, affine)


def paint(canvas: Canvas, body: Body) -> None:
    """Paint a person on an empty canvas: tissues as they are, before any scanner."""
    ids, rng = labels(), np.random.default_rng(body.seed)
    masks = trunk.paint(canvas, body, ids, rng)
    organs.paint(canvas, body, masks, ids, rng)
    bones.paint(canvas, body, masks, ids)


def case(
    rng: np.random.Generator,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    region: Region = "trunk",
    body: Body | None = None,
) -> tuple[Volume, Volume]:
    """Scan a person, a new one unless ``body`` is given, on an upright grid around a region.

    Args:
        rng: source of everything random.
        shape: voxels (z, y, x).
        spacing_mm: (z, y, x).
        region: where the middle of the scan is.
        body: the person.

    Returns:
        HU as int16 and labels as uint8 (TotalSegmentator v2 ids); axes run (S, P, L).
    """
    body = body or draw(rng)
    scan = scanner.draw(rng)
    return render(body, scan, rng, shape, upright(body, shape, spacing_mm, region, rng))


def upright(
    body: Body,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    region: Region,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the (4, 4) affine of a grid (S, P, L) whose middle is near that of a region of the body."""
    spacing = np.asarray(spacing_mm, float)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing, 1
    height = REGIONS[region][0] * body.warp.scale[2]
    middle = np.array([rng.uniform(-6, 6), rng.uniform(0, 14), height + rng.uniform(-8, 8)])
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def _tissues(rng: np.random.Generator, phase: str) -> dict[str, float]:
    """Draw the HU of every tissue; those that take up contrast agent depend on its phase."""
    hu = {name: values[PHASES.index(phase)] * rng.uniform(0.9, 1.1) for name, values in ENHANCED.items()}
    hu["fat"] = rng.uniform(-115, -95)
    hu["visceral_fat"] = hu["fat"] + rng.uniform(4, 12)
    hu["muscle"] = rng.uniform(45, 62) + (6 if phase != "native" else 0)
    hu["lung"] = rng.uniform(-880, -810)
    hu["cortical"] = rng.uniform(520, 760)
    hu["spongy"] = rng.uniform(150, 280)
    hu["urine"] = rng.uniform(0, 14)
    return {name: float(value) for name, value in hu.items()}
