"""People's own scans, whatever files they come in: checked, turned, resampled and stored for a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.config import Criteria, Prepare
from ctfm.errors import UserError
from ctfm.imaging import dicom, labelled, store
from ctfm.imaging.resample import resample
from ctfm.imaging.volume import Volume, orient
from ctfm.options import Millimetres, Voxels

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
PREPARED = ".b2nd"  # a volume of the store
# What was scanned is the user's affair; whether it is CT, whole and in HU is checked as for pre-training.
ANY_LENGTH = Prepare(min_slices=2)
ANY_KIND = Criteria(min_instances=1, thickness_mm=None, unique_positions=False)


def named(paths: list[Path], out: Path) -> list[tuple[Path, str]]:
    """Pair each scan with the name of its result: its own name without suffix; numbered if it came before.

    Raises:
        UserError: the result, ``<name>.nii.gz`` in ``out``, would replace a scan.
    """
    pairs, given = list(zip(paths, names(paths), strict=True)), {path.resolve() for path in paths}
    for _, name in pairs:
        if (target := out / f"{name}.nii.gz").resolve() in given:
            raise UserError(f"--out: {target} is one of the scans and would be replaced; name another folder")
    return pairs


def names(paths: Sequence[Path]) -> list[str]:
    """Return the name of each scan: its own without suffix; numbered if it came before."""
    made: dict[str, None] = {}
    for path in paths:
        stem = path.resolve().name
        stem = next((stem[: -len(s)] for s in (*SUFFIXES, PREPARED) if stem.lower().endswith(s)), stem)
        name, count = stem, 1
        while name in made:
            count += 1
            name = f"{stem}-{count}"
        made[name] = None
    return list(made)


def keep(path: Path, spacing_mm: Millimetres, stored: Path) -> tuple[Voxels, np.ndarray]:
    """Store a scan with axes nearest to (S, P, L) and a given spacing.

    Args:
        path: NIfTI, NRRD or MHA file, or folder of one DICOM series.
        spacing_mm: spacing (z, y, x), mm.
        stored: file to write, ``.b2nd``.

    Returns:
        Shape and affine of the scan's own grid (see ``Volume``); the scan itself is not kept in memory.

    Raises:
        Quarantine: the scan can't be used.
    """
    scan, _ = read(path)
    store.save(resample(orient(scan), spacing_mm), stored)
    return scan.shape, scan.affine


def read(path: Path) -> tuple[Volume, dict[str, Any]]:
    """Read a scan: int16 HU with axes at right angles; and facts about its source.

    Args:
        path: NIfTI, NRRD or MHA file, or folder of one DICOM series.

    Raises:
        Quarantine: the scan can't be used.
    """
    if path.is_dir():
        return dicom.read_series(path, ANY_LENGTH, ANY_KIND)
    scan = labelled.read_scan(path)
    dicom.check_hu(scan.array)
    return scan, {}
