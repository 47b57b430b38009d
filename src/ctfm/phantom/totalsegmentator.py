"""Write cases in the layout of the TotalSegmentator v2 data set as published (doi:10.5281/zenodo.10047292).

``meta.csv`` (semicolons, UTF-8 with byte order mark), and per case ``sNNNN/ct.nii.gz`` and one mask for each of
117 structures in ``sNNNN/segmentations/``, empty where the scan does not show it.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np

from ctfm import logs
from ctfm.files import atomic, ensure_folder
from ctfm.imaging.volume import Volume, to_nifti
from ctfm.phantom import anatomy
from ctfm.phantom.cases import Labelled

COLUMNS = (
    "image_id",
    "age",
    "gender",
    "institute",
    "study_type",
    "split",
    "manufacturer",
    "scanner_model",
    "kvp",
    "pathology",
    "pathology_location",
)
STUDY = {
    "chest": "ct thorax",
    "upper": "ct thorax-abdomen",
    "abdomen": "ct abdomen-pelvis",
    "trunk": "ct thorax-abdomen-pelvis",
}
FASTEST = 1
HEADER_BYTES = 352  # of a single NIfTI-1 file without extensions


def write(folder: Path, cases: Iterable[Labelled]) -> None:
    """Write all cases, and ``meta.csv`` last: where it is, the data set is whole.

    Args:
        folder: of the data set; made if absent.
        cases: each is written before the next is asked for.
    """
    ensure_folder(folder)
    (folder / "meta.csv").unlink(missing_ok=True)
    rows = []
    for case in logs.progress(cases, "labelled cases"):
        _write_case(folder / f"s{case.number:04d}", case)
        rows.append(_row(case))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, delimiter=";", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic(folder / "meta.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8-sig")


def _write_case(folder: Path, case: Labelled) -> None:
    ensure_folder(folder / "segmentations")
    image, label = ras(case.image), ras(case.label)
    put(folder / "ct.nii.gz", pack(image.header, np.asarray(image.dataobj)))
    ids = np.ascontiguousarray(np.asarray(label.dataobj).T)
    present = np.bincount(ids.ravel(), minlength=256) > 0
    empty = pack(label.header, np.zeros_like(ids).T)
    for name, number in anatomy.labels().items():
        mask = pack(label.header, (ids == number).view(np.uint8).T) if present[number] else empty
        put(folder / "segmentations" / f"{name}.nii.gz", mask)


def ras(volume: Volume) -> nib.Nifti1Image:
    """Return a NIfTI image whose axes run left to right, back to front, feet to head (RAS), as published."""
    image = to_nifti(volume)
    return image.as_reoriented(nib.orientations.io_orientation(image.affine))


def pack(header: nib.Nifti1Header, array: np.ndarray) -> bytes:
    """Return the bytes of a ``.nii.gz`` file of (x, y, z) values; no time is written, so they repeat."""
    header = header.copy()
    header.set_xyzt_units("mm")
    header["vox_offset"] = HEADER_BYTES
    plain = header.binaryblock.ljust(HEADER_BYTES, b"\0") + array.tobytes(order="F")
    return gzip.compress(plain, FASTEST, mtime=0)


def put(path: Path, content: bytes) -> None:
    """Write bytes atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def _row(case: Labelled) -> dict[str, str | int]:
    ill = list(case.body.lesions)
    return {
        "image_id": f"s{case.number:04d}",
        "age": case.body.age,
        "gender": case.body.sex,
        "institute": "phantom",
        "study_type": STUDY[case.region],
        "split": case.split,
        "manufacturer": "ctfm",
        "scanner_model": "phantom",
        "kvp": 120,
        "pathology": "tumor" if ill else "no_pathology",
        "pathology_location": ", ".join(ill),
    }
