"""Which scans the page offers: those of a run's data set, or whatever scans lie in a folder, with their label maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ctfm import cases, resources
from ctfm.errors import Quarantine, UserError
from ctfm.files import read_json
from ctfm.imaging import scans, store

CASES = "cases.parquet"
DATA_SETS = f"**/datasets/*/{CASES}"
ENDINGS = ("label", "labels", "seg", "segmentation")  # of the name of a label map, after its scan's


@dataclass(frozen=True)
class Source:
    """A scan that may be opened.

    Attributes:
        name: for people.
        image: file, folder of one DICOM series, or prepared volume.
        label: map of ids in the same place, or None.
        ids: id to name of the structures in it.
    """

    name: str
    image: Path
    label: Path | None = None
    ids: Mapping[int, str] = field(default_factory=dict)


def find(folder: Path) -> list[Source]:
    """Return the scans of a folder: of a data set that `ctfm datasets` stored, else its files and DICOM folders.

    A label map is known by its name, ``<scan>_labels.nii.gz`` or the like. What its ids mean stands in ``labels.json``
    beside it, as `ctfm predict` writes it; without one they are taken for TotalSegmentator's.

    Raises:
        UserError: the folder is not there, or holds no scan.
    """
    if not folder.is_dir():
        raise UserError(f"--scans: {folder} is no folder; name one that holds scans")
    found = _stored(folder) if (folder / CASES).is_file() else _lying(folder)
    if not found:
        endings = ", ".join((*scans.SUFFIXES, scans.PREPARED))
        raise UserError(f"--scans: {folder} holds no scan: no file with one of {endings}, and no folder of DICOM files")
    return found


def of_a_run(results: Path) -> Path | None:
    """Return the data set below ``results/`` whose label maps name the most structures, or None without any."""
    named = {path.parent: _structures(path) for path in sorted(results.glob(DATA_SETS))}
    best = max(named, key=named.__getitem__, default=None)
    return best if best and named[best] else None


def _structures(path: Path) -> int:
    try:
        table = cases.usable(path)
    except UserError:
        return 0
    mapped = table[table["image"] != table["label"]]  # where both are one file, the findings are of the whole scan
    return len({name for names in mapped["labels"] for name in names})


def _stored(folder: Path) -> list[Source]:
    table = cases.usable(folder / CASES)
    return [source for row in table.itertuples() if (source := _case(folder, row)) is not None]


def _case(folder: Path, row: pd.Series) -> Source | None:
    """Return a case of a data set; None for an image that is no CT in HU."""
    try:
        image, label = folder / row.image, folder / row.label
        if store.open_volume(image).meta.get("intensity"):
            return None
        ids = store.open_volume(label).meta["ids"] if row.label and row.label != row.image else {}
    except Quarantine:
        return None
    return Source(row.case, image, label if ids else None, {number: name for name, number in ids.items()})


def _lying(folder: Path) -> list[Source]:
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(_suffixes()))
    series = sorted(p for p in folder.iterdir() if p.is_dir() and _holds_dicom(p))
    paths = dict(zip(scans.names([*files, *series]), [*files, *series], strict=True))
    labels = {name for name, path in paths.items() if _is_label(name, path, paths)}
    ids = _ids(folder)
    found = []
    for name, path in paths.items():
        if name not in labels:
            own = next((paths[label] for label in labels if _scan_of(label, paths) == name), None)
            found.append(Source(name, path, own, ids if own else {}))
    return found


def _suffixes() -> tuple[str, ...]:
    return (*scans.SUFFIXES, scans.PREPARED)


def _holds_dicom(folder: Path) -> bool:
    return any(is_dicom(path) for path in folder.iterdir() if path.is_file())


def is_dicom(path: Path) -> bool:
    """Return whether a file has DICOM's mark behind its preamble."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _is_label(name: str, path: Path, paths: Iterable[str]) -> bool:
    return path.is_file() and name.lower().endswith(ENDINGS) and _scan_of(name, paths) is not None


def _scan_of(name: str, names: Iterable[str]) -> str | None:
    """Return the scan that a label map belongs to: the longest name that its own starts with."""
    return max((n for n in names if n != name and name.startswith(n)), key=len, default=None)


def _ids(folder: Path) -> dict[int, str]:
    if (folder / scans.LABELS).is_file():
        return {int(row["id"]): str(row["name"]) for row in read_json(folder / scans.LABELS)}
    table = pd.read_csv(resources.path("labels", "totalsegmentator_v2.csv"))
    return dict(zip(table["id"].tolist(), table["name"].tolist(), strict=True))


def unique(sources: Sequence[Source]) -> list[Source]:
    """Return the same scans with names that differ."""
    names = scans.names([Path(source.name) for source in sources])
    return [Source(n, s.image, s.label, s.ids) for n, s in zip(names, sources, strict=True)]
