"""OrganMNIST3D of MedMNIST v2 at one of its sizes: 1,742 small cubes, each around an organ of the abdomen.

The file of the ``medmnist`` package: ``train_images`` (971, n, n, n) of grey values from 0 to 255 and
``train_labels`` (971, 1), then the same of ``val`` (161) and ``test`` (610). It is read as it is, or as
the arrays that it unpacks to. It is held against the published MD5; where ``<file>.npz.md5`` lies beside it, against
that one, which says that the file is none of MedMNIST's (the phantoms').

Cubes have no spacing and no HU: organs were cut out and stretched to cubes, and grey values are a window of HU that
isn't told. So they go to every encoder as they are, divided by 255, with their axes turned round, which brings them
to (z, y, x). For retrieval the training part is the corpus and the others ask, as in the paper; whose a cube is
is not told: each counts as a patient of its own.

Source: Yang et al., Scientific Data 2023, doi:10.1038/s41597-022-01721-8; cubes of 64: doi:10.5281/zenodo.10519652.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.config import VERSIONS
from ctfm.datasets import Case
from ctfm.embedding.read import UNIT
from ctfm.errors import Quarantine, UserError
from ctfm.files import digest
from ctfm.imaging import store
from ctfm.imaging.volume import Volume

ORGANS = (
    "liver",
    "kidney-right",
    "kidney-left",
    "femur-right",
    "femur-left",
    "bladder",
    "heart",
    "lung-right",
    "lung-left",
    "spleen",
    "pancreas",
)
MARKER = "train_images.npy"
LABELS = {organ: number for number, organ in enumerate(ORGANS, start=1)}
GROUPS = dict.fromkeys(ORGANS, "organs")
PARTS = ("train", "val", "test")
SPL = np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]  # a place for arrays that have none: 1 mm, axes towards S, P, L

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cubes:
    """One size of the data set.

    Attributes:
        edge: voxels along each axis.
        source: where it is published.
    """

    edge: int
    source: dict[str, Any]

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return str(self.source["url"]).rpartition("/")[2]

    def check(self, root: Path) -> None:
        """Check that the arrays are where the configuration says, and are those that were published.

        Raises:
            UserError: a file is missing, has another checksum, or holds other arrays.
        """
        remedy = f"set 'fetch: true', put {self.source['url']} ({self.source['licence']}) there, or correct 'root'"
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; {remedy}")
        file = root / self.name
        if not file.is_file() and not (root / MARKER).is_file():
            raise UserError(f"{file}: no such file; {remedy}")
        if file.is_file():
            self._checksum(file)
        for part in PARTS:
            images, labels = (array(root, self.name, f"{part}_{kind}") for kind in ("images", "labels"))
            cube = (self.edge,) * 3
            if images.shape[1:] != cube or images.dtype != np.uint8 or labels.shape != (len(images), 1):
                raise UserError(
                    f"{file}: '{part}_images' must be uint8 of (n, {', '.join(map(str, cube))}) with as many labels; "
                    f"found {images.dtype} of {images.shape}, and labels of {labels.shape}; fetch it anew"
                )

    def cases(self, root: Path) -> Iterator[Case]:
        """Yield all cubes, those of the training part first."""
        for part in PARTS:
            for number, (label,) in enumerate(array(root, self.name, f"{part}_labels")):
                organ = ORGANS[label] if label < len(ORGANS) else None
                name = f"{part}_{number:04d}"
                about = {"all": {"query": part != "train", "attributes": {"organ": organ}}}
                yield Case(name, name, part, root / self.name, {}, cohorts=about)

    def keep(self, case: Case, _spacing_mm: object, folder: Path) -> dict[str, Any]:
        """Store a cube as ``<case>.b2nd``, unless it is there already; return its part of the table of cases.

        Raises:
            Quarantine: ``no_label`` or ``empty_image``.
        """
        organ = case.cohorts["all"]["attributes"]["organ"]
        if organ is None:
            raise Quarantine("no_label", f"its label is none of the {len(ORGANS)} organs")
        part, _, number = case.case.partition("_")
        cube = array(case.image.parent, self.name, f"{part}_images")[int(number)].transpose(2, 1, 0)
        if cube.min() == cube.max():
            raise Quarantine("empty_image", f"every voxel is {cube.flat[0]}")
        row: dict[str, Any] = {"shape": list(cube.shape), "spacing": [np.nan] * 3, "labels": [organ], "empty": []}
        row |= {"detail": "", "overlap_voxels": 0, "label": f"{folder.name}/{case.case}.b2nd"}
        contents = hashlib.sha256(cube.tobytes()).hexdigest()
        key = digest([VERSIONS["datasets"], case.cohorts, contents])
        meta = {"key": key, "cohorts": case.cohorts, **UNIT}
        if not store.same(folder / f"{case.case}.b2nd", key):
            store.save(Volume(cube, SPL), folder / f"{case.case}.b2nd", meta)
        return row

    def _checksum(self, file: Path) -> None:
        kind, _, wanted = str(self.source["checksum"]).partition(":")
        own = file.with_name(f"{file.name}.{kind}")
        if own.is_file():
            wanted = own.read_text().split()[0] if own.read_text().split() else ""
            log.warning("%s is held against %s, not against what was published", file, own.name)
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, kind).hexdigest()
        if found != wanted:
            raise UserError(f"{file}: its {kind} is {found}, not {wanted}; fetch it anew from {self.source['url']}")


@lru_cache(maxsize=4)
def array(root: Path, file: str, name: str) -> np.ndarray:
    """Return one array of the file, or of what it unpacks to; the last ones are remembered.

    Raises:
        UserError: it is missing or damaged.
    """
    packed = root / file
    try:
        if not packed.is_file():
            return np.load(root / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        with np.load(packed, allow_pickle=False) as content:
            return content[name]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{packed}: '{name}' is missing or damaged ({error}); fetch the file anew") from error
