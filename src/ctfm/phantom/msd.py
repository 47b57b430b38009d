"""Write cases in the layout of the Medical Segmentation Decathlon, as its task 03 has it: livers with lesions.

``dataset.json``, ``imagesTr/liver_N.nii.gz`` and ``labelsTr/liver_N.nii.gz`` (1 liver, 2 cancer). A scan shows the
liver and what lies around it; slices are 1 to 1.6 times as thick as voxels are wide, as spacing differs in the
Decathlon too. A quarter of the cases have no lesion, the others one to four. The split is written as MONAI's lists
have it: a training case of fold 0 validates, and ``testing`` has labels too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ctfm import logs
from ctfm.files import atomic, ensure_folder
from ctfm.imaging.volume import Volume
from ctfm.phantom import anatomy, scanner
from ctfm.phantom.cases import Labelled
from ctfm.phantom.shapes import Canvas
from ctfm.phantom.totalsegmentator import pack, put, ras

STREAM = 7
LABELS = {"background": 0, "liver": 1, "cancer": 2}
LOW, HIGH = (-125.0, -75.0, -105.0), (75.0, 75.0, 75.0)  # reference mm around the liver, (x, y, z)
THICKNESS = (1.0, 1.25, 1.6)  # slices over voxels
COUNTS = (0, 1, 1, 2, 3, 4, 1, 0)  # lesions of a case, in turn
RADII_MM = (12.0, 26.0)
DARKER_HU = (60.0, 80.0)


def write(folder: Path, cases: Iterable[Labelled]) -> None:
    """Write all cases, and ``dataset.json`` last: where it is, the data set is whole.

    Args:
        folder: of the data set; made if absent.
        cases: of each, the person, the split and the voxel edge are used.
    """
    for name in ("imagesTr", "labelsTr"):
        ensure_folder(folder / name)
    (folder / "dataset.json").unlink(missing_ok=True)
    lists: dict[str, list[dict[str, Any]]] = {"training": [], "testing": []}
    for case in logs.progress(cases, "cases with tumours"):
        image, label = scan(case)
        entry: dict[str, Any] = {"fold": {"val": 0, "train": 1}.get(case.split)}
        for key, part, volume in (("image", "imagesTr", image), ("label", "labelsTr", label)):
            entry[key] = f"./{part}/liver_{case.number}.nii.gz"
            turned = ras(volume)
            put(folder / entry[key], pack(turned.header, np.asarray(turned.dataobj)))
        lists["testing" if case.split == "test" else "training"].append(entry)
    about = {
        "name": "phantom",
        "modality": {"0": "CT"},
        "labels": {str(number): name for name, number in LABELS.items()},
        **{key: [{k: v for k, v in entry.items() if v is not None} for entry in found] for key, found in lists.items()},
    }
    with atomic(folder / "dataset.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n")


def scan(case: Labelled) -> tuple[Volume, Volume]:
    """Scan the liver of a case's person, with lesions: HU as int16 and ids of ``LABELS`` as uint8, axes (S, P, L)."""
    rng = np.random.default_rng([case.body.seed, STREAM])
    body = replace(case.body, lesions=())  # those of the body have no label of their own
    shape, affine = _grid(body, float(min(case.image.spacing)), rng)
    canvas = Canvas(shape, affine, body.warp)
    anatomy.paint(canvas, body)
    liver = canvas.label == anatomy.labels()["liver"]
    canvas.label[...] = np.where(liver, LABELS["liver"], 0)
    for _ in range(COUNTS[case.number % len(COUNTS)]):
        _lesion(canvas, liver, body.hu["liver"], rng)
    return Volume(scanner.acquire(canvas.hu, affine, scanner.draw(rng), rng), affine), Volume(canvas.label, affine)


def _grid(body: anatomy.Body, edge_mm: float, rng: np.random.Generator) -> tuple[list[int], np.ndarray]:
    """Return shape and affine (S, P, L) of a grid around the liver."""
    low, high = np.asarray(LOW) * body.warp.scale, np.asarray(HIGH) * body.warp.scale
    spacing = np.array([edge_mm * rng.choice(THICKNESS), edge_mm, edge_mm])
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing, 1
    affine[:3, 3] = low + rng.uniform(-edge_mm, edge_mm, 3)
    return [int(n) for n in np.ceil((high - low)[::-1] / spacing)], affine


def _lesion(canvas: Canvas, liver: np.ndarray, hu: float, rng: np.random.Generator) -> None:
    """Paint a lesion whose middle is in the liver; the first voxel that it covers is always one."""
    spots = np.argwhere(liver)
    spot = tuple(spots[rng.integers(len(spots))])
    centre = [float(axis[spot]) for axis in (canvas.x, canvas.y, canvas.z)]
    darker = hu - rng.uniform(*DARKER_HU)
    canvas.ellipsoid(centre, rng.uniform(*RADII_MM, 3), darker, LABELS["cancer"], within=liver)
