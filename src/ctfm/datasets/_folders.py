"""What data sets of scans with findings share: a table of them, and a folder of unknown depth for each patient."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from ctfm.errors import UserError

NAMES = ("scan.nrrd", "scan.nii.gz", "*.nrrd", "*.nhdr", "*.nii.gz", "*.nii", "*.mha", "*.mhd")
ABSENT = "scan.nrrd"


def scan(folder: Path, rank: Callable[[str], int] = lambda _: 0) -> Path:
    """Return a volume file if there is one, else the folder of a DICOM series; a path that isn't there if neither is.

    Args:
        folder: of the patient or study.
        rank: of two series, the one whose folder's name has the smaller value is taken; equal ones by name.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    for pattern in NAMES:
        if found := [path for path in files if path.match(pattern)]:
            return found[0]
    holders = {path.parent for path in files}
    return min(holders, key=lambda path: (rank(path.name), str(path)), default=folder / ABSENT)


def table(path: Path, remedy: str) -> list[dict[str, str]]:
    """Return the rows of a CSV table; there is one at least.

    Raises:
        UserError: it is missing (with ``remedy``), empty, or no text.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(stream)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV table ({error}); take the file as published") from error
    if not rows:
        raise UserError(f"{path}: the table has no rows; take the file as published")
    return rows
