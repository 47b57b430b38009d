"""Write heads in the layout of SinoCT as published: ``labels.csv``, and ``series_<n>/nrrd/scan.nrrd`` or DICOM files.

The tilted scan is a volume with a sheared axis, the unevenly spaced one DICOM, and the broken one ends too early.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import SimpleITK as sitk

from ctfm.config import Phantom
from ctfm.files import atomic, ensure_folder
from ctfm.imaging.volume import Volume, to_sitk
from ctfm.phantom import head, head_series
from ctfm.phantom.head import Head


def subjects(seed: int, settings: Phantom) -> Iterator[Head]:
    """Yield the heads that are written."""
    return head.heads(seed, settings.heads)


def write(folder: Path, heads: Iterable[Head]) -> None:
    """Write all heads, and ``labels.csv`` last: where it is, the data set is whole."""
    (ensure_folder(folder) / "labels.csv").unlink(missing_ok=True)
    lines = ["patient_id,label"]
    for one in heads:
        name = f"series_{one.number}"
        if one.form == "uneven":
            head_series.write(folder / name / "dicom", one, f"SinoCT {name}")
        else:
            write_nrrd(folder / name / "nrrd/scan.nrrd", head.scan(one), whole=one.form != "broken")
        lines.append(f'{name},"{"0,1" if one.finding else "1,0"}"')
    with atomic(folder / "labels.csv") as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def write_nrrd(path: Path, volume: Volume, whole: bool = True) -> None:
    """Write a volume as gzipped NRRD, the shear of its axes kept; one that is not whole lacks its end."""
    ensure_folder(path.parent)
    with atomic(path) as temporary:
        sitk.WriteImage(to_sitk(volume), str(temporary), useCompression=True)
        if not whole:
            content = temporary.read_bytes()
            temporary.write_bytes(content[: len(content) // 2])
