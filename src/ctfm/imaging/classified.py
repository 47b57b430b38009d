"""One scan with findings, which hold for the scan as a whole, to a stored volume, and the row that tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctfm.config import VERSIONS
from ctfm.errors import Quarantine, UserError
from ctfm.files import digest, no_shortage
from ctfm.imaging import scans, store
from ctfm.imaging.resample import resample
from ctfm.imaging.volume import Volume, orient


def keep(
    name: str,
    image: Path,
    findings: tuple[str, ...] | None,
    table: Mapping[str, Any],
    spacing_mm: tuple[float, float, float],
    folder: Path,
) -> dict[str, Any]:
    """Read, check, orient (S, P, L), resample and store a scan, unless the same is stored already.

    Gantry tilt and uneven slice distances are undone (``geometry.assemble``), in files of a volume too.

    Args:
        name: of the case.
        image: a volume file, or the folder of one DICOM series.
        findings: what the scan shows; None where the data set tells nothing that can be read.
        table: ``ids`` (name to id of what the data set tells of) and ``groups``; kept inside the stored volume.
        spacing_mm: spacing (z, y, x) of the stored case, mm.
        folder: gets ``<name>.b2nd`` (int16 HU), whose meta hold the ``findings`` and the ``body_box``.

    Returns:
        The part of the case's row in the table of cases; the volume is its label file too.

    Raises:
        Quarantine: the case can't be used; the reason says why.
    """
    if findings is None:
        raise Quarantine("no_label", "its label is missing or is none of the data set's")
    key = digest([VERSIONS["datasets"], name, list(findings), dict(table), list(spacing_mm), _files(image)])
    path = folder / f"{name}.b2nd"
    if (row := _stored(path, key)) is not None:
        return row
    scan, facts = _read(image)
    scan = resample(orient(scan), spacing_mm)
    row = _row(scan, findings, table["ids"]) | {"detail": _detail(facts), "label": f"{folder.name}/{path.name}"}
    meta = {"key": key, "row": row, "findings": list(findings), "body_box": store.body_box(scan.array), **table}
    store.save(scan, path, meta)
    return row


def _read(image: Path) -> tuple[Volume, dict[str, Any]]:
    try:
        with no_shortage(image.parent):
            return scans.read(image)
    except (Quarantine, MemoryError, UserError):
        raise
    except Exception as error:  # one strange file must not stop the others; it is listed with its error
        raise Quarantine("error", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


def _row(scan: Volume, findings: tuple[str, ...], ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "shape": list(scan.shape),
        "spacing": list(scan.spacing),
        "labels": list(findings),
        "empty": [known for known in ids if known not in findings],
        "overlap_voxels": 0,
    }


def _detail(facts: Mapping[str, Any]) -> str:
    """Return what was undone to the scan."""
    tilt = f"a tilt of {facts['tilt_degrees']:.1f} degrees" if facts.get("tilt_degrees") else ""
    uneven = "" if facts.get("even", True) else "uneven slice distances"
    undone = " and ".join(text for text in (tilt, uneven) if text)
    return f"undone: {undone}" if undone else ""


def _files(image: Path) -> list[tuple[str, int, int]]:
    """Return what the source's files are known by: name, size and time."""
    found = sorted(image.iterdir()) if image.is_dir() else [image]
    return [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in found if p.is_file()]


def _stored(path: Path, key: str) -> dict[str, Any] | None:
    try:
        meta = store.open_volume(path).meta
    except Quarantine:
        return None
    return meta["row"] if meta.get("key") == key else None
