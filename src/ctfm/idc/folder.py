"""An index of the DICOM files under a folder, with the columns of idc-index: for one's own scans."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pydicom
from pydicom.errors import InvalidDicomError

from ctfm import logs
from ctfm.errors import UserError
from ctfm.files import need_file
from ctfm.idc.source import NEEDED, OPTIONAL

log = logging.getLogger(__name__)

COLUMNS = (*NEEDED, *OPTIONAL)
TAGS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesDescription", "SliceThickness")
NAMED = 5  # files named in a warning


@dataclass
class _Series:
    """What was seen of one series."""

    header: pydicom.Dataset
    folders: set[Path] = field(default_factory=set)
    files: int = 0
    size: int = 0


def index_folder(root: Path, under: Path | None = None, licence: str = "own") -> pd.DataFrame:
    """Index all DICOM series under a folder from their headers.

    Each series must have a folder of its own, as a series' address names a whole folder. Anonymised files that
    lost their SeriesInstanceUID get one made of their folder's path. Files that are not
    DICOM, and series that share a folder or are spread over several, are left out, with a warning.

    Args:
        root: folder that the addresses (``file:<path>/*``) are relative to: where the index will lie.
        under: folder to search; by default ``root``.
        licence: value of ``license_short_name``.

    Returns:
        One row a series, sorted by SeriesInstanceUID; columns ``COLUMNS``. ``collection_id`` is the name of
        the searched folder, ``series_size_MB`` counts 10^6 bytes, ``SliceThickness`` is in mm (or missing).

    Raises:
        UserError: there is no such folder, or no series in it can be indexed.
    """
    folder = need_file(under or root, "name the folder that holds the DICOM files")
    found = _scan(folder)
    sharing = defaultdict(list)
    for uid, series in found.items():
        for place in series.folders:
            sharing[place].append(uid)
    rows = []
    for uid, series in sorted(found.items()):
        if len(series.folders) > 1:
            log.warning("series %s left out: its files lie in %d folders", uid, len(series.folders))
        elif len(sharing[min(series.folders)]) > 1:
            log.warning("series %s left out: other series lie in its folder %s", uid, min(series.folders))
        else:
            rows.append(_row(series, root, folder.resolve().name, licence))
    if not rows:
        raise UserError(f"{folder}: no DICOM series with a folder of its own; sort the files, one folder a series")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _scan(folder: Path) -> dict[str, _Series]:
    found: dict[str, _Series] = {}
    unread = []
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    for path in logs.progress(files, "headers"):
        header = _header(path)
        if header is None:
            unread.append(path)
            continue
        header.SeriesInstanceUID = _uid(header, path.parent.relative_to(folder).as_posix())
        series = found.setdefault(header.SeriesInstanceUID, _Series(header))
        series.folders.add(path.parent)
        series.files += 1
        series.size += path.stat().st_size
    if unread:
        names = ", ".join(str(path.relative_to(folder)) for path in unread[:NAMED])
        log.warning("%d files are no DICOM of a series and are left out: %s", len(unread), names)
    return found


def _header(path: Path) -> pydicom.Dataset | None:
    """Read the few tags of the index, or return None for a file that has no series."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*TAGS, "SOPClassUID"])
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        log.debug("%s: %s", path, error)
        return None
    return header if header.get("SeriesInstanceUID") or header.get("Modality") else None


def _uid(header: pydicom.Dataset, place: str) -> str:
    """Return the series' identifier; where it was stripped, one made of the folder's path, always the same."""
    made = int.from_bytes(hashlib.sha256(place.encode()).digest()[:16])
    return str(header.get("SeriesInstanceUID") or f"2.25.{made}")


def _row(series: _Series, root: Path, collection: str, licence: str) -> dict[str, object]:
    header, (place,) = series.header, series.folders
    text = {tag: str(header.get(tag) or "") for tag in TAGS}
    return text | {
        "collection_id": collection,
        "instanceCount": series.files,
        "license_short_name": licence,
        "series_size_MB": series.size / 1e6,
        "series_aws_url": f"file:{Path(os.path.relpath(place, root)).as_posix()}/*",
        "SliceThickness": _number(text["SliceThickness"]),
        "sop_class_name": header.SOPClassUID.name if header.get("SOPClassUID") else None,
    }


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
