"""Planes as PNG: where a voxel is drawn, in which grey, and the heat over it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ctfm.app import planes
from ctfm.imaging import store
from ctfm.imaging.volume import Volume
from tests.app.conftest import block

AT = (12, 8, 14)


@pytest.fixture
def volume(tmp_path):
    store.save(block(), tmp_path / "a.b2nd")
    return store.open_volume(tmp_path / "a.b2nd")


def picture(*args):
    return np.asarray(Image.open(io.BytesIO(planes.draw(*args))).convert("RGB")).astype(int)


@pytest.mark.parametrize("plane", list(planes.LAYOUT))
def test_the_ball_is_drawn_where_it_is_in_true_proportions(volume, plane):
    drawn = picture(volume, plane, AT, (-500, 800))[:, :, 0]
    row, column, upward = planes.LAYOUT[plane]
    mm = np.multiply(volume.shape, volume.spacing)
    assert drawn.shape[0] / drawn.shape[1] == pytest.approx(mm[row] / mm[column], rel=0.02)
    rows, columns = np.nonzero(drawn > 240)
    middle = (AT[row] + 0.5) / volume.shape[row]
    assert rows.mean() / drawn.shape[0] == pytest.approx(1 - middle if upward else middle, abs=0.03)
    assert columns.mean() / drawn.shape[1] == pytest.approx((AT[column] + 0.5) / volume.shape[column], abs=0.03)


def test_the_window_maps_hu_to_grey(volume):
    drawn = picture(volume, "axial", AT, (-1000, 1000))
    assert set(np.unique(drawn[:2])) == {0}
    assert drawn[drawn.shape[0] // 2, drawn.shape[1] // 5].tolist() == [128] * 3  # water


@pytest.mark.parametrize("plane", list(planes.LAYOUT))
def test_heat_on_a_coarser_grid_lies_over_the_same_place(volume, plane):
    affine = volume.affine @ np.diag([2, 2, 2, 1.0])
    affine[:3, 3] = (volume.affine @ [0.5, 0.5, 0.5, 1])[:3]
    heat = np.zeros([n // 2 for n in volume.shape], np.float32)
    heat[tuple(i // 2 for i in AT)] = 1
    values = planes.sampled(Volume(heat, affine), volume, plane, AT, planes.size(volume, plane))
    row, column, upward = planes.LAYOUT[plane]
    y, x = np.unravel_index(values.argmax(), values.shape)
    where = (AT[row] + 0.5) / volume.shape[row]
    assert y / values.shape[0] == pytest.approx(1 - where if upward else where, abs=0.05)
    assert x / values.shape[1] == pytest.approx((AT[column] + 0.5) / volume.shape[column], abs=0.05)


def test_heat_below_its_start_is_not_drawn_and_opacity_counts(volume):
    plain = picture(volume, "axial", AT, (-160, 240))
    heat = Volume(np.full(volume.shape, 0.5, np.float32), volume.affine)
    assert np.array_equal(picture(volume, "axial", AT, (-160, 240), (heat, 0.6, 1.0, 1.0)), plain)
    assert np.array_equal(picture(volume, "axial", AT, (-160, 240), (heat, 0.2, 0.5, 0.0)), plain)
    full = picture(volume, "axial", AT, (-160, 240), (heat, 0.2, 0.5, 1.0))
    assert len(np.unique(full.reshape(-1, 3), axis=0)) == 1


def test_no_picture_is_larger_than_a_screen(tmp_path):
    store.save(block(shape=(24, 20, 22), spacing=(60.0, 2.0, 2.0)), tmp_path / "b.b2nd")
    assert max(planes.size(store.open_volume(tmp_path / "b.b2nd"), "coronal")) == planes.LONGEST_EDGE
