"""A volume: HU on a grid, with the affine that places it in the patient.

Array axes are (z, y, x). After ``orient`` they run (S, P, L): index 0 feet to head, 1 front to back,
2 right to left. World coordinates are LPS millimetres, DICOM's own. NIfTI's RAS appears only at its border.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from ctfm.errors import Quarantine
from ctfm.files import atomic

RIGHT_ANGLE = 1e-3  # largest cosine
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Volume:
    """An array and its place.

    Attributes:
        array: (z, y, x) values; HU for CT, integer ids for labels.
        affine: (4, 4), maps (z, y, x, 1) voxel indices to (L, P, S, 1) in mm.
    """

    array: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel spacing (z, y, x) in mm."""
        return spacing_of(self.affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        z, y, x = self.array.shape
        return z, y, x

    @property
    def upright(self) -> bool:
        """Whether the axes are at right angles."""
        unit = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return bool(np.abs(unit.T @ unit - np.eye(3)).max() <= RIGHT_ANGLE)

    def world(self, index: np.ndarray) -> np.ndarray:
        """Map (..., 3) voxel indices (z, y, x) to (..., 3) LPS millimetres."""
        return np.asarray(index) @ self.affine[:3, :3].T + self.affine[:3, 3]


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Return the voxel spacing (z, y, x), mm, that a (4, 4) affine of array axes (z, y, x) has."""
    z, y, x = np.linalg.norm(affine[:3, :3], axis=0)
    return float(z), float(y), float(x)


def from_sitk(image: sitk.Image) -> Volume:
    """Make a volume of a SimpleITK image (which is LPS too, with index order x, y, z)."""
    columns = np.asarray(image.GetDirection()).reshape(3, 3) * np.asarray(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3] = columns[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image), affine)


def to_sitk(volume: Volume) -> sitk.Image:
    """Make a SimpleITK image of a volume whose axes are at right angles."""
    image = sitk.GetImageFromArray(volume.array)
    spacing = volume.spacing[::-1]
    image.SetSpacing(spacing)
    image.SetDirection((volume.affine[:3, 2::-1] / np.asarray(spacing)).ravel().tolist())
    image.SetOrigin(volume.affine[:3, 3].tolist())
    return image


def to_nifti(volume: Volume) -> nib.Nifti1Image:
    """Make a NIfTI image: axes (x, y, z), RAS world."""
    affine = np.eye(4)
    affine[:3, :3] = volume.affine[:3, 2::-1]
    affine[:3, 3] = volume.affine[:3, 3]
    return nib.Nifti1Image(np.ascontiguousarray(volume.array.transpose(2, 1, 0)), LPS_TO_RAS @ affine)


def from_nifti(image: nib.Nifti1Image) -> Volume:
    """Make a volume of a NIfTI image, whatever its affine is."""
    affine = LPS_TO_RAS @ np.asarray(image.affine, float)
    return Volume(np.asanyarray(image.dataobj).transpose(), affine[:, [2, 1, 0, 3]])


def write_nifti(volume: Volume, path: Path | str) -> None:
    """Write a volume as NIfTI (``.nii`` or ``.nii.gz``), atomically."""
    save_nifti(to_nifti(volume), path)


def save_nifti(image: nib.Nifti1Image, path: Path | str) -> None:
    """Write a NIfTI image (``.nii`` or ``.nii.gz``), atomically."""
    target = Path(path)
    suffix = ".nii.gz" if target.name.endswith(".nii.gz") else ".nii"
    with atomic(target.with_name(target.name.removesuffix(suffix) + suffix)) as temporary:
        staged = temporary.with_name(f"{temporary.name}{suffix}")
        nib.save(image, staged)
        staged.replace(temporary)


def read_image(path: Path | str) -> Volume:
    """Read a NIfTI, NRRD or MHA file; the axes of NIfTI and NRRD may be sheared (see ``Volume.upright``).

    Raises:
        Quarantine: ``unreadable`` or ``not_3d``.
    """
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        if "orthonormal" in str(error):  # ITK reads no sheared NIfTI
            return from_nifti(nib.nifti1.load(path))
        # tables must not hold paths of one machine
        reason = str(error).strip().splitlines()[-1].replace(str(path), Path(path).name)
        raise Quarantine("unreadable", f"{Path(path).name}: {reason}") from error
    if image.GetDimension() != 3:
        raise Quarantine("not_3d", f"{Path(path).name}: {image.GetDimension()} dimensions; give one volume of it")
    return from_sitk(image)


def orient(volume: Volume) -> Volume:
    """Permute and flip axes so that they run nearest to (S, P, L). No value changes; the array is a view.

    Oblique axes stay oblique: only the order and sign of axes change, and the affine with them.
    """
    if not np.isfinite(volume.affine).all() or min(volume.spacing) <= 0:
        raise Quarantine("bad_affine", f"spacing {volume.spacing} mm")
    spl = volume.affine[2::-1, :3] / np.asarray(volume.spacing)
    target = nib.orientations.io_orientation(np.block([[spl, np.zeros((3, 1))], [np.zeros((1, 3)), 1.0]]))
    array = nib.orientations.apply_orientation(volume.array, target)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(target, volume.array.shape)
    return Volume(array, affine)
