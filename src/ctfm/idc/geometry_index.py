"""Tables of what headers say, which idc-index-data publishes beside its package: ct_index and volume_geometry_index.

Each comes with a file of its SHA-256. The environment variable ``CTFM_INDEX_ARTIFACTS`` names another place than the
Imaging Data Commons' own.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctfm.errors import UserError
from ctfm.files import atomic, need_file, sha256
from ctfm.idc import releases
from ctfm.idc.releases import Table

log = logging.getLogger(__name__)

FILES = {"ct": "ct_index.parquet", "geometry": "volume_geometry_index.parquet"}
# What is read of each.
COLUMNS = {
    "ct": ("SeriesInstanceUID", "SliceThickness", "ImageType"),
    "geometry": ("SeriesInstanceUID", "unique_slice_positions"),
}
ARTIFACTS = "https://storage.googleapis.com/idc-index-data-artifacts"
VARIABLE = "CTFM_INDEX_ARTIFACTS"
DOWNLOAD = "download"
SECONDS = 60  # without an answer


def tables(place: str, where: str) -> dict[str, Table]:
    """Return the two tables, ``ct`` and ``geometry``.

    Args:
        place: the folder that holds them, or ``download``: those of the installed release, from the cache.
        where: key of the corpus in the configuration, for messages.

    Raises:
        UserError: one is missing, or can't be had.
    """
    if place != DOWNLOAD:
        remedy = f"{where}.geometry_index names the folder that holds it"
        return {role: Table(need_file(Path(place) / file, remedy)) for role, file in FILES.items()}
    version = releases.installed().version
    return {role: Table(_cached(file, version, where), version) for role, file in FILES.items()}


def _cached(file: str, version: str, where: str) -> Path:
    target = releases.cache() / version / file
    told = target.with_name(f"{file}.sha256")
    if target.is_file() and told.is_file() and sha256(target) == _digest(told):
        return target
    url = f"{os.environ.get(VARIABLE, ARTIFACTS)}/{version}/release_artifacts/{file}"
    log.info("fetching %s", url)
    try:
        with _fetched(f"{url}.sha256", told) as sidecar:
            if _digest(sidecar) is None:
                raise ValueError("the file beside it holds no SHA-256")
        with _fetched(url, target) as table:
            if sha256(table) != _digest(told):
                raise ValueError(f"its SHA-256 is {sha256(table)}, and {_digest(told)} was published")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UserError(
            f"{url}: can't be fetched ({error}); try again, or put the files in a folder and name it as "
            f"{where}.geometry_index, or leave that key out: descriptions are then asked for thickness and localizers"
        ) from error
    return target


@contextmanager
def _fetched(url: str, target: Path) -> Iterator[Path]:
    """Yield a file of what an address gives, to be looked at before it becomes ``target``."""
    with atomic(target) as temporary:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer, temporary.open("wb") as stream:
            shutil.copyfileobj(answer, stream, 1 << 20)
        yield temporary


def _digest(file: Path) -> str | None:
    """Return the digest that a .sha256 file tells, its first word."""
    found = re.match(r"\s*([0-9a-fA-F]{64})\b", file.read_text(errors="replace"))
    return found[1].lower() if found else None
