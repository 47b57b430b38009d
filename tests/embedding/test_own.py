"""Own grids against nibabel and SimpleITK, byte for byte where a file says so."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from ctfm.embedding import own
from ctfm.imaging import store
from ctfm.imaging.volume import read_image

ORIENTATIONS = [
    "".join(sides) for axes in itertools.permutations(["RL", "AP", "IS"]) for sides in itertools.product(*axes)
]
VALUES = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)


def nifti(path, affine, sform=1, qform=1):
    image = nib.Nifti1Image(np.random.default_rng(0).integers(-900, 900, (6, 5, 4)).astype(np.int16), affine)
    image.set_sform(affine if sform else None, sform)
    image.set_qform(affine if qform else None, qform)
    nib.save(image, path)
    return path


def turned(degrees=25.0, spacing=(0.7, 1.1, 3.3)):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(spacing)
    affine[:3, 3] = (-12.34567, 55.4321, 7.1)
    return affine


@pytest.mark.parametrize("sides", ORIENTATIONS)
def test_all_orientations(tmp_path, sides):
    codes = nib.orientations.axcodes2ornt(tuple(sides))
    affine = turned() @ nib.orientations.inv_ornt_aff(codes, (6, 5, 4))
    check(nifti(tmp_path / "scan.nii.gz", affine), tmp_path)


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (2, 1)])
def test_all_ways_to_write_an_affine(tmp_path, sform, qform):
    check(nifti(tmp_path / "scan.nii", turned(), sform, qform), tmp_path)


def test_a_sheared_file(tmp_path):
    affine = turned()
    affine[1, 2] += 0.6
    grid = check(nifti(tmp_path / "scan.nii.gz", affine, qform=0), tmp_path)
    np.testing.assert_allclose(grid.affine[:3, 0], np.diag([-1, -1, 1]) @ affine[:3, 2], rtol=1e-6)


def check(path, folder):
    """What is written loads with the very affine, and each voxel stays where it was."""
    grid = own.of(path)
    grid.write(VALUES, folder / "heat.nii.gz")
    scan, heat = nib.load(path), nib.load(folder / "heat.nii.gz")
    assert np.array_equal(scan.affine, heat.affine) and scan.shape == heat.shape
    assert heat.get_data_dtype() == np.float32 and heat.get_fdata()[1, 2, 3] == VALUES[3, 2, 1]
    assert (scan.header["sform_code"], scan.header["qform_code"]) == (
        heat.header["sform_code"],
        heat.header["qform_code"],
    )
    point = grid.world([3, 2, 1])
    np.testing.assert_allclose(point * (-1, -1, 1), (scan.affine @ [1, 2, 3, 1])[:3], atol=1e-4)
    np.testing.assert_allclose(grid.index(point), [3, 2, 1], atol=1e-9)
    return grid


def test_other_files(tmp_path):
    image = read_image(nifti(tmp_path / "scan.nii.gz", turned()))
    store.save(image, tmp_path / "scan.b2nd")
    sitk.WriteImage(sitk.ReadImage(tmp_path / "scan.nii.gz"), tmp_path / "scan.nrrd")
    for name in ("scan.b2nd", "scan.nrrd"):
        grid = own.of(tmp_path / name)
        assert grid.shape == image.shape == (4, 5, 6)
        np.testing.assert_allclose(grid.affine, image.affine, atol=1e-6)
        grid.write(VALUES, tmp_path / "heat.nii.gz")
        back = read_image(tmp_path / "heat.nii.gz")
        np.testing.assert_allclose(back.affine, image.affine, atol=1e-5)
        assert np.array_equal(back.array, VALUES)
    assert own.of(image).shape == image.shape and own.of(image).affine is image.affine
