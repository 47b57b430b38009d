"""OrganMNIST3D of MedMNIST v2, cubes of 64 voxels along each axis: see ``_medmnist``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctfm.datasets import Case
from ctfm.datasets._medmnist import MARKER as MARKER
from ctfm.datasets._medmnist import ORGANS, Cubes

SOURCE = {
    "version": "3.0",
    "url": "https://zenodo.org/records/10519652/files/organmnist3d_64.npz",
    "bytes": None,
    "checksum": "md5:58a2205adf14a9d0a189cb06dc78bf10",  # as the package has it
    "licence": "CC BY 4.0",
}
LABELS = {organ: number for number, organ in enumerate(ORGANS, start=1)}
GROUPS = dict.fromkeys(ORGANS, "organs")
_CUBES = Cubes(64, SOURCE)
check, cases = _CUBES.check, _CUBES.cases


def keep(case: Case, _spacing_mm: object, folder: Path) -> dict[str, Any]:
    """Store a cube as it is; see ``Cubes.keep``."""
    return _CUBES.keep(case, folder)
