"""Write heads in the layout of CQ500 as published: ``reads.csv``, and DICOM series in folders with odd names.

The broken scan lacks a slice; the last of the patients has readings and no scan at all, the one before a volume file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ctfm.config import Phantom
from ctfm.files import atomic, ensure_folder
from ctfm.phantom import head, head_series, sinoct
from ctfm.phantom.head import Head

STREAM = 1
READERS = ("R1", "R2", "R3")
READINGS = (
    "ICH",
    "IPH",
    "IVH",
    "SDH",
    "EDH",
    "SAH",
    "BleedLocation-Left",
    "BleedLocation-Right",
    "ChronicBleed",
    "Fracture",
    "CalvarialFracture",
    "OtherFracture",
    "MassEffect",
    "MidlineShift",
)


def subjects(seed: int, settings: Phantom) -> Iterator[Head]:
    """Yield the heads that are written: others than SinoCT's, and half as many, since all are for tests."""
    return head.heads(seed, settings.heads // 2, STREAM)


def write(folder: Path, heads: Iterable[Head]) -> None:
    """Write all heads, and ``reads.csv`` last: where it is, the data set is whole."""
    (ensure_folder(folder) / "reads.csv").unlink(missing_ok=True)
    everyone = list(heads)
    for one in everyone[:-1]:
        name = f"CQ500CT{one.number} CQ500CT{one.number}"
        place = folder / "qct01" / name
        if one is everyone[-2]:
            sinoct.write_nrrd(place / "scan.nrrd", head.scan(one))
        else:
            head_series.write(place / "Unknown Study/CT Plain", one, name)
    columns = [f"{reader}:{reading}" for reader in READERS for reading in READINGS]
    lines = [",".join(["name", "Category", *columns]), *(_reads(one, columns) for one in everyone)]
    with atomic(folder / "reads.csv") as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _reads(one: Head, columns: list[str]) -> str:
    """Return the line of a patient; not every reader sees every bleed, but one always does."""
    rng = np.random.default_rng([one.seed, 2])
    seen = {reader for reader in READERS if rng.random() < 0.8} or {READERS[0]}
    found = {f"{reader}:{reading}" for reader in seen for reading in ("ICH", one.finding) if one.finding}
    return ",".join([f"CQ500-CT-{one.number}", "B1", *(str(int(column in found)) for column in columns)])
