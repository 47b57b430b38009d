from __future__ import annotations

import numpy as np
import pytest
import torch

from ctfm.embedding import pool


def test_over_a_map_and_over_patches():
    maps = torch.arange(24.0).reshape(1, 2, 2, 3, 2)
    assert pool.OVER_MAP["avg"](maps).tolist() == [[5.5, 17.5]]
    assert pool.OVER_MAP["max"](maps).tolist() == [[11, 23]] and pool.OVER_MAP["min"](maps).tolist() == [[0, 12]]
    vectors = np.array([[1, 5], [3, 1]], np.float32)
    assert {k: f(vectors).tolist() for k, f in pool.OVER_PATCHES.items()} == {
        "mean": [2, 3],
        "max": [3, 5],
        "min": [1, 1],
    }


def test_an_organ_s_mean_is_over_its_voxels_each_with_the_value_of_its_cell():
    """Against the same sum written out: maps blown up to voxels, masked, averaged."""
    random = np.random.default_rng(0)
    organs, total, count = pool.Organs(), {}, {}
    for _ in range(3):
        feature = random.random((5, 2, 3, 4)).astype(np.float32)
        ids = random.choice([0, 1, 7], (6, 12, 8)).astype(np.uint8)
        organs.add(feature, ids)
        fine = feature.repeat(3, 1).repeat(4, 2).repeat(2, 3)
        for i in (1, 7):
            total[i] = total.get(i, 0) + fine[:, ids == i].sum(axis=1, dtype=float)
            count[i] = count.get(i, 0) + (ids == i).sum()
    found = organs.vectors()
    assert sorted(found) == [1, 7]
    for i, vector in found.items():
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, total[i] / count[i], rtol=1e-6)


@pytest.mark.parametrize("shape", [(24, 20, 20), (5, 7, 9)])
def test_cells_need_not_divide_the_patch_and_the_smallest_organ_counts(shape):
    ids = np.zeros(shape, np.uint8)
    ids[-1, -1, -1] = 255
    feature = np.arange(2 * 27, dtype=np.float32).reshape(2, 3, 3, 3)
    organs = pool.Organs()
    organs.add(feature, np.zeros(shape, np.uint8))
    assert organs.vectors() == {}
    organs.add(feature, ids)
    assert {i: v.tolist() for i, v in organs.vectors().items()} == {255: [26, 53]}
