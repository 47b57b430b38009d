"""The organs of a phantom: heart and vessels, airways and gullet, the abdomen, the pelvis, and lesions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ctfm.phantom.bones import SIDES, spine_y
from ctfm.phantom.shapes import Canvas, turned
from ctfm.phantom.trunk import Trunk, dome

if TYPE_CHECKING:
    from ctfm.phantom.anatomy import Body

GAS = -950.0


def paint(canvas: Canvas, body: Body, trunk: Trunk, ids: Mapping[str, int], rng: np.random.Generator) -> None:
    """Paint all organs, the hindmost first, so that what lies in front covers what lies behind."""
    _bowel(canvas, body, trunk, ids, rng)
    _stomach(canvas, body, trunk, ids, rng)
    _liver_and_spleen(canvas, body, trunk, ids, rng)
    _kidneys(canvas, body, trunk, ids, rng)
    _pelvic(canvas, body, ids, rng)
    _heart(canvas, body, ids, rng)
    _arteries(canvas, body, ids)
    _veins(canvas, body, ids)
    _neck_and_airways(canvas, body, ids)
    _lesions(canvas, body, trunk, ids, rng)


def _bowel(canvas: Canvas, body: Body, trunk: Trunk, ids: Mapping[str, int], rng: np.random.Generator) -> None:
    """Paint loops of small bowel, and the colon as a frame around them, with gas to the front."""
    for _ in range(4):
        loop = rng.uniform((-78, -56, -200), (78, 12, -105), (6, 3))
        canvas.tube(loop, 13, 48, ids["small_bowel"], trunk.belly)
        canvas.tube(loop, 9, 22, within=trunk.belly)
        canvas.tube(loop[:2] + np.array([0, -4, 0]), 4, GAS, within=trunk.belly)
    path = np.array(
        [
            (-92, 0, -178),
            (-96, 12, -120),
            (-92, 8, -72),
            (-70, -38, -84),
            (0, -52, -112 - body.colon_sag_mm),
            (66, -38, -84),
            (92, 6, -52),
            (96, 20, -110),
            (94, 14, -170),
            (62, -8, -200),
            (12, 12, -196),
            (0, 46, -222),
            (0, 48, -262),
        ],
        float,
    ) + rng.normal(0, 3, (13, 3))
    wall = [24, 23, 21, 19, 19, 19, 18, 17, 16, 15, 15, 16, 14]
    canvas.tube(path, wall, 50, ids["colon"], trunk.cavity)
    canvas.tube(path, np.array(wall) - 4, 15 + 25 * rng.random(), within=trunk.cavity)
    for part in (slice(0, 3), slice(3, 6), slice(6, 8)):
        canvas.tube(path[part] + np.array([0, -5, 0]), rng.uniform(6, 11), GAS, within=trunk.cavity)


def _stomach(canvas: Canvas, body: Body, trunk: Trunk, ids: Mapping[str, int], rng: np.random.Generator) -> None:
    path = np.array([(52, 14, 22), (68, -8, -4), (58, -34, -38), (20, -42, -60), (-16, -36, -58)], float)
    path = path + rng.normal(0, 4, path.shape)
    radii = np.array([27, 29, 24, 18, 12]) * body.stomach
    canvas.tube(path, radii, 55, ids["stomach"], trunk.belly)
    canvas.tube(path, radii - 4, 12 + 20 * rng.random(), within=trunk.belly)
    gas = trunk.belly & (canvas.y < path[1, 1] - 6)
    canvas.tube(path[:4], radii[:4] - 6, GAS, within=gas)
    bulb = [path[-1], (-38, -10, -60), (-42, 2, -102), (-4, 8, -110), (24, 4, -84)]
    canvas.tube(bulb, 11, 48, ids["duodenum"], trunk.belly)
    canvas.tube(bulb, 6, 20, within=trunk.belly)
    head = np.array([(-28, -6, -84), (-12, -14, -62), (28, -8, -46), (74, 26, -26)]) + rng.normal(0, 3, (4, 3))
    canvas.tube(head, [15, 11, 11, 8], body.hu["pancreas"], ids["pancreas"], trunk.belly)


def _liver_and_spleen(
    canvas: Canvas, body: Body, trunk: Trunk, ids: Mapping[str, int], rng: np.random.Generator
) -> None:
    lean = turned("y", -12) @ turned("x", rng.uniform(8, 22))
    size = np.array([28, 40, 50]) * body.spleen
    canvas.ellipsoid((92, 34, -2), size, body.hu["spleen"], ids["spleen"], lean, trunk.belly, bend=0.15)
    box = canvas.box((-135, -90, -110), (75, 70, 80))
    if box is None:
        return
    x, y, z = canvas.x[box], canvas.y[box], canvas.z[box]
    floor = body.liver_low_mm + 0.62 * (x + 115) + 0.18 * np.maximum(y, -40) + 4 * np.sin(y / 17)
    rear = 54 - 0.45 * np.maximum(x + 45, 0) - 0.002 * np.maximum(x, 0) ** 2
    ceiling = dome(x, y, body) - 3
    inside = trunk.belly[box] & (z > floor) & (z < ceiling) & (y < rear) & (x < body.liver_left_mm)
    canvas.fill(box, inside, body.hu["liver"], ids["liver"])
    liver = canvas.label == ids["liver"]
    porta = np.array([-34.0, 0.0, -16.0])
    for end in rng.uniform((-110, -50, -60), (10, 40, 45), (9, 3)):
        middle = (porta + end) / 2 + rng.normal(0, 7, 3)
        canvas.tube([porta, middle, end], [4.5, 3.0, 1.5], body.hu["hepatic_vessel"], within=liver)
    tilt = turned("x", -25)
    canvas.ellipsoid((-52, -40, -44), (14, 15, 27), 40, ids["gallbladder"], tilt, trunk.belly)
    canvas.ellipsoid((-52, -40, -44), (12, 13, 25), 8, None, tilt, trunk.belly)


def _kidneys(canvas: Canvas, body: Body, trunk: Trunk, ids: Mapping[str, int], rng: np.random.Generator) -> None:
    for side, sign in SIDES:
        centre = np.array([sign * 60.0, 30.0, -52.0 if sign > 0 else -66.0]) + rng.normal(0, 3, 3)
        turn = turned("z", sign * -28) @ turned("y", sign * 10) @ turned("x", -8)
        size = np.array([sign * 23, 26, 50]) * body.kidney
        canvas.ellipsoid(centre, np.abs(size) + 4, body.hu["visceral_fat"], 0, turn, trunk.belly, bend=sign * 0.22)
        kidney = ids[f"kidney_{side}"]
        canvas.ellipsoid(centre, np.abs(size), body.hu["cortex"], kidney, turn, trunk.belly, bend=sign * 0.22)
        canvas.ellipsoid(centre, np.abs(size) * 0.72, body.hu["medulla"], None, turn, trunk.belly, bend=sign * 0.22)
        sinus = centre - (sign * 12, 4, 0)
        canvas.ellipsoid(sinus, (13, 9, 20), body.hu["visceral_fat"], 0, turn, trunk.belly)
        gland = [(sign * 36, 32, 4), (sign * 42, 38, -10), (sign * 50, 34, -14)]
        canvas.tube(gland, 4.5, body.hu["muscle"] - 10, ids[f"adrenal_gland_{side}"], trunk.belly)
        if body.cysts[0 if sign > 0 else 1]:
            spot = centre + np.array([sign * 20, rng.uniform(-12, 8), rng.uniform(-25, 25)])
            radius = rng.uniform(9, 15)
            canvas.ellipsoid(spot, (radius,) * 3, 6, ids[f"kidney_cyst_{side}"], within=trunk.belly)


def _pelvic(canvas: Canvas, body: Body, ids: Mapping[str, int], rng: np.random.Generator) -> None:
    size = np.array([40, 30, 27]) * body.bladder
    centre = np.array([rng.normal(0, 3), -22, -262 + size[2]])
    canvas.ellipsoid(centre, size + 3, 45, 0)
    canvas.ellipsoid(centre, size, body.hu["urine"], ids["urinary_bladder"])
    if body.sex == "m":
        canvas.ellipsoid((0, -6, -272), (21, 16, 14), body.hu["muscle"] - 12, ids["prostate"])
    else:
        canvas.ellipsoid((0, 18, centre[2] + 8), (24, 15, 28), body.hu["muscle"] + 8, 0, turned("x", 30))


def _heart(canvas: Canvas, body: Body, ids: Mapping[str, int], rng: np.random.Generator) -> None:
    """Paint the heart, its tip to the left front, with chambers of blood, and what opens into it."""
    centre = np.array([20.0, -24.0, 84.0]) + rng.normal(0, 2, 3)
    turn = turned("z", -32) @ turned("y", 28)
    size = np.array([60, 46, 48]) * body.heart
    canvas.ellipsoid(centre, size + 4, body.hu["visceral_fat"], 0, turn)
    canvas.ellipsoid(centre, size, body.hu["myocardium"], ids["heart"], turn)
    inside = canvas.label == ids["heart"]
    for shift, radii in (((16, 12, -4), 0.5), ((8, -24, -4), 0.44), ((-34, 12, 10), 0.42), ((-36, -14, 2), 0.4)):
        spot = centre + turn @ (np.array(shift) * body.heart)
        canvas.ellipsoid(spot, size * np.array([radii * 1.2, radii, radii]), body.hu["blood"], None, turn, inside)
    canvas.ellipsoid((34, -26, 130), (9, 13, 10), body.hu["blood"], ids["atrial_appendage_left"])
    canvas.tube([(2, -26, 118), (14, -8, 142)], 12, body.hu["blood"], 0)
    for _, sign in SIDES:
        canvas.tube([(14, -4, 142), (sign * 36, 6, 132)], [11, 8], body.hu["blood"], 0)
        for z in (102, 116):
            canvas.tube([(sign * 12 + 4, 2, 106), (sign * 44, 12, z)], 5.5, body.hu["blood"], ids["pulmonary_vein"])


def _arteries(canvas: Canvas, body: Body, ids: Mapping[str, int]) -> None:
    blood, wide = body.hu["blood"], body.vessel
    arch = [(2, -22, 116), (-14, -26, 148), (-10, -18, 180), (6, 2, 192), (22, 24, 182), (26, 34, 160)]
    down = [(26, spine_y(z) - 8 + 6, z) for z in (150, 110, 60)] + [
        (14, spine_y(z) - 24, z) for z in (10, -40, -90, -128)
    ]
    canvas.tube(arch, 13.5 * wide, blood, ids["aorta"])
    canvas.tube([arch[-1], *down], [11.5, 11.5, 11, 10.5, 10, 9, 8.5, 8] * np.array(wide), blood, ids["aorta"])
    top = {
        "brachiocephalic_trunk": [(-8, -10, 194), (-16, -8, 222)],
        "subclavian_artery_right": [(-17, -6, 224), (-46, -4, 246), (-105, -14, 250)],
        "common_carotid_artery_right": [(-17, -6, 224), (-20, 0, 270), (-24, 2, 340)],
        "common_carotid_artery_left": [(8, 0, 198), (16, 0, 240), (23, 2, 340)],
        "subclavian_artery_left": [(18, 14, 194), (28, 8, 232), (50, -2, 248), (105, -14, 250)],
    }
    for name, path in top.items():
        canvas.tube(path, (6.0 if "trunk" in name else 4.6) * wide, blood, ids[name])
    for side, sign in SIDES:
        path = [(sign * 6 + 6, 10, -126), (sign * 34, 24, -176), (sign * 70, -18, -222), (sign * 76, -48, -270)]
        canvas.tube(path, [7.5, 6.5, 5.5, 5.0], blood, ids[f"iliac_artery_{side}"])


def _veins(canvas: Canvas, body: Body, ids: Mapping[str, int]) -> None:
    vein = body.hu["vein"]
    lower = [(-16, 14, -136), (-22, 10, -90), (-24, 12, -30), (-24, 8, 20), (-20, 2, 52)]
    canvas.tube(lower, [10, 11, 12, 12, 12], vein, ids["inferior_vena_cava"])
    canvas.tube([(-30, -8, 112), (-32, -14, 150), (-30, -16, 188)], 9.5, vein, ids["superior_vena_cava"])
    canvas.tube([(-30, -16, 190), (-26, -16, 226)], 6.5, vein, ids["brachiocephalic_vein_right"])
    canvas.tube([(-27, -18, 192), (6, -26, 206), (30, -18, 226)], 6.5, vein, ids["brachiocephalic_vein_left"])
    portal = [(-36, -2, -14), (-10, -2, -46), (30, 6, -36), (76, 30, -14)]
    canvas.tube(portal, [7, 7, 5, 4.5], vein, ids["portal_vein_and_splenic_vein"])
    for side, sign in SIDES:
        path = [(sign * 8 - 12, 16, -136), (sign * 32, 36, -180), (sign * 62, -4, -224), (sign * 66, -40, -270)]
        canvas.tube(path, [8, 7, 6.5, 6], vein, ids[f"iliac_vena_{side}"])


def _neck_and_airways(canvas: Canvas, body: Body, ids: Mapping[str, int]) -> None:
    gullet = [(2, 12, 330), (3, 22, 250), (4, 26, 180), (4, 24, 120), (10, 20, 60), (26, 12, 34), (44, 10, 22)]
    canvas.tube(gullet, 7.0, 42, ids["esophagus"])
    canvas.tube(gullet[1:4], 2.2, -600)
    pipe = [(0, -8, 330), (0, 0, 250), (-2, 6, 180), (-2, 8, 160)]
    canvas.tube(pipe, 10.0, 40, 0)
    canvas.tube(pipe, 8.2, -1000, ids["trachea"])
    for _, sign in SIDES:
        canvas.tube([(-2, 8, 162), (sign * 38, 8, 124)], [7, 5], -990, ids["trachea"])
        thyroid = (sign * 16, -12, 272)
        canvas.ellipsoid(thyroid, (9, 11, 20), body.hu["thyroid"], ids["thyroid_gland"], turned("y", sign * 8))


def _lesions(canvas: Canvas, body: Body, trunk: Trunk, ids: Mapping[str, int], rng: np.random.Generator) -> None:
    """Paint what the body is ill with; a lesion keeps the label of the organ that it is in."""
    if "liver" in body.lesions:
        liver = canvas.label == ids["liver"]
        for spot in rng.uniform((-105, -40, -30), (-20, 40, 40), (4, 3)):
            canvas.ellipsoid(spot, rng.uniform(6, 15, 3), body.hu["liver"] - 45, within=liver)
    if "lung" in body.lesions:
        lungs = np.isin(canvas.label, [number for name, number in ids.items() if name.startswith("lung_")])
        for spot in rng.uniform((48, -50, 40), (100, 40, 220), (5, 3)):
            canvas.ellipsoid(spot * (rng.choice((-1, 1)), 1, 1), rng.uniform(4, 12, 3), 30, within=lungs)
