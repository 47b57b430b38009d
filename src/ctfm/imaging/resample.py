"""Resampling to a given spacing, along the volume's own axes; and onto any grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
from scipy import sparse

from ctfm.imaging.volume import Volume, from_sitk, to_sitk

AIR_HU = -1024
INTERPOLATORS = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}
# Samples on either side, and their weights by distance; as SimpleITK has them.
KERNELS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "nearest": (1, lambda off: ((off >= -0.5) & (off < 0.5)).astype(float)),
    "linear": (1, lambda off: 1 - np.abs(off)),
    "sinc": (5, lambda off: np.sinc(off) * np.sinc(off / 5)),
}
GAUSSIAN_RADIUS = 4.0  # standard deviations, as SciPy has it


def resample(
    volume: Volume, spacing_mm: tuple[float, float, float], mode: str = "linear", antialias: bool = False
) -> Volume:
    """Resample to ``spacing_mm`` (z, y, x), keeping the direction and the centre of the field of view.

    Args:
        volume: any volume with axes at right angles; its array may be a view with axes permuted and flipped.
        spacing_mm: new spacing (z, y, x) in mm.
        mode: ``linear`` or ``sinc`` (Lanczos window) for HU, ``nearest`` for labels. As in ITK, a voxel's value
            holds out to the volume's border; sinc, which overshoots at edges, is kept within [-1024 HU, ...].
        antialias: smooth along the axes that become coarser: Gaussian, sigma (factor - 1) / 2 voxels, as
            scikit-image and MONAI have it.

    Returns:
        A volume of the same data type and as many voxels as cover the same extent, so that none lies outside.
        Results are rounded for integer types.
    """
    old, new = np.asarray(volume.spacing), np.asarray(spacing_mm, dtype=float)
    extent = np.round(np.asarray(volume.shape) * old / new, 3)  # half voxels must not hang on the spacing's last digit
    size = np.maximum(np.round(extent), 1).astype(int)
    first = (np.asarray(volume.shape) - 1) / 2 - (size - 1) / 2 * new / old
    affine = np.eye(4)
    affine[:3, :3] = volume.affine[:3, :3] / old * new
    affine[:3, 3] = volume.world(first)
    sigma = np.maximum(new / old - 1, 0) / 2 if antialias else np.zeros(3)
    weights = [
        _weights(first[axis] + np.arange(size[axis]) * new[axis] / old[axis], count, mode, sigma[axis])
        for axis, count in enumerate(volume.shape)
    ]
    return Volume(_separable(volume.array, weights, floor=AIR_HU if mode == "sinc" else None), affine)


def resample_to(
    volume: Volume,
    shape: tuple[int, ...],
    affine: np.ndarray,
    mode: str = "linear",
    background: float = AIR_HU,
) -> Volume:
    """Resample onto a given grid: ``shape`` (z, y, x) voxels placed by ``affine`` (see ``Volume``).

    Args:
        volume: any volume with axes at right angles.
        shape: voxels (z, y, x) of the grid.
        affine: of the grid, whose axes are at right angles too.
        mode: ``linear`` for HU, ``nearest`` for labels.
        background: value outside of the input.
    """
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


def _separable(array: np.ndarray, weights: list[sparse.csr_array], floor: float | None) -> np.ndarray:
    """Apply one matrix (new, old samples) along each axis, plane by plane: no copy of the input is ever made."""
    order = np.argsort(np.abs(array.strides), kind="stable")[::-1]  # the way it lies in memory
    array, (z, y, x) = array.transpose(order), [weights[axis] for axis in order]
    kind, number = array.dtype, np.result_type(array.dtype, np.float32)
    y, x = y.astype(number), x.astype(number)
    result = np.empty((z.shape[0], y.shape[0], x.shape[0]), kind)
    plane, part = np.empty((2, *array.shape[1:]), number)
    for k, out in enumerate(result):
        taps = slice(z.indptr[k], z.indptr[k + 1])
        plane[...] = 0
        for i, weight in zip(z.indices[taps], z.data[taps], strict=True):
            plane += np.multiply(array[i], number.type(weight), out=part)
        values = x @ np.ascontiguousarray((y @ plane).T)
        if floor is not None:
            np.maximum(values, floor, out=values)
        if kind.kind in "iu":
            values = np.rint(values, out=values).clip(np.iinfo(kind).min, np.iinfo(kind).max, out=values)
        out[...] = values.T
    return np.ascontiguousarray(result.transpose(np.argsort(order)))


def _weights(places: np.ndarray, count: int, mode: str, sigma: float) -> sparse.csr_array:
    """Return the matrix (places, count) that interpolates ``count`` samples at ``places``, smoothed before by sigma."""
    reach, kernel = KERNELS[mode]
    places = np.round(places, 9)  # halfway between two samples is halfway, whatever the last digits are
    near = np.floor(places).astype(int) + np.arange(1 - reach, reach + 1)[:, None]
    matrix = _matrix(near, kernel(places - near), count)
    radius = int(GAUSSIAN_RADIUS * sigma + 0.5)
    if not radius:
        return matrix
    steps = np.arange(-radius, radius + 1)[:, None]
    bell = np.exp(-0.5 * (steps / sigma) ** 2)
    smooth = _matrix(np.arange(count) + steps, np.broadcast_to(bell / bell.sum(), (len(steps), count)), count)
    return (matrix @ smooth).tocsr()


def _matrix(near: np.ndarray, values: np.ndarray, count: int) -> sparse.csr_array:
    """Return the sparse matrix of taps (taps, places); taps beyond an end fall on the sample there."""
    places = np.broadcast_to(np.arange(near.shape[1]), near.shape)
    index = (places.ravel(), np.clip(near, 0, count - 1).ravel())
    matrix = sparse.csr_array((values.ravel(), index), shape=(near.shape[1], count))
    matrix.eliminate_zeros()
    return matrix
