"""Write cases in the layout of 3D-MIR: scans around an organ, half of them with a lesion, tables and lists.

``combined/<cohort>_NNN.nii.gz``, one sheet of the workbook and two lists of each cohort. A cohort's lists hold scans of
the next cohort too, as the published ones do, which have no lesion group. A lesion's group is its size; of some lesions
the group is left empty, so that this is seen too. The lesions of a body that has its own are flagged without a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from ctfm import logs
from ctfm.datasets.mir3d import MARKER, SHEETS
from ctfm.files import atomic, ensure_folder
from ctfm.imaging.volume import Volume, write_nifti
from ctfm.phantom import anatomy
from ctfm.phantom.cases import Labelled
from ctfm.phantom.organmnist3d import STRUCTURES

STREAM = 9
ORGANS: Mapping[str, tuple[str, ...]] = {
    "liver": ("liver",),
    "colon": ("colon",),
    "pancreas": ("pancreas",),
    "lung": STRUCTURES["lung-right"] + STRUCTURES["lung-left"],
}
HALF_MM = 36.0  # of a scan around its organ's middle
FEWEST_VOXELS = 8
RADII_MM = {1: 8.0, 2: 11.0, 3: 14.0, 4: 18.0}  # of a lesion, by its group
CHANGE_HU = {"lung": 800.0}  # against the organ; elsewhere:
DARKER_HU = -70.0
UNGROUPED = 0.2  # share of the lesions


def write(folder: Path, cases: Iterable[Labelled]) -> None:
    """Write all scans and lists, and the workbook last: where it is, the data set is whole.

    Args:
        folder: of the data set; made if absent.
        cases: of each, two organs are scanned, if it shows them; all scans of one are in its split.
    """
    ensure_folder(folder / "combined")
    (folder / MARKER).unlink(missing_ok=True)
    sheets: dict[str, list[dict[str, Any]]] = {cohort: [] for cohort in SHEETS}
    lists: dict[str, dict[str, list[str]]] = {cohort: {"train": [], "test": []} for cohort in SHEETS}
    for case in logs.progress(cases, "cases with lesions"):
        part = "test" if case.split == "test" else "train"
        for place, cohort in enumerate(SHEETS):
            other = list(SHEETS)[place - 1]
            if (case.number + place) % 2 or (made := scan(case, cohort)) is None:  # two organs: a person has few scans
                continue
            volume, flag, group = made
            name = f"{cohort}_{case.number:03d}.nii.gz"
            write_nifti(volume, folder / "combined" / name)
            sheets[cohort].append(_row(cohort, name, flag, group))
            lists[cohort][part].append(name)
            if case.number % 3 == 0 or part == "test":
                sheets[other].append(_row(other, name, 0, None))
                lists[other][part].append(name)
    _write_lists(folder, lists)
    with atomic(folder / MARKER) as temporary, pd.ExcelWriter(temporary, engine="openpyxl") as book:
        for cohort, rows in sheets.items():
            columns = list(_row(cohort, "", 0, None))
            pd.DataFrame(rows, columns=columns).to_excel(book, sheet_name=SHEETS[cohort], index=False)


def scan(case: Labelled, cohort: str) -> tuple[Volume, int, int | None] | None:
    """Return a scan around an organ, whether it has a lesion, and the lesion's group; None where it is not shown."""
    ids = anatomy.labels()
    organ = np.isin(case.label.array, [ids[name] for name in ORGANS[cohort]])
    if organ.sum() < FEWEST_VOXELS:
        return None
    rng = np.random.default_rng([case.body.seed, STREAM, list(SHEETS).index(cohort)])
    hu, group = case.image.array.astype(np.float32), None
    flag = int(cohort in case.body.lesions)
    if not flag and rng.random() < 0.6:
        flag, group = 1, int(rng.integers(1, 5))
        spots = np.argwhere(organ)
        spot = spots[rng.integers(len(spots))]
        away = np.linalg.norm((np.indices(hu.shape).T - spot) * np.asarray(case.image.spacing), axis=-1).T
        hu += np.where(organ & (away <= RADII_MM[group]), CHANGE_HU.get(cohort, DARKER_HU), 0)
        group = None if rng.random() < UNGROUPED else group
    return _around(Volume(np.rint(hu).astype(np.int16), case.image.affine), organ), flag, group


def _around(volume: Volume, organ: np.ndarray) -> Volume:
    """Cut a box around the middle of an organ."""
    middle = np.asarray(ndimage.center_of_mass(organ))
    half = HALF_MM / np.asarray(volume.spacing)
    low = np.maximum(np.floor(middle - half), 0).astype(int)
    high = np.minimum(np.ceil(middle + half) + 1, volume.shape).astype(int)
    affine = volume.affine.copy()
    affine[:3, 3] = volume.world(low)
    return Volume(volume.array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], affine)


def _row(cohort: str, name: str, flag: int, group: int | None) -> dict[str, Any]:
    return {"file_name": name, f"{cohort}_cancer_flag": flag, f"{cohort}_lesion_group": group}


def _write_lists(folder: Path, lists: Mapping[str, Mapping[str, list[str]]]) -> None:
    for cohort, parts in lists.items():
        for part, names in parts.items():
            with atomic(folder / f"{cohort}_full_{part}_split.csv") as temporary:
                pd.DataFrame({f"{part}ing": sorted(names)}).to_csv(temporary)
