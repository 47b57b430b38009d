"""The grid that a scan's own file has, and maps written on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike

from ctfm.imaging import scans, store
from ctfm.imaging.volume import Volume, from_nifti, save_nifti, to_nifti
from ctfm.options import Voxels

NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Own:
    """A grid.

    Attributes:
        shape: voxels (z, y, x): the file's own order, reversed from that of nibabel and ITK.
        affine: (4, 4), maps (z, y, x, 1) to (L, P, S, 1) in mm; it may be oblique, flipped or sheared.
        image: of a NIfTI file, without its voxels: its affine and header are kept to the last digit.
    """

    shape: Voxels
    affine: np.ndarray
    image: Any = None

    def world(self, index: ArrayLike) -> np.ndarray:
        """Map (..., 3) voxels (z, y, x) to (..., 3) LPS mm."""
        return np.asarray(index, float) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def index(self, world: ArrayLike) -> np.ndarray:
        """Map (..., 3) LPS mm to (..., 3) voxels (z, y, x), which need not be whole."""
        return (np.asarray(world, float) - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def write(self, values: np.ndarray, path: Path) -> None:
        """Write (z, y, x) float32 values as ``.nii.gz``, atomically; of a NIfTI file, with its very affine."""
        made = to_nifti(Volume(values, self.affine))
        if self.image is not None:
            header = self.image.header.copy()
            header.set_data_dtype(np.float32)
            header["cal_min"] = header["cal_max"] = 0  # the CT's display window
            made = type(self.image)(np.asarray(made.dataobj), self.image.affine, header)
        save_nifti(made, path)


def of(scan: Path | Volume | store.Stored) -> Own:
    """Return the own grid of an image file, a prepared volume (``.b2nd``, or opened) or a volume in memory.

    A folder of a DICOM series has none before it is read: its slices are sorted along their normal (right x down), and
    put on an even, straight grid where they are uneven or shifted. Give what ``scans.read`` made of it.
    """
    if isinstance(scan, Volume | store.Stored):
        return Own(scan.shape, scan.affine)
    if scan.suffix == scans.PREPARED:
        return of(store.open_volume(scan))
    return _of_file(scan)


def _of_file(path: Path) -> Own:
    image: Any = nib.load(path) if path.name.lower().endswith(NIFTI) else None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()  # as ``read_image``, so that both mean the same place
    except RuntimeError:
        if image is None:
            raise
        x, y, z = image.shape
        return Own((z, y, x), from_nifti(image).affine, image)  # sheared
    x, y, z = reader.GetSize()
    affine = np.eye(4)
    affine[:3, :3] = (np.asarray(reader.GetDirection()).reshape(3, 3) * reader.GetSpacing())[:, ::-1]
    affine[:3, 3] = reader.GetOrigin()
    return Own((z, y, x), affine, image)
