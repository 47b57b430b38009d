from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from ctfm.errors import UserError
from ctfm.training import sampling
from ctfm.training.seeds import generator

NAMES = [f"s{i:04d}" for i in range(40)]


def test_few_shot_subsets_are_nested_and_known_by_their_seed():
    five, ten = sampling.few_shot(NAMES, 5, 3), sampling.few_shot(NAMES, 10, 3)
    assert len(five) == 5 and set(five) < set(ten) and five == sorted(five)
    assert five == sampling.few_shot(NAMES, 5, 3)
    assert five != sampling.few_shot(NAMES, 5, 4)
    assert five != NAMES[:5]  # not the first rows of the file
    assert sampling.few_shot(NAMES, "all", 3) == NAMES


def test_a_share_is_rounded_and_is_at_least_one():
    scans = list(range(928))  # as published: 0.5, 1 and 2 % are 5, 9 and 19 scans
    assert [len(sampling.first(scans, share)) for share in (0.005, 0.01, 0.02)] == [5, 9, 19]
    assert len(sampling.first(list(range(1082)), 0.05)) == 54 and sampling.first(scans, 0.02) == scans[:19]
    assert len(sampling.few_shot(NAMES, 0.001, 0)) == 1 and sampling.first(NAMES, "all") == NAMES
    assert sampling.few_shot(NAMES, 0.25, 3) == sampling.few_shot(NAMES, 10, 3)
    assert sampling.few_shot([], 0, 0) == []


def test_too_many_shots_are_refused():
    with pytest.raises(UserError, match="41 cases are asked for and there are 40"):
        sampling.few_shot(NAMES, 41, 0)


def labels():
    array = np.zeros((20, 30, 40), np.uint8)
    array[2:18, 5:25, 5:25] = 4  # large
    array[3:5, 27:29, 33:36] = 9  # small
    array[10, 10, 30] = 200  # one voxel
    return array


def test_index_holds_true_voxels_of_every_label():
    array = labels()
    where = sampling.index(array, generator(0, "index"))
    assert where.classes == (4, 9, 200)
    assert [len(v) for v in where.voxels] == [256, 12, 1]
    for number, voxels in zip(where.classes, where.voxels, strict=True):
        assert (array[tuple(voxels.T)] == number).all()
    assert {tuple(v) for v in where.voxels[1]} == {tuple(v) for v in np.argwhere(array == 9)}


def test_crops_are_even_over_labels_and_inside():
    array, patch = labels(), (4, 6, 8)
    where = sampling.index(array, generator(0, "index"))
    hits = {4: 0, 9: 0, 200: 0}
    for item in range(900):
        start = sampling.crop_start(where, array.shape, patch, generator(0, "crop", item))
        assert all(0 <= s <= n - p for s, n, p in zip(start, array.shape, patch, strict=True))
        crop = array[tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))]
        for number in hits:
            hits[number] += number in crop
    assert hits[9] >= 270 and hits[200] >= 270 and hits[4] >= 270  # a third each, and neighbours


def test_the_label_in_the_centre_is_drawn_evenly_whatever_its_size():
    array, patch = labels(), (1, 1, 1)  # such a crop is its centre alone
    where = sampling.index(array, generator(0, "index"))
    drawn = [array[sampling.crop_start(where, array.shape, patch, generator(1, "crop", i))] for i in range(3000)]
    counts = [drawn.count(number) for number in (0, 4, 9, 200)]
    assert counts[0] == 0 and chisquare(counts[1:]).pvalue > 1e-3


def test_a_small_scan_is_centred():
    where = sampling.index(labels(), generator(0))
    start = sampling.crop_start(where, (20, 30, 40), (26, 30, 16), generator(1))
    assert start[0] == -3 and start[1] == 0 and 0 <= start[2] <= 24


def test_a_case_without_labels_still_gives_a_crop():
    where = sampling.index(np.zeros((20, 30, 40), np.uint8), generator(0))
    assert where.classes == ()
    assert len(sampling.crop_start(where, (20, 30, 40), (4, 6, 8), generator(1))) == 3


def test_an_epoch_has_each_case_once():
    assert sorted(sampling.epoch_order(7, 0, 1)) == list(range(7))
    assert list(sampling.epoch_order(7, 0, 1)) != list(sampling.epoch_order(7, 1, 1))
