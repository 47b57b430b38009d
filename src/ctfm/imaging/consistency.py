"""Slices held against their neighbours, for faults of single files that no file shows by itself."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ctfm.errors import Quarantine
from ctfm.imaging.frames import Frame

CODES = {
    "misplaced_slices": "a few slices lie elsewhere by their position than by their slice location",
    "mixed_rescale": "slices with different rescale values lie at different levels",
}
STRAY_SHARE = 0.05  # more slices out of order are a SliceLocation that counts something else
JUMP_HU = 60.0  # between the means of neighbouring slices
LOST_SHARE = 1 / 16  # of the rows
VARIED_SHARE = 0.5  # of the neighbours' pixels in these rows


def check_order(frames: Sequence[Frame]) -> None:
    """Refuse slices of which a few stand elsewhere in the order of SliceLocation.

    Args:
        frames: sorted by their positions. The check says nothing where a slice tells no SliceLocation.

    Raises:
        Quarantine: ``misplaced_slices``.
    """
    told = [frame.numbers("SliceLocation") for frame in frames]
    if any(len(values) != 1 for values in told):
        return
    places = [value for (value,) in told]
    stray = len(places) - max(_longest_rise(places), _longest_rise(places[::-1]))
    if 0 < stray <= max(2, STRAY_SHARE * len(places)):
        detail = f"{stray} of {len(places)} slices are out of order by SliceLocation"
        raise Quarantine("misplaced_slices", detail)


def check_pixels(frames: Sequence[Frame], array: np.ndarray) -> None:
    """Refuse a rescale that sets slices off from their neighbours, and slices whose last pixels were lost.

    Args:
        frames: sorted by their positions.
        array: (n, rows, columns) their HU.

    Raises:
        Quarantine: ``mixed_rescale``, or ``truncated``: rows of one value at a slice's end, while those of the nearest
            other slices on both sides vary.
    """
    _check_rescale(frames, array)
    lost = [_last_rows_alike(plane) for plane in array]
    for i, rows in enumerate(lost):
        if rows >= LOST_SHARE * array.shape[1]:
            around = range(i - 1, -1, -1), range(i + 1, len(lost))
            near = [next((k for k in side if lost[k] < rows), None) for side in around]
            if all(k is not None and _varies(array[k, -rows:], array[i, -1, -1]) for k in near):
                raise Quarantine("truncated", f"{frames[i].name}: the last {rows} rows are of one value")


def _check_rescale(frames: Sequence[Frame], array: np.ndarray) -> None:
    rescale = [(*frame.numbers("RescaleSlope"), *frame.numbers("RescaleIntercept")) for frame in frames]
    for (i, (slope, intercept)), (j, other) in pairwise(enumerate(rescale)):
        if other != (slope, intercept):
            near, mean = float(array[i].mean()), float(array[j].mean())
            alike = (mean - other[1]) / other[0] * slope + intercept  # with the neighbour's rescale
            if abs(mean - near) > max(JUMP_HU, 2 * abs(alike - near)):
                detail = (
                    f"{frames[i].name} and {frames[j].name}: {mean - near:+.0f} HU, {alike - near:+.0f} if both had "
                )
                raise Quarantine("mixed_rescale", f"{detail}slope {slope:g} and intercept {intercept:g}")


def _longest_rise(values: Sequence[float]) -> int:
    """Return the length of the longest subsequence that never falls."""
    ends: list[float] = []
    for value in values:
        at = bisect_right(ends, value)
        ends[at : at + 1] = [value]
    return len(ends)


def _varies(part: np.ndarray, value: np.int16) -> bool:
    return bool((part != value).mean() > VARIED_SHARE)


def _last_rows_alike(plane: np.ndarray) -> int:
    """Return how many rows at the end hold nothing but the value of the last pixel."""
    if (plane[-1] != plane[-1, -1]).any():
        return 0
    other = (plane[::-1] != plane[-1, -1]).any(axis=1)
    return int(other.argmax()) if other.any() else len(plane)
