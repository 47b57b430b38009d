"""One DICOM series to one stored volume, and the row that tells of it."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.config import Criteria, Prepare
from ctfm.errors import Quarantine, UserError
from ctfm.files import digest, no_shortage, sha256
from ctfm.imaging import converters, decoding, dicom, pictures, store
from ctfm.imaging.resample import resample
from ctfm.imaging.volume import Volume, orient

PERCENTILES = (0.5, 5, 50, 95, 99.5)
HU_BINS = 2**16
COUNTED = 2**18  # values at once: bincount works on 64-bit copies, which so stay in the processor's cache

log = logging.getLogger(__name__)


def key(job: dict[str, Any], url: str) -> str:
    """Return the digest of settings and source that a volume is known by.

    IDC's addresses change with the content; of local series (``file:``) the files' bytes count. What doesn't change
    a volume is left out: which series are wanted, and how many of them are read twice.

    Args:
        job: the spec of a ``prepare`` job.
        url: where the series comes from.
    """
    source: list[Any] = [url]
    if url.startswith("file:"):
        place = Path(url.removeprefix("file:"))
        found = place.iterdir() if place.is_dir() else place.parent.glob(place.name)
        source = [[path.name, _content(path)] for path in sorted(found) if path.is_file()]
    settings = {name: value for name, value in job["prepare"].items() if name != "cross_check"}
    return digest([job["stage"], job["version"], settings, source])


def _content(path: Path) -> str:
    try:
        return sha256(path)
    except OSError:  # it will be missed when it is fetched, and costs its series alone
        return ""


def convert(folder: Path, settings: Prepare, criteria: Criteria) -> tuple[Volume, dict[str, Any]]:
    """Read a series that meets the criteria, turn its axes to (S, P, L) and resample it.

    Returns:
        int16 HU at ``settings.spacing_mm``, and facts of the source.

    Raises:
        Quarantine: see ``dicom.CODES``; ``error`` for a fault that none of them describes.
    """
    try:
        with no_shortage(folder):
            volume, facts = converters.read(folder, settings, criteria)
            volume = orient(volume)
            return resample(volume, settings.spacing_mm, settings.interpolation, settings.antialias), facts
    except (Quarantine, MemoryError, UserError):
        raise
    except Exception as error:  # one strange series must not stop the others; it is listed with its error
        log.warning("%s: unexpected", folder.name, exc_info=True)
        raise Quarantine("error", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


def keep(volume: Volume, facts: dict[str, Any], path: Path, key: str) -> dict[str, Any]:
    """Store a volume, check that it reads back, and return its row (see ``describe``).

    Args:
        volume: int16 HU.
        facts: of the source.
        path: ends in ``.b2nd``.
        key: digest of settings and source; a volume with this key needs not be made again.

    Raises:
        UserError: it can't be written.
    """
    start, stop = store.body_box(volume.array)
    meta = {
        "key": key,
        "voxels": _voxels(volume.array),
        "body_box": [list(start), list(stop)],
        "hu_percentiles": percentiles(volume.array),
        "source": facts,
    }
    try:
        store.save(volume, path, meta)
        stored = store.open_volume(path)
        if not np.array_equal(stored.load().array, volume.array):
            raise Quarantine("unreadable", "other values are read than were written")
        return _row(stored, path)
    except (OSError, RuntimeError, Quarantine) as error:
        path.unlink(missing_ok=True)  # what does not read back must not have the name of a volume
        raise UserError(f"{path}: can't be written ({error}); check the disk and start again") from error


def describe(path: Path, key: str) -> dict[str, Any]:
    """Read a stored volume whole and return what the ``volumes`` table says of it.

    Raises:
        Quarantine: ``unreadable`` or damaged; ``other_key``: made with other settings or of another source.
    """
    stored = store.open_volume(path)
    if stored.meta.get("key") != key:
        raise Quarantine("other_key", str(path))
    try:
        array = stored.load().array
    except Exception as error:  # whatever the decoder says of damaged bytes
        raise Quarantine("unreadable", f"{path}: {error}") from error
    if _voxels(array) != stored.meta["voxels"]:
        raise Quarantine("unreadable", f"{path}: damaged")
    return _row(stored, path)


def percentiles(array: np.ndarray) -> list[float]:
    """Return the 0.5, 5, 50, 95 and 99.5 % points of int16 values, by counting; each is a value that occurs."""
    values, counts = array.reshape(-1).view(np.uint16), np.zeros(HU_BINS, np.int64)
    for start in range(0, values.size, COUNTED):
        found = np.bincount(values[start : start + COUNTED])
        counts[: len(found)] += found
    ranks = np.ceil(np.asarray(PERCENTILES) / 100 * array.size).clip(1)
    in_order = np.roll(counts, HU_BINS // 2)  # unsigned, the negative values come last
    return (np.searchsorted(in_order.cumsum(), ranks) - HU_BINS // 2).astype(float).tolist()


def picture(folder: Path) -> np.ndarray | None:
    """Return a thumbnail of the middle file of a series, or None when no pixel of it can be shown."""
    try:
        files = dicom.series_files(folder)
        values = decoding.preview(files[len(files) // 2]).astype(np.float32)
        return pictures.thumbnail(values.mean(axis=-1) if values.ndim > 2 else values)
    except (MemoryError, UserError):
        raise
    except Exception:  # the series is refused already; that it has no picture must not stop the others
        return None


def _voxels(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _row(stored: store.Stored, path: Path) -> dict[str, Any]:
    source = stored.meta["source"]
    return {
        "status": "ok",
        "reason": "",
        "detail": "",
        "shape": list(stored.shape),
        "spacing_in": source["spacing_mm"],
        "spacing_out": np.linalg.norm(stored.affine[:3, :3], axis=0).round(6).tolist(),
        "hu_percentiles": stored.meta["hu_percentiles"],
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "converter": source.get("converter", "own"),
    }
