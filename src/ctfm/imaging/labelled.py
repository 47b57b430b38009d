"""One labelled case to a stored pair of volumes, and the row that tells of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ctfm.config import VERSIONS
from ctfm.errors import Quarantine
from ctfm.files import digest
from ctfm.imaging import labels, store
from ctfm.imaging.resample import resample
from ctfm.imaging.volume import Volume, orient, read_image

log = logging.getLogger(__name__)


def keep(
    name: str,
    image: Path,
    masks: Mapping[str, Path] | Path,
    table: Mapping[str, Any],
    spacing_mm: tuple[float, float, float] | None,
    folder: Path,
) -> dict[str, Any]:
    """Read, check, orient (S, P, L), resample and store a case, unless the same is stored already.

    Args:
        name: of the case.
        image: its CT.
        masks: one mask per structure by name, or one map of ids.
        table: ``ids`` (name to id of the structures that the data set annotates) and ``groups`` (name to group); kept
            inside the stored labels.
        spacing_mm: spacing (z, y, x) of the stored case, mm; None: the scan's own.
        folder: gets ``<name>.b2nd`` (int16 HU) and ``<name>_label.b2nd`` (uint8 ids).

    Returns:
        The part of the case's row in the table of cases that its files tell.

    Raises:
        Quarantine: the case can't be used; the reason says why.
    """
    key = _key([VERSIONS["datasets"], name, dict(table), spacing_mm and list(spacing_mm)], image, masks)
    if (row := _stored(name, key, folder)) is not None:
        return row
    scan = read_scan(image)
    label, overlap = labels.read_labels(masks, table["ids"], scan)
    if overlap:
        log.info("%s: %d voxels are in more than one mask; the later id has them", name, overlap)
    before = labels.names(label.array, table["ids"])
    scan, label = orient(scan), orient(label)
    if spacing_mm:
        scan, label = resample(scan, spacing_mm), resample(label, spacing_mm, "nearest")
    row = _row(scan, before, labels.names(label.array, table["ids"]), table["ids"]) | {"overlap_voxels": overlap}
    store.save(scan, folder / f"{name}.b2nd", {"key": key})
    store.save(label, folder / f"{name}_label.b2nd", {"key": key, "row": row, **table})
    return row


def _row(scan: Volume, before: list[str], present: list[str], ids: Mapping[str, int]) -> dict[str, Any]:
    """Return what the table says of a stored case, with the labels before and after resampling."""
    at = "x".join(f"{mm:g}" for mm in scan.spacing)
    if not present:
        raise Quarantine("empty_label", f"no label is left at {at} mm")
    lost = [name for name in before if name not in present]
    return {
        "shape": list(scan.shape),
        "spacing": list(scan.spacing),
        "labels": present,
        "empty": [name for name in ids if name not in present],
        "detail": f"too small to be left at {at} mm: {', '.join(lost)}" if lost else "",
    }


def _key(settings: list[Any], image: Path, masks: Mapping[str, Path] | Path) -> str:
    """Return a digest of settings and sources; files are known by name, size and time."""
    paths = [masks] if isinstance(masks, Path) else sorted(masks.values())
    found = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in (image, *paths) if p.is_file()]
    return digest([*settings, found])


def _stored(name: str, key: str, folder: Path) -> dict[str, Any] | None:
    try:
        scan = store.open_volume(folder / f"{name}.b2nd")
        label = store.open_volume(folder / f"{name}_label.b2nd")
    except Quarantine:
        return None
    same = scan.meta.get("key") == key == label.meta.get("key") and scan.shape == label.shape
    return label.meta["row"] if same else None


def read_scan(path: Path, sheared: bool = False) -> Volume:
    """Read a CT from an image file, as int16 HU on its own grid.

    Args:
        path: of the file.
        sheared: axes need not be at right angles, as after a tilted gantry; see ``geometry.straighten``.

    Raises:
        Quarantine: ``missing_image``, ``unreadable``, ``not_3d``, ``not_finite``, ``empty_image`` or ``sheared``.
    """
    if not path.is_file():
        raise Quarantine("missing_image", f"{Path(path.parent.name, path.name)} is not there")
    image = read_image(path)
    if not sheared and not image.upright:
        raise Quarantine("sheared", f"{path.name}: axes are not at right angles")
    if bad := _not_finite(path, image):
        raise Quarantine("not_finite", f"{path.name}: {bad} voxels")
    return in_hu(image, path.name)


def in_hu(image: Volume, name: str) -> Volume:
    """Return an image as int16, rounded and clipped; one that is int16 already is not copied.

    Raises:
        Quarantine: ``not_finite`` or ``empty_image``.
    """
    if bad := sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in image.array):
        raise Quarantine("not_finite", f"{name}: {bad} voxels")
    if image.array.min() == image.array.max():
        raise Quarantine("empty_image", f"{name}: every voxel is {image.array.flat[0]}")
    if image.array.dtype == np.int16:
        return image
    limits, out = np.iinfo(np.int16), np.empty(image.array.shape, np.int16)
    for plane, rounded in zip(image.array, out, strict=True):  # a plane at a time: no second copy as floats
        rounded[...] = np.clip(np.rint(plane), limits.min, limits.max)
    return Volume(out, image.affine)


def _not_finite(path: Path, image: Volume) -> int:
    """Count voxels that are no number. ITK reads those of a NIfTI file as zero, so nibabel is asked."""
    array = image.array
    if ".nii" in path.suffixes:
        file = nib.nifti1.load(path)
        array = np.asanyarray(file.dataobj) if file.get_data_dtype().kind == "f" else array
    return int(np.count_nonzero(~np.isfinite(array)))
