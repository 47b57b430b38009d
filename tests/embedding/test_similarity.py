"""Cosines, matches and heat maps against scikit-learn, plain loops and SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from sklearn.metrics.pairwise import cosine_similarity

from ctfm.embedding import dense, patches, similarity
from ctfm.imaging.volume import Volume, to_sitk
from tests.embedding.test_patches import scan

PATCH = (4, 8, 8)


def field(folder, shape=(12, 30, 25), low=(1, 2, 3), channels=6):
    given, _ = scan(folder, shape, low=low, high=shape)
    cut = patches.grid(given.shape, PATCH, 0.625)
    return dense.Dense(np.random.default_rng(0).normal(size=(len(cut), channels)).astype(np.float32), cut, given)


def test_cosines_are_those_of_sklearn(tmp_path):
    found, query = field(tmp_path), np.arange(6.0)
    wanted = cosine_similarity(query[None], found.vectors)[0]
    np.testing.assert_allclose(similarity.cosines(query, found), wanted, atol=1e-7)
    assert not similarity.cosines(np.zeros(6), found).any()


def test_heat_is_the_mean_of_the_patches_over_each_voxel(tmp_path):
    found = field(tmp_path)
    similar = similarity.cosines(np.arange(6.0), found)
    total, count = np.zeros((2, *found.scan.volume.shape))
    for corner, value in zip(found.grid.corners, similar, strict=True):
        box = tuple(
            slice(c + a, min(c + a + p, b))
            for c, a, p, b in zip(corner, found.scan.low, PATCH, found.scan.high, strict=True)
        )
        total[box] += value
        count[box] += 1
    heat = similarity.heat(similar, found)
    assert np.array_equal(np.isnan(heat), count == 0)
    np.testing.assert_allclose(heat[count > 0], (total / np.maximum(count, 1))[count > 0], atol=1e-6)


def test_matches_are_ordered_and_apart(tmp_path):
    found = field(tmp_path)
    similar = similarity.cosines(np.arange(6.0), found)
    plain = similarity.best(similar, found, 4)
    assert [match.similarity for match in plain] == sorted(similar, reverse=True)[:4]
    assert plain[0].point_mm == tuple(found.centres_world[plain[0].patch])
    few = similarity.best(similar, found, 4, apart_mm=12)
    points = np.array([match.point_mm for match in few])
    gaps = np.linalg.norm(points[:, None] - points[None], axis=2)[np.triu_indices(4, 1)]
    assert few[0] == plain[0] and gaps.min() >= 12 and len(similarity.best(similar, found, 99, apart_mm=1e3)) == 1
    tied = similarity.best(np.ones(len(found.grid)), found, 3)
    assert [match.patch for match in tied] == [0, 1, 2]


@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_on_another_grid_it_is_that_of_simpleitk(tmp_path, angle):
    found = field(tmp_path)
    heat = similarity.heat(similarity.cosines(np.arange(6.0), found), found)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ found.scan.volume.affine[:3, [1, 2, 0]] @ np.diag([-0.7, 1.3, 0.6])
    affine[:3, 3] = (3.0, 25.0, 5.0)
    reference = Volume(np.zeros((31, 22, 40)), affine)
    ours = similarity.on_grid_of(heat, found.scan, reference)
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(
            to_sitk(Volume(np.nan_to_num(heat, nan=-1e4), found.scan.volume.affine)),
            to_sitk(reference),
            sitk.Transform(),
            sitk.sitkLinear,
            -1e4,
            sitk.sitkFloat32,
        )
    )
    inside = theirs > -1  # nothing of the border is mixed in
    assert inside.mean() > 0.2 and np.isnan(ours).mean() > 0.1
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-5)
    filled = similarity.on_grid_of(heat, found.scan, reference, outside=-2.0)
    assert np.array_equal(filled == -2, np.isnan(ours)) and ours.dtype == np.float32


def test_on_its_own_grid_it_stays(tmp_path):
    found = field(tmp_path)
    heat = similarity.heat(similarity.cosines(np.arange(6.0), found), found)
    same = similarity.on_grid_of(heat, found.scan, found.scan.volume)
    inside = ~np.isnan(heat)
    np.testing.assert_allclose(same[inside], heat[inside], atol=1e-6)
