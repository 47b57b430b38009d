"""Open a scan for the page in a process of its own: a hostile file may crash, fill or stall that, never the server.

``open_scan`` starts ``python -m ctfm.app.intake`` with a limit of memory and time; it writes

- ``scan.b2nd``: int16 HU on the scan's own grid, axes turned to (S, P, L);
- ``shown.nii``: the same for the browser, made coarser where it would not fit into a graphics card;
- ``label.b2nd``: uint8 ids on the grid of ``scan.b2nd``, for a scan with a label map.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctfm.app import uploads
from ctfm.errors import SCAN_FAULTS, Quarantine, told
from ctfm.files import ensure_folder
from ctfm.imaging import labelled, scans, store
from ctfm.imaging.resample import resample, resample_to
from ctfm.imaging.volume import Volume, orient, write_nifti

SCAN, SHOWN, LABEL = "scan.b2nd", "shown.nii", "label.b2nd"
LARGEST_BYTES = 2**33  # of address space
LONGEST_S = 300
LARGEST_VOXELS = 2**29
EXTENT_MM = (4.0, 4000.0)  # of a scan along each axis; what is outside has a wrong header
SHOWN_VOXELS = 2**26
SENT = "--sent"

_turns = threading.BoundedSemaphore(2)  # as many are read at once


def open_scan(image: Path, label: Path | None, folder: Path, sent: bool = False) -> None:
    """Write the files of a scan into a folder, unless they are there.

    Args:
        image: of the scan.
        label: map of ids, or None.
        folder: where to.
        sent: the image was sent by somebody and is to be unpacked first, see ``uploads``.

    Raises:
        Quarantine: the scan can't be used; ``crashed`` or ``too_slow`` where its reader ended before it said why.
    """
    if (folder / SHOWN).is_file():
        return
    ensure_folder(folder)
    paths = [str(path.absolute()) for path in (image, folder, label) if path]
    command = [sys.executable, "-P", "-m", "ctfm.app.intake", *paths, *([SENT] if sent else [])]
    try:
        with _turns:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST_S, check=False
            )
    except subprocess.TimeoutExpired as error:
        raise Quarantine("too_slow", f"reading it took more than {LONGEST_S} s") from error
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise Quarantine("crashed", "its reader ended without an answer; the file is damaged or too large") from error
    if answer:
        raise Quarantine(answer["reason"], answer["detail"])


def read(image: Path) -> Volume:
    """Read a scan with its axes turned to (S, P, L).

    Raises:
        Quarantine: it can't be used, or is too large.
    """
    if image.suffix == scans.PREPARED:
        volume = store.open_volume(image).load()
    else:
        volume, _ = scans.read(image)
    check_size(volume)
    return orient(volume)


def check_size(volume: Volume) -> None:
    """Refuse what would not fit into memory at the spacing of an encoder.

    Raises:
        Quarantine: ``bad_affine`` or ``too_large``.
    """
    extent = np.multiply(volume.shape, volume.spacing)
    if not np.isfinite(volume.affine).all() or (extent < EXTENT_MM[0]).any() or (extent > EXTENT_MM[1]).any():
        size = " x ".join(f"{mm:g}" for mm in extent)
        raise Quarantine("bad_affine", f"it would be {size} mm; between {EXTENT_MM[0]:g} and {EXTENT_MM[1]:g} are read")
    if volume.array.size > LARGEST_VOXELS:
        raise Quarantine("too_large", f"{volume.array.size} voxels; at most {LARGEST_VOXELS} are read")


def write(image: Path, label: Path | None, folder: Path) -> None:
    """Write the files of a scan, what the browser loads last.

    Raises:
        Quarantine: the scan or its label map can't be used.
    """
    scan = read(image)
    if label:
        given = orient(_label(label))
        placed = resample_to(given, scan.shape, scan.affine, "nearest", background=0)
        store.save(placed, folder / LABEL)
    store.save(scan, folder / SCAN)
    write_nifti(for_browser(scan), folder / SHOWN)


def for_browser(scan: Volume, largest: int = SHOWN_VOXELS) -> Volume:
    """Return a volume with at most ``largest`` voxels, its finest axes made coarser first."""
    spacing = np.asarray(scan.spacing)
    size = scan.array.size
    if size <= largest:
        return scan
    extent = np.multiply(scan.shape, spacing)
    while np.prod(np.ceil(extent / spacing)) > largest:
        spacing[spacing <= spacing.min() * 1.05] *= 1.05
    return resample(scan, (float(spacing[0]), float(spacing[1]), float(spacing[2])), antialias=True)


def _label(path: Path) -> Volume:
    found = store.open_volume(path).load() if path.suffix == scans.PREPARED else labelled.read_image(path)
    if found.array.min() < 0 or found.array.max() > 255:
        raise Quarantine("unknown_label", f"{path.name}: a label map must hold whole numbers from 0 to 255")
    return Volume(found.array.astype(np.uint8), found.affine)


def main(arguments: Sequence[str]) -> None:
    """Read the scan (and label map) that the arguments name; print ``null``, or reason and detail of a fault."""
    resource.setrlimit(resource.RLIMIT_AS, (LARGEST_BYTES, LARGEST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not come between
    image, folder, *label = (Path(argument) for argument in arguments if argument != SENT)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            write(uploads.unpack(image, Path(work)) if SENT in arguments else image, next(iter(label), None), folder)
        fault = None
    except SCAN_FAULTS as error:
        fault = told(error)
    answers.write(json.dumps(fault) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
