from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from ctfm.imaging.resample import resample, resample_to
from ctfm.imaging.volume import Volume, orient, read_image, to_sitk

SPACINGS = [((1.25, 0.7, 0.7), (3.0, 1.0, 1.0)), ((5.0, 0.9, 0.8), (3.0, 1.0, 1.0)), ((2.0, 2.0, 2.0), (0.7, 1.3, 2.9))]


MODES = {
    "nearest": sitk.sitkNearestNeighbor,
    "linear": sitk.sitkLinear,
    "sinc": sitk.sitkLanczosWindowedSinc,
}


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
    result = resample(labels, (1.1, 0.83, 1.61), mode="nearest")  # never halfway between voxels
    assert result.array.dtype == np.uint8
    assert set(np.unique(result.array)) <= set(np.unique(labels.array))
    assert (result.array == reference(labels, result, sitk.sitkNearestNeighbor)).all()


@pytest.mark.parametrize("edge", [0.7, 1.5, 1 / 3])
def test_halfway_between_two_labels_is_the_later_one(edge: float) -> None:
    labels = Volume(np.arange(2 * 24 * 3, dtype=np.uint8).reshape(2, 24, 3), np.diag([1.0, edge, 1.0, 1.0]))
    result = resample(labels, (1.0, 2 * edge, 1.0), "nearest")
    assert (result.array == labels.array[:, 1::2]).all()


def test_outside_is_air_and_a_given_grid_is_kept() -> None:
    source = volume((2.0, 1.0, 1.0))
    affine = source.affine.copy()
    affine[:3, 3] = source.world(np.array([-5, 0, 0]))
    result = resample_to(source, (10, 30, 36), affine)
    assert result.shape == (10, 30, 36)
    np.testing.assert_allclose(result.affine, affine, atol=1e-9)
    assert (result.array[:4] == -1024).all()
    assert (result.array[5:] == source.array[:5]).all()


@pytest.mark.parametrize("shape", [(1, 30, 36), (24, 1, 36), (5, 7, 1), (1, 1, 1), (2, 3, 2)])
@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (0.9, 0.37, 2.6)])
@pytest.mark.parametrize("mode", ["linear", "sinc"])
def test_borders_and_thin_volumes_equal_simpleitk(shape: tuple, spacing: tuple, mode: str) -> None:
    whole = volume((2.1, 0.8, 0.7), 20)
    source = Volume(np.ascontiguousarray(whole.array[tuple(map(slice, shape))]), whole.affine)
    result = resample(source, spacing, mode)
    expected = reference(source, result, MODES[mode])
    assert np.abs(result.array - expected.clip(-1024)).max() < 0.51  # at every voxel: none is outside


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("mode", MODES)
def test_data_types_stay(dtype: type, mode: str) -> None:
    source = volume((2.0, 1.0, 1.0))
    source = Volume((source.array % 251).astype(dtype), source.affine)
    result = resample(source, (1.3, 0.7, 2.2), mode)
    assert result.array.dtype == dtype and result.array.flags["C_CONTIGUOUS"]
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if np.dtype(dtype).kind in "iu" else (-1024, 1e9)
    expected = reference(source, result, MODES[mode]).clip(max(low, -1024), high)
    assert np.abs(result.array - expected).max() < (0.51 if np.dtype(dtype).kind in "iu" else 1e-3)


def test_rounding_draws_values_to_no_side() -> None:
    rng = np.random.default_rng(1)
    source = Volume(rng.integers(-1024, 3000, (90, 80, 70)).astype(np.int16), volume((1.25, 0.7, 0.7)).affine)
    result = resample(source, (3.0, 1.0, 1.0))
    exact = reference(source, result)
    assert abs(result.array.mean() - exact.mean()) < 2e-3
    assert (result.array != np.rint(exact)).mean() < 2e-3  # ties only


def test_sinc_stays_above_air_and_within_its_type() -> None:
    array = np.where(np.arange(40)[:, None, None] < 20, -1024, 32767).astype(np.int16) * np.ones((1, 8, 8), np.int16)
    source = Volume(array, np.eye(4))
    overshoot = reference(source, resample(source, (0.3, 1.0, 1.0)), sitk.sitkLanczosWindowedSinc)
    assert overshoot.min() < -2000 and overshoot.max() > 33000
    result = resample(source, (0.3, 1.0, 1.0), "sinc").array
    assert result.min() == -1024 and result.max() == 32767


@pytest.mark.parametrize("mode", MODES)
def test_permuted_and_flipped_views_give_the_same(mode: str) -> None:
    source = volume((2.0, 1.1, 0.9), 10)
    expected = resample(source, (3.0, 1.0, 0.5), mode, antialias=True)
    stored = np.ascontiguousarray(source.array.transpose(2, 0, 1)[::-1, :, ::-1])
    view = stored[::-1, :, ::-1].transpose(1, 2, 0)
    assert (view == source.array).all() and not view.flags["C_CONTIGUOUS"]
    result = resample(Volume(view, source.affine), (3.0, 1.0, 0.5), mode, antialias=True)
    assert np.abs(result.array.astype(int) - expected.array).max() <= 1  # axes in another order: ties may differ
    assert (result.affine == expected.affine).all()


@pytest.mark.parametrize("antialias", [False, True])
def test_input_is_never_copied(antialias: bool) -> None:
    source = Volume(np.zeros((120, 200, 200), np.int16)[::-1, :, ::-1], volume((1.25, 0.7, 0.7)).affine)
    tracemalloc.start()
    result = resample(source, (3.0, 1.0, 1.0), antialias=antialias)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < result.array.nbytes + 0.2 * source.array.nbytes  # the result and a few planes


@pytest.mark.parametrize(("old", "new"), SPACINGS)
def test_antialias_is_scipys_gaussian_then_linear(old: tuple, new: tuple) -> None:
    """The definition of scikit-image: sigma (factor - 1) / 2, along the axes that become coarser."""
    source = volume(old, 12)
    sigma = [max(0.0, (b / a - 1) / 2) for a, b in zip(old, new, strict=True)]
    smooth = gaussian_filter(source.array.astype(float), sigma, mode="nearest")
    result = resample(source, new, antialias=True)
    expected = resample(Volume(smooth, source.affine), new)
    np.testing.assert_allclose(result.affine, expected.affine)
    assert np.abs(result.array - expected.array).max() < 0.51


def test_antialias_lowers_noise_and_keeps_the_mean() -> None:
    rng = np.random.default_rng(0)
    tissue = Volume((40 + 30 * rng.standard_normal((60, 90, 90))).astype(np.int16), volume((1.25, 0.7, 0.7)).affine)
    plain, smooth = (resample(tissue, (3.0, 1.0, 1.0), antialias=on).array for on in (False, True))
    assert smooth.std() < 0.85 * plain.std() < 0.85 * tissue.array.std()
    assert smooth.mean() == pytest.approx(tissue.array.mean(), abs=0.5)
    finer = [resample(tissue, (0.5, 0.7, 0.7), antialias=on).array for on in (False, True)]
    assert (finer[0] == finer[1]).all()


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(KeyError):
        resample(volume((2.0, 1.0, 1.0)), (3.0, 1.0, 1.0), "cubic")


def test_real_scan(shared_data: Path) -> None:
    source = orient(read_image(shared_data / "nifti" / "aorta_1p5mm.nii.gz"))
    result = resample(source, (3.0, 1.0, 1.0))
    inside = tuple(slice(2, n - 2) for n in result.shape)
    assert np.abs(result.array - reference(source, result))[inside].max() < 0.51
