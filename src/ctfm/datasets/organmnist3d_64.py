"""OrganMNIST3D of MedMNIST v2, cubes of 64 voxels along each axis: Yang et al., doi:10.1038/s41597-022-01721-8."""

from __future__ import annotations

from ctfm.datasets._medmnist import GROUPS as GROUPS
from ctfm.datasets._medmnist import LABELS as LABELS
from ctfm.datasets._medmnist import MARKER as MARKER
from ctfm.datasets._medmnist import Cubes

SOURCE = {
    "version": "3.0",
    "url": "https://zenodo.org/records/10519652/files/organmnist3d_64.npz",
    "bytes": None,
    "checksum": "md5:58a2205adf14a9d0a189cb06dc78bf10",  # as the package has it
    "licence": "CC BY 4.0",
}
_CUBES = Cubes(64, SOURCE)
check, cases, keep = _CUBES.check, _CUBES.cases, _CUBES.keep
