from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from ctfm.errors import Quarantine
from ctfm.imaging.volume import Volume, from_sitk, orient, read_image, to_nifti, to_sitk, write_nifti

SPL_AXES = np.array([[0, 0, 1.0], [0, 1, 0], [1, 0, 0]])  # columns: where z, y, x point, in (L, P, S)
FLIPS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def volume(axes: np.ndarray = SPL_AXES, seed: int = 0) -> Volume:
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = axes * rng.uniform(0.4, 5, 3)
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    return Volume(rng.integers(-1024, 3000, (5, 6, 7)).astype(np.int16), affine)


def turned(seed: int, degrees: float = 180) -> Volume:
    order, signs = FLIPS[seed % len(FLIPS)]
    rotation = Rotation.from_rotvec(np.random.default_rng(seed).uniform(-1, 1, 3) * np.radians(degrees)).as_matrix()
    return volume(rotation @ (SPL_AXES[:, order] * signs), seed)


@pytest.mark.parametrize("seed", range(12))
def test_place_survives_simpleitk_and_nibabel(tmp_path: Path, seed: int) -> None:
    original = turned(seed)
    points = np.random.default_rng(seed).uniform(0, 6, (10, 3))
    again = from_sitk(to_sitk(original))
    assert (again.array == original.array).all()
    np.testing.assert_allclose(again.affine, original.affine, atol=1e-9)
    image = to_sitk(original)
    for point in points:
        np.testing.assert_allclose(
            image.TransformContinuousIndexToPhysicalPoint(point[::-1].tolist()), original.world(point), atol=1e-9
        )
    nifti = to_nifti(original)
    ras = nib.affines.apply_affine(nifti.affine, points[:, ::-1])
    np.testing.assert_allclose(ras * [-1, -1, 1], original.world(points), atol=1e-9)
    write_nifti(original, tmp_path / "a.nii.gz")
    from_file = read_image(tmp_path / "a.nii.gz")
    assert (from_file.array == original.array).all()
    np.testing.assert_allclose(from_file.affine, original.affine, atol=2e-3)  # NIfTI holds 32 bits
    assert (np.asanyarray(nib.load(tmp_path / "a.nii.gz").dataobj).transpose(2, 1, 0) == original.array).all()


@pytest.mark.parametrize("order,signs", FLIPS)
def test_orient_equals_dicom_orient(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """Every permutation and flip, each a little oblique, against SimpleITK's DICOMOrient."""
    tilt = Rotation.from_rotvec(np.radians([7, -12, 9])).as_matrix()
    original = volume(tilt @ (SPL_AXES[:, order] * signs))
    ours = orient(original)
    reference = from_sitk(sitk.DICOMOrient(to_sitk(original), "LPS"))
    assert (ours.array == reference.array).all()
    np.testing.assert_allclose(ours.affine, reference.affine, atol=1e-9)
    assert (np.diag(ours.affine[2::-1, :3]) > 0).all()


def test_orient_keeps_every_voxel_in_its_place() -> None:
    original = turned(5)
    ours = orient(original)
    index = np.stack(np.meshgrid(*map(np.arange, ours.shape), indexing="ij"), axis=-1)
    back = (ours.world(index) - original.affine[:3, 3]) @ np.linalg.inv(original.affine[:3, :3]).T
    assert (original.array[tuple(np.rint(back).astype(int).transpose(3, 0, 1, 2))] == ours.array).all()


def test_bad_input(tmp_path: Path) -> None:
    original = volume()
    for broken in (original.affine * np.nan, original.affine * [0, 1, 1, 1]):
        with pytest.raises(Quarantine) as caught:
            orient(Volume(original.array, broken))
        assert caught.value.code == "bad_affine"
    (tmp_path / "a.nii.gz").write_bytes(b"no image")
    for name in ("a.nii.gz", "absent.nrrd"):
        with pytest.raises(Quarantine) as caught:
            read_image(tmp_path / name)
        assert caught.value.code == "unreadable"
    sitk.WriteImage(sitk.Image(4, 4, sitk.sitkInt16), tmp_path / "flat.nrrd")
    with pytest.raises(Quarantine) as caught:
        read_image(tmp_path / "flat.nrrd")
    assert caught.value.code == "not_3d"
