"""Shapes on the canvas against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from ctfm.phantom.shapes import Canvas, Warp, patient_axes, turned

STILL = Warp(np.ones(3), np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3)))


def grid(shape, spacing, turn=None):
    """Return an affine (z, y, x) -> LPS with the origin in the middle of the grid."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, ::-1] * np.asarray(spacing)
    if turn is not None:
        affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


@pytest.mark.parametrize("degrees", [0, 25])
def test_patient_axes_are_what_the_affine_says(degrees):
    affine = grid((4, 5, 6), (3, 2, 1), turned("x", degrees))
    axes = [np.broadcast_to(axis, (4, 5, 6)) for axis in patient_axes((4, 5, 6), affine)]
    index = np.stack(np.meshgrid(*map(np.arange, (4, 5, 6)), indexing="ij"), axis=-1)
    expected = index @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(np.stack(axes, axis=-1), expected, atol=1e-4)


def test_an_ellipsoid_has_its_volume_and_place():
    shape, spacing = (60, 70, 80), (1.5, 1.0, 1.0)
    canvas = Canvas(shape, affine := grid(shape, spacing), STILL)
    canvas.ellipsoid((5, -4, 8), (20, 12, 25), 40, label=3)
    inside = canvas.label == 3
    assert inside.sum() * np.prod(spacing) == pytest.approx(4 / 3 * np.pi * 20 * 12 * 25, rel=0.01)
    centre = np.argwhere(inside).mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(centre, (5, -4, 8), atol=0.3)
    assert (canvas.hu[inside] == 40).all() and (canvas.hu[~inside] == -1000).all()


def test_a_tube_is_a_capsule_also_on_an_oblique_grid():
    shape = (70, 70, 70)
    canvas = Canvas(shape, grid(shape, (1, 1, 1), turned("y", 20)), STILL)
    canvas.tube([(-15, 0, 0), (15, 0, 0)], 8, 40, label=1)
    assert (canvas.label == 1).sum() == pytest.approx(np.pi * 64 * 30 + 4 / 3 * np.pi * 512, rel=0.02)


def test_what_is_out_of_view_is_skipped_and_masks_are_kept():
    canvas = Canvas((20, 20, 20), grid((20, 20, 20), (1, 1, 1)), STILL)
    canvas.ellipsoid((500, 0, 0), (20, 20, 20), 40, label=1)
    canvas.tube([(0, 0, 300), (0, 0, 400)], 5, 40, label=1)
    assert canvas.box((100, 0, 0), (110, 1, 1)) is None
    assert not canvas.label.any()
    half = np.zeros((20, 20, 20), bool)
    half[10:] = True
    canvas.ellipsoid((0, 0, 0), (6, 6, 6), 40, label=2, within=half)
    assert canvas.label[10:].any() and not canvas.label[:10].any()


def test_boxes_hold_warped_shapes_whole():
    amplitude = np.full((3, 3), 4.0) * (1 - np.eye(3))
    warp = Warp(np.array([0.8, 0.9, 0.7]), amplitude, np.full((3, 3), 160.0), np.full((3, 3), 1.0))
    shape = (80, 80, 80)
    canvas = Canvas(shape, grid(shape, (1.5, 1.5, 1.5)), warp)
    canvas.ellipsoid((10, 5, -8), (20, 15, 25), 40, label=1, turn=turned("z", 30))
    own = [turned("z", 30)[:, k] for k in range(3)]
    offsets = np.stack([canvas.x - 10, canvas.y - 5, canvas.z + 8], axis=-1)
    level = sum(((offsets @ own[k]) / radius) ** 2 for k, radius in enumerate((20, 15, 25)))
    away = np.abs(level - 1) > 1e-3
    assert ((canvas.label == 1) == (level <= 1))[away].all()


def test_turned_is_a_right_handed_rotation():
    np.testing.assert_allclose(turned("z", 90) @ (1, 0, 0), (0, 1, 0), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turned("x", 33)), 1)
