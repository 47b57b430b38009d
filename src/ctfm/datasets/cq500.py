"""CQ500: head CT of 491 patients from New Delhi, read by three radiologists. The paper tests on it and trains nothing.

Layout as published: ``reads.csv`` with the columns name (``CQ500-CT-<n>``), Category, and one for each reader and
finding (``R1:ICH`` …), 0 or 1; and one folder for each patient, ``CQ500CT<n> CQ500CT<n>``, perhaps in a folder of its
archive (``qct01``), with the folders of its DICOM series (``Unknown Study/CT Plain``); or with a ``scan.nrrd``.

A scan is abnormal where any reader reads any finding, as in the paper. Of several series the plain one is taken, and
of those the one that is neither thin nor for bone; the paper's code took the first volume that it found.

Source: Chilamkurthy et al., Lancet 2018, doi:10.1016/S0140-6736(18)31645-3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ctfm.datasets import Case, _folders
from ctfm.errors import UserError

SOURCE = {
    "version": "2018",
    "url": "http://headctstudy.qure.ai/dataset",
    "bytes": None,
    "checksum": None,  # not open: its licence is to be agreed to
    "licence": "CC BY-NC-SA 4.0",
}
MARKER = "reads.csv"  # where it is, the data set is
LABELS = {"abnormal": 1}
GROUPS = {"abnormal": "all"}
READER = re.compile(r"R\d+:.+")
PATIENT = re.compile(r"CQ500-?CT-?(\d+)\b", re.IGNORECASE)
# Words of a series' name, worst first: what is no plain scan of the head, then what is made for another purpose.
LAST = ("localizer", "scout", "contrast", "cect", "oral", "4cc", "3d", "bone", "hires", "hi res", "hrct", "thin")


def check(root: Path) -> None:
    """Check that the data set is where the configuration says.

    Raises:
        UserError: ``reads.csv`` is missing, lacks a column, or is no table.
    """
    columns = _reads(root)[0]
    if "name" not in columns or not any(map(READER.fullmatch, columns)):
        raise UserError(f"{root / MARKER}: lacks the column 'name' or those of readers, such as 'R1:ICH'")


def cases(root: Path) -> Iterator[Case]:
    """Yield the cases of ``reads.csv`` in its order, all of the test split, whether their files are there or not."""
    folders: dict[int, Path] = {}
    for path in sorted([*root.glob("*/"), *root.glob("*/*/")]):
        if found := PATIENT.match(path.name):
            folders.setdefault(int(found[1]), path)
    for row in _reads(root):
        name = row["name"].strip()
        found = PATIENT.fullmatch(name)
        folder = folders.get(int(found[1]), root / name) if found else root / name
        yield Case(name, name, "test", _folders.scan(folder, _rank), _findings(row))


def _reads(root: Path) -> list[dict[str, str]]:
    return _folders.table(root / MARKER, f"get it from {SOURCE['url']} ({SOURCE['licence']}), or correct 'root'")


def _findings(row: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return whether any reader reads anything; None where a reading is neither 0 nor 1."""
    readings = {value.strip() for column, value in row.items() if READER.fullmatch(column)}
    if not readings <= {"0", "1"}:
        return None
    return ("abnormal",) if "1" in readings else ()


def _rank(series: str) -> int:
    """Return the worse the larger. A scan before contrast agent is a plain one."""
    name = series.lower().replace("pre contrast", "plain")
    return max((len(LAST) - place for place, word in enumerate(LAST) if word in name), default=0)
