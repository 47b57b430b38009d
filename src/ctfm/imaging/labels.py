"""Label maps: read from one map or from many masks, checked against their scan, merged by a fixed rule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ctfm.errors import Quarantine, nearest
from ctfm.imaging.volume import Volume, read_image

GRID_TOLERANCE_MM = 0.1


def read_labels(source: Mapping[str, Path] | Path, ids: Mapping[str, int], scan: Volume) -> tuple[Volume, int]:
    """Read the labels of a scan.

    Masks are laid down by ascending id: where they overlap, the later id wins.

    Args:
        source: one mask (non-zero inside) per structure by name, or one map of ids.
        ids: the structures that the data set annotates: name to id, 1 to 255.
        scan: the scan they belong to.

    Returns:
        A uint8 map on the scan's grid, and the number of voxels that more than one mask claimed.

    Raises:
        Quarantine: ``no_labels``, ``missing_mask``, ``unknown_label``, ``unreadable``, ``grid_differs`` or
            ``empty_label``.
    """
    if isinstance(source, Path):
        array, overlap = _map(source, ids, scan), 0
    else:
        array, overlap = _merge(source, ids, scan)
    if not array.any():
        raise Quarantine("empty_label", "no voxel is labelled")
    return Volume(array, scan.affine), overlap


def names(array: np.ndarray, ids: Mapping[str, int]) -> list[str]:
    """Return the names of the labels that occur in a uint8 map, by id."""
    found = np.flatnonzero(np.bincount(array.ravel(), minlength=256))
    by_id = {number: name for name, number in ids.items()}
    return [by_id[int(number)] for number in found if number]


def check_grid(volume: Volume, scan: Volume, what: str) -> None:
    """Check that a volume lies on the scan's grid: same shape, corners within 0.1 mm.

    Raises:
        Quarantine: ``grid_differs``.
    """
    if volume.shape != scan.shape:
        raise Quarantine("grid_differs", f"{what}: {volume.shape} voxels, the scan has {scan.shape}")
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in scan.shape], indexing="ij"), axis=-1)
    apart = float(np.abs(volume.world(corners) - scan.world(corners)).max())
    if not apart <= GRID_TOLERANCE_MM:
        raise Quarantine("grid_differs", f"{what}: its corners lie {apart:.2f} mm from the scan's")


def _map(path: Path, ids: Mapping[str, int], scan: Volume) -> np.ndarray:
    volume = read_image(path)
    check_grid(volume, scan, path.name)
    unknown = sorted({float(v) for v in np.unique(volume.array)} - {0.0, *map(float, ids.values())})
    if unknown:
        raise Quarantine("unknown_label", f"{path.name}: value {unknown[0]:g} is no id of the data set")
    return volume.array.astype(np.uint8)


def _merge(masks: Mapping[str, Path], ids: Mapping[str, int], scan: Volume) -> tuple[np.ndarray, int]:
    if not masks:
        raise Quarantine("no_labels", "there is neither a label map nor a mask")
    for name in masks:
        if name not in ids:
            raise Quarantine("unknown_label", f"'{name}' is no structure of the data set{nearest(name, ids)}")
    if missing := [name for name in ids if name not in masks]:
        raise Quarantine("missing_mask", f"other cases have a mask of {', '.join(missing)}; this one has none")
    array, overlap = np.zeros(scan.shape, np.uint8), 0
    for name in sorted(masks, key=ids.__getitem__):
        volume = read_image(masks[name])
        check_grid(volume, scan, name)
        inside = volume.array > 0
        overlap += int(np.count_nonzero(array[inside]))
        array[inside] = ids[name]
    return array, overlap
