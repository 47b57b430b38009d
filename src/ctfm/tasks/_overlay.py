"""The picture of one segmented case: CT, truth and prediction, on a coronal and an axial plane."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ctfm.imaging.pictures import blend, planes, window
from ctfm.imaging.volume import Volume

COLUMNS = ("CT", "truth", "prediction")
FADED = (1, 1, 1, 0.55)  # of red, green, blue and alpha
MOST_NAMES = 24
INCHES = 2.4


def draw(name: str, image: Volume, truth: Volume, prediction: Volume, labels: list[dict[str, Any]]) -> Figure:
    """Draw two rows (coronal, axial) of three columns (CT, truth, prediction) with a legend of names, largest first.

    The planes pass where the most labels are met. No global state of matplotlib is used.

    Args:
        name: of the case.
        image: HU, axes (S, P, L).
        truth: ids on the same grid.
        prediction: ids on the same grid.
        labels: name and id of the labels to show; all else is left out.
    """
    colours = palette([label["id"] for label in labels])
    shown = [np.where(colours[v.array, 3] > 0, v.array, 0).astype(np.uint8) for v in (truth, prediction)]
    at = best_planes(shown[0])
    dz, dy, dx = image.spacing
    figure = Figure(figsize=(3 * INCHES + 1.8, 2 * INCHES), layout="constrained", facecolor="white")
    axes = figure.subplots(2, 3)
    seen = np.zeros(256, int)
    cut = [planes(v, at) for v in (image.array, shown[0], shown[1])]
    for row, (which, aspect) in enumerate(((1, dz / dx), (0, dy / dx))):
        grey = window(cut[0][which])
        for column, title in enumerate(COLUMNS):
            ids = cut[column][which] if column else np.zeros(grey.shape, np.uint8)
            seen += np.bincount(ids.ravel(), minlength=256)
            ax = axes[row, column]
            ax.imshow(blend(grey, colours[ids] * FADED), aspect=aspect, interpolation="nearest")
            ax.set_axis_off()
            if row == 0:
                ax.set_title(title, fontsize=8)
    by_size = sorted((label for label in labels if seen[label["id"]]), key=lambda label: -seen[label["id"]])
    _legend(figure, by_size, colours)
    figure.suptitle(name, fontsize=8)
    return figure


def palette(ids: list[int]) -> np.ndarray:
    """Return (256, 4) colours in [0, 1]: far apart in hue for ids near each other, transparent for other ids."""
    table = np.zeros((256, 4))
    for place, number in enumerate(sorted(ids)):
        hue, value = (place * 0.618034) % 1, (1.0, 0.75)[place % 2]
        table[number, :3] = matplotlib.colors.hsv_to_rgb((hue, 0.75, value))
        table[number, 3] = 1
    return table


def table(labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return id, name, group and colour (``#rrggbb``) of labels, by id."""
    colours = palette([label["id"] for label in labels])
    hexes = {label["id"]: matplotlib.colors.to_hex(colours[label["id"]]) for label in labels}
    by_id = sorted(labels, key=lambda label: label["id"])
    return [{**{k: label[k] for k in ("id", "name", "group")}, "colour": hexes[label["id"]]} for label in by_id]


def best_planes(labels: np.ndarray) -> tuple[int, int, int]:
    """Return the voxel (z, y, x) of the planes that meet the most labels, the middle one among equals."""
    best = []
    for axis, size in enumerate(labels.shape):
        counts = [len(np.unique(np.take(labels, i, axis=axis))) for i in range(size)]
        equal = np.flatnonzero(np.asarray(counts) == max(counts))
        best.append(int(equal[len(equal) // 2]))
    return best[0], best[1], best[2]


def _legend(figure: Figure, labels: list[dict[str, Any]], colours: np.ndarray) -> None:
    rgb = {label["name"]: tuple(colours[label["id"], :3].tolist()) for label in labels[:MOST_NAMES]}
    handles = [Patch(color=colour, label=name) for name, colour in rgb.items()]
    if len(labels) > MOST_NAMES:
        handles.append(Patch(color="none", label=f"and {len(labels) - MOST_NAMES} more"))
    if handles:
        figure.legend(handles=handles, loc="outside right center", fontsize=6, frameon=False)
