"""TotalSegmentator, version 2: 117 structures in CT at 1.5 mm.

Layout as published: ``meta.csv`` and, per case, ``sNNNN/ct.nii.gz`` with one mask per structure in
``sNNNN/segmentations/<structure>.nii.gz``; or, in place of the masks, one map ``sNNNN/label.nii.gz`` of
the ids of version 2; where a case has both, the masks count. Masks are known by their name, never by their order.
They overlap in a few voxels: there the higher id wins, for masks are laid down by ascending id, as TotalSegmentator
itself joins them.

Source: Wasserthal et al., Radiology: Artificial Intelligence 2023, doi:10.1148/ryai.230024.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ctfm import resources
from ctfm.datasets import Case
from ctfm.errors import UserError

SOURCE = {
    "version": "2.0.1",
    "url": "https://zenodo.org/records/10047292/files/Totalsegmentator_dataset_v201.zip",
    "bytes": 23_581_218_285,
    "checksum": "md5:fe250e5718e0a3b5df4c4ea9d58a62fe",  # as Zenodo has it, which gives no other
    "licence": "CC BY 4.0",
}
MARKER = "meta.csv"  # where it is, the data set is
_TABLE = pd.read_csv(resources.path("labels", "totalsegmentator_v2.csv"))
LABELS: dict[str, int] = {str(name): int(number) for name, number in zip(_TABLE["name"], _TABLE["id"], strict=True)}
GROUPS: dict[str, str] = {str(name): str(group) for name, group in zip(_TABLE["name"], _TABLE["group"], strict=True)}


def check(root: Path) -> None:
    """Check that the data set is where the configuration says.

    Raises:
        UserError: the folder or its ``meta.csv`` is missing, or ``meta.csv`` lacks a column.
    """
    remedy = f"set 'fetch: true', unpack {SOURCE['url']} ({SOURCE['licence']}) there, or correct 'root'"
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; {remedy}")
    meta = root / MARKER
    if not meta.is_file():
        raise UserError(f"{meta}: this file of the data set is missing; {remedy}")
    missing = {"image_id", "split"} - set(_meta(root).columns)
    if missing:
        raise UserError(f"{meta}: lacks the column(s) {', '.join(sorted(missing))}; take the file as published")


def cases(root: Path) -> Iterator[Case]:
    """Yield the cases of ``meta.csv`` in its order, whether their files are there or not.

    The data set names no patients: each scan is taken as a patient of its own.
    """
    for row in _meta(root).to_dict("records"):
        name = str(row["image_id"])
        folder = root / name
        merged = folder / "label.nii.gz"
        masks = {p.name.removesuffix(".nii.gz"): p for p in sorted(folder.glob("segmentations/*.nii.gz"))}
        labels = masks if masks or not merged.is_file() else merged
        study = str(row.get("study_type") or "")
        age, sex = _years(row.get("age")), str(row.get("gender") or "")[:1].lower()
        yield Case(name, name, str(row["split"] or ""), folder / "ct.nii.gz", labels, study, age, sex)


def _meta(root: Path) -> pd.DataFrame:
    """Read ``meta.csv``, which is separated by semicolons in some versions and commas in others."""
    text = (root / MARKER).read_text(encoding="utf-8-sig")
    head = text.splitlines()[0] if text else ""
    separator = ";" if head.count(";") > head.count(",") else ","
    return pd.DataFrame(list(csv.DictReader(text.splitlines(), delimiter=separator)), columns=_columns(head, separator))


def _years(text: str | None) -> float | None:
    """Return an age; a field that holds no number is none."""
    found = pd.to_numeric(text, errors="coerce")
    return None if pd.isna(found) else float(found)


def _columns(head: str, separator: str) -> list[str]:
    return [name.strip().strip('"') for name in head.split(separator)]
