"""The skeleton of a phantom's trunk, with the spinal cord, and the muscles that lie along the bones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ctfm.phantom.shapes import Canvas, turned
from ctfm.phantom.trunk import CAVITY_BACK, CAVITY_X, CAVITY_Y, CAVITY_Z, Trunk, profile

if TYPE_CHECKING:
    from ctfm.phantom.anatomy import Body

SPINE_Z = (-160, -80, 0, 60, 150, 240, 300, 420)
SPINE_Y = (42, 32, 38, 45, 52, 44, 28, 22)
# Vertebrae from the lowest up: name, height with the disc below it (mm).
LEVELS = [
    *((f"L{i}", 30.0) for i in (5, 4, 3, 2, 1)),
    *((f"T{i}", 17.0 + 0.6 * i) for i in range(12, 0, -1)),
    *((f"C{i}", 15.0) for i in range(7, 0, -1)),
]
BOTTOMS = -150 + np.concatenate([[0], np.cumsum([height for _, height in LEVELS])])
SIDES = (("left", 1), ("right", -1))
SEAM = 2.0  # fat around a muscle, mm


def paint(canvas: Canvas, body: Body, trunk: Trunk, ids: Mapping[str, int]) -> None:
    """Paint muscles of the back and pelvis, then all bones."""
    _muscles(canvas, body, trunk, ids)
    _pelvis(canvas, body, trunk, ids)
    _spine(canvas, body, ids)
    _ribs(canvas, body, trunk, ids)
    _shoulders(canvas, body, trunk, ids)


def spine_y(z: float) -> float:
    """Return how far back (mm) the centre of the vertebral bodies lies at height ``z``."""
    return float(np.interp(z, SPINE_Z, SPINE_Y))


def centre_of(vertebra: str) -> float:
    """Return the height (mm) of the middle of a vertebra such as ``T7``."""
    index = [name for name, _ in LEVELS].index(vertebra)
    return float(BOTTOMS[index : index + 2].mean())


def _spine(canvas: Canvas, body: Body, ids: Mapping[str, int]) -> None:
    box = canvas.box((-46, 5, BOTTOMS[0]), (46, 110, BOTTOMS[-1]))
    if box is None:
        return
    x, y, z = np.abs(canvas.x[box]), canvas.y[box], canvas.z[box]
    level = np.clip(np.searchsorted(BOTTOMS, z) - 1, 0, len(LEVELS) - 1)
    height = (z - BOTTOMS[level].astype(np.float32)) / np.diff(BOTTOMS)[level].astype(np.float32)
    inside = (z >= BOTTOMS[0]) & (z < BOTTOMS[-1])
    rx, ry = profile(z, (-150, 0, 240, 330), (26, 22, 16, 12)), profile(z, (-150, 0, 240, 330), (18, 16, 13, 10))
    back = y - profile(z, SPINE_Z, SPINE_Y)
    behind = back - ry
    round_ = (x / rx) ** 2 + (back / ry) ** 2
    disc = (height < 0.13) | (height > 0.93)
    canal = x**2 + (behind - 8) ** 2
    arch = (canal < 13**2) & (height > 0.3)
    spinous = (x < 3.6) & (behind > 8) & (behind < 34) & (height < 0.62)
    transverse = (np.abs(behind - 6) < 4.5) & (x < rx + 12) & (height > 0.4) & (height < 0.8)
    bone = inside & ((round_ <= 1) | arch | spinous | transverse)
    names = np.array([ids[f"vertebrae_{name}"] for name, _ in LEVELS], np.uint8)
    solid = bone & ~(disc & (round_ <= 1)) & (canal > 8**2)
    canvas.fill(box, bone & disc & (round_ <= 1), 85, 0)
    canvas.fill(box, solid, body.hu["cortical"], names[level])
    soft = inside & (round_ < 0.72) & (height > 0.2) & (height < 0.86)
    canvas.fill(box, soft, body.hu["spongy"])
    canvas.fill(box, (z >= -20) & (z < BOTTOMS[-1]) & (canal <= 8**2), 12, 0)
    canvas.fill(box, (z >= -60) & (z < BOTTOMS[-1]) & (canal <= 6**2), 36, ids["spinal_cord"])


def _ribs(canvas: Canvas, body: Body, trunk: Trunk, ids: Mapping[str, int]) -> None:
    """Paint twelve ribs a side along the wall of the chest, their cartilages and the sternum."""
    ends = (2.3, 2.45, 2.5, 2.5, 2.5, 2.5, 2.45, 2.35, 2.2, 2.0, 1.5, 1.1)
    front = trunk.body & (canvas.label == 0)
    for rib, end in enumerate(ends, start=1):
        start = centre_of(f"T{rib}") + 4
        drop = (26, 40, 52, 60, 66, 70, 72, 72, 70, 64, 42, 26)[rib - 1]
        for side, sign in SIDES:
            path = [_on_wall(sign, t, start - drop * t / end) for t in np.linspace(0.3, end, 14)]
            path[0] = np.array([sign * 17.0, spine_y(start) + 16, start])
            canvas.tube(path, 5.4, body.hu["cortical"], ids[f"rib_{side}_{rib}"], within=trunk.body)
            canvas.tube(path, 2.4, body.hu["spongy"], within=trunk.body)
            if rib <= 10:
                rise = start - drop + (0, 0, 4, 12, 22, 34, 46, 52, 50, 46)[rib - 1]
                near = 2.95 if rib <= 7 else 2.75
                path = [
                    _on_wall(sign, t, np.interp(t, (end, near), (start - drop, rise)))
                    for t in np.linspace(end, near, 5)
                ]
                canvas.tube(path, 5.0, 115, ids["costal_cartilages"], within=front)
    middle = np.array([_on_wall(1, np.pi, z) for z in (215, 190, 160, 130, 100)])
    for shift in (-9, 0, 9):
        canvas.tube(middle + np.array([shift, -1, 0]), 6.0, body.hu["cortical"], ids["sternum"], within=trunk.body)
    canvas.tube(middle, 3.5, body.hu["spongy"], within=trunk.body)


def _on_wall(sign: int, angle: float, z: float) -> np.ndarray:
    """Return a point just outside the cavity; the angle runs from the spine (0) to the sternum (pi)."""
    width, depth = np.interp(z, CAVITY_Z, CAVITY_X) + 6, np.interp(z, CAVITY_Z, CAVITY_Y) + 6
    sine, cosine = abs(np.sin(angle)) ** 0.8, np.sign(np.cos(angle)) * abs(np.cos(angle)) ** 0.8
    return np.array([sign * width * sine, np.interp(z, CAVITY_Z, CAVITY_BACK) + depth * cosine, z])


def _shoulders(canvas: Canvas, body: Body, trunk: Trunk, ids: Mapping[str, int]) -> None:
    for side, sign in SIDES:
        blade = turned("z", sign * -38) @ turned("x", -8)
        canvas.ellipsoid(
            (sign * 98, 66, 178), (46, 5.5, 62), body.hu["cortical"], ids[f"scapula_{side}"], blade, trunk.wall
        )
        canvas.tube([(sign * 75, 78, 215), (sign * 132, 30, 246)], 5.5, body.hu["cortical"], ids[f"scapula_{side}"])
        collar = [(sign * 16, -62, 226), (sign * 70, -60, 246), (sign * 122, -14, 254)]
        canvas.tube(collar, 6, body.hu["cortical"], ids[f"clavicula_{side}"], trunk.body)
        canvas.tube(collar, 2.5, body.hu["spongy"], within=trunk.body)
        arm = [(sign * 140, 8, 238), (sign * 158, 0, 285), (sign * 166, -12, 420)]
        canvas.tube(arm, [22, 13, 12], body.hu["cortical"], ids[f"humerus_{side}"], trunk.body)
        canvas.tube(arm, [18, 7, 6], body.hu["spongy"], within=trunk.body)


def _muscles(canvas: Canvas, body: Body, trunk: Trunk, ids: Mapping[str, int]) -> None:
    """Paint the muscles that have a label; they differ from the wall by a seam of fat."""
    behind = trunk.wall & ~trunk.cavity
    for side, sign in SIDES:
        back = [(sign * 30, spine_y(z) + 34, z) for z in (245, 180, 100, 20, -60, -130, -190)]
        psoas = [
            (sign * 34, 36, -40),
            (sign * 44, 32, -120),
            (sign * 66, 12, -190),
            (sign * 88, -28, -240),
            (sign * 92, -8, -285),
        ]
        tubes = (
            ("autochthon", back, [14, 17, 21, 24, 25, 23, 12], behind),
            ("iliopsoas", psoas, [9, 20, 22, 19, 12], trunk.wall),
        )
        lumps = (
            ("gluteus_maximus", (sign * 76, 72, -240), [58, 24, 62], 22),
            ("gluteus_medius", (sign * 124, 22, -192), [21, 50, 46], 14),
            ("gluteus_minimus", (sign * 112, 8, -205), [11, 34, 30], 14),
        )
        for name, path, radii, within in tubes:
            canvas.tube(path, np.add(radii, SEAM), body.hu["fat"], 0, within)
            canvas.tube(path, radii, body.hu["muscle"] + 4, ids[f"{name}_{side}"], within)
        for name, centre, radii, degrees in lumps:
            turn = turned("z", sign * degrees)
            canvas.ellipsoid(centre, np.add(radii, SEAM), body.hu["fat"], 0, turn, behind)
            canvas.ellipsoid(centre, radii, body.hu["muscle"] + 4, ids[f"{name}_{side}"], turn, behind)


def _pelvis(canvas: Canvas, body: Body, trunk: Trunk, ids: Mapping[str, int]) -> None:
    cortical, spongy = body.hu["cortical"], body.hu["spongy"]
    for side, sign in SIDES:
        hip = ids[f"hip_{side}"]
        wing = turned("z", sign * 24) @ turned("y", sign * 14)
        for grow, hu, label in ((0, cortical, hip), (-3.0, spongy, None)):
            canvas.ellipsoid((sign * 100, 20, -182), (8 + grow, 50 + grow, 50 + grow), hu, label, wing, trunk.wall)
            canvas.ellipsoid((sign * 90, 2, -238), (33 + grow, 33 + grow, 34 + grow), hu, label, within=trunk.wall)
            canvas.tube([(sign * 80, -16, -248), (sign * 42, -52, -256), (sign * 9, -60, -266)], 10 + grow, hu, label)
            canvas.tube([(sign * 82, 22, -255), (sign * 62, 34, -300), (sign * 12, -56, -276)], 11 + grow, hu, label)
        canvas.ellipsoid((sign * 96, 0, -242), (27, 27, 27), 45, 0)
        shaft = [(sign * 96, 0, -242), (sign * 130, 6, -280), (sign * 132, 0, -400)]
        canvas.ellipsoid((sign * 96, 0, -242), (24, 24, 24), cortical, ids[f"femur_{side}"])
        canvas.tube(shaft, [15, 19, 16], cortical, ids[f"femur_{side}"])
        canvas.ellipsoid((sign * 96, 0, -242), (20.5, 20.5, 20.5), spongy)
        canvas.tube(shaft, [11, 14, 8], spongy)
    _sacrum(canvas, body, ids)


def _sacrum(canvas: Canvas, body: Body, ids: Mapping[str, int]) -> None:
    box = canvas.box((-56, 20, -262), (56, 105, -150))
    if box is None:
        return
    x, y, z = np.abs(canvas.x[box]), canvas.y[box], canvas.z[box]
    centre = profile(z, (-262, -240, -200, -150), (78, 82, 70, 44)) + 0.004 * x**2
    width, thick = profile(z, (-262, -200, -150), (10, 36, 52)), profile(z, (-262, -200, -150), (6, 14, 18))
    level = (x / width) ** 4 + ((y - centre) / thick) ** 2
    inside = (level <= 1) & (z >= -262) & (z < -152)
    holes = ((np.mod(z + 262, 26) - 13) ** 2 + (x - 0.5 * width) ** 2 < 4.5**2) & (z < -185)
    name = np.where(z > -178, ids["vertebrae_S1"], ids["sacrum"])
    canvas.fill(box, inside & ~holes, body.hu["cortical"], name)
    canvas.fill(box, inside & (level < 0.62) & ~holes, body.hu["spongy"])
