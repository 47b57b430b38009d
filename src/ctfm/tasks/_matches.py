"""The picture of one query: the scan that asks, and what it finds first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ctfm.embedding import read
from ctfm.errors import Quarantine
from ctfm.imaging import store
from ctfm.imaging.pictures import planes, window

ALIKE, OTHER = "#009E73", "#D55E00"
INCHES = 1.5


def draw(title: str, scans: Sequence[tuple[Path, str, bool | None]]) -> Figure:
    """Draw the middle axial plane of each scan under its text; no global state of matplotlib is used.

    Args:
        title: of the picture.
        scans: stored volume, text, and whether it is alike (framed in green or orange; None: the scan that asks).
    """
    figure = Figure(figsize=(INCHES * len(scans), INCHES + 0.9), layout="constrained", facecolor="white")
    for axes, (path, text, alike) in zip(figure.subplots(1, len(scans), squeeze=False)[0], scans, strict=True):
        grey, aspect = _plane(path)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255, aspect=aspect, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(text, fontsize=7)
        for spine in axes.spines.values():
            spine.set(color="black" if alike is None else ALIKE if alike else OTHER, linewidth=2)
    figure.suptitle(title, fontsize=8)
    return figure


def _plane(path: Path) -> tuple[np.ndarray, float]:
    """Return grey values and the height of a pixel over its width; grey where the scan is not there any more."""
    try:
        stored = store.open_volume(path)
    except Quarantine:
        return np.full((2, 2), 127, np.uint8), 1.0
    values = planes(stored.handle)[0]
    _, dy, dx = np.linalg.norm(stored.affine[:3, :3], axis=0)
    unit = stored.meta.get("intensity") == read.UNIT["intensity"]
    return values if unit else window(values), float(dy / dx)
