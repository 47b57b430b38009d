"""The volumes that an encoder is pre-trained on, and which of them can't be used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctfm import files
from ctfm.errors import Quarantine, UserError
from ctfm.imaging import store
from ctfm.logs import progress
from ctfm.tables import read as read_table

SMALLEST_EDGE = 4  # voxels; less than this along an axis is no scan, and padding it would teach air
READERS = 16  # headers read at once: on a network's disk each costs milliseconds of waiting


@dataclass(frozen=True)
class Corpus:
    """The volumes of an index that can be used.

    Attributes:
        names: SeriesInstanceUIDs, sorted.
        files: their volume files.
        checksums: SHA-256 of each file.
        sizes: bytes of each file; None: not known.
        digest: of the UIDs and the bytes of the volumes.
        spacing_mm: spacing (z, y, x) of them all.
        too_small: name and reason of the volumes that are left out for their extent.
    """

    names: list[str]
    files: list[Path]
    checksums: list[str]
    sizes: list[int | None]
    digest: str
    spacing_mm: tuple[float, float, float]
    too_small: dict[str, str]


def read(index: Path) -> Corpus:
    """Read an index of volumes; quarantined and absurdly small ones are left out.

    Raises:
        UserError: nothing usable is in it, or its volumes differ in spacing.
    """
    table = read_table("volumes", index)
    table = table[table["status"] == "ok"].sort_values("SeriesInstanceUID")
    faults = [_extent(shape) for shape in table["shape"]]
    named = zip(table["SeriesInstanceUID"], faults, strict=True)
    too_small = {name: fault for name, fault in named if fault}
    table = table[[not fault for fault in faults]]
    if table.empty:
        raise UserError(f"{index}: no volume with status 'ok' and an extent; look at its columns 'reason' and 'detail'")
    spacings = {tuple(round(float(mm), 6) for mm in row) for row in table["spacing_out"]}
    if len(spacings) != 1:
        raise UserError(f"{index}: volumes of {len(spacings)} different spacings; prepare them all with one spacing_mm")
    z, y, x = spacings.pop()
    names, checksums = list(table["SeriesInstanceUID"]), list(table["sha256"])
    paths = [index.parent / path for path in table["path"]]
    sizes = [None if size != size or size is None else int(size) for size in table["bytes"]]
    digest = files.digest(list(zip(names, checksums, strict=True)))
    return Corpus(names, paths, checksums, sizes, digest, (z, y, x), too_small)


def broken(corpus: Corpus) -> dict[str, str]:
    """Return name and reason of the volumes that are missing, cut short or without a sound header.

    Their bytes are checked later, when they are first read.

    Raises:
        UserError: all of them are.
    """
    places = list(zip(corpus.names, corpus.files, corpus.sizes, strict=True))
    with ThreadPoolExecutor(READERS) as pool:
        found = progress(pool.map(lambda place: _fault(place[1], place[2]), places), "volumes checked", len(places))
        faults = {name: fault for (name, *_), fault in zip(places, found, strict=True) if fault}
    if len(faults) == len(places):
        name, fault = next(iter(faults.items()))
        raise UserError(f"none of the {len(places)} volumes can be read (first: {name}: {fault}); prepare them anew")
    return faults


def _fault(path: Path, size: int | None) -> str:
    try:
        found = path.stat().st_size
        if size is not None and found != size:
            return f"{path.name} has {found} bytes, its index says {size}"
        return _extent(store.open_volume(path).handle.shape)
    except FileNotFoundError:
        return f"{path.name} is missing"
    except (Quarantine, OSError) as error:
        return reason(error, path)


def reason(error: Exception, path: Path) -> str:
    """Return what an error says, without the folder: outputs hold no absolute paths."""
    return str(error).replace(f"{path.parent}/", "")


def _extent(shape: Any) -> str:
    """Return what is wrong with a shape; nothing where it is not known."""
    if shape is None:
        return ""
    edges = [int(edge) for edge in shape]
    if len(edges) != 3 or min(edges) < SMALLEST_EDGE:
        return f"its extent of {' x '.join(map(str, edges))} voxels is no scan's"
    return ""
