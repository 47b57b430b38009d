"""The skeleton of a phantom: order, sides and brightness."""

from __future__ import annotations

import numpy as np
import pytest

from ctfm.phantom import bones


def test_vertebrae_follow_each_other_from_the_sacrum_up(centre):
    names = ["sacrum", "vertebrae_S1", *(f"vertebrae_L{i}" for i in (5, 4, 3, 2, 1))]
    names += [f"vertebrae_T{i}" for i in range(12, 1, -1)]
    heights = [centre(name)[2] for name in names]
    assert (np.diff(heights) > 8).all()


def test_ribs_follow_each_other_down_on_their_own_side(centre):
    for side, sign in bones.SIDES:
        middles = np.array([centre(f"rib_{side}_{i}") for i in range(3, 11)])
        assert (np.diff(middles[:, 2]) < 0).all()
        assert (sign * middles[:, 0] > 40).all()


def test_bone_is_bright_and_the_cord_is_not(scanned, ids):
    _, image, label = scanned
    for name in ("vertebrae_L3", "rib_left_7", "hip_right", "femur_left", "sternum", "scapula_left"):
        assert 250 < image.array[label.array == ids[name]].mean() < 750, name
    assert image.array[label.array == ids["spinal_cord"]].mean() < 120


def test_the_spine_is_behind_and_the_sternum_in_front(centre):
    assert centre("sternum")[1] < centre("heart")[1] < centre("vertebrae_T8")[1] < centre("autochthon_left")[1] + 30
    assert abs(centre("vertebrae_T8")[0]) < 15


def test_heights_of_vertebrae():
    assert bones.centre_of("L1") == pytest.approx(-15)
    assert bones.centre_of("T12") == pytest.approx((17 + 0.6 * 12) / 2)
    assert bones.spine_y(60) == 45
