"""The trunk of a phantom: outline, fat, muscle, the body cavity, the diaphragm and the lungs.

Everything is a function of reference coordinates (see ``shapes``), so that organs can be painted inside of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctfm.phantom.shapes import Canvas

if TYPE_CHECKING:
    from ctfm.phantom.anatomy import Body

# Height (mm): half-width and half-depth of the muscular wall, and how much of the subcutaneous fat lies there.
WALL_Z = (-360, -290, -240, -190, -150, -80, 0, 60, 150, 210, 245, 265, 285, 310, 420)
WALL_X = (150, 158, 160, 152, 140, 130, 138, 148, 156, 162, 158, 120, 64, 56, 56)
WALL_Y = (85, 92, 95, 92, 86, 80, 86, 94, 97, 92, 84, 72, 60, 54, 54)
FAT = (1.2, 1.2, 1.2, 1.1, 1.0, 1.0, 0.9, 0.7, 0.6, 0.5, 0.5, 0.4, 0.3, 0.3, 0.3)
CAVITY_Z = (-285, -270, -240, -190, -150, -80, 0, 60, 150, 200, 235, 262, 275)
CAVITY_X = (1, 45, 64, 98, 112, 112, 124, 132, 127, 110, 82, 45, 1)
CAVITY_Y = (1, 50, 62, 68, 69, 65, 72, 80, 82, 74, 56, 34, 1)
CAVITY_BACK = (0, 0, 0, -6, -9, -9, -5, 0, 2, 2, 4, 6, 6)
DOME_BASE = -25.0
LUNG_TOP = 266.0
HORIZONTAL_FISSURE = 112.0


@dataclass(frozen=True)
class Trunk:
    """Masks that organs are painted in, each (z, y, x).

    Attributes:
        body: inside of the skin.
        wall: inside of the fat.
        cavity: thorax, abdomen and pelvis together.
        belly: the cavity below the diaphragm.
        lungs: both lungs, before anything is painted over them.
    """

    body: np.ndarray
    wall: np.ndarray
    cavity: np.ndarray
    belly: np.ndarray
    lungs: np.ndarray


def paint(canvas: Canvas, body: Body, ids: Mapping[str, int], rng: np.random.Generator) -> Trunk:
    """Paint skin, fat, muscle, cavity, diaphragm and lungs; return the masks."""
    x, y, z = canvas.x, canvas.y, canvas.z
    width, depth = profile(z, WALL_Z, WALL_X), profile(z, WALL_Z, WALL_Y)
    fat = profile(z, WALL_Z, FAT) * np.float32(body.fat_mm)
    wall = _oval(x, y, width, depth) <= 1
    skin = _oval(x, y, width + fat, depth + fat) <= 1
    chest = _oval(
        x, y - profile(z, CAVITY_Z, CAVITY_BACK), profile(z, CAVITY_Z, CAVITY_X), profile(z, CAVITY_Z, CAVITY_Y)
    )
    everything = (slice(None), slice(None), slice(None))
    canvas.fill(everything, skin, body.hu["fat"])
    canvas.fill(everything, wall, body.hu["muscle"])
    _arms(canvas, body)
    cavity = chest <= 1
    canvas.fill(everything, cavity, body.hu["visceral_fat"])
    above = z - dome(x, y, body)
    canvas.fill(everything, cavity & (np.abs(above) < 2.5), body.hu["muscle"])
    aside = np.abs(x) > 26 - 14 * np.clip((-15 - y) / 50, 0, 1)
    lungs = (chest <= 0.95) & (above > 2.5) & aside & (z < LUNG_TOP)
    _lobes(canvas, body, lungs, ids)
    _bronchial_tree(canvas, body, lungs, rng)
    return Trunk(canvas.hu > -500, wall, cavity, cavity & (above < -2.5), lungs)


def profile(z: np.ndarray, knots: Sequence[float], values: Sequence[float]) -> np.ndarray:
    """Interpolate ``values`` at ``z``, through a table at every millimetre (fast on whole volumes)."""
    first = int(knots[0])
    table = np.interp(np.arange(first, int(knots[-1]) + 1), knots, values).astype(np.float32)
    return table.take((z - np.float32(first)).astype(np.int32), mode="clip")


def dome(x: np.ndarray, y: np.ndarray, body: Body) -> np.ndarray:
    """Return the height (mm) of the diaphragm over (x, y): two domes, the right one higher."""
    heights = []
    for centre, top in ((-60, body.dome_right_mm), (60, body.dome_left_mm)):
        ratio = ((x - centre) / 76) ** 2 + ((y + 5) / 95) ** 2
        heights.append(DOME_BASE + np.float32(top - DOME_BASE) * np.maximum(0, 1 - ratio**2))
    return np.maximum(*heights)


def _oval(x: np.ndarray, y: np.ndarray, width: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return the level of a rounded box (exponent 2.5): 1 on its rim, less inside."""
    u, v = np.abs(x / width), np.abs(y / depth)
    return u * u * np.sqrt(u) + v * v * np.sqrt(v)


def _arms(canvas: Canvas, body: Body) -> None:
    """Paint both arms, raised beside the head."""
    for side in (-1, 1):
        points = [(side * 140, 8, 225), (side * 158, 0, 280), (side * 166, -12, 420)]
        canvas.tube(points, [44 + body.fat_mm * 0.3, 44, 40], body.hu["fat"], within=canvas.hu < -500)
        canvas.tube(points, [38, 36, 33], body.hu["muscle"])


def _lobes(canvas: Canvas, body: Body, lungs: np.ndarray, ids: Mapping[str, int]) -> None:
    """Paint lung tissue, denser towards the back, in five lobes with fissures between them."""
    x, y, z = canvas.x, canvas.y, canvas.z
    oblique = z - (22 + (y + 72) * np.float32(1.32) + 6 * np.sin(x / 23))
    level = z - (HORIZONTAL_FISSURE + 5 * np.sin(y / 30))
    upper = oblique > 0
    left = np.where(upper, ids["lung_upper_lobe_left"], ids["lung_lower_lobe_left"])
    top = np.where(level > 0, ids["lung_upper_lobe_right"], ids["lung_middle_lobe_right"])
    right = np.where(upper, top, ids["lung_lower_lobe_right"])
    everything = (slice(None), slice(None), slice(None))
    canvas.fill(everything, lungs, body.hu["lung"] + 0.35 * y, np.where(x > 0, left, right))
    fissure = (np.abs(oblique) < 1.2) | ((np.abs(level) < 1.2) & upper & (x < 0))
    canvas.fill(everything, lungs & fissure, body.hu["lung"] + 150)


def _bronchial_tree(canvas: Canvas, body: Body, lungs: np.ndarray, rng: np.random.Generator) -> None:
    """Paint branching vessels and thin airways in the lungs; their voxels keep the label of the lobe."""
    for side in (-1, 1):
        hilum = np.array([side * 34.0, 8.0, 122.0])
        for _ in range(body.branches):
            end = np.array([side * rng.uniform(45, 118), rng.uniform(-68, 62), rng.uniform(10, 235)])
            middle = hilum + 0.5 * (end - hilum) + rng.normal(0, 9, 3)
            canvas.tube([hilum, middle, end], [4.5, 2.8, 1.4], body.hu["blood"], within=lungs)
            for _ in range(3):
                canvas.tube([middle, end + rng.normal(0, 26, 3)], [2.4, 1.1], body.hu["blood"], within=lungs)
        for end in rng.uniform((50, -40, 50), (85, 40, 200), (4, 3)):
            canvas.tube([hilum, end * (side, 1, 1)], [3.5, 1.5], -960, within=lungs)
