"""3D-MIR: which scans of the Medical Segmentation Decathlon are alike, by the presence and the group of lesions.

``root`` holds ``*3D_MSD_Annotations.xlsx`` with one sheet for each cohort (liver, colon, pancreas, lung), the lists
``<cohort>*_train_split.csv`` and ``<cohort>*_test_split.csv`` (column ``training`` or ``testing``), and the scans in
``combined/`` or in ``Task*/imagesTr/``. The files may lie where they do in the authors' repository.

A cohort is ranked by itself: its training list is the corpus, its test list asks. The lists hold scans of other organs
too, and a scan may be on the lists of several cohorts, even as a query of one and in the corpus of another; the table
of cases calls it ``test`` if it asks anywhere. Attributes are those of the scan in the cohort's own sheet; a scan
that isn't in that sheet, or whose cell is empty, has none. The Decathlon names no patients.

Source: Ben Abacha et al., arXiv:2311.13752; github.com/abachaa/3D-MIR.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ctfm.config import VERSIONS, Millimetres
from ctfm.datasets import Case
from ctfm.errors import UserError
from ctfm.files import digest
from ctfm.imaging import labelled, store
from ctfm.imaging.resample import resample
from ctfm.imaging.volume import orient

SOURCE = {
    "version": "2024.02.14",
    "url": "https://github.com/abachaa/3D-MIR",
    "bytes": None,
    "checksum": None,  # tables there, scans from the Decathlon
    "licence": "tables: that of their repository; scans: CC BY-SA 4.0 (Medical Segmentation Decathlon)",
}
MARKER = "2024.02.14.3D_MSD_Annotations.xlsx"
SHEETS = {"liver": "01_liver", "colon": "02_colon", "pancreas": "03_pancreas", "lung": "04_lung"}
ATTRIBUTES = {"lesion_flag": "cancer_flag", "lesion_group": "lesion_group"}  # the column's name is <cohort>_<this>
LISTS = {"training": "train", "testing": "test"}
PLACES = (".", "Data/Data_Splits", "Data", "Code/Image-Processing-and-Quantification")
SCANS = ("combined/*.nii.gz", "*/imagesTr/*.nii.gz")
LABELS = {cohort: number for number, cohort in enumerate(SHEETS, start=1)}
GROUPS = dict.fromkeys(SHEETS, "cohorts")


def check(root: Path) -> None:
    """Check that tables and lists are where the configuration says, and have their sheets and columns.

    Raises:
        UserError: the folder or a file is missing or malformed, or a list has a query that is in its corpus too.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; {_remedy()}")
    _attributes(root)
    _lists(root)


def cases(root: Path) -> Iterator[Case]:
    """Yield the scans that are on a list, sorted, whether their files are there or not."""
    attributes, lists = _attributes(root), _lists(root)
    here = {path.name: path for pattern in SCANS for path in sorted(root.glob(pattern))}
    for name in sorted({name for parts in lists.values() for part in parts.values() for name in part}):
        cohorts = {}
        for cohort, parts in lists.items():
            known = attributes[cohort].get(name, dict.fromkeys(ATTRIBUTES))
            for part, names in parts.items():
                if name in names:
                    cohorts[cohort] = {"query": part == "testing", "attributes": known}
        split = "test" if any(about["query"] for about in cohorts.values()) else "train"
        file = f"{name}.nii.gz"
        yield Case(name, name, split, here.get(file, root / "combined" / file), {}, cohorts=cohorts)


def keep(case: Case, spacing_mm: Millimetres | None, folder: Path) -> dict[str, Any]:
    """Store a scan as ``<case>.b2nd``, unless it is there already; return its part of the table of cases.

    Args:
        case: what is stored.
        spacing_mm: spacing (z, y, x), mm; None: the scan's own.
        folder: where to.

    Raises:
        Quarantine: the scan can't be used.
    """
    path, source = folder / f"{case.case}.b2nd", case.image
    stat = [source.stat().st_size, source.stat().st_mtime_ns] if source.is_file() else []
    key = digest([VERSIONS["datasets"], case.cohorts, spacing_mm, stat])
    if not store.same(path, key):
        scan = orient(labelled.read_scan(source))
        scan = resample(scan, spacing_mm) if spacing_mm else scan
        store.save(scan, path, {"key": key, "cohorts": case.cohorts})
    stored = store.open_volume(path)
    spacing = [float(mm) for mm in np.linalg.norm(stored.affine[:3, :3], axis=0)]
    row = {"shape": list(stored.shape), "spacing": spacing, "labels": list(case.cohorts)}
    return row | {"empty": [], "detail": "", "overlap_voxels": 0, "label": f"{folder.name}/{path.name}"}


def _attributes(root: Path) -> dict[str, dict[str, dict[str, str | None]]]:
    """Return {cohort: {scan: {attribute: value}}} of the workbook."""
    file = _find(root, MARKER, f"*{MARKER.partition('3D_')[2]}")
    found = {}
    for cohort, sheet in SHEETS.items():
        try:
            table = pd.read_excel(file, sheet_name=sheet, dtype=object)
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{file}: can't read sheet '{sheet}' ({error}); take the file as published") from error
        columns = {"name": "file_name"} | {key: f"{cohort}_{column}" for key, column in ATTRIBUTES.items()}
        if missing := [column for column in columns.values() if column not in table]:
            raise UserError(f"{file}: sheet '{sheet}' lacks {', '.join(missing)}; take the file as published")
        found[cohort] = {
            _name(row[columns["name"]]): {key: _value(row[columns[key]]) for key in ATTRIBUTES}
            for row in table.to_dict("records")
        }
    return found


def _lists(root: Path) -> dict[str, dict[str, set[str]]]:
    """Return {cohort: {training, testing: names of scans}}."""
    found = {}
    for cohort in SHEETS:
        parts = {}
        for column, part in LISTS.items():
            file = _find(root, f"{cohort}_{part}_split.csv", f"{cohort}*_{part}_split.csv")
            table = pd.read_csv(file, dtype=str)
            if column not in table:
                raise UserError(f"{file}: lacks the column '{column}'; take the file as published")
            parts[column] = {_name(name) for name in table[column].dropna()}
        if both := sorted(parts["training"] & parts["testing"]):
            raise UserError(f"{file}: '{both[0]}' asks and is in its own corpus too; mend the lists of '{cohort}'")
        found[cohort] = parts
    return found


def _find(root: Path, name: str, pattern: str) -> Path:
    for place in PLACES:
        if files := [p for p in ((root / place / name), *sorted((root / place).glob(pattern))) if p.is_file()]:
            return files[0]
    raise UserError(f"{root / name}: no such file, nor {pattern} where the authors have it; {_remedy()}")


def _name(cell: object) -> str:
    return str(cell).strip().rpartition("/")[2].removesuffix(".nii.gz")


def _value(cell: object) -> str | None:
    """Return a cell as text, None where it is empty; 3 and 3.0 are the same group."""
    if pd.isna(cell) or not str(cell).strip():
        return None
    text = str(cell).strip()
    return text.removesuffix(".0")


def _remedy() -> str:
    return f"put the tables of {SOURCE['url']} and the Decathlon's scans there, or correct 'root'"
