"""SinoCT: 9,779 head CT from Stanford, each normal or abnormal.

Layout as published: ``labels.csv`` with the columns patient_id (``series_<n>``) and label (``1,0`` normal, ``0,1``
abnormal), and one folder ``series_<n>`` for each scan, with ``nrrd/scan.nrrd`` or DICOM files at any depth.

There is no official split; that of the paper is a rule: names sorted as text, shuffled by Python's generator with
seed 0, and cut at 80 and 90 %. Its low-data runs took the first of the shuffled names, so cases come in that order.

Source: Hooper et al., Radiology: Artificial Intelligence 2021, doi:10.1148/ryai.2021200229.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from ctfm.datasets import Case, _folders
from ctfm.errors import UserError

SOURCE = {
    "version": "2021",
    "url": "https://doi.org/10.71718/6TFS-TM78",
    "bytes": None,
    "checksum": None,  # not open: its licence is to be agreed to
    "licence": "Stanford University School of Medicine research use agreement",
}
MARKER = "labels.csv"  # where it is, the data set is
LABELS = {"abnormal": 1}
GROUPS = {"abnormal": "all"}
COLUMNS = ("patient_id", "label")
FINDINGS: dict[str, tuple[str, ...]] = {"1,0": (), "0,1": ("abnormal",)}


def check(root: Path) -> None:
    """Check that the data set is where the configuration says.

    Raises:
        UserError: ``labels.csv`` is missing, lacks a column, or is no table.
    """
    if missing := set(COLUMNS) - set(_labels(root)[0]):
        names = ", ".join(sorted(missing))
        raise UserError(f"{root / MARKER}: lacks the column(s) {names}; take the file as published")


def cases(root: Path) -> Iterator[Case]:
    """Yield the cases of ``labels.csv`` as the split shuffles them, whether their files are there or not.

    The data set names no patients: each scan is taken as a patient of its own.
    """
    rows = [(row["patient_id"].strip(), row["label"]) for row in _labels(root)]
    split = published_split(name for name, _ in rows)
    places = {name: place for place, name in enumerate(split)}
    for name, label in sorted(rows, key=lambda row: places[row[0]]):
        findings = FINDINGS.get("".join(label.split()).strip("[]()"))
        yield Case(name, name, split[name], _folders.scan(root / name), findings)


def _labels(root: Path) -> list[dict[str, str]]:
    return _folders.table(root / MARKER, f"get it from {SOURCE['url']} ({SOURCE['licence']}), or correct 'root'")


def published_split(names: Iterable[str]) -> dict[str, str]:
    """Return {name: train, val or test} by the rule of the paper's code, in the order of its shuffle."""
    order = sorted(set(names))
    random.Random(0).shuffle(order)
    val, test = int(0.8 * len(order)), int(0.9 * len(order))
    return {name: "train" if i < val else "val" if i < test else "test" for i, name in enumerate(order)}
