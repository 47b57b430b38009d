"""Write OrganMNIST3D as MedMNIST publishes it, at 28 voxels: boxes around the organs of the labelled cases.

``organmnist3d.npz`` has the published names, types and axes; it is smaller, so ``organmnist3d.npz.md5`` tells its own
checksum. As there, an organ's bounding box is stretched to a cube, and HU become grey values by a window of the
abdomen. Organs that a scan shows no more than a few voxels of are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ctfm import logs
from ctfm.datasets._medmnist import ORGANS, PARTS
from ctfm.datasets.organmnist3d import SOURCE
from ctfm.files import atomic, ensure_folder
from ctfm.phantom import anatomy
from ctfm.phantom.cases import Labelled

EDGE = 28
WINDOW_HU = (-160.0, 240.0)
FEWEST_VOXELS = 8
LUNG = {"right": ("upper", "middle", "lower"), "left": ("upper", "lower")}
STRUCTURES: dict[str, tuple[str, ...]] = {
    **{organ: (organ,) for organ in ("liver", "heart", "spleen", "pancreas")},
    **{f"{organ}-{side}": (f"{organ}_{side}",) for organ in ("kidney", "femur") for side in LUNG},
    **{f"lung-{side}": tuple(f"lung_{lobe}_lobe_{side}" for lobe in lobes) for side, lobes in LUNG.items()},
    "bladder": ("urinary_bladder",),
}


def write(folder: Path, cases: Iterable[Labelled]) -> None:
    """Write the file and its checksum, the file last: where it is, the data set is whole.

    Args:
        folder: of the data set; made if absent.
        cases: cubes of one are all in its split.
    """
    found: dict[str, list[tuple[np.ndarray, int]]] = {part: [] for part in PARTS}
    for case in logs.progress(cases, "cases with organs"):
        found[case.split] += cubes(case)
    arrays: dict[str, Any] = {}
    for part, pairs in found.items():
        images = [cube for cube, _ in pairs]
        arrays[f"{part}_images"] = np.array(images, np.uint8).reshape(-1, EDGE, EDGE, EDGE)
        arrays[f"{part}_labels"] = np.array([[label] for _, label in pairs], np.uint8).reshape(-1, 1)
    path = ensure_folder(folder) / str(SOURCE["url"]).rpartition("/")[2]
    path.unlink(missing_ok=True)
    with atomic(path) as temporary:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        own = hashlib.md5(temporary.read_bytes(), usedforsecurity=False).hexdigest()
        with atomic(path.with_name(f"{path.name}.md5")) as beside:
            beside.write_text(f"{own}  {path.name}\n")


def cubes(case: Labelled) -> list[tuple[np.ndarray, int]]:
    """Return the cubes (x, y, z) of grey values from 0 to 255, uint8, and the number of the organ of each."""
    ids, (low, high) = anatomy.labels(), WINDOW_HU
    grey = np.clip((case.image.array.astype(np.float32) - low) / (high - low), 0, 1) * 255
    made = []
    for number, organ in enumerate(ORGANS):
        mask = np.isin(case.label.array, [ids[name] for name in STRUCTURES[organ]])
        if mask.sum() < FEWEST_VOXELS:
            continue
        (box,) = ndimage.find_objects(mask.astype(np.uint8))
        part = grey[box]
        cube = ndimage.zoom(part, [EDGE / n for n in part.shape], order=1, mode="nearest", grid_mode=True)
        made.append((np.rint(cube).astype(np.uint8).transpose(2, 1, 0), number))
    return made
