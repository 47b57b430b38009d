"""A row of the table ``slices``, drawn: CT, what is laid over it, the outline of a label, a point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ctfm.imaging.pictures import window

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL = "#56B4E9"
POINT = (("black", 2.6), ("white", 1.2))  # a white cross with a dark rim, to be seen on anything
HEAT: dict[str, Any] = {"cmap": "magma", "alpha": 0.5}


def draw(axes: Axes, row: Mapping[str, Any]) -> None:
    """Draw a row of ``slices``; lists that are empty are left out, and so is heat that is NaN.

    Args:
        axes: to draw on; they get the plane's proportions and no frame.
        row: rows, columns, row_mm, column_mm, image (HU), truth, heat, mark.
    """
    shape, aspect = (int(row["rows"]), int(row["columns"])), row["row_mm"] / row["column_mm"]
    axes.imshow(window(np.reshape(row["image"], shape)), cmap="gray", vmin=0, vmax=255, aspect=aspect)
    if len(row["heat"]):
        axes.imshow(np.reshape(np.asarray(row["heat"], float), shape), aspect=aspect, **HEAT)
    truth = np.reshape(row["truth"], shape) if len(row["truth"]) else np.zeros(shape)
    if truth.min() < truth.max():
        axes.contour(truth, levels=[0.5], colors=[LABEL], linewidths=0.8)
    if len(row["mark"]):
        y, x = row["mark"]
        for colour, width in POINT:
            axes.plot(x, y, "+", color=colour, markersize=5 + width, markeredgewidth=width)
    axes.set_axis_off()
