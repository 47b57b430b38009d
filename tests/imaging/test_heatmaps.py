"""Planes of the table ``slices`` are drawn as they are."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from ctfm.imaging import heatmaps

ROW = {"rows": 4, "columns": 6, "row_mm": 3.0, "column_mm": 1.5, "image": [-1000, 40] * 12}
ROW |= {"truth": [0] * 9 + [1, 1] + [0] * 13, "heat": [float("nan"), *np.linspace(0, 1, 23)], "mark": [1, 3]}


def drawn(**changes):
    axes = Figure().subplots()
    heatmaps.draw(axes, {**ROW, **changes})
    return axes


def test_all_parts_are_drawn_where_they_are():
    axes = drawn()
    ct, heat = axes.images
    assert ct.get_array().shape == heat.get_array().shape == (4, 6)
    assert np.ma.masked_invalid(heat.get_array())[0, 0] is np.ma.masked
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[3, 1]]] * 2
    assert len(axes.collections) == 1 and axes.get_aspect() == 2.0


@pytest.mark.parametrize("truth", [[], [0] * 24, [1] * 24])
def test_what_is_empty_is_left_out(truth):
    axes = drawn(heat=[], truth=truth, mark=[])
    assert len(axes.images) == 1 and not axes.collections and not axes.lines
