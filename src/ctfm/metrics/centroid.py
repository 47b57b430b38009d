"""How near a match of semantic search comes to an organ (paper, Methods, "Organ Centroid Distance").

A query is the patch around an organ's centroid in one scan; its match is the patch of the target scan that is most
alike. Of a target that shows the organ, for each query:

- ``centroid_distance_cm``: from the centre of the matched patch to the organ's true centroid.
- ``inside``: 1 if the voxel of the label map at that centre is the organ's, else 0; also 0 outside of the scan.
- ``inside_published``: the test of the published run, which is no test: 1 if *any one* of the centre's coordinates is
  that of any voxel of the organ. For comparison only.

and once, whatever the query:

- ``centroid_distance_floor_cm``: to the nearest patch centre: what a perfect encoder would be left with, since matches
  lie on the grid of patches.
- ``centroid_distance_chance_cm``: mean over all patch centres: what choosing a patch by chance gives.
- ``centroid_distance_middle_cm``: to the middle of what was searched: what no look at the scan gives.

Everything is in millimetres of the patient, so label maps are never resampled for it: the published run resampled them
linearly, which makes new ids at the borders of organs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from ctfm.imaging.volume import Volume

DISTANCE, INSIDE, INSIDE_PUBLISHED = "centroid_distance_cm", "inside", "inside_published"
FLOOR, CHANCE, MIDDLE = (f"centroid_distance_{what}_cm" for what in ("floor", "chance", "middle"))
ABSENT = "the target does not show it"
NOBODY = "no scan that may ask shows it"
OUTSIDE = "outside of the scan"
CUT = "cut off by the border of the target"
QUERY = "query "  # before its name, at the start of a note
MM_PER_CM = 10.0


@dataclass(frozen=True)
class Organ:
    """Where an organ is.

    Attributes:
        centroid_mm: (3,) LPS mm.
        cut: whether it touches the border of the scan, so that its centroid is that of the part which is there.
        profiles: along z, y and x, whether any voxel of it has this index.
    """

    centroid_mm: np.ndarray
    cut: bool
    profiles: tuple[np.ndarray, ...]


class Found(NamedTuple):
    """The match of one query: the scan that asks, the organ it asks for, the centre of the match in LPS mm."""

    query: str
    label: str
    point_mm: np.ndarray


class Searched(NamedTuple):
    """What of a target was searched: (patches, 3) centres and the (3,) middle of it all, LPS mm."""

    centres_mm: np.ndarray
    middle_mm: np.ndarray


def locate(label: Volume, ids: Mapping[str, int]) -> dict[str, Organ]:
    """Return the organs that a label map shows.

    Args:
        label: ids (z, y, x), of any integer type.
        ids: name to id, 1 or more.
    """
    boxes = ndimage.find_objects(label.array)
    found = {}
    for name, number in ids.items():
        box = boxes[number - 1] if number <= len(boxes) else None
        if box is not None:
            found[name] = _organ(label, box, label.array[box] == number)
    return found


def voxel(volume: Volume, point_mm: np.ndarray) -> np.ndarray:
    """Return the voxel (z, y, x) that holds a point in LPS mm; it may lie outside of the volume."""
    index = np.linalg.solve(volume.affine[:3, :3], np.asarray(point_mm, float) - volume.affine[:3, 3])
    return np.floor(index + 0.5).astype(int)


def rows(
    label: Volume, wanted: Sequence[Mapping[str, Any]], found: Sequence[Found], searched: Searched
) -> Iterator[dict[str, Any]]:
    """Yield label, group, metric, value and note of one target.

    An organ that the target does not show, or that nobody asks for, has one row without a value, whose note says so.

    Args:
        label: of the target.
        wanted: name, id and group of the organs.
        found: the matches of all queries.
        searched: what of the target was searched.
    """
    organs = locate(label, {one["name"]: one["id"] for one in wanted})
    for one in wanted:
        fixed = {"label": one["name"], "group": one["group"]}
        organ = organs.get(one["name"])
        matches = [match for match in found if match.label == one["name"]]
        if organ is None or not matches:
            why = NOBODY if organ else ABSENT
            yield {**fixed, "metric": DISTANCE, "value": float("nan"), "note": why}
            continue
        for metric, value in _bounds(organ, searched).items():
            yield {**fixed, "metric": metric, "value": value, "note": CUT if organ.cut else ""}
        for match in matches:
            yield from ({**fixed, **row} for row in _measured(label, one["id"], organ, match))


def query_of(note: str) -> str:
    """Return the name of the query that a row's note tells, or nothing."""
    return note.split(";")[0].removeprefix(QUERY) if note.startswith(QUERY) else ""


def _organ(label: Volume, box: tuple[slice, ...], mask: np.ndarray) -> Organ:
    low = np.array([part.start for part in box])
    high = np.array([part.stop for part in box])
    profiles = []
    for axis, count in enumerate(label.shape):
        profile = np.zeros(count, bool)
        profile[box[axis]] = mask.any(axis=tuple({0, 1, 2} - {axis}))
        profiles.append(profile)
    centre = low + np.argwhere(mask).mean(axis=0)
    return Organ(label.world(centre), bool((low == 0).any() or (high == label.shape).any()), tuple(profiles))


def _bounds(organ: Organ, searched: Searched) -> dict[str, float]:
    away = np.linalg.norm(searched.centres_mm - organ.centroid_mm, axis=1) / MM_PER_CM
    middle = float(np.linalg.norm(searched.middle_mm - organ.centroid_mm)) / MM_PER_CM
    return {FLOOR: float(away.min()), CHANCE: float(away.mean()), MIDDLE: middle}


def _measured(label: Volume, number: int, organ: Organ, match: Found) -> Iterator[dict[str, Any]]:
    place = voxel(label, match.point_mm)
    within = [0 <= i < n for i, n in zip(place, label.shape, strict=True)]
    values = {
        DISTANCE: float(np.linalg.norm(match.point_mm - organ.centroid_mm)) / MM_PER_CM,
        INSIDE: float(all(within) and label.array[tuple(place)] == number),
        INSIDE_PUBLISHED: float(any(w and p[i] for w, p, i in zip(within, organ.profiles, place, strict=True))),
    }
    told = [QUERY + match.query, *([] if all(within) else [OUTSIDE]), *([CUT] if organ.cut else [])]
    return ({"metric": metric, "value": value, "note": "; ".join(told)} for metric, value in values.items())
