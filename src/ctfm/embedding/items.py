"""Which scans are embedded: those that someone names, or those of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ctfm import cases, plugins
from ctfm.errors import Quarantine, UserError
from ctfm.imaging import scans, store


class Item(NamedTuple):
    """A scan to embed: its name, where it is, its label map, and the names of the ids in it."""

    case: str
    image: Path
    labels: Path | None = None
    names: Mapping[int, str] | None = None


def of_paths(paths: Sequence[Path], labels: Sequence[Path] = (), kind: str | None = None) -> list[Item]:
    """Return the scans at some paths.

    Args:
        paths: of the scans.
        labels: the label map of each, in their order; or none.
        kind: whose names the ids have: a file in src/ctfm/datasets.

    Raises:
        UserError: there is no scan, or not a label map for each.
    """
    if not paths:
        raise UserError("name at least one scan, or --cases")
    if labels and len(labels) != len(paths):
        raise UserError(f"--labels: {len(labels)} label maps for {len(paths)} scans; give one for each, in their order")
    known = plugins.get("datasets", kind).LABELS if kind else {}
    names = {number: name for name, number in known.items()}
    maps: Sequence[Path | None] = labels or [None] * len(paths)
    return [Item(n, p, m, names) for n, p, m in zip(scans.names(paths), paths, maps, strict=True)]


def of_cases(path: Path, organs: bool) -> list[Item]:
    """Return the usable cases of a data set.

    Args:
        path: its cases.parquet.
        organs: take their label maps too.

    Raises:
        UserError: the table can't be read, or no case is usable.
    """
    made = []
    for row in cases.usable(path).itertuples():
        label = path.parent / row.label if organs and row.label else None
        made.append(Item(row.case, path.parent / row.image, label, _names(label)))
    return made


def _names(label: Path | None) -> dict[int, str]:
    """Return {id: name} of a stored label map; of a damaged one nothing, which embedding it will tell."""
    try:
        return {number: name for name, number in store.open_volume(label).meta["ids"].items()} if label else {}
    except Quarantine:
        return {}
