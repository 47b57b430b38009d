"""Dense embeddings against the published splitter and each patch alone; the fast mode against a plain average."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowSplitter

from ctfm.embedding import dense
from ctfm.embedding.encode import Encoder
from ctfm.errors import UserError
from ctfm.options import Patches
from tests.embedding.conftest import write_encoder
from tests.embedding.test_patches import scan


@pytest.fixture(scope="module", params=["segresnet", "suprem_unet"])
def either(request, tmp_path_factory) -> Encoder:
    """Return an encoder of either architecture."""
    return Encoder(write_encoder(tmp_path_factory.mktemp("encoders") / request.param, request.param))


def splitter(encoder, given, patch, overlap):
    """Embed patch by patch what MONAI cuts out."""
    image = torch.from_numpy(given.read((0, 0, 0), given.shape))[None, None]
    with torch.inference_mode():
        maps = [encoder.module(part)[-1] for part, _ in SlidingWindowSplitter(patch, overlap, pad_value=0)(image)]
    return torch.cat([each.mean((2, 3, 4)) for each in maps]).numpy()


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.625])
def test_exact_is_the_published_window(either, tmp_path, overlap):
    given, _ = scan(tmp_path, (20, 90, 100), low=(1, 2, 3), high=(20, 90, 99))
    shares = []
    settings = Patches(patch=(8, 48, 48), overlap=overlap)
    found = dense.embed(either, given, settings, watch=shares.append)
    wanted = splitter(either, given, (8, 48, 48), overlap)
    np.testing.assert_allclose(found.vectors, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert shares == sorted(shares) and shares[-1] == 1
    k = len(wanted) // 2
    np.testing.assert_allclose(
        dense.at(either, given, found.centres[k], (8, 48, 48)), wanted[k], rtol=0, atol=1e-5 * np.abs(wanted).max()
    )


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_little_memory_changes_nothing_but_the_halo(either, tmp_path, monkeypatch, mode):
    given, _ = scan(tmp_path, (8, 120, 70))
    settings = Patches(patch=(8, 48, 48), overlap=0.625)
    monkeypatch.setattr(dense, "HALO", 8)
    whole = dense.embed(either, given, settings, mode).vectors
    monkeypatch.setattr(dense, "MAP_BYTES", 4 * 4 * 8 * 96 * 40)
    parts = dense.embed(either, given, settings, mode).vectors
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5 * np.abs(whole).max())


def test_fast_averages_the_map_of_the_plane_over_each_patch(encoder, tmp_path):
    """Voxel by voxel: every voxel has the value of its cell."""
    given, _ = scan(tmp_path, (8, 70, 90))
    found = dense.embed(encoder, given, Patches(patch=(8, 40, 40), overlap=0.75), "fast")
    with torch.inference_mode():
        plane = encoder.module(torch.from_numpy(given.read((0, 0, 0), (8, 80, 96)))[None, None])[-1][0].mean(1)
    voxels = plane.repeat_interleave(16, 1).repeat_interleave(16, 2).numpy()
    for (_, y, x), vector in zip(found.grid.corners, found.vectors, strict=True):
        mean = voxels[:, y : y + 40, x : x + 40].mean((1, 2), dtype=np.float64)
        np.testing.assert_allclose(vector, mean, rtol=0, atol=1e-5 * np.abs(voxels).max())


def test_fast_at_a_point_is_the_patch_there(encoder, tmp_path):
    given, _ = scan(tmp_path, (8, 80, 90))
    found = dense.embed(encoder, given, Patches(patch=(8, 40, 40), overlap=0.75), "fast")
    k = len(found.grid) // 2
    at = dense.at(encoder, given, found.centres[k], (8, 40, 40), "fast")
    np.testing.assert_allclose(at, found.vectors[k], rtol=0, atol=1e-5 * np.abs(found.vectors).max())
    assert np.isfinite(dense.at(encoder, given, np.array([0, 0, 90]), (8, 40, 40), "fast")).all()


def test_a_scan_smaller_than_a_patch(either, tmp_path):
    given, _ = scan(tmp_path, (5, 20, 60))
    for mode in dense.MODES:
        found = dense.embed(either, given, Patches(patch=(8, 48, 48)), mode)
        assert found.vectors.shape == (len(found.grid), either.module.channels[-1]) and len(found.grid) == 2


def test_an_unknown_mode_is_refused(encoder, tmp_path):
    given, _ = scan(tmp_path, (5, 20, 60))
    with pytest.raises(UserError, match="'quick': must be exact or fast"):
        dense.embed(encoder, given, Patches(), "quick")


def test_centres_are_in_voxels_and_in_the_patient(encoder, tmp_path):
    given, _ = scan(tmp_path, (12, 60, 60), low=(2, 4, 6), high=(12, 60, 60))
    found = dense.Dense(np.zeros((1, 1)), encoder.grid(given, Patches(patch=(4, 8, 8))), given)
    assert found.centres[0].tolist() == [3.5, 7.5, 9.5]
    np.testing.assert_allclose(found.centres_world[0], [9.5, 7.5, 3 * 3.5])
