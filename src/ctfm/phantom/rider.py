"""Write pairs of scans as DICOM series with an index, as IDC lists them: a person scanned, and scanned again.

The second scan is a copy of the first one's anatomy: moved and turned a little, on another grid, with its own noise. Of
the last but one person the second scan is of someone else's abdomen, as if names were mixed up; the last one has no
second scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom.uid import generate_uid

from ctfm.config import Phantom
from ctfm.files import atomic, ensure_folder
from ctfm.idc import folder as indexing
from ctfm.imaging.resample import resample_to
from ctfm.imaging.volume import Volume
from ctfm.phantom import anatomy, dicom, scanner
from ctfm.phantom.shapes import turned

STREAM = 11
COLLECTION = "rider_phantom"
FEWEST = 6  # persons: quartiles need four good pairs
BASE_MM, MARGIN_MM = 3.0, 30.0
EXTENT_MM = (130.0, 200.0, 250.0)
SLICES = (52, 56)
PIXEL_MM = (2.6, 3.2)
SHIFT_MM, TURN_DEGREES = 9.0, 3.0
NOISE_HU = (10.0, 20.0)


class Person(NamedTuple):
    """Whom a pair is of: a body, how often it is scanned, and whether the second scan is of somebody else."""

    number: int
    seed: int
    scans: int = 2
    mixed_up: bool = False


def subjects(seed: int, settings: Phantom) -> Iterator[Person]:
    """Yield the persons, half as many as there are labelled cases, and ``FEWEST`` at least."""
    count = max(FEWEST, settings.cases // 2)
    for number in range(count):
        yield Person(number, seed, 1 if number == count - 1 else 2, number == count - 2)


def write(folder: Path, persons: Iterable[Person]) -> None:
    """Write ``dicom/<SeriesInstanceUID>/`` for each scan, and ``index.parquet`` last: where it is, all is whole."""
    (ensure_folder(folder) / "index.parquet").unlink(missing_ok=True)
    uids = [_write(folder / "dicom", person, scan) for person in persons for scan in range(person.scans)]
    table = indexing.index_folder(folder, folder / "dicom", licence="CC0")
    table = table[table["SeriesInstanceUID"].isin(uids)].assign(collection_id=COLLECTION)
    with atomic(folder / "index.parquet") as temporary:
        table.reset_index(drop=True).to_parquet(temporary, index=False)


def scan(person: Person, number: int) -> Volume:
    """Return the first (0) or second (1) scan of a person, int16 HU; axes run (S, P, L)."""
    wrong = bool(person.mixed_up and number)
    rng = np.random.default_rng([person.seed, STREAM, person.number, number])
    pixel, slices = float(rng.uniform(*PIXEL_MM)), int(rng.integers(*SLICES))
    spacing = np.array([EXTENT_MM[0] / slices, pixel, pixel])
    shape = [slices, *(round(mm / pixel) for mm in EXTENT_MM[1:])]
    base = _anatomy(person.seed, person.number + 1000 * wrong, "abdomen" if wrong else "chest")
    middle = base.world((np.asarray(base.shape) - 1) / 2)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)[::-1]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    there = moved(rng, middle) @ affine if number else affine
    hu = resample_to(base, tuple(shape), there).array + rng.normal(0, rng.uniform(*NOISE_HU), shape)
    return Volume(np.clip(np.rint(hu), -1024, 3071).astype(np.int16), affine)


def moved(rng: np.random.Generator, middle: np.ndarray) -> np.ndarray:
    """Draw the (4, 4) matrix from where the scanner sees a point to where it was before; turned about ``middle``."""
    matrix = np.eye(4)
    for axis, degrees in zip("xyz", rng.uniform(-TURN_DEGREES, TURN_DEGREES, 3), strict=True):
        matrix[:3, :3] = turned(axis, degrees) @ matrix[:3, :3]
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + rng.uniform(-SHIFT_MM, SHIFT_MM, 3)
    return matrix


def _anatomy(seed: int, someone: int, region: anatomy.Region) -> Volume:
    """Return a region of a person without noise, larger than any scan of it."""
    rng = np.random.default_rng([seed, STREAM, someone])
    body = anatomy.draw(rng)
    shape = [round((mm + 2 * MARGIN_MM) / BASE_MM) for mm in EXTENT_MM]
    affine = anatomy.upright(body, shape, (BASE_MM,) * 3, region, rng)
    quiet = replace(scanner.draw(rng), noise_hu=0.0)
    return anatomy.render(body, quiet, rng, shape, affine)[0]


def _write(folder: Path, person: Person, number: int) -> str:
    volume = scan(person, number)
    origin = [COLLECTION, str(person.seed), str(person.number)]
    header: dict[str, Any] = {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientID": f"REPEAT-{person.number:03d}",
        "PatientName": "Phantom",
        "PatientPosition": "HFS",
        "BodyPartExamined": "CHEST",
        "Manufacturer": "phantom",
        "ConvolutionKernel": "B",
        "SeriesDescription": ("test", "retest")[number],
        "SliceThickness": round(volume.spacing[0], 3),
        "StudyInstanceUID": generate_uid(entropy_srcs=[*origin, "study"]),
        "FrameOfReferenceUID": generate_uid(entropy_srcs=[*origin, "frame", str(number)]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=[*origin, "series", str(number)]),
    }
    dicom.write_series(folder / header["SeriesInstanceUID"], dicom.slices_of(volume), header)
    return str(header["SeriesInstanceUID"])
