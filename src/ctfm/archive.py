"""A published archive: downloaded so that a broken transfer goes on, held against its checksum, unpacked whole."""

from __future__ import annotations

import hashlib
import http.client
import logging
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ctfm.errors import UserError
from ctfm.files import ensure_folder, no_shortage

SECONDS = 60  # without a byte, after which a transfer has failed
CHUNK = 1 << 20

log = logging.getLogger(__name__)


def fetch(source: Mapping[str, Any], root: Path, marker: str) -> dict[str, Any]:
    """Make ``root`` the unpacked archive, unless ``marker`` is there; what was downloaded before is not again.

    Args:
        source: ``url``, ``checksum`` (``md5:...`` or ``sha256:...``), ``bytes`` and ``version``.
        root: folder of the data set; the archive lies beside it until it is unpacked.
        marker: a file of the data set; its folder within the archive becomes ``root``.

    Returns:
        Facts: version, url and checksum; whether it was ``fetched``, and so checked, by this call.

    Raises:
        UserError: it can't be fetched, is not what was published, or the disk is too small.
    """
    facts = {key: source[key] for key in ("version", "url", "checksum")}
    if (root / marker).is_file():
        log.info("%s is there: nothing is fetched, and nothing held against the published checksum", root)
        return facts | {"fetched": False}
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root}: is not empty and has no {marker}; empty it, or name another root")
    archive = ensure_folder(root.parent) / f"{root.name}.download"
    with no_shortage(root.parent):
        _download(source, archive)
        _check(source, archive)
        _unpack(archive, root, marker)
    archive.unlink()
    return facts | {"fetched": True}


def _download(source: Mapping[str, Any], archive: Path) -> None:
    """Append what is missing; a server that can't go on in the middle starts anew."""
    have = archive.stat().st_size if archive.is_file() else 0
    _need_space(archive.parent, source["bytes"] - have)
    if have >= source["bytes"]:
        return
    log.info("fetching %s (%.1f GB, %.1f here already)", source["url"], source["bytes"] / 1e9, have / 1e9)
    request = urllib.request.Request(source["url"], headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer, _end_of(archive, answer.status) as stream:
            shutil.copyfileobj(answer, stream, CHUNK)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise UserError(
            f"{source['url']}: can't be fetched ({error}); start again, which goes on where this stopped, or fetch and "
            f"unpack it yourself and name the folder as the data set's root"
        ) from error


def _end_of(archive: Path, status: int) -> BinaryIO:
    return archive.open("ab" if status == http.client.PARTIAL_CONTENT else "wb")


def _check(source: Mapping[str, Any], archive: Path) -> None:
    size = archive.stat().st_size
    if size < source["bytes"]:
        raise UserError(f"{source['url']}: the transfer broke off after {size} of {source['bytes']} bytes; start again")
    kind, _, wanted = source["checksum"].partition(":")
    with archive.open("rb") as stream:
        found = hashlib.file_digest(stream, kind).hexdigest()
    if found != wanted:
        archive.unlink()
        raise UserError(
            f"{source['url']}: its {kind} is {found}, and {wanted} was published; it is removed, fetch anew"
        )


def _unpack(archive: Path, root: Path, marker: str) -> None:
    """Unpack beside ``root`` and rename at the end, so that ``root`` is whole or absent."""
    work = root.with_name(f"{root.name}.unpacking")
    shutil.rmtree(work, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as content:
            names = content.namelist()
            inside = next((PurePosixPath(n).parent for n in names if PurePosixPath(n).name == marker), None)
            if inside is None:
                raise UserError(f"{archive}: holds no {marker}; it is not the data set")
            _need_space(root.parent, sum(member.file_size for member in content.infolist()))
            log.info("unpacking %d files", len(names))
            content.extractall(work)  # leaves out parts such as '..'
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive}: can't be unpacked ({error}); remove it and fetch it anew") from error
    if root.exists():
        root.rmdir()
    (work / inside).rename(root)
    shutil.rmtree(work, ignore_errors=True)


def _need_space(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise UserError(f"{folder}: {free / 1e9:.0f} GB are free and {wanted / 1e9:.0f} GB are needed; free some")
