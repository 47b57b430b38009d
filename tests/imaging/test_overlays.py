"""Colours over CT, on planes as they are shown by custom."""

from __future__ import annotations

import numpy as np

from ctfm.imaging import overlays, pictures
from ctfm.imaging.volume import Volume

IMAGE = Volume(np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(np.int16), np.diag([3.0, 2.0, 1.0, 1.0]))


def test_each_voxel_is_painted_by_its_own_place():
    seen = overlays.cut(IMAGE, lambda places: IMAGE.array[tuple(np.moveaxis(places, -1, 0))][..., None], (1, 2, 3))
    for shown, plane, edges in zip(
        seen, pictures.planes(IMAGE.array, (1, 2, 3)), ((2, 1), (3, 1), (3, 2)), strict=True
    ):
        np.testing.assert_array_equal(shown.hu, plane)
        np.testing.assert_array_equal(shown.colours[..., 0], plane)
        assert (shown.row_mm, shown.column_mm) == edges


def test_colours_cover_as_their_alpha_says():
    hu = np.array([[-400.0, 600.0]])
    colours = np.array([[[1.0, 0, 0, 0.25], [0, 0, 1.0, 0]]])
    np.testing.assert_allclose(overlays.Shown(hu, colours, 1, 1).blended(), [[[0.25, 0, 0], [1, 1, 1]]])


def test_scans_are_drawn_in_rows_with_and_without_colours():
    shown = overlays.cut(IMAGE, lambda places: np.ones((*places.shape[:-1], 4)))
    figure = overlays.draw("Title", [("one", shown), ("two", shown[:2])])
    assert len(figure.axes) == 12 and figure.axes[0].get_title(loc="left") == "one"
    bare, covered = (axes.images[0].get_array() for axes in figure.axes[:2])
    assert np.ptp(bare) > 0 and (covered == 1).all()
