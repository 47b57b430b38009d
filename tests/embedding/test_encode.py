"""What an embedding must not depend on, shown on real scans."""

from __future__ import annotations

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

import ctfm
from ctfm.config import Embed
from ctfm.embedding import encode, read
from ctfm.errors import Quarantine, UserError
from ctfm.imaging import store
from ctfm.imaging.volume import Volume, from_sitk
from tests.embedding.conftest import write_encoder

QUICK = Embed(overlap=0.25)


def apart(a, b):
    """Return the distance of two embeddings, relative to their length."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def reoriented(image, codes):
    """Return the same scan with other axes, by nibabel."""
    ornt = nib.orientations
    change = ornt.ornt_transform(ornt.io_orientation(image.affine), ornt.axcodes2ornt(codes))
    return image.as_reoriented(change)


@pytest.fixture(scope="session")
def of_trunk(encoder, trunk):
    return encoder.embed_all(trunk, QUICK)


@pytest.mark.parametrize("codes", ["LPS", "SPL", "AIR"])
def test_a_flipped_or_reoriented_copy_has_the_same_embedding(encoder, trunk, of_trunk, tmp_path, codes):
    """Voxels are the same after turning, up to the last unit of HU where resampling rounds a half."""
    nib.save(reoriented(nib.load(trunk), codes), tmp_path / "copy.nii.gz")
    found = encoder.embed_all(tmp_path / "copy.nii.gz", QUICK)
    np.testing.assert_allclose(found.boxes_mm, of_trunk.boxes_mm, atol=1e-4)
    assert apart(of_trunk.vector, found.vector) < 1e-5
    assert max(map(apart, of_trunk.patches, found.patches)) < 1e-4


def test_a_mirrored_patient_is_another_scan(encoder, trunk, of_trunk):
    """The test above can fail: voxels flipped without their affine are told apart."""
    image = nib.load(trunk)
    mirrored = nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine)
    assert apart(of_trunk.patches[0], encoder.embed_all(mirrored, QUICK).patches[0]) > 1e-3


def test_an_oblique_copy_is_the_same_scan(encoder, trunk, of_trunk):
    image = nib.load(trunk)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    found = encoder.embed_all(nib.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine), QUICK)
    assert apart(of_trunk.vector, found.vector) < 1e-5


def test_more_slices_of_the_same_geometry_change_little(encoder, trunk, of_trunk, shared_data):
    """SimpleITK cuts 187 slices from 112, interpolating all of them; another patient is much further away."""
    image = sitk.Cast(sitk.ReadImage(str(trunk)), sitk.sitkFloat32)
    thin = sitk.Image(image.GetWidth(), image.GetHeight(), 187, sitk.sitkFloat32)
    x, y, z = image.GetSpacing()
    distance = z * image.GetDepth() / 187
    thin.SetSpacing((x, y, distance))
    thin.SetDirection(image.GetDirection())
    up = np.asarray(image.GetDirection()).reshape(3, 3)[:, 2]
    thin.SetOrigin(tuple(np.asarray(image.GetOrigin()) - up * (z - distance) / 2))
    cut = sitk.Resample(image, thin, sitk.Transform(), sitk.sitkLinear, -1024.0)
    found = encoder.embed(cut, **QUICK.model_dump())
    other = encoder.embed(shared_data / "nifti/aorta_1p5mm.nii.gz", **QUICK.model_dump())
    assert 0 < apart(of_trunk.vector, found) < 0.1 * apart(of_trunk.vector, other)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_size_of_the_batch_changes_nothing(encoder, trunk, of_trunk, monkeypatch, batch):
    monkeypatch.setenv("CTFM_MACHINE", json.dumps({"embed_batch": batch}))
    found = encoder.embed_all(trunk, QUICK)
    np.testing.assert_allclose(found.patches, of_trunk.patches, rtol=1e-4, atol=1e-6)


def test_the_kind_of_image_changes_nothing(encoder, trunk, of_trunk, tmp_path):
    image = sitk.ReadImage(str(trunk))
    sitk.WriteImage(image, str(tmp_path / "copy.nrrd"))
    sitk.WriteImage(image, str(tmp_path / "copy.mha"))
    read.prepare(trunk, encoder.preprocess, tmp_path)  # leaves a prepared volume
    for same in (tmp_path / "copy.nrrd", str(tmp_path / "copy.mha"), tmp_path / "scan.b2nd", image, from_sitk(image)):
        np.testing.assert_array_equal(encoder.embed(same, **QUICK.model_dump()), of_trunk.vector)


def test_patches_are_embedded_as_by_a_plain_loop(encoder, trunk, of_trunk, tmp_path):
    """One patch after another through the bare network, without anything shared."""
    scan = read.prepare(trunk, encoder.preprocess, tmp_path)
    cut = encoder.grid(scan, QUICK)
    chosen = [0, len(cut) // 2, len(cut) - 1]
    for k in chosen:
        image = torch.from_numpy(scan.read(cut.corners[k], cut.patch))[None, None]
        with torch.inference_mode():
            wanted = encoder.module(image)[-1].mean((2, 3, 4))[0].numpy()
        np.testing.assert_allclose(of_trunk.patches[k], wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_trunk.vector, of_trunk.patches.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("pool", ["avg", "max", "min"])
def test_pooling_is_what_it_says(encoder, trunk, of_trunk, pool):
    found = encoder.embed_all(trunk, QUICK.model_copy(update={"over_patches": "min", "pool": pool}))
    np.testing.assert_array_equal(found.vector, found.patches.min(axis=0))
    order = {"avg": np.isclose, "max": np.greater_equal, "min": np.less_equal}[pool]
    assert order(found.patches, of_trunk.patches).all()


def test_organs_of_a_label_map_on_another_grid(encoder, shared_data):
    """The labels of this series lie in a NIfTI file with other axes; a stored organ is where its voxels are."""
    scan = shared_data / "dicom/trunk_jpeg2000"
    labels = shared_data / "nifti/trunk_jpeg2000_totalsegmentator_labels.nii.gz"
    found = encoder.embed_all(scan, QUICK, labels)
    known = set(np.unique(np.asarray(nib.load(labels).dataobj)).tolist()) - {0}
    assert set(found.organs) <= known and len(found.organs) > 0.8 * len(known)
    assert all(v.shape == found.vector.shape and np.isfinite(v).all() for v in found.organs.values())
    liver, spleen = found.organs[5], found.organs[1]
    assert apart(liver, spleen) > 1e-3
    elsewhere = np.eye(4)
    elsewhere[:3, 3] = 5000
    with pytest.raises(Quarantine, match="grid_differs"):
        encoder.embed_all(scan, QUICK, nib.Nifti1Image(np.asarray(nib.load(labels).dataobj), elsewhere))


def test_an_encoder_with_other_axes_sees_the_same_scan(trunk, tmp_path):
    """The network of SuPreM turns its input by itself: a reoriented copy changes nothing there either."""
    other = encode.Encoder(write_encoder(tmp_path / "suprem", "suprem_unet", hu_window=(-175.0, 250.0)))
    first = other.embed(trunk, overlap=0)
    again = other.embed(reoriented(nib.load(trunk), "PIR"), overlap=0)
    assert apart(first, again) < 1e-5


def test_a_prepared_image_in_zero_to_one_goes_in_as_it_is(encoder, tmp_path):
    """As of OrganMNIST3D: uint8 without HU, spacing or background to crop."""
    array = np.random.default_rng(0).integers(0, 256, (28, 28, 28)).astype(np.uint8)
    store.save(Volume(array, np.eye(4)), tmp_path / "a.b2nd", read.UNIT)
    found = encoder.embed_all(tmp_path / "a.b2nd", Embed())
    with torch.inference_mode():
        wanted = encoder.module(torch.from_numpy(array / np.float32(255))[None, None])[-1].mean((2, 3, 4))
    np.testing.assert_allclose(found.vector, wanted[0], rtol=1e-4, atol=1e-6)


def test_three_lines(folder, trunk, of_trunk):
    encoder = ctfm.load_encoder(folder)
    vector = encoder.embed(trunk, overlap=0.25)
    assert vector.shape == (64,) and vector.dtype == np.float32
    np.testing.assert_array_equal(vector, of_trunk.vector)


def test_what_can_not_be_used_is_told(folder, encoder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="a ndarray has no spacing and no orientation; give a path"):
        encoder.embed(np.zeros((4, 4, 4)))
    with pytest.raises(Quarantine, match="missing_image"):
        encoder.embed("nowhere.nii.gz")
    with pytest.raises(Quarantine, match="not_finite"):
        encoder.embed(Volume(np.full((4, 4, 4), np.nan), np.eye(4)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"encoder 'gone': name its folder \(none is below results/"):
        encode.Encoder("gone")
    write_encoder(tmp_path / "results/a/encoders/mine")
    assert encode.Encoder("mine").identity["model"] == encode.Encoder(folder).identity["model"]


MEASURE = """
import re, sys
from pathlib import Path
import numpy as np, torch
from ctfm.config import Embed
from ctfm.embedding import encode, read
from ctfm.imaging import store
torch.set_num_threads(1)
encoder = encode.Encoder(sys.argv[1])
def run(path):
    volume = store.open_volume(path)
    low, high = read._box(volume, -500)
    scan = read.Scan(volume, low, high, encoder.preprocess)
    return encoder.embed_scan(scan, Embed(overlap=0, patch=(16, 32, 32)))
run(sys.argv[2])
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
assert len(run(sys.argv[3]).patches) > 15 * len(run(sys.argv[2]).patches)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_height_of_the_scan(folder, tmp_path):
    """All voxels of the tall scan are 8 MB, and 17 MB as numbers that a network takes."""
    for height in (64, 1024):
        array = np.zeros((height, 64, 64), np.int16)
        store.save(Volume(array, np.diag([6.0, 4, 4, 1])), tmp_path / f"{height}.b2nd")
    job = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / "64.b2nd"), str(tmp_path / "1024.b2nd")]
    grown = int(subprocess.run(job, check=True, capture_output=True, text=True).stdout)
    assert grown < 3e6
