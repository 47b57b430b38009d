"""Resampling to a given spacing, along the volume's own axes."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ctfm.imaging.volume import Volume, from_sitk, to_sitk

AIR_HU = -1024
INTERPOLATORS = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}


def resample(
    volume: Volume,
    spacing_mm: tuple[float, float, float],
    mode: str = "linear",
    background: float = AIR_HU,
    shape: tuple[int, int, int] | None = None,
) -> Volume:
    """Resample to ``spacing_mm`` (z, y, x), keeping the direction and the centre of the field of view.

    Args:
        volume: any volume with axes at right angles.
        spacing_mm: new spacing (z, y, x) in mm.
        mode: ``linear`` for HU, ``nearest`` for labels.
        background: value outside of the input, HU.
        shape: voxels (z, y, x) of the output; by default as many as cover the same extent.

    Returns:
        A volume of the same data type; linear results are rounded for integer types.
    """
    old, new = np.asarray(volume.spacing), np.asarray(spacing_mm, dtype=float)
    size = np.asarray(shape or np.maximum(np.round(np.asarray(volume.shape) * old / new), 1), dtype=int)
    centre = (np.asarray(volume.shape) - 1) / 2 - (size - 1) / 2 * new / old
    affine = np.eye(4)
    affine[:3, :3] = volume.affine[:3, :3] / old * new
    affine[:3, 3] = volume.world(centre)
    return resample_to(volume, tuple(size), affine, mode, background)


def resample_to(
    volume: Volume,
    shape: tuple[int, ...],
    affine: np.ndarray,
    mode: str = "linear",
    background: float = AIR_HU,
) -> Volume:
    """Resample onto a given grid: ``shape`` (z, y, x) voxels placed by ``affine`` (see ``Volume``)."""
    grid = to_sitk(Volume(np.empty((1, 1, 1), np.uint8), affine))
    resampler = sitk.ResampleImageFilter()
    resampler.SetNumberOfThreads(1)
    resampler.SetSize([int(n) for n in shape[::-1]])
    resampler.SetOutputSpacing(grid.GetSpacing())
    resampler.SetOutputDirection(grid.GetDirection())
    resampler.SetOutputOrigin(grid.GetOrigin())
    resampler.SetInterpolator(INTERPOLATORS[mode])
    resampler.SetDefaultPixelValue(background)
    if mode == "nearest" or volume.array.dtype.kind == "f":
        return from_sitk(resampler.Execute(to_sitk(volume)))
    # ITK cuts decimals off instead of rounding, which would draw all values towards 0 HU.
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    result = from_sitk(resampler.Execute(to_sitk(volume)))
    return Volume(np.rint(result.array, out=result.array).astype(volume.array.dtype), result.affine)
