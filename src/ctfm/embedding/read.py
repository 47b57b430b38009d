"""A scan as an encoder takes it: any file or image, turned, resampled and stored; read slab by slab from there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from ctfm import files
from ctfm.errors import Quarantine, UserError
from ctfm.imaging import dicom, labelled, scans, store
from ctfm.imaging.preprocess import Preprocess
from ctfm.imaging.resample import resample, resample_to
from ctfm.imaging.volume import Volume, from_sitk, orient
from ctfm.options import Crop, Millimetres, Voxels

Image = Path | str | Volume | sitk.Image | nib.Nifti1Image
CROPS = {"body": store.BODY_HU, "published": 0}  # HU; voxels above it are kept
SLAB = 32  # slices at once
SPACING_TOLERANCE = 0.01
UNIT = {"intensity": "unit"}  # in the meta of a stored uint8 volume that is no CT in HU: 0 to 255 are 0 to 1


@dataclass(frozen=True)
class Scan:
    """A stored scan and the box of it that is embedded.

    Attributes:
        volume: at the encoder's spacing, axes (z, y, x) towards S, P, L.
        low: where the box starts, voxels of the volume.
        high: where it ends.
        preprocess: of the encoder.
        labels: uint8 ids on the same grid, or None.
    """

    volume: store.Stored
    low: Voxels
    high: Voxels
    preprocess: Preprocess
    labels: store.Stored | None = None

    @property
    def shape(self) -> Voxels:
        """Voxels (z, y, x) of the box."""
        z, y, x = (b - a for a, b in zip(self.low, self.high, strict=True))
        return z, y, x

    @property
    def spacing_mm(self) -> Millimetres:
        """Voxel spacing (z, y, x), mm."""
        return self.volume.spacing

    @property
    def is_unit(self) -> bool:
        """Whether the volume is no CT in HU, but an image whose 0 to 255 are 0 to 1."""
        return _is_unit(self.volume)

    def read(self, start: Voxels, size: Voxels) -> np.ndarray:
        """Read a part of the box as the encoder's input: float32 in [0, 1]; what lies outside of the box is 0.

        Args:
            start: first voxel (z, y, x), counted from the corner of the box.
            size: voxels (z, y, x).
        """
        scale = _unit if self.is_unit else self.preprocess.scale
        return self._read(self.volume, start, size, np.float32, scale)

    def read_labels(self, start: Voxels, size: Voxels) -> np.ndarray:
        """Read the ids of a part of the box; what lies outside is 0. Arguments as in ``read``."""
        return self._read(self.labels, start, size, np.uint8, lambda ids: ids)

    def _read(self, volume: Any, start: Voxels, size: Voxels, kind: Any, convert: Any) -> np.ndarray:
        out = np.zeros(size, kind)
        first = [max(0, s) for s in start]
        last = [min(n, s + k) for n, s, k in zip(self.shape, start, size, strict=True)]
        if all(a < b for a, b in zip(first, last, strict=True)):
            there = tuple(slice(a + o, b + o) for a, b, o in zip(first, last, self.low, strict=True))
            here = tuple(slice(a - s, b - s) for a, b, s in zip(first, last, start, strict=True))
            out[here] = convert(volume.handle[there])
        return out


def prepare(
    image: Image, preprocess: Preprocess, folder: Path, *, crop: Crop = "body", labels: Image | None = None
) -> Scan:
    """Bring a scan to an encoder's orientation and spacing, and find the box that is embedded.

    Args:
        image: NIfTI, NRRD or MHA file, folder of one DICOM series, prepared volume (``.b2nd``), ``Volume``, SimpleITK
            or nibabel image; in HU.
        preprocess: of the encoder.
        folder: where the result is stored; a prepared volume that has the spacing already is used where it is.
        crop: ``body``: the box around what is above -500 HU, as in pre-training; ``published``: above 0 HU;
            ``volume``: all of it.
        labels: a map of ids in the same place, on any grid; it is resampled to nearest.

    Raises:
        Quarantine: the scan or its labels can't be used.
    """
    volume = _stored(image, preprocess.spacing_mm, folder)
    whole = crop == "volume" or _is_unit(volume)
    low, high = ((0, 0, 0), volume.shape) if whole else _box(volume, CROPS[crop])
    found = None if labels is None else _labels(labels, volume, folder)
    return Scan(volume, low, high, preprocess, found)


def checksum(image: Image) -> str:
    """Return the SHA-256 of a file; of a DICOM folder, that of its files' sums; of an image, that of its voxels.

    Raises:
        Quarantine: ``missing_image``, or ``no_files``.
    """
    if not isinstance(image, str | Path):
        volume = _volume(image)
        return hashlib.sha256(volume.array.tobytes() + volume.affine.astype(float).tobytes()).hexdigest()
    path = Path(image)
    if path.is_dir():
        sums = sorted(files.sha256(file) for file in dicom.series_files(path))
        return hashlib.sha256("".join(sums).encode()).hexdigest()
    if not path.is_file():
        raise Quarantine("missing_image", f"{path.parent.name}/{path.name} is not there")
    return files.sha256(path)


def _stored(image: Image, spacing_mm: Millimetres, folder: Path) -> store.Stored:
    if isinstance(image, str | Path) and Path(image).suffix == scans.PREPARED:
        found = store.open_volume(image)
        if _is_unit(found) or np.allclose(found.spacing, spacing_mm, rtol=SPACING_TOLERANCE):
            return found
        scan = found.load()
    elif isinstance(image, str | Path):
        scan, _ = scans.read(Path(image))
    else:
        scan = labelled.in_hu(_volume(image), "image")
        dicom.check_hu(scan.array)
    store.save(resample(orient(scan), spacing_mm), folder / "scan.b2nd")
    return store.open_volume(folder / "scan.b2nd")


def _volume(image: Image) -> Volume:
    if isinstance(image, Volume):
        return image
    if isinstance(image, sitk.Image):
        return from_sitk(image)
    if isinstance(image, nib.Nifti1Image):
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine, float)
        return Volume(np.asanyarray(image.dataobj).transpose(), affine[:, [2, 1, 0, 3]])
    raise UserError(
        f"a {type(image).__name__} has no spacing and no orientation; give a path, a SimpleITK or nibabel image, or "
        "ctfm.imaging.volume.Volume(array, affine)"
    )


def _labels(labels: Image, volume: store.Stored, folder: Path) -> store.Stored:
    """Store a label map on the grid of a volume."""
    if isinstance(labels, str | Path) and Path(labels).suffix == scans.PREPARED:
        given = store.open_volume(labels)
        if given.shape == volume.shape and np.allclose(given.affine, volume.affine, atol=1e-3):
            return given
        found = given.load()
    else:
        found = labelled.read_image(labels) if isinstance(labels, str | Path) else _volume(labels)
    if found.array.min() < 0 or found.array.max() > 255 or (found.array != np.rint(found.array)).any():
        raise Quarantine("unknown_label", "a label map must hold whole numbers from 0 to 255")
    found = Volume(found.array.astype(np.uint8), found.affine)
    placed = resample_to(found, volume.shape, volume.affine, "nearest", background=0)
    if found.array.any() and not placed.array.any():
        raise Quarantine("grid_differs", "the label map lies outside of the scan")
    store.save(placed, folder / "labels.b2nd")
    return store.open_volume(folder / "labels.b2nd")


def _box(volume: store.Stored, limit: float) -> tuple[Voxels, Voxels]:
    """Return (start, stop) of the voxels above ``limit`` HU, a slab at a time."""
    z, y, x = volume.shape
    side, front = np.empty((z, y), np.int16), np.full((y, x), np.iinfo(np.int16).min, np.int16)
    for start in range(0, z, SLAB):
        slab = volume.handle[start : start + SLAB]
        side[start : start + SLAB] = slab.max(axis=2)
        np.maximum(front, slab.max(axis=0), out=front)
    return store.box_above(side, front, limit)


def _is_unit(volume: store.Stored) -> bool:
    return volume.meta.get("intensity") == UNIT["intensity"]


def _unit(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) / np.float32(255)
