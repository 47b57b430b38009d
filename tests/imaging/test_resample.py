from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from ctfm.imaging.resample import resample, resample_to
from ctfm.imaging.volume import Volume, orient, read_image, to_sitk

SPACINGS = [((1.25, 0.7, 0.7), (3.0, 1.0, 1.0)), ((5.0, 0.9, 0.8), (3.0, 1.0, 1.0)), ((2.0, 2.0, 2.0), (0.7, 1.3, 2.9))]


def volume(spacing: tuple[float, float, float], degrees: float = 0) -> Volume:
    rng = np.random.default_rng(0)
    affine = np.eye(4)
    rotation = Rotation.from_rotvec(np.radians(degrees) * np.array([0.5, -0.6, 0.62])).as_matrix()
    affine[:3, :3] = rotation @ np.eye(3)[:, ::-1] * spacing
    affine[:3, 3] = [-31, 17, 250]
    return Volume(rng.integers(-1024, 2000, (24, 30, 36)).astype(np.int16), affine)


def reference(source: Volume, grid: Volume, mode: int = sitk.sitkLinear) -> np.ndarray:
    """Resample with a filter set up from first principles: origin, spacing and direction of the grid's affine."""
    spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)
    filter_ = sitk.ResampleImageFilter()
    filter_.SetSize([int(n) for n in grid.array.shape[::-1]])
    filter_.SetOutputOrigin([float(v) for v in grid.affine[:3, 3]])
    filter_.SetOutputSpacing([float(v) for v in spacing[::-1]])
    filter_.SetOutputDirection((grid.affine[:3, :3] / spacing)[:, ::-1].ravel().tolist())
    filter_.SetInterpolator(mode)
    filter_.SetDefaultPixelValue(-1024)
    filter_.SetOutputPixelType(sitk.sitkFloat64)
    return sitk.GetArrayFromImage(filter_.Execute(to_sitk(source)))


@pytest.mark.parametrize(("old", "new"), SPACINGS)
@pytest.mark.parametrize("degrees", [0, 24])
def test_linear_agrees_with_two_independent_resamplers(old: tuple, new: tuple, degrees: float) -> None:
    source = volume(old, degrees)
    result = resample(source, new)
    assert result.array.dtype == np.int16
    assert result.spacing == pytest.approx(new)
    index = np.stack(np.meshgrid(*map(np.arange, result.shape), indexing="ij"), axis=-1)
    at = (result.world(index) - source.affine[:3, 3]) @ np.linalg.inv(source.affine[:3, :3]).T
    inside = ((at >= 0) & (at <= np.array(source.shape) - 1)).all(axis=-1)
    assert inside.mean() > 0.8
    assert np.abs(result.array - reference(source, result))[inside].max() < 0.51
    scipys = map_coordinates(source.array.astype(float), at[inside].T, order=1)
    assert np.abs(result.array[inside] - scipys).max() < 0.51  # rounded, not cut off


@pytest.mark.parametrize(("old", "new"), SPACINGS)
def test_extent_and_centre_stay(old: tuple, new: tuple) -> None:
    source = volume(old, 15)
    result = resample(source, new)
    middle = [v.world((np.array(v.shape) - 1) / 2) for v in (source, result)]
    np.testing.assert_allclose(*middle, atol=1e-9)
    extents = [np.array(v.shape) * v.spacing for v in (source, result)]
    assert (np.abs(extents[0] - extents[1]) <= np.array(new) / 2 + 1e-9).all()
    np.testing.assert_allclose(
        source.affine[:3, :3] / source.spacing, result.affine[:3, :3] / result.spacing, atol=1e-12
    )


def test_same_spacing_changes_nothing() -> None:
    source = volume((3.0, 1.0, 1.0), 10)
    result = resample(source, (3.0, 1.0, 1.0))
    assert (result.array == source.array).all()
    np.testing.assert_allclose(result.affine, source.affine, atol=1e-9)


def test_labels_stay_labels() -> None:
    source = volume((2.0, 1.0, 1.0))
    labels = Volume((np.abs(source.array) % 7 * 30).astype(np.uint8), source.affine)
    result = resample(labels, (1.1, 0.8, 1.7), mode="nearest", background=0)
    assert result.array.dtype == np.uint8
    assert set(np.unique(result.array)) <= set(np.unique(labels.array))
    assert (result.array == reference(labels, result, sitk.sitkNearestNeighbor)).mean() > 0.999


def test_outside_is_air_and_a_given_grid_is_kept() -> None:
    source = volume((2.0, 1.0, 1.0))
    affine = source.affine.copy()
    affine[:3, 3] = source.world(np.array([-5, 0, 0]))
    result = resample_to(source, (10, 30, 36), affine)
    assert result.shape == (10, 30, 36)
    np.testing.assert_allclose(result.affine, affine, atol=1e-9)
    assert (result.array[:4] == -1024).all()
    assert (result.array[5:] == source.array[:5]).all()


def test_one_slice_and_a_given_shape() -> None:
    source = volume((2.0, 1.0, 1.0))
    assert resample(Volume(source.array[:1], source.affine), (9.0, 1.0, 1.0)).shape == (1, 30, 36)
    assert resample(source, (2.0, 1.0, 1.0), shape=(7, 8, 9)).shape == (7, 8, 9)


def test_real_scan(shared_data: Path) -> None:
    source = orient(read_image(shared_data / "nifti" / "aorta_1p5mm.nii.gz"))
    result = resample(source, (3.0, 1.0, 1.0))
    inside = tuple(slice(2, n - 2) for n in result.shape)
    assert np.abs(result.array - reference(source, result))[inside].max() < 0.51
